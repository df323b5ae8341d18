"""BrEaST: breast ultrasound images with every lesion outlined and described, one of each patient."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="breast",
    title="BrEaST-Lesions-USG, curated breast ultrasound of five Polish centres",
    folder="BrEaST",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; BI-RADS and its descriptors; outlines of the lesions",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 4, "benign": 154, "malignant": 98},
    n_patients=256,
    patients="256, one image of each, says the article",
    n_masks=266,
    masks="266 lesions: one file for the tumour of 252 images, and 14 files for other lesions beside it",
    licence="CC BY 4.0",
    citation="A. Pawlowska, A. Cwierz-Pienkowska, A. Domalik et al., Curated benchmark dataset for ultrasound based "
    "breast lesion analysis, Scientific Data 11 (2024) 148, doi:10.1038/s41597-024-02984-z; data "
    "doi:10.7937/9WKK-Q141",
    how_to_get="download the images with masks and the clinical data (.xlsx) from "
    "cancerimagingarchive.net/collection/breast-lesions-usg, unpack the images, and put both in <root>/BrEaST, so that "
    "there are BrEaST-Lesions_USG-images_and_masks/case001.png and, beside that folder, "
    "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx",
    defects=(
        "Each descriptor is a word of the BI-RADS lexicon, several joined by '&', or 'not applicable'.",
        "pixel_size is the table's number; in which unit was not verified.",
        "Callipers are said to be absent; this was not verified.",
    ),
)

FOLDER = "BrEaST-Lesions_USG-images_and_masks"
LOOKS_LIKE = f"{FOLDER}/"
FILES = ("Image_filename", "Mask_tumor_filename", "Mask_other_filename")
DESCRIBED = (
    *("Pixel_size", "Tissue_composition", "Signs", "Symptoms", "Shape", "Margin", "Echogenicity", "Posterior_features"),
    *("Halo", "Calcifications", "Skin_thickening", "Interpretation", "Verification", "Diagnosis"),
)


def index(archive: Archive) -> pd.DataFrame:
    """The rows of the spreadsheet; its descriptors become columns of the same names in small letters.

    Raises ValueError or FileNotFoundError for a row without files, a file without row, or a spreadsheet that is missing
    or not right.
    """
    sheets = [match[0] for match in archive.matching(r"BrEaST-Lesions-USG-clinical-data[^/]*\.xlsx")]
    if len(sheets) != 1:
        found = f"holds {', '.join(sheets)}" if sheets else "does not hold it"
        raise FileNotFoundError(
            f"{archive.where()} {found}; there should be one BrEaST-Lesions-USG-clinical-data-....xlsx"
        )
    table = archive.excel(sheets[0], (*FILES, *DESCRIBED, "Age", "BIRADS", "Classification"), key="CaseID")
    images, tumours, others = ([paths(cell) for cell in table[column]] for column in FILES)
    masks = [tumour + other for tumour, other in zip(tumours, others, strict=True)]
    for case, image in zip(table["CaseID"], images, strict=True):
        if len(image) != 1:
            raise ValueError(f"{archive.where(sheets[0])} should name one image in the row of CaseID {case}")
    archive.exactly([file for files in images + masks for file in files], rf"{FOLDER}/.*\.png", sheets[0])
    labels = archive.one_of(sheets[0], table["Classification"], CARD.classes)
    for image, label, tumour in zip(images, labels, tumours, strict=True):
        if (label == "normal") == bool(tumour):
            said = "a mask of a tumour" if tumour else "no Mask_tumor_filename"
            raise ValueError(f"{archive.where(image[0])} is {label}, but {sheets[0]} has {said} for it")
    return pd.DataFrame(
        {
            "image_id": [image[0] for image in images],
            "label": labels,
            "masks": masks,
            "patient": "case" + table["CaseID"].astype(int).astype(str).str.zfill(3),
            "age": pd.to_numeric(table["Age"], errors="coerce"),
            "birads": table["BIRADS"].astype(str),
        }
        | {column.lower(): table[column] for column in DESCRIBED}
    )


def paths(cell: object) -> list[str]:
    """The files that a cell names, joined by '&'; an empty cell names none."""
    return [f"{FOLDER}/{name.strip()}" for name in cell.split("&") if name.strip()] if isinstance(cell, str) else []
