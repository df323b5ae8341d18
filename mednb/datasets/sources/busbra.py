"""BUS-BRA: breast ultrasound images of biopsied lesions, often two views of one, with the authors' own folds."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="busbra",
    title="BUS-BRA, breast ultrasound of the National Institute of Cancer, Rio de Janeiro",
    folder="BUS-BRA",
    modality="ultrasound",
    organ="breast",
    task="benign or malignant, by biopsy; BI-RADS 2 to 5; outline of the lesion",
    classes=("benign", "malignant"),
    counts={"benign": 1268, "malignant": 607},
    n_patients=1064,
    patients="1,064, the column Case: 811 have two images of the lesion, 253 have one",
    n_masks=1875,
    masks="one per image, drawn by a senior sonographer",
    licence="the authors' LICENSE.txt: free to use, copy, modify and distribute; papers must cite the article",
    citation="W. Gomez-Flores, M. J. Gregorio-Calas, W. C. de A. Pereira, BUS-BRA: A breast ultrasound dataset for "
    "assessing computer-aided diagnosis systems, Medical Physics 51 (2024) 3110-3123, doi:10.1002/mp.16812; "
    "data doi:10.5281/zenodo.8231412",
    how_to_get="download BUSBRA.zip from zenodo.org/records/8231412 and put it at <root>/BUSBRA.zip, or unpack it so "
    "that there is <root>/BUS-BRA/BUSBRA/bus_data.csv",
    tested_on="real files",
    alike=0.6,  # all pairs above it are of one case
    defects=(
        "Words and callipers are burnt into many images.",
        "The column view says which half of the split screen an image is (left, right, or single), not which breast.",
        "Width, Height and BBOX of bus_data.csv are left out: four heights disagree with the images.",
    ),
)

LOOKS_LIKE = "BUSBRA/bus_data.csv"
ZIPS = ("BUSBRA.zip",)
COLUMNS = ("Case", "Histology", "Pathology", "BIRADS", "Device", "Side")


def index(archive: Archive) -> pd.DataFrame:
    """The rows of bus_data.csv; `official_fold` is kFold of 5-fold-cv.csv, which keeps patients together.

    Raises ValueError or FileNotFoundError for a row without files, a file without row, or a table that is not right.
    """
    table = archive.csv(LOOKS_LIKE, COLUMNS, key="ID")
    folds = archive.csv("BUSBRA/5-fold-cv.csv", ("kFold",), key="ID").set_index("ID")["kFold"]
    if differ := sorted(set(table["ID"]) ^ set(folds.index)):
        raise ValueError(f"{archive.where('BUSBRA/5-fold-cv.csv')} and bus_data.csv do not both have {differ[0]}")
    images = "BUSBRA/Images/" + table["ID"] + ".png"
    masks = "BUSBRA/Masks/mask_" + table["ID"].str.removeprefix("bus_") + ".png"
    archive.exactly([*images, *masks], r"BUSBRA/(Images|Masks)/.*\.png", "bus_data.csv")
    return pd.DataFrame(
        {
            "image_id": images,
            "label": archive.one_of(LOOKS_LIKE, table["Pathology"], CARD.classes),
            "masks": [[mask] for mask in masks],
            "patient": table["Case"].astype(str),
            "case": table["Case"].astype(str),
            "official_fold": table["ID"].map(folds) - 1,
            "view": table["Side"],
            "scanner": table["Device"],
            "birads": table["BIRADS"].astype(str),
            "histology": table["Histology"],
        }
    )
