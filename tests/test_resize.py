import numpy as np
import pytest
from PIL import Image

from mednb.datasets import resize

RNG = np.random.default_rng(0)


def speckle(height, width, dtype=np.uint8, channels=None):
    shape = (height, width) if channels is None else (channels, height, width)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def lesion(height, width, left, upper, right, lower):
    mask = np.zeros((height, width), bool)
    mask[upper:lower, left:right] = True
    return mask


def test_stretching_is_what_pillow_does():
    image, mask = speckle(300, 200), lesion(300, 200, 50, 60, 150, 180)
    small, small_mask, _ = resize.resized(image, mask, 40)
    assert (small == np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BILINEAR))).all()
    assert small_mask[8:24, 10:30].all() and small_mask.sum() == 16 * 20


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("how", resize.HOW)
@pytest.mark.parametrize("around", [None, "lesion"])
def test_every_way_keeps_type_and_channels_and_gives_squares(dtype, channels, how, around):
    image, mask = speckle(60, 90, dtype, channels), lesion(60, 90, 30, 20, 40, 25)
    small, small_mask, facts = resize.resized(image, mask, 32, how, around)
    assert small.dtype == dtype and small.shape == ((32, 32) if channels is None else (3, 32, 32))
    assert small_mask.shape == (32, 32) and small_mask.dtype == bool
    assert facts["width"] == 90 and facts["height"] == 60
    assert facts["lesion_area"] == mask.mean() and facts["lesion_pixels"] == small_mask.sum() > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_averages_and_keeps_the_mean(dtype):
    image = speckle(300, 200, dtype)
    small = resize.smaller(image, 32)
    assert small.mean() == pytest.approx(image.mean(), rel=0.01)
    assert small.std() < image.std() / 4


def test_16_bits_are_8_bits_with_more_steps():
    image = speckle(90, 70)
    deep = resize.smaller(image.astype(np.uint16) * 257, 24)
    assert np.abs(deep / 257 - resize.smaller(image, 24)).max() <= 1


def test_padding_keeps_the_aspect_and_adds_black():
    image, mask = np.full((50, 100), 200, np.uint8), lesion(50, 100, 40, 15, 60, 35)
    small, small_mask, _ = resize.resized(image, mask, 40, "pad")
    assert (small[11:29] == 200).all() and not small[:9].any() and not small[31:].any()
    rows, columns = np.nonzero(small_mask)
    assert np.ptp(rows) == np.ptp(columns)  # the square lesion is still a square
    upright, *_ = resize.resized(image.T, mask.T, 40, "pad")
    assert (upright == small.T).all()


def breast(height=400, width=300):
    """A bright half disc at the left edge, noise around it, and a label in the corner."""
    y, x = np.mgrid[:height, :width]
    inside = (x / 150) ** 2 + ((y - 200) / 120) ** 2 < 1
    image = np.where(inside, 120 + 40 * np.sin(x / 9), RNG.integers(0, 6, inside.shape)).astype(np.uint8)
    image[10:25, 270:290] = 255
    return image, inside


def test_cropping_to_the_body_drops_the_background_and_the_label():
    image, inside = breast()
    left, upper, right, lower = resize.bounds(resize.body(image))
    assert (left, right) == pytest.approx((0, 150), abs=3) and (upper, lower) == pytest.approx((80, 320), abs=3)
    small, *_ = resize.resized(image, np.zeros_like(inside), 64, "crop_to_body")
    plain, *_ = resize.resized(image, np.zeros_like(inside), 64, "pad")
    assert (small > 50).sum() > 2 * (plain > 50).sum()


def test_cropping_to_the_body_works_alike_for_16_bits_and_colour():
    image, _ = breast()
    wanted = resize.body(image)
    assert (resize.body(image.astype(np.uint16) * 257) == wanted).all()
    assert (resize.body(np.stack([image] * 3)) == wanted).all()


def test_cropping_to_the_body_never_cuts_the_mask():
    image, inside = breast()
    mask = lesion(*inside.shape, 250, 360, 280, 390)  # in the background, where no body is seen
    left, upper, right, lower = resize.joined(resize.bounds(resize.body(image)), resize.bounds(mask))
    assert (left, right, lower) == (0, 280, 390)
    *_, facts = resize.resized(image, mask, 100, "crop_to_body")
    assert facts["lesion_pixels"] / 100**2 == pytest.approx(30 * 30 / (lower - upper) ** 2, rel=0.1)


def test_a_picture_of_one_grey_is_all_body():
    flat = np.full((50, 90), 7, np.uint8)
    assert resize.body(flat).all() and resize.body(flat * 0).all()


def test_around_a_lesion_is_half_a_lesion_of_margin():
    mask = lesion(400, 500, 200, 180, 280, 220)
    assert resize.lesion_box(mask) == (180, 140, 300, 260)
    _, small_mask, facts = resize.resized(speckle(400, 500), mask, 60, around="lesion")
    assert small_mask.sum() == facts["lesion_pixels"] == pytest.approx(60 * 60 * (1 / 1.5) * (0.5 / 1.5), rel=0.1)


def test_around_a_lesion_stays_inside_the_picture_and_keeps_all_lesions():
    for corner in ((0, 0, 30, 40), (470, 360, 500, 400)):
        mask = lesion(400, 500, *corner)
        left, upper, right, lower = resize.lesion_box(mask)
        assert right - left == lower - upper == 60
        assert left >= 0 and upper >= 0 and right <= 500 and lower <= 400
        assert mask[upper:lower, left:right].sum() == mask.sum()
    two = lesion(400, 500, 10, 10, 20, 20) | lesion(400, 500, 480, 380, 490, 390)
    assert resize.lesion_box(two) == (0, 0, 500, 400)  # larger than the picture: all of it


def test_around_a_tiny_lesion_are_32_pixels_of_the_file():
    left, upper, right, lower = resize.lesion_box(lesion(400, 500, 250, 200, 253, 202))
    assert right - left == lower - upper == 32
    assert left <= 250 and right >= 253


def test_an_image_without_a_lesion_gets_a_square_too_always_the_same_one():
    image, nothing = speckle(400, 500), np.zeros((400, 500), bool)
    shares = resize.TYPICAL["ultrasound", "breast"]
    boxes = [resize.drawn_box(image, f"image {n}", shares) for n in range(50)]
    assert boxes == [resize.drawn_box(image, f"image {n}", shares) for n in range(50)]
    assert len(set(boxes)) > 30
    for left, upper, right, lower in boxes:
        assert left >= 0 and upper >= 0 and right <= 500 and lower <= 400
    small, small_mask, facts = resize.resized(image, nothing, 32, around="lesion", name="image 1")
    assert small.shape == (32, 32) and not small_mask.any() and facts["lesion_pixels"] == 0


def test_its_scale_does_not_tell_that_there_is_no_lesion():
    """Squares of images with and without a lesion have one distribution of sizes when the shares are the lesions'."""
    sides = RNG.integers(30, 250, 300)
    shares = [resize.share(lesion(400, 500, 0, 0, side, side)) for side in sides]
    with_lesion = [resize.square(250, 200, share * 500, (400, 500)) for share in shares]
    image = np.full((400, 500), 99, np.uint8)
    without = [resize.drawn_box(image, f"image {n}", shares) for n in range(300)]
    widths = [
        np.quantile([right - left for left, _, right, _ in boxes], [0.1, 0.5, 0.9]) for boxes in (with_lesion, without)
    ]
    assert widths[0] == pytest.approx(widths[1], rel=0.25)


def test_it_lies_in_the_body():
    image, inside = breast()
    for n in range(50):
        left, upper, right, lower = resize.drawn_box(image, f"{n}", (0.1,))
        assert inside[upper:lower, left:right].any()


def test_a_lesion_never_vanishes():
    mask = lesion(500, 500, 200, 300, 203, 302)
    assert np.argwhere(resize.smaller_mask(mask, 32)).tolist() == [[300 * 32 // 500, 200 * 32 // 500]]
    assert not resize.smaller_mask(np.zeros((500, 500), bool), 32).any()


@pytest.mark.parametrize(
    ("how", "around", "words"), [("crop", None, "choose one of"), ("pad", "body", "choose 'lesion'")]
)
def test_an_unknown_way_is_a_sentence(how, around, words):
    with pytest.raises(ValueError, match=words):
        resize.resized(speckle(40, 40), np.zeros((40, 40), bool), 32, how, around)


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "pattern", "least", "most"),
    [
        ("mini-MIAS", r"all-mias/.*\.png", 0.3, 0.8),  # half of a film is empty
        ("BUS-BRA", r"BUSBRA/Images/.*\.png", 0.8, 1.0),  # an ultrasound image has no background to speak of
        ("IQ-OTHNCCD", r".*/Normal case \(\d+\)\.jpg", 0.4, 0.9),
    ],
)
def test_real_images_lose_their_background_and_not_more(data_root, folder, pattern, least, most):
    from mednb.datasets import pixels
    from mednb.datasets.archive import Archive

    archive = Archive(data_root / folder)
    files = [match[0] for match in archive.matching(pattern)][::20]
    shares = []
    for file in files:
        image = pixels.grey(pixels.read(archive, file))
        left, upper, right, lower = resize.bounds(resize.body(image))
        shares.append((right - left) * (lower - upper) / image.size)
    assert least < np.median(shares) <= most
