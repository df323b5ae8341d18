"""Any folder of folders of pictures, one for each class, as torchvision's ImageFolder takes it."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="imagefolder",
    title="yours: a folder of photographs, one folder for each class",
    folder="",  # the root is the dataset
    modality="photo",
    organ="none",
    task="the class is the name of the folder",
    classes=(),
    counts={},
    patients="nobody is asked: groups of near-duplicates stand in for patients",
    masks="none",
    licence="yours",
    citation="yours",
    how_to_get="root is the folder itself: <root>/dog/001.jpg, or <root>/train/dog/001.jpg with test and val beside "
    "train",
    alike=0.9,
)

LOOKS_LIKE = ""

FILE = r"(?i)([^/]+)/(.+)\.(?:png|jpg|jpeg|ppm|pgm|bmp|tif|tiff|webp)"
OFFICIAL = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

card_of = CARD.counted


def index(archive: Archive) -> pd.DataFrame:
    """Every picture: columns image_id, label, masks (none) and, below train, val and test, official.

    Raises FileNotFoundError when there are no pictures in folders and ValueError for one beside the classes' folders.
    """
    files = archive.matching(FILE)
    if not files:
        raise FileNotFoundError(f"{archive.where()} holds no folders of pictures; there should be {CARD.how_to_get}.")
    split = all(match[1].lower() in OFFICIAL for match in files)
    rows = []
    for match in files:
        label = match[2].partition("/")[0] if split else match[1]
        if split and "/" not in match[2]:
            raise ValueError(f"{archive.where(match[0])} lies in no class's folder; there should be {CARD.how_to_get}.")
        row = {"image_id": match[0], "label": label, "masks": []}
        rows.append(row | ({"official": OFFICIAL[match[1].lower()]} if split else {}))
    return pd.DataFrame(rows)
