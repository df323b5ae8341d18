"""CMMD: the Chinese Mammography Database, with biopsies, from TCIA."""

from __future__ import annotations

import pandas as pd

from mednb.datasets import dicom
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="cmmd",
    title="The Chinese Mammography Database",
    folder="CMMD",
    modality="mammography",
    organ="breast",
    task="benign or malignant by biopsy; breasts without one are unlabelled",
    classes=("benign", "malignant", "unlabelled"),
    counts={},
    n_images=5202,
    n_patients=1775,
    patients="1,775, the folders of the download, whose published pseudonyms are kept",
    masks="none (TOMPEI-CMMD, another download, has some)",
    licence="CC BY 4.0",
    citation="H. Cai, J. Wang, T. Dan et al., An online mammography database with biopsy confirmed types, Scientific "
    "Data 10 (2023) 123, doi:10.1038/s41597-023-02025-1; data doi:10.7937/tcia.eqde-4b16",
    how_to_get="with the NBIA Data Retriever from https://www.cancerimagingarchive.net/collection/cmmd/ (23 GB), with "
    "the spreadsheet: put it at <root>/CMMD/CMMD_clinicaldata_revision.xlsx and the patients' folders D1-0001 ... "
    "anywhere below <root>/CMMD",
    alike=0.97,
    defects=(
        "729 of 2,601 breasts (1,458 images) have no row in the spreadsheet and are unlabelled, mostly healthy.",
        "The side in the header of some images is wrong (16, by TOMPEI-CMMD), so some ten breasts miss their row, and "
        "their label.",
        "Side and view stand in the headers only, which are read once.",
        "How many images are benign and how many malignant was not verified.",
    ),
)

LOOKS_LIKE = "CMMD_clinicaldata_revision.xlsx"

FILE = r"(?:.*/)?(D[12]-\d{4})/(?:.*/)?[^/]+\.dcm"
SIDES = {"L": "left", "R": "right"}
VIEWS = {"399162004": "CC", "399368009": "MLO", "R-10242": "CC", "R-10226": "MLO"}  # SNOMED CT, and its older codes


def index(archive: Archive) -> pd.DataFrame:
    """The images of all patients: label and patient, and side, view, case (one breast), age, abnormality, subtype.

    Raises FileNotFoundError for a patient of the spreadsheet without images and ValueError for an image without a side.
    """
    from tqdm import tqdm

    table = archive.excel(LOOKS_LIKE, ("ID1", "LeftRight", "Age", "abnormality", "classification"))
    known = {(str(row["ID1"]).strip(), str(row["LeftRight"]).strip()): row for row in table.to_dict("records")}
    files = archive.matching(FILE)
    missing = sorted({patient for patient, _ in known} - {match[1] for match in files})
    if missing:
        where = archive.where(LOOKS_LIKE)
        raise FileNotFoundError(f"{where} lists {len(missing)} patients without images, such as {missing[0]}.")
    rows = []
    for match in tqdm(files, "reading sides and views", delay=2, disable=None):
        side, view = seen(archive, match[0])
        about = known.get((match[1], side), {})
        label = str(about.get("classification", "unlabelled")).strip().lower()
        if label not in CARD.classes:
            where = archive.where(LOOKS_LIKE)
            raise ValueError(f"{where} has the classification {label!r} of {match[1]}; Benign or Malignant is known.")
        row = {
            "image_id": match[0],
            "label": label,
            "masks": [],
            "patient": match[1],
            "side": SIDES[side],
            "view": view,
        }
        said = {name: about.get(column) for name, column in (("age", "Age"), ("abnormality", "abnormality"))}
        rows.append(row | {"case": f"{match[1]} {SIDES[side]}"} | said | {"subtype": about.get("subtype")})
    return pd.DataFrame(rows)


def seen(archive: Archive, file: str) -> tuple[str, str | None]:
    """Side ("L" or "R") and view of an image, from its header."""
    said = dicom.header(archive, file, "ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence")
    side = said["ImageLaterality"] or said["Laterality"]
    if side not in SIDES:
        raise ValueError(
            f"{archive.where(file)} does not say in its header whether the breast is the left or the right."
        )
    code = said["ViewCodeSequence"][0].get("CodeValue") if said["ViewCodeSequence"] else None
    return side, VIEWS.get(str(code), said["ViewPosition"] or None)
