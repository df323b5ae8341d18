"""Small files in real formats, written by the libraries that write real ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def dicom(path: Path, values: np.ndarray | None, syntax: str = "1.2.840.10008.1.2.1", **elements) -> Path:
    """A DICOM file of (H, W), (H, W, 3) or (frames, H, W) integers; further elements by their keyword."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Modality = "OT"
    if values is not None:
        colour = values.ndim == 3 and values.shape[-1] == 3
        header.Rows, header.Columns = values.shape[:2] if colour else values.shape[-2:]
        if values.ndim == 3 and not colour:
            header.NumberOfFrames = len(values)
        header.SamplesPerPixel = 3 if colour else 1
        header.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            header.PlanarConfiguration = 0
        header.BitsAllocated = header.BitsStored = 8 * values.itemsize
        header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(values.dtype.kind == "i")
        header.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
        header["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    with pydicom.config.disable_value_validation():
        header.save_as(path, enforce_file_format=True)
    return path


def video(path: Path, frames: np.ndarray, codec: str = "mjpeg", **options) -> Path:
    """(N, H, W) uint8 grey frames -> AVI or MP4."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.stack([frame] * 3, -1), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """An MP4 of silence without any picture."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100, layout="mono")
        for at in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * at
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def volume(path: Path, values: np.ndarray) -> Path:
    """An array with its last axis first in the file -> NIfTI, MHD (with a .raw beside) or MHA, by the path's ending."""
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=False), str(path))
    return path


def png(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds one row of pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
