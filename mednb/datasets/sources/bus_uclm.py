"""BUS-UCLM: breast ultrasound images of 38 patients, many of each, with coloured masks."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="bus_uclm",
    title="BUS-UCLM, breast ultrasound lesion segmentation dataset",
    folder="BUS-UCLM",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; outline of the lesion",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 419, "benign": 174, "malignant": 90},
    n_patients=38,
    patients="38, the four letters that begin a file's name; 3 to 39 images of each",
    n_masks=683,
    masks="one file per image: green benign, red malignant, black for normal",
    licence="CC BY-NC 4.0 by most sources, CC BY 4.0 by some; the record itself was not read",
    citation="N. Vallez, G. Bueno, O. Deniz et al., BUS-UCLM: Breast ultrasound lesion segmentation dataset, "
    "Scientific Data 12 (2025), doi:10.1038/s41597-025-04562-3; data doi:10.17632/7fvgj4jsp7",
    how_to_get="download the zip from data.mendeley.com/datasets/7fvgj4jsp7 and put it at <root>/BUS-UCLM.zip, or "
    "unpack it so that there is <root>/BUS-UCLM/BUS-UCLM/INFO.csv, with or without a folder between",
    defects=(
        "The label is an image's, not a patient's: a patient's normal images are of the same breast as her lesion.",
        "Some images are Doppler or two views side by side, many have marks: columns doppler, combined, marks.",
        "With 38 patients a test set has seven or eight: intervals are wide. The authors' code (not the download) "
        "tests on COPE, ANFO, ELCO, CRCI and FLKA.",
    ),
)

LOOKS_LIKE = "BUS-UCLM/INFO.csv"
ZIPS = ("BUS-UCLM Breast ultrasound lesion segmentation dataset.zip",)
FLAGS = ("Doppler", "Marks", "Combined")


def index(archive: Archive) -> pd.DataFrame:
    """The rows of INFO.csv.

    Raises ValueError or FileNotFoundError for a row without files, a file without row, or a table that is not right.
    """
    table = archive.csv(LOOKS_LIKE, ("Label", *FLAGS), key="Image", sep=";")
    images, masks = ([f"BUS-UCLM/{kind}/{name}" for name in table["Image"]] for kind in ("images", "masks"))
    archive.exactly([*images, *masks], r"BUS-UCLM/(images|masks)/.*\.png", "INFO.csv")
    flags = {name.lower(): table[name].astype(str).str.strip().str.lower() == "yes" for name in FLAGS}
    return pd.DataFrame(
        {
            "image_id": images,
            "label": archive.one_of(LOOKS_LIKE, table["Label"], CARD.classes),
            "masks": [[mask] for mask in masks],
            "patient": table["Image"].str.split("_").str[0],
        }
        | flags
    )
