"""Pixels: one file, or one frame of it, as numbers, and those numbers as grey values.

    >>> raw = pixels.read(archive, "case7/slice012.dcm")
    >>> pixels.grey(raw, window="lung")

What a file is, its first bytes decide and not its name. Files come from strangers: whatever is wrong with one is a
ValueError that names it.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from mednb.datasets.archive import Archive

LONGEST = 20_000  # pixels of a side; a longer one is a mistake or a bomb
MOST = 2**27  # pixels of a picture; a mammogram digitised at 50 micrometres has 30 million

WINDOWS = {
    "lung": (-1350, 150),
    "mediastinum": (-125, 225),
    "abdomen": (-150, 250),
    "liver": (-45, 105),
    "bone": (-500, 1300),
    "temporal_bone": (-800, 2000),
    "brain": (0, 80),
    "subdural": (-32, 182),
    "stroke": (20, 60),
}
"""What is black and what is white in CT, in Hounsfield units: level -+ half the width, as listed by Murphy, Baba et
al., Windowing (CT), Radiopaedia, doi:10.53347/rID-52108."""


@dataclass(frozen=True)
class Raw:
    """What one file, or one frame of it, holds."""

    values: np.ndarray
    """(H, W) or (H, W, 3) numbers of any type: grey values, Hounsfield units; red, green and blue."""
    window: tuple[float, float] | None = None
    """The values that the file says are black and white. Black above white: low values are bright (MONOCHROME1)."""
    facts: dict = field(default_factory=dict)
    """What else the header tells of the picture, never of the person: `burned_in`."""
    where: str = "the image"
    """The file as a person looks for it, for sentences about it."""
    hounsfield: bool = True
    """Whether the numbers may be Hounsfield units, so that a window's name means something."""


class Opened(Protocol):
    """A file that was understood; one class for each family of formats."""

    alone: bool  # whether a frame need not be named: it is a picture, not a film

    def frames(self) -> int: ...

    def read(self, frame: int, colours: bool) -> Raw: ...


def read(archive: Archive, file: str, frame: int | None = None, colours: bool = True) -> Raw:
    """One file of an archive, or one frame of a video, a volume or a file of many pages.

    PNG, JPEG, BMP, GIF, TIFF, PGM and WebP, 8 and 16 bits, transparency on black; DICOM, rescaled, its padding black;
    AVI, MP4, MPEG and Matroska; NIfTI and MetaImage. Frames asked for in ascending order are decoded once.

    frame: 0, 1, ...; None or -1 for a file that is one picture (of a GIF or TIFF: the first page).
    colours: False gives a palette's numbers instead of its colours, for masks whose numbers mean something.
    Raises ValueError or FileNotFoundError that names the file.
    """
    opened = understood(archive, file)
    where = archive.where(file)
    with named(where):
        if frame is None or frame == -1:
            if not opened.alone and opened.frames() > 1:
                raise ValueError(f"it holds {opened.frames()} frames, say which one")
            frame = 0
        raw = opened.read(int(frame), colours)
        sound(raw.values)
    return Raw(raw.values, raw.window, raw.facts, where, raw.hounsfield)


def frames(archive: Archive, file: str) -> int:
    """How many frames a file holds: 1 for a picture. A video is decoded to count them, as its header may be wrong."""
    opened = understood(archive, file)
    with named(archive.where(file)):
        return opened.frames()


def highest(archive: Archive, file: str) -> float:
    """The highest number in all frames of a film or volume; worked out once while it is read."""
    opened = understood(archive, file)
    with named(archive.where(file)):
        if not hasattr(opened, "highest"):
            opened.highest = max(opened.read(i, True).values.max() for i in range(opened.frames()))
        return opened.highest


def grey(
    raw: Raw, window: str | tuple[float, float] | None = None, bits: int = 8, channels: int = 1
) -> np.ndarray:  # (H, W) or (3, H, W)
    """What was read as grey values, uint8 or uint16 (`bits` 8 or 16), black 0 and white 255 or 65,535.

    window: what becomes black and what white: a name of `WINDOWS`, two numbers, or None for what the file says; a file
        that says nothing: the range of its type for 8- and 16-bit integers, for everything else that of its values, in
        a volume of all slices, in DICOM of all frames.
    channels: 1 gives (H, W), colour weighted as ITU-R 601 has it; 3 gives (3, H, W), grey repeated.
    Raises ValueError when a window of Hounsfield units meets a file that holds something else.
    """
    if bits not in (8, 16) or channels not in (1, 3):
        raise ValueError(f"bits is {bits!r} and channels {channels!r}; choose 8 or 16 bits and 1 or 3 channels")
    values, (black, white) = raw.values, limits(raw, window)
    highest = 2**bits - 1
    if channels == 1 and values.ndim == 3:
        values = luma(values)
    if (black, white) != (0, highest) or values.dtype != (np.uint8 if bits == 8 else np.uint16):
        scale = highest / ((white - black) or 1)
        scaled = (values.astype(np.float32) - np.float32(black)) * np.float32(scale)
        values = np.rint(scaled.clip(0, highest)).astype(np.uint8 if bits == 8 else np.uint16)
    if channels == 1:
        return values
    return np.repeat(values[None], 3, 0) if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def limits(raw: Raw, window: str | tuple[float, float] | None) -> tuple[float, float]:
    """The values that become black and white."""
    if window is None and raw.window is not None:
        return raw.window
    if window is None:
        if raw.values.dtype in (np.uint8, np.uint16):
            return 0, 2 ** (8 * raw.values.itemsize) - 1
        return float(raw.values.min()), float(raw.values.max())
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ValueError(f"window {window!r} is unknown; choose one of {', '.join(WINDOWS)} or two numbers")
        if raw.values.dtype == np.uint8 or not raw.hounsfield:
            raise ValueError(f"{raw.where} holds no Hounsfield units, so window '{window}' means nothing there")
        window = WINDOWS[window]
    low, high = window
    if not low < high:
        raise ValueError(f"window is {window!r}; it is two numbers, what becomes black and what white, or a name")
    turned = raw.window is not None and raw.window[0] > raw.window[1]
    return (high, low) if turned else (low, high)


def luma(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W), by ITU-R 601; uint8 exactly as Pillow does it."""
    if values.dtype == np.uint8:
        from PIL import Image

        return np.asarray(Image.fromarray(values).convert("L"))
    return values @ np.array([0.299, 0.587, 0.114], np.float32)


# ---------------------------------------------------------------------------------------------- which format it is

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # and the head, which has 13 bytes
MAGIC = {
    PNG[:8]: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P2": "PGM",
    b"P3": "PGM",
    b"P5": "PGM",
    b"P6": "PGM",
    b"RIFF": "WEBP",  # if it is no film: see `CONTAINERS`
}
CONTAINERS = {  # of videos; FFmpeg's names
    b"RIFFAVI ": "avi",
    b"\x1aE\xdf\xa3": "matroska",
    b"\0\0\1\xba": "mpeg",
    **dict.fromkeys([b"ftyp", b"moov", b"mdat", b"wide", b"free"], "mp4"),  # QuickTime's need not begin with their type
}
KEPT = 3  # films or volumes: one that is read frame by frame, and its masks
LAST = threading.local()  # those that each thread has read last, in `opened`: name -> version and what was opened


def understood(archive: Archive, file: str) -> Opened:
    """The file, opened by what its first bytes say it is; a film or volume of before when it is asked for again."""
    where, kept = archive.where(file), LAST.__dict__.setdefault("opened", {})
    if where in kept and kept[where][0] == archive.version(file):
        kept[where] = kept.pop(where)  # the last is the newest
        return kept[where][1]
    data = archive.read(file)
    with named(where):
        format = next((MAGIC[magic] for magic in MAGIC if data.startswith(magic)), None)
        if format == "WEBP" and data[8:12] != b"WEBP":
            format = None
        opened = Picture(data, format) if format and not is_dicom(data) else film(archive, file, data)
    if format in (None, "GIF", "TIFF", "WEBP"):
        kept[where] = archive.version(file), opened
        for old in list(kept)[:-KEPT]:
            del kept[old]
    return opened


def is_dicom(data: bytes) -> bool:
    """Whether these bytes, 132 at least, begin a DICOM file, which may begin as any other in its preamble of 128 bytes.

    One of the old kind has no preamble and begins with the first element of group 2 or 8.
    """
    return data[128:132] == b"DICM" or (data[:2] in (b"\2\0", b"\10\0") and data[4:6].isalpha())


def film(archive: Archive, file: str, data: bytes) -> Opened:
    """What is no plain picture: DICOM, a video, a volume."""
    if not data:
        raise ValueError("it is empty (0 bytes)")
    if is_dicom(data):
        from mednb.datasets.dicom import Dicom

        return Dicom(data)
    if container := CONTAINERS.get(data[:4] + data[8:12]) or CONTAINERS.get(data[:4]) or CONTAINERS.get(data[4:8]):
        from mednb.datasets.video import Video

        return Video(data, container)
    from mednb.datasets import volume

    if volume.known(data):
        return volume.Volume(archive, file, data)
    raise ValueError(
        f"it begins with {data[:8]!r} and is no PNG, JPEG, BMP, GIF, TIFF, PGM, WebP, DICOM, AVI, MP4, MPEG, Matroska, "
        "NIfTI or MetaImage"
    )


@cache
def plugins() -> dict:
    """Pillow's readers. Asked directly, since `Image.open` warns of bombs through the warnings of the whole process."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    return {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "PGM": PpmImagePlugin.PpmImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
    }


class Picture:
    """What Pillow reads."""

    alone = True

    def __init__(self, data: bytes, format: str):
        self.data, self.format = data, format
        self.said = headed(data)  # by a PNG that says nothing else
        sized(*(self.said or self.image.size)[:2])

    @cached_property
    def image(self):
        """Opened when it is asked for: a plain PNG is read without."""
        with quiet() if self.format == "TIFF" else nullcontext():
            return plugins()[self.format](io.BytesIO(self.data))

    def frames(self) -> int:
        return getattr(self.image, "n_frames", 1)

    def read(self, frame: int, colours: bool) -> Raw:
        if frame == 0 and (values := self.plain()) is not None:
            return Raw(values)
        image = self.image
        if frame != image.tell():
            there(frame, self.frames())
            image.seek(frame)
            sized(*image.size)
            image.load()  # before that a GIF's mode is that of the frame before
        if (image.mode == "L" and "transparency" not in image.info) or (image.mode == "P" and not colours):
            return Raw(np.asarray(image))
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            from PIL import Image

            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
        if image.mode == "1":  # to bytes of 0 and 255 at once
            return Raw(np.frombuffer(image.tobytes("raw", "L"), np.uint8).reshape(image.size[::-1]))
        if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        if image.mode not in ("L", "RGB", "F", "I", "I;16", "I;16L", "I;16B"):
            raise ValueError(f"its pixels are of the kind {image.mode!r}")
        values = np.asarray(image)
        if image.mode.startswith("I;16") or (image.mode == "I" and self.format == "PGM"):
            values = values.astype(np.uint16, copy=False)
        return Raw(values)

    def plain(self) -> np.ndarray | None:
        """A PNG of 8 bits, grey or in colours without transparency, by kornia, which takes a third of Pillow's time.

        None for other files, and for those that it refuses: Pillow reads them, or says why it cannot.
        """
        if self.format != "PNG":
            return None
        if (said := self.said) is None:
            if "transparency" in self.image.info or [tile.args for tile in self.image.tile] not in (["L"], ["RGB"]):
                return None  # not of 8 bits
            said = *self.image.size, self.image.mode
        from kornia_rs import io as kornia

        width, height, mode = said
        try:
            values = kornia.decode_image_png_u8(self.data, (height, width), "rgb" if mode == "RGB" else "mono")
        except Exception:
            return None
        return values if mode == "RGB" else values[..., 0]


def headed(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and mode of a PNG of 8 bits without palette, interlace and whatever may stand before its pixels."""
    modes = {b"\x08\0\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}
    if not data.startswith(PNG) or data[37:41] != b"IDAT" or data[24:29] not in modes:
        return None
    width, height, checksum = struct.unpack(">II5xI", data[16:33])
    return (width, height, modes[data[24:29]]) if checksum == zlib.crc32(data[12:29]) else None


# ---------------------------------------------------------------------------------------------- what is wrong with it


QUIET = threading.RLock()  # the filters of warnings belong to the whole process


@contextmanager
def quiet() -> Iterator[None]:
    """Without the many warnings about headers that are not quite as their standard wants them."""
    with QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class named:  # a class and no generator, which would take longer: it is entered four times for every image
    """Whatever is raised inside becomes one sentence that begins with the file, unless it already names it.

    The libraries that read a stranger's bytes may raise anything, so anything is caught, but for a lack of memory: that
    is no fault of the file.
    """

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            return
        if isinstance(error, (ValueError, FileNotFoundError)) and self.where in str(error):
            return
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{self.where} cannot be read as an image: {said}") from error


def sized(width: int, height: int) -> None:
    """ValueError when no picture has this size; asked before anything is decoded."""
    if min(width, height) < 2:
        raise ValueError(f"it is {width} x {height} pixels, which is no picture")
    if max(width, height) > LONGEST or width * height > MOST:
        raise ValueError(
            f"it is {width:,} x {height:,} pixels; more than {LONGEST:,} a side or {MOST // 10**6} million in all are "
            "not decoded"
        )


def there(frame: int, count: int) -> None:
    if not 0 <= frame < count:
        raise ValueError(f"it has {count} frames, counted from 0, so there is no frame {frame}")


def sound(values: np.ndarray) -> None:
    """ValueError when the numbers are no picture."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise ValueError(f"it holds numbers of shape {values.shape}, not (height, width) or (height, width, 3)")
    sized(values.shape[1], values.shape[0])
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        raise ValueError(f"{(~finite).sum():,} of its {values.size:,} pixels are NaN or infinite")
    if values.dtype.kind not in "uif":
        raise ValueError(f"its pixels are {values.dtype}, not integers or real numbers")
