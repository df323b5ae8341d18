"""Head-CT: single slices of the head with and without a haemorrhage."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="head_ct",
    title="Head CT - hemorrhage (F. Kitamura, Kaggle)",
    folder="Head-CT",
    modality="ct",
    organ="brain",
    task="haemorrhage or not",
    classes=("normal", "haemorrhage"),
    counts={"normal": 100, "haemorrhage": 100},
    patients="the author writes that each slice is another person's; the download has no patient ids, so groups of "
    "near-duplicates stand in for them",
    masks="none",
    licence="none was found; Kaggle's page names the data as collected from pictures on the internet. Not verified",
    citation="F. C. Kitamura, Head CT - hemorrhage, Kaggle (2018), "
    "https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage (no DOI is known to us)",
    how_to_get="download it from Kaggle (felipekitamura/head-ct-hemorrhage) and unpack it so that there are "
    "<root>/Head-CT/labels.csv and <root>/Head-CT/head_ct/head_ct/000.png",
    alike=0.9,
    defects=("8-bit pictures of unknown windows and many sizes, some with words in them: no Hounsfield units.",),
)

LOOKS_LIKE = "head_ct/"
ZIPS = ("head-ct-hemorrhage.zip", "archive.zip")


def index(archive: Archive) -> pd.DataFrame:
    """The slices that labels.csv lists, by number: columns image_id, label, masks (none).

    Raises FileNotFoundError for a row without slice and ValueError for a slice without row or an unknown label.
    """
    files = {int(match[1]): match[0] for match in archive.matching(r"head_ct/(?:head_ct/)?(\d{3})\.png")}
    table = archive.csv("labels.csv", ("id",), "id", skipinitialspace=True)  # the header has ", hemorrhage"
    table = archive.checked("labels.csv", table.rename(columns=str.strip), ("hemorrhage",), None)
    missing = sorted(set(table["id"]) - set(files))
    if missing:
        raise FileNotFoundError(
            f"{archive.where('labels.csv')} lists {len(missing)} slices without picture, such as {missing[0]:03d}.png."
        )
    extra = sorted(set(files) - set(table["id"]))
    if extra:
        raise ValueError(f"{archive.where(files[extra[0]])} has no row in labels.csv.")
    odd = table[~table["hemorrhage"].isin([0, 1])]
    if len(odd):
        where, row = archive.where("labels.csv"), odd.iloc[0]
        raise ValueError(f"{where} says hemorrhage {row['hemorrhage']} of {row['id']}; it should be 0 or 1.")
    labels = [CARD.classes[int(yes)] for yes in table["hemorrhage"]]
    return pd.DataFrame({"image_id": [files[n] for n in table["id"]], "label": labels, "masks": [[] for _ in labels]})
