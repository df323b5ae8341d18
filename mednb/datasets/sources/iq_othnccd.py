"""IQ-OTH/NCCD: CT slices of the chest of patients with and without lung cancer."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="iq_othnccd",
    title="The IQ-OTH/NCCD lung cancer dataset",
    folder="IQ-OTHNCCD",
    modality="ct",
    organ="lung",
    task="normal, benign or malignant",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 416, "benign": 120, "malignant": 561},
    patients="110 by the authors (55 normal, 15 benign, 40 malignant), but the download does not tell whose a slice "
    "is: groups of near-duplicates stand in for them, 124 at a correlation of 0.6. Slices of one patient that do not "
    "look alike can still be on both sides of a split; 6 groups hold images of several classes, so of several patients",
    masks="none",
    licence="CC BY 4.0 by others' word; the record itself was not read",
    citation="H. Alyasriy, M. AL-Huseiny, The IQ-OTH/NCCD lung cancer dataset, Mendeley Data V4 (2023), "
    "doi:10.17632/bhmdr45bh2.4",
    how_to_get="download it from Mendeley Data (https://data.mendeley.com/datasets/bhmdr45bh2/4) and unpack it so that "
    "there is <root>/IQ-OTHNCCD/The IQ-OTHNCCD lung cancer dataset/Bengin cases/Bengin case (1).jpg",
    tested_on="real files",
    alike=0.6,  # 124 groups for 110 patients
    defects=(
        "Neighbouring slices of one patient are scattered over the numbering and 42 pairs are identical: a random "
        "split leaks, so accuracies from one mean little.",
        "Some malignant slices are 623 x 512 or 801 x 512 and all others square: the format gives the label away.",
        "Windowed by the authors, 8 bits: no Hounsfield units.",
    ),
)

FOLDER = "The IQ-OTHNCCD lung cancer dataset"
LOOKS_LIKE = f"{FOLDER}/Bengin cases/"
ZIPS = ("The IQ-OTHNCCD lung cancer dataset.zip", "The IQ-OTH_NCCD lung cancer dataset.zip")

SPELT = {"normal": "Normal", "benign": "Bengin", "malignant": "Malignant"}  # as the authors spell them


def index(archive: Archive) -> pd.DataFrame:
    """The slices in the three folders: columns image_id, label, masks (none).

    Raises FileNotFoundError for a class without slices and ValueError for a picture that lies in the wrong folder.
    """
    rows = []
    for label, word in SPELT.items():
        files = [match[0] for match in archive.matching(rf"{FOLDER}/{word} cases/[^/]*\.(?:jpg|jpeg|png)")]
        if not files:
            where = archive.where(f"{FOLDER}/{word} cases")
            raise FileNotFoundError(f"{where} holds no images; there should be '{word} case (1).jpg' and so on.")
        for file in files:
            name = file.rsplit("/", 1)[1]
            if not name.startswith(f"{word} case ("):
                raise ValueError(f"{archive.where(file)}: the name should be '{word} case (1).jpg' and so on.")
            rows.append({"image_id": file, "label": label, "masks": []})
    return pd.DataFrame(rows)
