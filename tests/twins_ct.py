"""Twins of the official downloads of CT slices and of MedMNIST: their folders, names, tables and file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from twins_mammography import dicom, picture, scene

BOX = (10, 12, 30, 28)  # left, upper, right, lower of every nodule


def slice_of(rng: np.random.Generator, nodule: bool) -> np.ndarray:
    """(40, 48) int16 as stored: 1024 more than Hounsfield units, lung with a nodule in it or not."""
    values = rng.normal(-800, 30, (40, 48))
    if nodule:
        values[BOX[1] : BOX[3], BOX[0] : BOX[2]] = rng.normal(40, 10, (BOX[3] - BOX[1], BOX[2] - BOX[0]))
    return (values + 1024).astype(np.int16)


def lidc(root: Path) -> None:
    """Six patients with volumes of four slices, the first one with two; files are numbered from the head on.

    Slice 2 (from the feet) of each first volume has a nodule that two radiologists outlined; they marked a nodule below
    3 mm and something else besides. A radiograph lies there too.
    """
    rng, folder = np.random.default_rng(11), root / "LIDC-IDRI/manifest-1600709154662/LIDC-IDRI"
    for patient in range(1, 7):
        for volume in range(1, 3 if patient == 1 else 2):
            series = f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{patient}{volume}"
            below = folder / f"LIDC-IDRI-{patient:04}/01-01-2000-NA-NA-{volume}/3000566.000000-NA-{patient}{volume}"
            for place in range(4):
                elements = {
                    "SeriesInstanceUID": series,
                    "SOPInstanceUID": f"{series}.{place}",
                    "ImagePositionPatient": [-170, -170, -300 + 2.5 * place],
                    "PatientID": f"LIDC-IDRI-{patient:04}",
                    "RescaleSlope": 1,
                    "RescaleIntercept": -1024,
                }
                stored = slice_of(rng, volume == 1 and place == 2)
                dicom(below / f"1-{4 - place}.dcm", stored, modality="CT", **elements)
            if volume == 1:
                (below / f"{patient:03}.xml").write_text(read_by_radiologists(series))
    dicom(folder / "LIDC-IDRI-0001/01-01-2000-NA-NA-9/5001.000000-NA-9/1-1.dcm", scene(rng), modality="DX")


def read_by_radiologists(series: str) -> str:
    left, upper, right, lower = BOX
    corners = [(left, upper), (right - 1, upper), (right - 1, lower - 1), (left, lower - 1), (left, upper)]
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in corners)

    def region(inside: str, place: int = 2, inclusion: str = "TRUE") -> str:
        where = f"<imageZposition>{-300 + 2.5 * place}</imageZposition><imageSOP_UID>{series}.{place}</imageSOP_UID>"
        return f"<roi>{where}<inclusion>{inclusion}</inclusion>{inside}</roi>"

    def nodule(name: str, *regions: str) -> str:
        return f"<unblindedReadNodule><noduleID>{name}</noduleID>{''.join(regions)}</unblindedReadNodule>"

    point = "<edgeMap><xCoord>5</xCoord><yCoord>5</yCoord></edgeMap>"
    sessions = [
        nodule("1", region(edges)),
        nodule("7", region(edges), region(edges, 0, "FALSE")) + nodule("8", region(point, 1)),
        "<nonNodule><nonNoduleID>9</nonNoduleID><locus><xCoord>9</xCoord><yCoord>9</yCoord></locus></nonNodule>",
    ]
    head = f"<ResponseHeader><Version>1.7</Version><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>"
    read = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    start = '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage xmlns="http://www.nih.gov">'
    return f"{start}{head}{read}</LidcReadMessage>"


def covid_ct(root: Path) -> None:
    """Twelve pictures of each class, six, three and three in the lists; two of one patient in the spreadsheet."""
    rng, folder = np.random.default_rng(12), root / "COVID-CT"
    names = {
        "COVID": [f"2020.01.24.919183-p27-{n}.png" for n in range(12)],
        "NonCOVID": [f"{n}%2.jpg" for n in range(12)],
    }
    for word, files in names.items():
        for file in files:
            picture(folder / f"Images-processed/CT_{word}/{file}", scene(rng))
        for part, some in (("train", files[:6]), ("val", files[6:9]), ("test", files[9:])):
            place = folder / f"Data-split/{word}/{part}CT_{word}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("\n".join(some) + "\n")
    known = pd.DataFrame(
        {"File name": names["COVID"], "Patient ID": [f"Patient {n // 2}" for n in range(12)], "Age": 50}
    )
    known.to_excel(folder / "COVID-CT-MetaInfo.xlsx", index=False)
    other = pd.DataFrame({"image name": names["NonCOVID"][:8], "patient id": [f"a{n // 2}" for n in range(8)]})
    other.to_csv(folder / "NonCOVID-CT-MetaInfo.csv", index=False)


def head_ct(root: Path) -> None:
    """Twelve slices, the first six with a haemorrhage; the header of the table has a space too many."""
    rng, folder = np.random.default_rng(13), root / "Head-CT"
    for number in range(12):
        picture(folder / f"head_ct/head_ct/{number:03}.png", rng.integers(0, 255, (50 + number, 60), dtype=np.uint8))
    lines = [f"{number},{int(number < 6)}" for number in range(12)]
    (folder / "labels.csv").write_text("id, hemorrhage\n" + "\n".join(lines) + "\n")


def iq_othnccd(root: Path) -> None:
    """Five slices of each class."""
    rng, folder = np.random.default_rng(14), root / "IQ-OTHNCCD/The IQ-OTHNCCD lung cancer dataset"
    for word in ("Normal", "Bengin", "Malignant"):
        for number in range(1, 6):
            values = rng.integers(0, 255, (60, 60), dtype=np.uint8)
            picture(folder / f"{word} cases/{word} case ({number}).jpg", values)
    (folder / "IQ-OTH_NCCD lung cancer dataset.txt").write_text("The dataset ...")


def medmnist(root: Path, key: str, size: int = 28, labels: int = 11, colours: bool = False, many: bool = False) -> None:
    """30 images in train, 12 in val and 12 in test; the first pixel of each is its number."""
    rng, arrays, start = np.random.default_rng(15), {}, 0
    for part, n in (("train", 30), ("val", 12), ("test", 12)):
        images = rng.integers(0, 255, (n, size, size, 3) if colours else (n, size, size), dtype=np.uint8)
        images[:, 0, 0] = np.arange(start, start + n).reshape(-1, 1) if colours else np.arange(start, start + n)
        codes = (rng.random((n, labels)) < 0.3) if many else np.arange(n).reshape(-1, 1) % labels
        arrays |= {f"{part}_images": images, f"{part}_labels": codes.astype(np.int64 if many else np.uint8)}
        start += n
    folder = root / "medmnist"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{key}{'' if size == 28 else f'_{size}'}.npz", **arrays)
