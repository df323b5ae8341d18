"""DICOM through pydicom: what is needed for the picture is read of the header, and nothing of the person.

Overlays, which may say who it is, are not drawn; words that are in the pixels themselves stay there, and
BurnedInAnnotation, where it says something, becomes the column `burned_in`.
"""

from __future__ import annotations

import io
import re
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mednb.datasets import pixels
from mednb.datasets.pixels import Raw, quiet, sized, there

if TYPE_CHECKING:
    from pydicom import Dataset

    from mednb.datasets.archive import Archive

NEEDED = (
    "Modality",
    "BurnedInAnnotation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
"""The elements that are read: none of them names a person, a date or a place."""

PERSON = re.compile("Name|PatientID|Birth|Date|Time|Address|Telephone|Accession|Institution|Station|Comments|History")
"""In the keywords of elements that may name a person, a place or a day."""


def header(archive: Archive, file: str, *keywords: str) -> dict:
    """What a DICOM header says under these keywords, such as "ViewPosition"; None where it says nothing.

    Nothing else of the file is read. Raises ValueError that names the file, or the keyword when it may name a person:
    of who it is there is `privacy.patient`.
    """
    import pydicom

    for keyword in keywords:
        if PERSON.search(keyword):
            raise ValueError(f"{keyword} may name a person, so it is not read; privacy.patient gives a hash instead")
    with pixels.named(archive.where(file)), archive.open(file) as data, quiet():
        found = pydicom.dcmread(data, stop_before_pixels=True, specific_tags=list(keywords))
        return {keyword: found.get(keyword) for keyword in keywords}


class Dicom:
    """A DICOM file of one frame or many."""

    alone = False

    def __init__(self, data: bytes):
        import pydicom

        with quiet():
            self.header = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM", specific_tags=list(NEEDED))
        missing = [name for name in ("Rows", "Columns") if self.header.get(name) is None]
        if missing or not any(name in self.header for name in NEEDED[-3:]):
            raise ValueError("it is DICOM without pixels")
        sized(self.header.Columns, self.header.Rows)

    def frames(self) -> int:
        return int(self.header.get("NumberOfFrames") or 1)

    def read(self, frame: int, colours: bool) -> Raw:
        from pydicom.pixels import apply_color_lut, pixel_array

        there(frame, self.frames())
        header = self.header
        with quiet():
            values = pixel_array(header, index=frame)
            facts = {"burned_in": header.BurnedInAnnotation == "YES"} if header.get("BurnedInAnnotation") else {}
            if header.PhotometricInterpretation == "PALETTE COLOR" and colours:
                values = apply_color_lut(values, header)
                return Raw((values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values, None, facts)
            if values.ndim == 3:
                return Raw(values, None, facts)
            return self.of_grey(values, frame, facts)

    def of_grey(self, stored: np.ndarray, frame: int, facts: dict) -> Raw:
        """Stored numbers -> what they mean, padding black, and the window that the file asks for."""
        from pydicom.pixels import apply_voi_lut

        header, values = self.header, self.meant(stored, frame)
        hounsfield = header.get("Modality") == "CT" and self.rescaled(frame) is not None
        window = self.window(frame)
        if window is None and "VOILUTSequence" in header and values.dtype.kind in "ui":
            values = apply_voi_lut(values, header)
            window = 0, 2 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1
            hounsfield = False
        if window is None and values.dtype != np.uint8 and (self.inverted or self.frames() > 1):
            window = self.range
        if self.inverted:
            black, white = window or (0, 255)
            window = float(white), float(black)
        return Raw(values, window, facts, hounsfield=hounsfield)

    @property
    def inverted(self) -> bool:
        return self.header.PhotometricInterpretation == "MONOCHROME1"

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of all frames, so that a grey means the same in each of them."""
        from pydicom.pixels import pixel_array

        frames = (self.meant(pixel_array(self.header, index=frame), frame) for frame in range(self.frames()))
        finite = (values[np.isfinite(values)] for values in frames)
        ends = [end for values in finite if values.size for end in (values.min(), values.max())]
        return (float(min(ends)), float(max(ends))) if ends else (0.0, 1.0)

    def rescaled(self, frame: int) -> Dataset | None:
        return self.told(frame, "PixelValueTransformationSequence", "RescaleSlope")

    def meant(self, stored: np.ndarray, frame: int) -> np.ndarray:
        """Stored numbers -> what they mean, padding black."""
        from pydicom.pixels import apply_modality_lut

        header, rescaled = self.header, self.rescaled(frame)
        values = padded_black(stored, header, self.inverted)
        if "ModalityLUTSequence" in header:
            values = apply_modality_lut(values, header)
        elif rescaled is not None:
            slope, intercept = float(rescaled.RescaleSlope), float(rescaled.get("RescaleIntercept") or 0)
            whole = slope.is_integer() and intercept.is_integer()
            values = values.astype(np.result_type(values.dtype, np.int32) if whole else np.float32)
            values = values * values.dtype.type(slope) + values.dtype.type(intercept)
        elif header.get("BitsStored") != 8:
            values = values.astype(np.result_type(values.dtype, np.int16))  # no longer the range of its type
        elif values.dtype.kind == "u":
            values = values.astype(np.uint8)  # also where each of them has the room of 16
        return values

    def window(self, frame: int) -> tuple[float, float] | None:
        """Black and white of the first window in the file, as the standard defines them (PS3.3 C.11.2.1.2)."""
        told = self.told(frame, "FrameVOILUTSequence", "WindowCenter")
        if told is None or told.get("WindowWidth") is None:
            return None
        centre, width = (float(np.atleast_1d(told[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        if told.get("VOILUTFunction", "LINEAR") == "LINEAR":
            centre, width = centre - 0.5, width - 1
        # A sigmoid is drawn as the line with its slope in the centre.
        return (centre - width / 2, centre + width / 2) if width > 0 else None

    def told(self, frame: int, group: str, element: str) -> Dataset | None:
        """Where this element stands: in the header, or in a multi-frame file's groups of this frame or of all."""
        if self.header.get(element) is not None:
            return self.header
        groups = [*self.header.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]]
        groups += self.header.get("SharedFunctionalGroupsSequence", [])
        for item in groups:
            if item.get(group) and item.get(group)[0].get(element) is not None:
                return item.get(group)[0]
        return None


def padded_black(values: np.ndarray, header: Dataset, inverted: bool) -> np.ndarray:
    """Padding beyond the scanned field gets the darkest value of the picture instead of one far outside of it."""
    padding = header.get("PixelPaddingValue")
    if padding is None:
        return values
    other = header.get("PixelPaddingRangeLimit", padding)
    outside = (values >= min(padding, other)) & (values <= max(padding, other))
    if outside.all() or not outside.any():
        return values
    inside = values[~outside]
    return np.where(outside, inside.max() if inverted else inside.min(), values)
