"""Volumes and pictures in NIfTI and MetaImage, through SimpleITK, slice by slice."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from mednb.datasets.pixels import Raw, sized, there

if TYPE_CHECKING:
    from mednb.datasets.archive import Archive

MOST = 2**30  # pixels of a volume; a CT of the whole body has 2**29
META = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")


def known(data: bytes) -> bool:
    """Whether these bytes begin a NIfTI file, packed or not, or a MetaImage header."""
    return nifti(data) or META.match(data) is not None


def nifti(data: bytes) -> bool:
    if data[:2] == b"\x1f\x8b":
        data = zlib.decompressobj(31).decompress(data, 352)
    return data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] == b"n+2\0"


class Volume:
    """The slices of a volume along its last axis, as they are stored; a 2-D file is one slice.

    Of numbers that are not of 8 or 16 bits without sign, the volume's lowest is black and its highest white, so that a
    grey means the same in all slices.
    """

    alone = False

    def __init__(self, archive: Archive, file: str, data: bytes):
        import SimpleITK

        SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NiftiImageIO" if nifti(data) else "MetaImageIO")
        with archive.on_disk(file, *beside(archive, file, data)) as path:
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            size = reader.GetSize()
            if len(size) not in (2, 3):
                raise ValueError(f"it has {len(size)} dimensions, {' x '.join(map(str, size))}; 2 or 3 are read")
            sized(*size[:2])
            if math.prod(size) > MOST:
                raise ValueError(f"it has {' x '.join(map(str, size))} pixels; more than {MOST:,} are not read at once")
            # The library fills what is missing of a file with noise.
            if nifti(data):
                bits = math.prod(size) * int(reader.GetMetaData("bitpix"))
                if length(archive, file, data) < int(float(reader.GetMetaData("vox_offset"))) + bits // 8:
                    raise ValueError("it is cut short")
            values = SimpleITK.GetArrayFromImage(reader.Execute())
        self.values, self.window = values if len(size) == 3 else values[None], None
        if values.dtype not in (np.uint8, np.uint16):
            finite = values if values.dtype.kind in "ui" else values[np.isfinite(values)]
            self.window = (float(finite.min()), float(finite.max())) if finite.size else None

    def frames(self) -> int:
        return len(self.values)

    def read(self, frame: int, colours: bool) -> Raw:
        there(frame, self.frames())
        return Raw(self.values[frame], self.window)


def length(archive: Archive, file: str, data: bytes) -> int:
    """How many bytes there are of a NIfTI file, unpacked, or of the file with its pixels."""
    for name in beside(archive, file, data):
        return archive.version(name)[0]
    if data[:2] != b"\x1f\x8b":
        return len(data)
    count = 0
    with gzip.open(io.BytesIO(data)) as unpacked:
        while some := unpacked.read(2**20):
            count += len(some)
    return count


def beside(archive: Archive, file: str, data: bytes) -> list[str]:
    """The file that holds the pixels of a header that has none; it must lie in the same folder."""
    if data[344:348] == b"ni1\0":
        name = f"{PurePosixPath(file).stem}.img"
    elif nifti(data):
        return []
    else:
        said = re.search(rb"^ElementDataFile\s*=\s*(.*?)\s*$", data[:10_000], re.MULTILINE)
        name = said[1].decode(errors="replace") if said else ""
    if name == "LOCAL":
        return []
    other = name if "/" not in file else f"{PurePosixPath(file).parent}/{name}"
    if not name or "/" in name or "\\" in name or other not in archive:
        raise ValueError(f"its pixels should lie beside it in {name!r}, which is not there")
    return [other]
