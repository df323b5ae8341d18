"""What strangers' files may be: each kind of bad input is one sentence that names the file, and no warning."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medical_files import dicom, png, sound, video, volume
from PIL import Image

from mednb.datasets import masks, pixels
from mednb.datasets.archive import Archive

GREY = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
Row = namedtuple("Row", "image_id masks")


def picture(format: str, **how) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, format, **how)
    return file.getvalue()


def holding(content: bytes) -> Callable:
    """A file x with this content, read."""

    def make(folder: Path, file: str = "x") -> None:
        (folder / file).write_bytes(content)
        look(folder, file)

    return make


def look(folder: Path, file: str = "x", frame: int | None = None, **how) -> None:
    pixels.grey(pixels.read(Archive(folder), file, frame), **how)


def masked(mask: str | dict) -> Callable:
    """An image x.png with this mask, read."""

    def make(folder: Path) -> None:
        Image.fromarray(GREY).save(folder / "x.png")
        Image.fromarray(GREY[:20]).save(folder / "small.png")
        masks.of(Archive(folder), Row("x.png", [mask]), GREY.shape)

    return make


def zipped(folder: Path, name: str = "a.png", damage: Callable[[bytearray], object] | None = None) -> Archive:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, picture("PNG"))
    if damage:
        content = bytearray((folder / "x.zip").read_bytes())
        damage(content)
        (folder / "x.zip").write_bytes(content)
    return Archive(folder / "x.zip")


def table(content: bytes, **how) -> Callable:
    """A table x.csv with this content, read."""

    def make(folder: Path) -> None:
        (folder / "x.csv").write_bytes(content)
        Archive(folder).csv("x.csv", **how)

    return make


def float_tiff(value: float) -> bytes:
    values, file = np.ones((8, 8), np.float32), io.BytesIO()
    values[3, 4] = value
    Image.fromarray(values).save(file, "TIFF")
    return file.getvalue()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


# ------------------------------------------------------------------------------------------------ pictures


def many_pages(folder: Path) -> None:
    pages = [Image.fromarray(GREY) for _ in range(3)]
    pages[0].save(folder / "x", "TIFF", save_all=True, append_images=pages[1:])
    look(folder, frame=3)


def lung_window(folder: Path) -> None:
    (folder / "x").write_bytes(picture("PNG"))
    look(folder, window="lung")


PICTURES = {
    "an empty file": (holding(b""), r"is empty \(0 bytes\)"),
    "text in a picture's clothes": (holding(b"a letter"), r"begins with b'a letter' and is no PNG"),
    "zeros": (holding(bytes(1000)), "and is no PNG"),
    "a PNG of its first bytes only": (holding(picture("PNG")[:8]), "cannot be read as an image"),
    "a PNG cut short": (holding(picture("PNG")[:-200]), "truncated"),
    "a PNG with a wrong checksum": (holding(flipped(picture("PNG"), 20)), "checksum|CRC|[Bb]roken"),
    "a PNG of 0 x 0": (holding(png(0, 0)), "cannot be read as an image"),
    "a PNG of one pixel": (holding(png(1, 1)), "1 x 1 pixels, which is no picture"),
    "a PNG of one row": (holding(png(99, 1)), "99 x 1 pixels, which is no picture"),
    "a PNG 30,000 pixels wide": (holding(png(30_000, 2)), "30,000 x 2 pixels; more than 20,000 a side"),
    "a PNG of 225 million pixels": (holding(png(15_000, 15_000)), "15,000 x 15,000 pixels; more than"),
    "a PNG with too few rows": (holding(png(50, 500)), "cannot be read as an image"),
    "a JPEG cut short": (holding(picture("JPEG")[:-300]), "truncated"),
    "a JPEG of its first bytes only": (holding(picture("JPEG")[:20]), "cannot be read as an image"),
    "a GIF cut short": (holding(picture("GIF")[:100]), "cannot be read as an image"),
    "a BMP cut short": (holding(picture("BMP")[:-100]), "truncated"),
    "a WebP cut short": (holding(picture("WEBP")[:-100]), "cannot be read as an image"),
    "a WebP of its first bytes only": (holding(picture("WEBP")[:16]), "cannot be read as an image"),
    "a RIFF that is no picture": (holding(b"RIFF\0\0\0\0WAVE" + bytes(99)), "and is no PNG"),
    "a TIFF cut short": (holding(picture("TIFF")[:-2000]), "cannot be read as an image"),
    "a TIFF whose directory lies behind its end": (holding(b"II*\0\xff\xff\0\0"), "cannot be read as an image"),
    "a TIFF with NaN": (holding(float_tiff(np.nan)), "1 of its 64 pixels are NaN or infinite"),
    "a TIFF with infinity": (holding(float_tiff(-np.inf)), "1 of its 64 pixels are NaN or infinite"),
    "a page that is not there": (many_pages, "3 frames, counted from 0, so there is no frame 3"),
    "a PGM whose white is 0": (holding(b"P5 4 4 0\n" + bytes(16)), "cannot be read as an image"),
    "a PGM cut short": (holding(b"P5 40 40 255\n" + bytes(16)), "cannot be read as an image"),
    "a PGM without numbers": (holding(b"P5 forty 40 255\n"), "cannot be read as an image"),
    "Hounsfield units of 8 bits": (lung_window, "holds no Hounsfield units, so window 'lung'"),
}

# ------------------------------------------------------------------------------------------------ DICOM


def of_dicom(values: np.ndarray | None = GREY, keep: int | None = None, frame: int | None = None, **elements):
    def make(folder: Path) -> None:
        dicom(folder / "x", values, **elements)
        (folder / "x").write_bytes((folder / "x").read_bytes()[:keep])
        look(folder, frame=frame)

    return make


def of_floats(folder: Path) -> None:
    values = np.full((8, 8), np.nan, np.float32)
    dicom(folder / "x", None, Rows=8, Columns=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
          BitsAllocated=32, FloatPixelData=values.tobytes())  # fmt: skip
    look(folder)


def magnetic_lung(folder: Path) -> None:
    dicom(folder / "x", GREY.astype(np.int16), Modality="MR")
    look(folder, window="lung")


def garbled(syntax: str) -> Callable:
    from pydicom.encaps import encapsulate

    def make(folder: Path) -> None:
        dicom(folder / "x", GREY, syntax, PixelData=encapsulate([b"no compressed pixels"]))
        look(folder)

    return make


FILM = np.stack([GREY] * 3)
DICOM = {
    "DICOM without pixels": (of_dicom(None), "DICOM without pixels"),
    "DICOM of its magic word only": (holding(bytes(128) + b"DICM"), "DICOM without pixels"),
    "DICOM cut short": (of_dicom(keep=-500), "cannot be read as an image"),
    "DICOM cut in the header": (of_dicom(keep=300), "cannot be read as an image"),
    "DICOM with half of its pixels": (of_dicom(PixelData=bytes(1000)), "cannot be read as an image"),
    "DICOM of 0 rows": (of_dicom(Rows=0), "50 x 0 pixels, which is no picture"),
    "DICOM of 3,600 million pixels": (of_dicom(Rows=60_000, Columns=60_000), "60,000 x 60,000 pixels; more than"),
    "a transfer syntax that is a film": (garbled("1.2.840.10008.1.2.4.100"), "MPEG2"),
    "a transfer syntax that nobody knows": (garbled("1.2.3.4.5"), "1.2.3.4.5"),
    "compressed pixels that are garbage": (garbled("1.2.840.10008.1.2.4.90"), "cannot be read as an image"),
    "many frames and none named": (of_dicom(FILM), "it holds 3 frames, say which one"),
    "a frame that is not there": (of_dicom(FILM, frame=3), "so there is no frame 3"),
    "a frame before the first": (of_dicom(FILM, frame=-2), "so there is no frame -2"),
    "DICOM of NaN": (of_floats, "64 of its 64 pixels are NaN or infinite"),
    "Hounsfield units of an MRI": (magnetic_lung, "holds no Hounsfield units, so window 'lung'"),
}

# ------------------------------------------------------------------------------------------------ videos, volumes


def of_video(ending: str, keep: int | None = None, frame: int | None = 0, codec: str = "mjpeg"):
    def make(folder: Path) -> None:
        video(folder / f"x{ending}", np.stack([GREY] * 4), codec)
        (folder / f"x{ending}").write_bytes((folder / f"x{ending}").read_bytes()[:keep])
        look(folder, f"x{ending}", frame)

    return make


def only_sound(folder: Path) -> None:
    sound(folder / "x.mp4")
    look(folder, "x.mp4", 0)


def of_volume(ending: str, values: np.ndarray, keep: int | None = None, frame: int | None = 0):
    def make(folder: Path) -> None:
        file = volume(folder / f"x{ending}", values)
        file.write_bytes(file.read_bytes()[:keep])
        look(folder, file.name, frame)

    return make


def pixels_beside(folder: Path) -> None:
    file = volume(folder / "x.img", SLICES)
    file.write_bytes(file.read_bytes()[:-20])
    look(folder, "x.hdr", 0)


def cut_and_packed(folder: Path) -> None:
    file = volume(folder / "x.nii", SLICES)
    (folder / "x.nii.gz").write_bytes(gzip.compress(file.read_bytes()[:-20]))
    look(folder, "x.nii.gz", 0)


def of_mhd(size: str, raw: str, length: int = 64):
    def make(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "x.raw").write_bytes(bytes(length))
        (folder / "inner/x.raw").write_bytes(bytes(length))
        head = f"ObjectType = Image\nNDims = 2\nDimSize = {size}\nElementType = MET_UCHAR\nElementDataFile = {raw}\n"
        (folder / "inner/x.mhd").write_text(head)
        look(folder, "inner/x.mhd")

    return make


SLICES = np.arange(3 * 8 * 9, dtype=np.int16).reshape(3, 8, 9)
FILMS = {
    "an AVI of its head only": (of_video(".avi", keep=300), "cannot be read as an image"),
    "an AVI of its first bytes only": (holding(b"RIFF\0\0\0\0AVI LIST"), "cannot be read as an image"),
    "an MP4 without its index": (of_video(".mp4", keep=400, codec="mpeg4"), "cannot be read as an image"),
    "an MP4 without pictures": (only_sound, "holds no pictures, only audio"),
    "a video and no frame named": (of_video(".avi", frame=None), "it holds 4 frames, say which one"),
    "a frame after the last": (of_video(".avi", frame=4), "4 frames, counted from 0, so there is no frame 4"),
    "a volume of 4 dimensions": (of_volume(".nii", np.zeros((2, 3, 8, 9), np.int16)), r"4 dimensions, 9 x 8 x 3 x 2"),
    "a volume of NaN": (of_volume(".mha", np.full((2, 8, 8), np.nan)), "64 of its 64 pixels are NaN"),
    "a NIfTI without its last bytes": (of_volume(".nii", SLICES, keep=-20), "it is cut short"),
    "a packed NIfTI without its last half": (of_volume(".nii.gz", SLICES, keep=-200), "cannot be read as an image"),
    "a NIfTI that was cut short before it was packed": (cut_and_packed, "it is cut short"),
    "NIfTI pixels cut short": (pixels_beside, "it is cut short"),
    "a NIfTI cut short": (of_volume(".nii", SLICES, keep=400), "cannot be read as an image"),
    "a packed NIfTI cut short": (of_volume(".nii.gz", SLICES, keep=90), "cannot be read as an image"),
    "a slice that is not there": (of_volume(".nii", SLICES, frame=3), "so there is no frame 3"),
    "a volume and no slice named": (of_volume(".nii", SLICES, frame=None), "it holds 3 frames, say which one"),
    "an MHD without its raw file": (of_mhd("8 8", "y.raw"), "'y.raw', which is not there"),
    "an MHD that leads out": (of_mhd("8 8", "../x.raw"), "'../x.raw', which is not there"),
    "an MHD with half of its pixels": (of_mhd("8 8", "x.raw", 32), "cannot be read as an image"),
    "an MHD 30,000 pixels wide": (of_mhd("30000 2", "x.raw"), "30,000 x 2 pixels; more"),
}

# ------------------------------------------------------------------------------------------------ folders and zips


def missing(folder: Path) -> None:
    look(folder)


def link_out(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "secret").write_bytes(picture("PNG"))
    (folder / "in/x").symlink_to(folder / "secret")
    look(folder / "in")


def folder_out(folder: Path) -> None:
    (folder / "in").mkdir(), (folder / "out").mkdir()
    (folder / "in/x").symlink_to(folder / "out")
    look(folder / "in", "x/a.png")


def link_to_nothing(folder: Path) -> None:
    (folder / "x").symlink_to(folder / "gone")
    look(folder)


def link_to_itself(folder: Path) -> None:
    (folder / "x").symlink_to(folder)
    look(folder, "x/x/x")


def strange_name(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/x\xe9.png")).write_bytes(picture("PNG"))
    look(folder)


def damaged(damage: Callable[[bytearray], object]) -> Callable:
    return lambda folder: look_in(zipped(folder, damage=damage))


def look_in(archive: Archive, file: str = "a.png") -> None:
    pixels.read(archive, file)


def leading_out(name: str) -> Callable:
    return lambda folder: look_in(zipped(folder, name))


def cut(content: bytearray) -> None:
    del content[-60:]


def other_byte(content: bytearray) -> None:
    content[content.find(b"a.png") + 100] ^= 255


def in_both_heads(offsets: tuple[int, int], form: str, value: int) -> Callable[[bytearray], None]:
    """Write a number into both heads of a zip's file: the one before it and the one in the list at the end."""

    def damage(content: bytearray) -> None:
        struct.pack_into(form, content, content.find(b"PK\3\4") + offsets[0], value)
        struct.pack_into(form, content, content.find(b"PK\1\2") + offsets[1], value)

    return damage


def not_utf8(content: bytearray) -> None:
    in_both_heads((6, 8), "<H", 0x800)(content)
    content[:] = content.replace(b"a.png", b"a\xff\xfe.p")


def garbage(folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"no zip")
    look_in(Archive(folder / "x.zip"))


PLACES = {
    "a file that is not there": (missing, "x is missing"),
    "a link out of the folder": (link_out, "x is a link that leads out of"),
    "a folder that is a link out": (folder_out, "x is a link that leads out of"),
    "a link to nothing": (link_to_nothing, "No such file"),
    "a folder inside itself": (link_to_itself, "x is a link to a folder that it lies in"),
    "a name that is not UTF-8": (strange_name, "has a name that is not UTF-8"),
    "a zip that is not there": (lambda folder: look_in(Archive(folder / "x.zip")), r"x\.zip is missing"),
    "a zip that is none": (garbage, r"x\.zip cannot be read as a zip"),
    "a zip cut short": (damaged(cut), r"x\.zip cannot be read as a zip"),
    "a zip whose name leads up": (leading_out("../x.png"), "leads out of it"),
    "a zip whose name leads up with a backslash": (leading_out("a\\..\\..\\x.png"), "leads out of it"),
    "a zip with an absolute name": (leading_out("/etc/x.png"), "leads out of it"),
    "a zip with a drive": (leading_out("C:/x.png"), "leads out of it"),
    "a file that is not in the zip": (lambda folder: look_in(zipped(folder), "b.png"), r"x\.zip: b\.png is missing"),
    "a zip with a changed byte": (damaged(other_byte), r"a\.png cannot be unpacked"),
    "a zip with a password": (damaged(in_both_heads((6, 8), "<H", 1)), r"a\.png cannot be unpacked: .*encrypted"),
    "a zip packed by an unknown method": (damaged(in_both_heads((8, 10), "<H", 77)), r"a\.png cannot be unpacked"),
    "a zip bomb": (damaged(in_both_heads((22, 24), "<I", 2**32 - 2)), "would unpack to 4,294,967,294 bytes"),
    "a zip whose names are not what they say": (damaged(not_utf8), r"x\.zip cannot be read as a zip"),
}

# ------------------------------------------------------------------------------------------------ tables and masks


def no_spreadsheet(folder: Path) -> None:
    (folder / "x.xlsx").write_bytes(b"a,b\n1,2\n")
    Archive(folder).excel("x.xlsx")


TABLES = {
    "an empty table": (table(b""), "cannot be read as a table: No columns"),
    "a table in another alphabet": (table(b"caf\xe9,b\n1,2\n"), "cannot be read as a table: .*utf-8"),
    "a table with a row too long": (table(b"a,b\n1,2\n1,2,3\n"), "cannot be read as a table: .*line 3"),
    "a table without a column": (table(b"a,b\n1,2\n", columns=("a", "label")), "has no column label; it has a, b"),
    "a table with a doubled row": (table(b"a,b\n1,2\n3,4\n1,5\n", key="a"), "has two rows of a 1"),
    "a table with a row that has no name": (table(b"a,b\n1,2\n,4\n", key="a"), "has no a in row 2"),
    "a spreadsheet that is none": (no_spreadsheet, "cannot be read as a spreadsheet"),
}
MASKS = {
    "a mask of another size": (masked("small.png"), r"small\.png is 50 x 20 pixels, but its image is 50 x 40"),
    "a mask that is not there": (masked("gone.png"), r"gone\.png is missing"),
    "a circle outside": (masked({"circle": [500, 10, 5]}), "outside of its 50 x 40 pixels"),
    "a box outside": (masked({"box": [-9, -9, -1, -1]}), "outside of its 50 x 40 pixels"),
    "a box of three numbers": (masked({"box": [1, 2, 3]}), "a box is 4 numbers"),
    "a polygon with NaN": (masked({"polygon": [[1, 2], [3, float("nan")]]}), "all of them finite"),
    "a polygon of nothing": (masked({"polygon": []}), r"a polygon is points \[x, y\]"),
    "a circle in words": (masked({"circle": ["left", "top", "small"]}), "whose numbers cannot be read"),
    "a shape that nobody knows": (masked({"star": [1, 2, 3]}), "none of circle, box, ellipse, polygon"),
    "a shape without values": (masked({"values": [1]}), "none of circle, box, ellipse, polygon"),
    "a shape in a picture of 0 x 0": (masked({"circle": [1, 1, 1], "of": [0, 0]}), "'of' is the width and the height"),
}

BAD = PICTURES | DICOM | FILMS | PLACES | TABLES | MASKS


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_that_names_the_file(kind, tmp_path):
    make, words = BAD[kind]
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        make(tmp_path)
    said = str(caught.value)
    assert str(tmp_path) in said and "\n" not in said
    assert type(caught.value) in (ValueError, FileNotFoundError)  # not a child of theirs with words of its own


def test_there_are_as_many_kinds_of_bad_input_as_were_asked_for():
    assert len(BAD) >= 60


@pytest.mark.parametrize("kind", ["picture", "zip", "table"])
def test_a_lack_of_memory_is_no_fault_of_the_file(kind, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pixels.Picture, "read", full)
    monkeypatch.setattr(zipfile.ZipFile, "read", full)
    monkeypatch.setattr("pandas.read_csv", full)
    with pytest.raises(MemoryError):
        if kind == "zip":
            look_in(zipped(tmp_path))
        else:
            {"picture": holding(picture("PNG")), "table": table(b"a,b\n1,2\n")}[kind](tmp_path)
