"""BUSI: breast ultrasound images with outlined lesions, in the layout of the official download."""

from __future__ import annotations

import re

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="busi",
    title="Breast Ultrasound Images Dataset (Dataset_BUSI_with_GT)",
    folder="BUSI",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; outline of the lesion",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 133, "benign": 437, "malignant": 210},
    patients="600 women by the paper, but the download has no patient ids: groups of near-duplicate images, found by "
    "perceptual hash (mednb.datasets.duplicates), stand in for them and never straddle a split. A patient whose images "
    "do not look alike can still be on both sides.",
    n_masks=798,
    masks="one per lesion, several are united; empty for normal",
    licence="CC BY 4.0 by inference: the download has no licence file; the article it belongs to is CC BY 4.0, and "
    "others redistribute it as that",
    citation="W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy, Dataset of breast ultrasound images, Data in Brief 28 "
    "(2020) 104863, doi:10.1016/j.dib.2019.104863",
    how_to_get="download Dataset_BUSI.zip from the authors' page (linked from the article) and put it at "
    "<root>/BUSI.zip, or unpack it so that there is <root>/BUSI/Dataset_BUSI_with_GT/benign/benign (1).png",
    tested_on="real files",
    alike=0.45,  # most pairs above it show one lesion
    defects=(
        "Nearly half of the images have a near-duplicate: another frame, another crop, or the same with callipers.",
        "Eight groups of near-duplicates contradict their labels: benign 42+131 / malignant 51, benign 62+140 / "
        "malignant 1+132+208, benign 85+164 / malignant 52, benign 269 / normal 1, benign 333 / malignant 77+78, "
        "benign 399+406 / malignant 93+94, benign 433+435 / malignant 145, benign 437 / normal 34.",
        "Callipers and words are burnt into many images, and a network can read them as 'lesion'.",
        "Some images show the axilla, not the breast. See Pawlowska et al., Data in Brief 2023, PMC10293973.",
    ),
)

LOOKS_LIKE = "Dataset_BUSI_with_GT/benign/"
ZIPS = ("Dataset_BUSI.zip", "Dataset_BUSI_with_GT.zip")

FOLDER = LOOKS_LIKE.split("/")[0]
NAME = re.compile(r"(?P<label>\w+) \((?P<number>\d+)\)(?P<mask>_mask(_\d+)?)?\.png")


def index(archive: Archive) -> pd.DataFrame:
    """What lies in Dataset_BUSI_with_GT, one row per image, by name only: columns image_id, label, masks.

    Raises FileNotFoundError for a class without images, a mask without image or a lesion without mask, and ValueError
    for a file whose name does not fit: it names all of them.
    """
    rows, faults = {}, []
    for label in CARD.classes:
        files = [match[1] for match in archive.matching(rf"{FOLDER}/{label}/([^/]*\.png)")]
        if not files:
            where = archive.where(f"{FOLDER}/{label}")
            faults.append(FileNotFoundError(f"{where} holds no images; there should be '{label} (1).png' and so on"))
        named = []
        for file in files:
            if (match := NAME.fullmatch(file)) and match["label"] == label:
                named.append((match, file))
            else:
                where, right = archive.where(f"{FOLDER}/{label}/{file}"), f"'{label} (1).png' or '{label} (1)_mask.png'"
                faults.append(ValueError(f"{where}: the name should be {right}"))
        for match, file in sorted(named, key=lambda pair: (int(pair[0]["number"]), pair[0]["mask"] or "")):
            image_id = f"{FOLDER}/{label}/{label} ({match['number']}).png"
            if not match["mask"]:
                rows[image_id] = {"image_id": image_id, "label": label, "masks": []}
            elif image_id in rows:
                rows[image_id]["masks"].append(f"{FOLDER}/{label}/{file}")
            else:
                where, image = archive.where(f"{FOLDER}/{label}/{file}"), f"{label} ({match['number']}).png"
                faults.append(FileNotFoundError(f"{where} is a mask without its image '{image}'"))
    for image_id, row in rows.items():
        if row["label"] != "normal" and not row["masks"]:
            mask = image_id.rsplit("/", 1)[1].replace(".png", "_mask.png")
            faults.append(FileNotFoundError(f"{archive.where(image_id)} has no mask '{mask}'"))
    archive.faulty(faults)
    return pd.DataFrame(list(rows.values()))
