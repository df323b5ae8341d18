from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from mednb.datasets import masks, resize
from mednb.datasets.archive import Archive

Row = namedtuple("Row", "image_id masks")
SHAPE = (60, 80)


def drawn(*given, shape=SHAPE, folder="."):
    return masks.of(Archive(folder), Row("a.png", list(given)), shape)


def test_no_mask_is_all_false():
    assert not drawn().any() and drawn().shape == SHAPE and drawn().dtype == bool


@pytest.mark.parametrize("lesion", [1, 37, 255])
def test_lesion_is_what_is_brighter_than_half_of_the_brightest(tmp_path, lesion):
    wanted = np.zeros(SHAPE, bool)
    wanted[10:20, 30:50] = True
    Image.fromarray((wanted * lesion).astype(np.uint8)).save(tmp_path / "m.png")
    Image.fromarray(wanted).save(tmp_path / "one_bit.png")
    for file in ("m.png", "one_bit.png"):
        assert (drawn(file, folder=tmp_path) == wanted).all()


def test_numbers_of_structures_are_all_lesion_and_faint_greys_are_not(tmp_path):
    numbers = np.repeat(np.array([0, 1, 2, 15], np.uint8), 20)[None].repeat(60, 0)
    Image.fromarray(numbers).save(tmp_path / "numbered.png")
    Image.fromarray(numbers * 16).save(tmp_path / "grey.png")
    assert (drawn("numbered.png", folder=tmp_path) == (numbers > 0)).all()
    assert (drawn("grey.png", folder=tmp_path) == (numbers == 15)).all()


def test_an_empty_mask_is_empty(tmp_path):
    Image.new("L", SHAPE[::-1]).save(tmp_path / "m.png")
    assert not drawn("m.png", folder=tmp_path).any()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 0)])
def test_any_colour_that_is_not_black_is_lesion(tmp_path, colour):
    picture = Image.new("RGB", SHAPE[::-1])
    picture.paste(colour, (30, 10, 50, 20))
    picture.save(tmp_path / "m.png")
    found = drawn("m.png", folder=tmp_path)
    assert resize.bounds(found) == (30, 10, 50, 20) and found.sum() == 200


def test_masks_are_united(tmp_path):
    for name, box in (("a", (0, 0, 10, 10)), ("b", (5, 5, 20, 20))):
        picture = Image.new("L", SHAPE[::-1])
        picture.paste(255, box)
        picture.save(tmp_path / f"{name}.png")
    found = drawn("a.png", "b.png", {"box": [70, 50, 80, 60]}, folder=tmp_path)
    assert found.sum() == 100 + 225 - 25 + 100


def test_values_choose_among_the_numbers_of_a_file_even_of_a_palette(tmp_path):
    numbers = np.repeat(np.arange(4, dtype=np.uint8), 20)[None].repeat(60, 0)
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    coloured = Image.frombytes("P", SHAPE[::-1], numbers.tobytes())
    coloured.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0, 0, 255, 0])
    coloured.save(tmp_path / "palette.png")
    for file in ("grey.png", "palette.png"):
        found = drawn({"file": file, "values": [1, 3]}, folder=tmp_path)
        assert (found == np.isin(numbers, [1, 3])).all()
    assert not drawn({"file": "grey.png", "values": [9]}, folder=tmp_path).any()  # this slice has no lesion


def test_a_frame_of_a_file_is_a_mask(tmp_path):
    pages = [Image.new("L", SHAPE[::-1], value) for value in (0, 255)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    assert drawn({"file": "m.tif", "frame": 1}, folder=tmp_path).all()
    assert not drawn({"file": "m.tif", "frame": 0}, folder=tmp_path).any()


def test_a_box_has_its_area_and_its_place():
    found = drawn({"box": [30, 10, 50, 20]})
    assert found[10:20, 30:50].all() and found.sum() == 200
    assert (drawn({"box": [50, 20, 30, 10]}) == found).all()  # corners in any order


def test_a_circle_has_its_area_and_its_centre():
    found = drawn({"circle": [40, 30, 20]})
    rows, columns = np.nonzero(found)
    assert found.sum() == pytest.approx(np.pi * 20**2, rel=0.01)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((30, 40), abs=0.05)


def test_an_ellipse_turns_clockwise():
    found = drawn({"ellipse": [40, 30, 25, 8, 45]})
    assert found.sum() == pytest.approx(np.pi * 25 * 8, rel=0.02)
    assert found[30 + 14, 40 + 14] and not found[30 - 14, 40 + 14]  # down and to the right: y points downwards
    upright = drawn({"ellipse": [40, 30, 8, 25, 0]})
    assert (drawn({"ellipse": [40, 30, 25, 8, 90]}) != upright).sum() <= 4


def test_a_polygon_has_its_area():
    triangle = drawn({"polygon": [[10, 10], [70, 10], [10, 50]]})
    assert triangle.sum() == pytest.approx(60 * 40 / 2, rel=0.05)
    assert triangle[11, 11] and not triangle[49, 69]
    square = drawn({"polygon": [[30, 10], [50, 10], [50, 20], [30, 20]]})
    assert (square == drawn({"box": [30, 10, 50, 20]})).all()


@pytest.mark.parametrize("points", [[[30.2, 10.7]], [[30, 10], [35, 10]], [[30, 10], [30, 10], [30, 10]]])
def test_a_dot_and_a_line_are_still_seen(points):
    found = drawn({"polygon": points})
    assert found.any() and resize.bounds(found)[:2] == (30, 10)


@pytest.mark.parametrize(
    "shape",
    [
        {"circle": [40, 30, 20]},
        {"box": [30, 9, 50, 21]},
        {"ellipse": [40, 30, 25, 8, 30]},
        {"polygon": [[10, 10], [70, 10], [10, 50]]},
    ],
)
def test_numbers_of_another_picture_are_scaled(shape):
    """The dataset's copy of the image is half as wide and a third as high as the one that was annotated."""
    small = drawn(shape | {"of": [160, 180]})
    large = drawn(shape, shape=(180, 160))
    mean = large.reshape(60, 3, 80, 2).mean((1, 3))
    assert small.sum() == pytest.approx(large.sum() / 6, rel=0.1)
    assert small[mean == 1].all() and not small[mean == 0].any()


def test_a_shape_that_is_half_outside_is_cut():
    assert drawn({"box": [-10, -10, 10, 10]}).sum() == 100
    assert drawn({"circle": [0, 0, 20]}).sum() == pytest.approx(np.pi * 100, rel=0.05)
    assert drawn({"box": [0, 0, 500, 500]}).all()


def test_a_box_thinner_than_a_pixel_is_still_seen():
    assert np.argwhere(drawn({"box": [300, 100, 301, 101], "of": [800, 600]})).tolist() == [[10, 30]]
