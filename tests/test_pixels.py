import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from medical_files import dicom, video, volume
from PIL import Image

from mednb.datasets import pixels
from mednb.datasets.archive import Archive

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 50), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def read(path, frame=None, **how):
    return pixels.read(Archive(path.parent), path.name, frame, **how)


def saved(tmp_path, image, name, **how):
    Image.fromarray(image).save(tmp_path / name, **how)
    return tmp_path / name


# ------------------------------------------------------------------------------------------------ grey values


def test_what_is_8_bit_grey_stays_as_it_is():
    raw = pixels.Raw(GREY)
    assert pixels.grey(raw) is GREY


@pytest.mark.parametrize("bits", [8, 16])
def test_bits_are_stretched_or_rounded(bits):
    for values, highest in ((GREY, 255), (DEEP, 65535)):
        found = pixels.grey(pixels.Raw(values), bits=bits)
        assert found.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.abs(found / (2**bits - 1) - values / highest).max() <= 0.5 / (2**bits - 1) + 1e-6


def test_8_bits_survive_16_bits():
    deep = pixels.grey(pixels.Raw(GREY), bits=16)
    assert (deep == GREY.astype(np.uint16) * 257).all()
    assert (pixels.grey(pixels.Raw(deep)) == GREY).all()


def test_other_numbers_reach_from_their_lowest_to_their_highest():
    for dtype in (np.int16, np.int32, np.float32, np.float64, np.uint32):
        values = np.array([[100, 200], [150, 300]], dtype)
        assert pixels.grey(pixels.Raw(values)).tolist() == [[0, 128], [64, 255]]
    assert not pixels.grey(pixels.Raw(np.full((4, 4), 7.5))).any()  # one value only: black, and no division by zero


def test_a_window_is_cut_at_both_ends_and_goes_before_the_files_own():
    raw = pixels.Raw(np.array([[-500, 0, 50, 100, 900]], np.int16), window=(-500, 900))
    assert pixels.grey(raw, (0, 100)).tolist() == [[0, 0, 128, 255, 255]]
    assert pixels.grey(raw, "brain").tolist() == [[0, 0, 159, 255, 255]]
    assert pixels.grey(raw).tolist() == [[0, 91, 100, 109, 255]]


def test_a_window_that_runs_downwards_turns_the_picture_whatever_is_asked_for():
    values = np.array([[0, 50, 100]], np.int16)
    for window in (None, (0, 100)):
        assert pixels.grey(pixels.Raw(values, window=(100, 0)), window).tolist() == [[255, 128, 0]]


def test_windows_show_what_they_are_named_after():
    """Tissue and its Hounsfield units: what a window is for lies well inside it, and what it hides outside."""
    for window, grey, black, white in [
        ("lung", -800, -1400, 400),
        ("mediastinum", 50, -800, 700),
        ("abdomen", 60, -800, 700),
        ("brain", 35, -100, 100),
        ("subdural", 65, -100, 700),
        ("bone", 700, -800, 2000),
    ]:
        shown = pixels.grey(pixels.Raw(np.array([[grey, black, white]], np.int16)), window)[0]
        assert 40 < shown[0] < 215 and shown[1] == 0 and shown[2] == 255


def test_colour_becomes_grey_as_pillow_does_it_or_stays():
    raw = pixels.Raw(COLOUR)
    assert (pixels.grey(raw) == np.asarray(Image.fromarray(COLOUR).convert("L"))).all()
    assert (pixels.grey(raw, channels=3) == COLOUR.transpose(2, 0, 1)).all()
    deep = pixels.grey(pixels.Raw(COLOUR.astype(np.uint16) * 257), bits=8)
    assert np.abs(deep.astype(int) - pixels.grey(raw)).max() <= 1


def test_grey_is_repeated_for_three_channels():
    found = pixels.grey(pixels.Raw(GREY), channels=3)
    assert found.shape == (3, 40, 50) and (found == GREY).all()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"window": "lungs"}, "window 'lungs' is unknown; choose one of lung, "),
        ({"window": (5, 5)}, "what becomes black and what white"),
        ({"bits": 12}, "choose 8 or 16 bits"),
        ({"channels": 2}, "1 or 3 channels"),
    ],
)
def test_a_wrong_wish_is_a_sentence(how, words):
    with pytest.raises(ValueError, match=words):
        pixels.grey(pixels.Raw(DEEP), **how)


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "pgm", "gif"])
def test_8_bit_grey_is_read_as_it_was_written(tmp_path, ending):
    assert (pixels.grey(read(saved(tmp_path, GREY, f"a.{ending}"))) == GREY).all()


def test_webp_is_read_page_by_page(tmp_path):
    pages = [Image.fromarray(np.roll(GREY, shift)).convert("RGB") for shift in range(3)]
    pages[0].save(tmp_path / "a.webp", lossless=True, save_all=True, append_images=pages[1:])
    archive = Archive(tmp_path)
    assert pixels.frames(archive, "a.webp") == 3
    for frame in (0, 2, 1):
        assert (pixels.grey(pixels.read(archive, "a.webp", frame)) == np.roll(GREY, frame)).all()


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_read_as_it_was_written(tmp_path, ending):
    raw = read(saved(tmp_path, DEEP, f"a.{ending}"))
    assert raw.values.dtype == np.uint16 and (raw.values == DEEP).all()


def by_pillow(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pixels.Picture, "plain", lambda self: None)
        return read(path).values


@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_plain_png_has_the_pixels_that_pillow_finds_in_it(tmp_path, monkeypatch, level):
    ramp = np.add.outer(np.arange(61), np.arange(47)).astype(np.uint8)  # of all kinds of filters
    for name, image in {
        "noise": GREY,
        "ramp": ramp,
        "colour": COLOUR,
        "both": np.stack([ramp, ramp // 2, 0 * ramp], 2),
    }.items():
        path = saved(tmp_path, image, f"{name}.png", compress_level=level)
        assert pixels.Picture(path.read_bytes(), "PNG").plain() is not None
        assert (read(path).values == image).all()
        assert (by_pillow(path, monkeypatch) == image).all()


def test_pillow_is_asked_where_anything_stands_before_the_pixels(tmp_path, monkeypatch):
    nothing, something = saved(tmp_path, GREY, "a.png"), saved(tmp_path, GREY, "b.png", dpi=(72, 72))
    assert (read(something).values == GREY).all()
    monkeypatch.setattr(pixels, "plugins", dict)
    assert (read(nothing).values == GREY).all()
    with pytest.raises(ValueError, match=r"b\.png"):
        read(something)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_a_png_of_another_kind_is_left_to_pillow(tmp_path, mode):
    path = tmp_path / "a.png"
    (Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)).save(path)
    assert pixels.Picture(path.read_bytes(), "PNG").plain() is None
    Image.fromarray(GREY).save(path, transparency=3)
    assert pixels.Picture(path.read_bytes(), "PNG").plain() is None


def test_an_animated_png_is_read_page_by_page(tmp_path):
    pages = [Image.fromarray(np.roll(GREY, shift)) for shift in range(3)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
    archive = Archive(tmp_path)
    assert pixels.frames(archive, "a.png") == 3
    for frame in (0, 2, 1):
        assert (pixels.read(archive, "a.png", frame).values == np.roll(GREY, frame)).all()


def test_a_png_is_damaged_where_pillow_says_so_and_nowhere_else(tmp_path, monkeypatch):
    whole = saved(tmp_path, GREY, "a.png").read_bytes()
    cut = [whole[:end] for end in range(60, len(whole), 97)]
    places = [*range(8, 60), *range(60, len(whole), 97)]  # the head, and some of the rest
    turned = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in places]
    refused = 0
    for content in cut + turned:
        (tmp_path / "b.png").write_bytes(content)
        try:
            expected = by_pillow(tmp_path / "b.png", monkeypatch)
        except ValueError as error:
            refused += 1
            with pytest.raises(ValueError, match=r"b\.png cannot be read as an image") as found:
                read(tmp_path / "b.png")
            assert str(found.value) == str(error)
        else:
            assert (read(tmp_path / "b.png").values == expected).all()
    assert refused > 20


@pytest.mark.parametrize(
    ("mode", "colour", "grey"),
    [
        ("L", 77, 77),
        ("RGB", (77, 77, 77), 77),
        ("RGBA", (200, 200, 200, 0), 0),
        ("RGBA", (200, 200, 200, 255), 200),
        ("1", 1, 255),
        ("LA", (77, 255), 77),
        ("LA", (77, 0), 0),
    ],
)
def test_every_8_bit_picture_becomes_grey_and_transparency_black(tmp_path, mode, colour, grey):
    Image.new(mode, (20, 10), colour).save(tmp_path / "a.png")
    assert (pixels.grey(read(tmp_path / "a.png")) == np.full((10, 20), grey)).all()


def test_a_value_that_means_transparent_is_black(tmp_path):
    Image.new("L", (20, 10), 77).save(tmp_path / "a.png", transparency=77)
    assert not pixels.grey(read(tmp_path / "a.png")).any()


def test_a_palette_gives_colours_or_numbers(tmp_path):
    picture = Image.frombytes("P", (50, 40), (GREY % 3).tobytes())
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png").values == np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])[GREY % 3]).all()
    assert (read(tmp_path / "a.png", colours=False).values == GREY % 3).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_all_kinds_are_read(tmp_path, mode):
    y, x = np.mgrid[:40, :50]
    picture = Image.fromarray((3 * x + 2 * y).astype(np.uint8))
    picture.convert(mode).save(tmp_path / "a.jpg", quality=95)
    difference = pixels.grey(read(tmp_path / "a.jpg")).astype(int) - np.asarray(picture)
    assert np.abs(difference).mean() < 2


def test_numbers_with_a_point_are_read_from_a_tiff(tmp_path):
    raw = read(saved(tmp_path, GREY.astype(np.float32) / 7, "a.tif"))
    assert raw.values.dtype == np.float32 and (raw.values == GREY.astype(np.float32) / 7).all()
    assert pixels.grey(raw).min() == 0 and pixels.grey(raw).max() == 255


def test_the_first_bytes_decide_and_not_the_name(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg", format="PNG")
    dicom(tmp_path / "b.png", GREY)
    assert (read(tmp_path / "a.jpg").values == GREY).all()
    assert (read(tmp_path / "b.png").values == GREY).all()


@pytest.mark.parametrize("ending", ["tif", "gif"])
def test_every_page_is_read_in_any_order(tmp_path, ending):
    pages = [Image.new("L", (20, 10), value) for value in (10, 200, 60, 120)]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    archive = Archive(tmp_path)
    assert pixels.frames(archive, f"a.{ending}") == 4
    for frame in (0, 1, 2, 3, 3, 0, 2, None, -1):
        found = pixels.grey(pixels.read(archive, f"a.{ending}", frame))
        assert (found == (10, 200, 60, 120)[max(frame or 0, 0)]).all()


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    for value in (10, 20):
        Image.new("L", (20, 10 + value), value).save(tmp_path / "a.tif")
        assert (read(tmp_path / "a.tif").values == value).all()


# ------------------------------------------------------------------------------------------------ DICOM


def ct(tmp_path, stored, **elements):
    said = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024} | elements
    return read(dicom(tmp_path / "a.dcm", np.asarray(stored), **said))


def test_stored_numbers_become_hounsfield_units(tmp_path):
    raw = ct(tmp_path, np.array([[0, 1024], [1064, 4000]], np.uint16))
    assert raw.values.tolist() == [[-1024, 0], [40, 2976]] and raw.window is None
    assert pixels.grey(raw, "brain").tolist() == [[0, 0], [128, 255]]
    half = ct(tmp_path, np.array([[0, 1], [2, 3]], np.uint16), RescaleSlope=0.5, RescaleIntercept=0)
    assert half.values.tolist() == [[0, 0.5], [1, 1.5]]


def test_signed_numbers_stay_below_zero(tmp_path):
    raw = ct(tmp_path, np.array([[-1000, 5], [7, 9]], np.int16), RescaleIntercept=0)
    assert raw.values.tolist() == [[-1000, 5], [7, 9]]


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ({"WindowCenter": 40, "WindowWidth": 81}, (-0.5, 79.5)),  # PS3.3 C.11.2.1.2.1: half a unit lower, one narrower
        ({"WindowCenter": [40, 500], "WindowWidth": [81, 2001]}, (-0.5, 79.5)),
        ({"WindowCenter": 40, "WindowWidth": 80, "VOILUTFunction": "LINEAR_EXACT"}, (0, 80)),
        ({"WindowCenter": 40, "WindowWidth": 0}, None),
    ],
)
def test_the_files_window_is_the_first_one_as_the_standard_defines_it(tmp_path, said, window):
    assert ct(tmp_path, np.ones((4, 4), np.uint16), **said).window == window


def test_8_bits_of_a_picture_need_no_window(tmp_path):
    raw = read(dicom(tmp_path / "a.dcm", GREY, Modality="US"))
    assert (pixels.grey(raw) == GREY).all()


def test_12_bits_without_a_window_reach_from_their_lowest_to_their_highest(tmp_path):
    raw = read(dicom(tmp_path / "a.dcm", np.array([[100, 300], [200, 4000]], np.uint16), BitsStored=12, HighBit=11))
    assert pixels.grey(raw).tolist() == [[0, 13], [7, 255]]


def test_8_bits_that_have_the_room_of_16_are_8_bits(tmp_path):
    raw = read(dicom(tmp_path / "a.dcm", GREY.astype(np.uint16), BitsStored=8, HighBit=7))
    assert (pixels.grey(raw) == GREY).all()


@pytest.mark.parametrize("said", [{}, {"WindowCenter": 150, "WindowWidth": 101}])
def test_monochrome1_is_turned(tmp_path, said):
    stored = np.array([[100, 125], [150, 200]], np.uint16)
    raw = read(dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1", **said))
    plain = read(dicom(tmp_path / "b.dcm", stored, **said))
    assert np.abs(pixels.grey(raw).astype(int) + pixels.grey(plain) - 255).max() <= 1  # both round to even
    assert pixels.grey(raw, (100, 200)).tolist() == [[255, 191], [128, 0]]
    small = read(dicom(tmp_path / "c.dcm", GREY, PhotometricInterpretation="MONOCHROME1"))
    assert (pixels.grey(small) == 255 - GREY).all()


@pytest.mark.parametrize(("kind", "darkest"), [("MONOCHROME2", 100), ("MONOCHROME1", 3000)])
def test_padding_is_as_black_as_the_darkest_pixel(tmp_path, kind, darkest):
    stored = np.array([[0, 100], [300, 3000]], np.uint16)
    raw = read(dicom(tmp_path / "a.dcm", stored, PixelPaddingValue=0, PhotometricInterpretation=kind))
    assert raw.values.tolist() == [[darkest, 100], [300, 3000]]
    assert pixels.grey(raw)[0, 0] == 0


def test_bits_above_those_stored_are_no_pixels(tmp_path):
    """Old files keep an overlay in them."""
    stored = np.array([[0x0064, 0x812C], [0x80C8, 0x0FA0]], np.uint16)
    raw = read(dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11))
    assert raw.values.tolist() == [[0x064, 0x12C], [0x0C8, 0xFA0]]


def test_every_frame_of_a_multi_frame_file_is_read(tmp_path):
    stored = RNG.integers(0, 256, (5, 12, 10), dtype=np.uint8)
    dicom(tmp_path / "a.dcm", stored)
    archive = Archive(tmp_path)
    assert pixels.frames(archive, "a.dcm") == 5
    for frame in (0, 1, 2, 3, 4, 2, 0):
        assert (pixels.read(archive, "a.dcm", frame).values == stored[frame]).all()


@pytest.mark.parametrize(("kind", "greys"), [("MONOCHROME2", [0, 51, 255]), ("MONOCHROME1", [255, 204, 0])])
def test_a_grey_means_the_same_in_all_frames_of_a_file_without_a_window(tmp_path, kind, greys):
    stored = np.stack([np.full((4, 4), value, np.uint16) for value in (100, 700, 3100)])
    dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, PhotometricInterpretation=kind)
    assert [pixels.grey(read(tmp_path / "a.dcm", frame))[0, 0] for frame in range(3)] == greys


def test_a_multi_frame_file_may_have_a_window_and_a_rescale_for_each_frame(tmp_path):
    from pydicom import Dataset

    def item(**elements):
        found = Dataset()
        for keyword, value in elements.items():
            setattr(found, keyword, value)
        return found

    window = [item(WindowCenter=40.5, WindowWidth=81)]
    frames = [
        item(PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=-10)]) for slope in (1, 2)
    ]
    stored = np.full((2, 4, 4), 30, np.uint16)
    dicom(tmp_path / "a.dcm", stored, Modality="CT", PerFrameFunctionalGroupsSequence=frames,
          SharedFunctionalGroupsSequence=[item(FrameVOILUTSequence=window)])  # fmt: skip
    for frame, value in ((0, 20), (1, 50)):
        raw = read(tmp_path / "a.dcm", frame)
        assert (raw.values == value).all() and raw.window == (0, 80)


def test_a_table_of_display_values_is_looked_up(tmp_path):
    from pydicom import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 100, 8], [0, 10, 200, 255]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    raw = read(dicom(tmp_path / "a.dcm", np.array([[100, 101], [102, 999]], np.uint16), VOILUTSequence=[table]))
    assert pixels.grey(raw).tolist() == [[0, 10], [200, 255]]


def test_colour_and_palette_colour_are_red_green_and_blue(tmp_path):
    assert (read(dicom(tmp_path / "a.dcm", COLOUR)).values == COLOUR).all()
    wheel = {"Red": [0, 65535, 0], "Green": [0, 0, 65535], "Blue": [0, 257, 0]}
    said = {f"{name}PaletteColorLookupTableDescriptor": [3, 0, 16] for name in wheel}
    said |= {f"{name}PaletteColorLookupTableData": struct.pack("<3H", *table) for name, table in wheel.items()}
    dicom(tmp_path / "b.dcm", GREY % 3, **said, PhotometricInterpretation="PALETTE COLOR")
    assert (read(tmp_path / "b.dcm").values == np.array([[0, 0, 0], [255, 0, 1], [0, 255, 0]])[GREY % 3]).all()
    assert (read(tmp_path / "b.dcm", colours=False).values == GREY % 3).all()


def test_brightness_and_two_colours_become_red_green_and_blue(tmp_path):
    stored = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    raw = read(dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(raw.values.astype(int) - np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB"))).max() <= 2


def real(name):
    """A real file that pydicom brings along for its own tests."""
    from pydicom.data.data_manager import DATA_ROOT

    return Path(DATA_ROOT) / "test_files" / name


@pytest.mark.parametrize("packed", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit"])
def test_every_way_to_pack_pixels_gives_the_same_ones(packed):
    """Real files of an MRI slice: the same pixels in several transfer syntaxes."""
    assert (read(real(f"MR_small_{packed}.dcm")).values == read(real("MR_small.dcm")).values).all()


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_rle.dcm"])
def test_colour_that_was_packed_is_red_green_and_blue(name):
    bars = read(real(name)).values
    assert np.abs(bars[5, 50].astype(int) - [255, 0, 0]).max() < 10  # the first bar of this test picture is red


def test_a_real_ct_slice_shows_soft_tissue_in_its_window():
    raw = read(real("CT_small.dcm"))
    assert raw.hounsfield and raw.values.min() < -800 and raw.values.max() > 300
    assert 0.2 < ((shown := pixels.grey(raw, "abdomen")) == 0).mean() < 0.9 and shown.max() == 255


def test_an_old_file_without_a_preamble_is_dicom(tmp_path):
    dicom(tmp_path / "a.dcm", GREY)
    (tmp_path / "b").write_bytes((tmp_path / "a.dcm").read_bytes()[132:])
    assert (read(tmp_path / "b").values == GREY).all()


# ------------------------------------------------------------------------------------------------ videos


def numbered(n):
    """Frames that show their number: five bands, each black or white, as a binary number."""
    bits = (np.arange(n)[:, None] >> np.arange(5)) & 1
    return np.repeat(np.repeat(bits.astype(np.uint8) * 200 + 20, 16, 1)[:, :, None], 64, 2)


def number(image):
    return int(((image.reshape(5, 16, -1).mean((1, 2)) > 120) << np.arange(5)).sum())


VIDEOS = {
    "a.avi": {"codec": "mjpeg"},
    "b.avi": {"codec": "mpeg4", "g": "6", "bf": "0"},
    "c.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},  # frames that are stored in another order than shown
    "d.mkv": {"codec": "mpeg4", "g": "100"},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_of_a_video_is_the_right_one_in_any_order(tmp_path, name):
    video(tmp_path / name, numbered(25), **VIDEOS[name])
    archive = Archive(tmp_path)
    assert pixels.frames(archive, name) == 25
    for frame in [*range(25), *range(0, 25, 5), 24, 0, 13, 13, 12, 14, 23]:
        assert number(pixels.grey(pixels.read(archive, name, frame))) == frame


def test_frames_in_order_are_decoded_once(tmp_path, monkeypatch):
    import av

    opened = []
    monkeypatch.setattr(av, "open", lambda *given, real=av.open, **how: opened.append(given) or real(*given, **how))
    video(tmp_path / "a.avi", numbered(20))
    opened.clear()
    for frame in range(0, 20, 3):
        read(tmp_path / "a.avi", frame)
    assert len(opened) == 1


def test_threads_do_not_disturb_each_other(tmp_path):
    video(tmp_path / "a.avi", numbered(16))
    video(tmp_path / "b.avi", numbered(16)[::-1])
    archive = Archive(tmp_path)
    wanted = [(name, frame) for frame in range(16) for name in ("a.avi", "b.avi")]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda which: number(pixels.grey(pixels.read(archive, *which))), wanted)
    assert list(found) == [frame if name == "a.avi" else 15 - frame for name, frame in wanted]


# ------------------------------------------------------------------------------------------------ volumes


def test_every_frame_of_a_grey_gif_is_read_in_any_order(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 9, 12), dtype=np.uint8)
    first, *rest = map(Image.fromarray, frames)
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    for frame in (0, 1, 2, 3, 1):
        assert (pixels.grey(read(tmp_path / "a.gif", frame)) == frames[frame]).all()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mhd", "a.mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_slice_of_a_volume_is_read(tmp_path, name, dtype):
    slices = RNG.integers(0, 200, (4, 10, 12)).astype(dtype)
    volume(tmp_path / name, slices)
    archive = Archive(tmp_path)
    assert pixels.frames(archive, name) == 4
    for frame in (0, 3, 1, 2):
        found = pixels.read(archive, name, frame).values
        assert found.dtype == dtype and (found == slices[frame]).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_grey_means_the_same_in_all_slices_of_a_volume(tmp_path, dtype):
    slices = np.stack([np.full((10, 12), value, dtype) for value in (-1000, 0, 1000)])
    slices[1, 0, 0] = 500
    volume(tmp_path / "a.nii", slices)
    greys = [pixels.grey(read(tmp_path / "a.nii", frame)) for frame in range(3)]
    assert [int(grey[5, 5]) for grey in greys] == [0, 128, 255] and greys[1][0, 0] == 191


def test_a_flat_volume_is_a_picture(tmp_path):
    volume(tmp_path / "a.nii", DEEP.astype(np.int32))
    assert (read(tmp_path / "a.nii").values == DEEP).all()
    volume(tmp_path / "b.mhd", DEEP[None].astype(np.int32))
    assert (read(tmp_path / "b.mhd").values == DEEP).all()


def test_a_volume_of_several_files_is_read_from_a_zip(tmp_path):
    volume(tmp_path / "a.mhd", DEEP)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("a.mhd", "a.raw"):
            file.write(tmp_path / name, f"patient 1/{name}")
    assert (pixels.read(Archive(tmp_path / "a.zip"), "patient 1/a.mhd").values == DEEP).all()


def test_a_volume_of_the_other_byte_order_is_read(tmp_path):
    values = np.arange(6 * 5 * 4, dtype=">i2").reshape(4, 5, 6)
    head = bytearray(352)
    struct.pack_into(">i", head, 0, 348)
    struct.pack_into(">8h", head, 40, 3, 6, 5, 4, 1, 1, 1, 1)
    struct.pack_into(">2h", head, 70, 4, 16)
    struct.pack_into(">8f", head, 76, *[1] * 8)
    struct.pack_into(">3f", head, 108, 352, 1, 0)
    head[344:348] = b"n+1\0"
    (tmp_path / "a.nii").write_bytes(bytes(head) + values.tobytes())
    for frame in range(4):
        assert (read(tmp_path / "a.nii", frame).values == values[frame]).all()


# ------------------------------------------------------------------------------------------------ all of them


def test_importing_the_readers_loads_none_of_the_slow_libraries():
    slow = ["pydicom", "av", "SimpleITK", "gdcm", "skimage", "torch"]
    code = (
        "import sys, mednb.datasets.pixels, mednb.datasets.masks, mednb.datasets.resize, mednb.datasets.privacy, "
        f"mednb.datasets.dicom; print(*set(sys.modules) & set({slow}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.data
@pytest.mark.parametrize("folder", ["BUSI", "BUS-BRA", "HC18", "mini-MIAS", "IQ-OTHNCCD", "covid19_ultrasound"])
def test_real_pictures_are_what_pillow_reads(data_root, folder):
    archive = Archive(data_root / folder)
    files = [match[0] for match in archive.matching(r".*\.(png|jpg)")]
    for file in files[:: max(1, len(files) // 25)]:
        with Image.open(data_root / folder / file) as image:
            assert (pixels.grey(pixels.read(archive, file)) == np.asarray(image.convert("L"))).all()
