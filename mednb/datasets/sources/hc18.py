"""HC18: fetal heads in ultrasound, with the outline from which the circumference is measured."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="hc18",
    title="HC18, automated measurement of fetal head circumference",
    folder="HC18",
    modality="ultrasound",
    organ="fetal head",
    task="outline of the head; its circumference in mm",
    classes=("unlabelled",),
    counts={"unlabelled": 1334},
    n_patients=1141,
    patients="1,141 examinations, the number that begins a file's name: 806 in training_set, 335 in test_set; they are "
    "of 551 women by the paper, and the download does not tell which belong to one woman",
    n_masks=999,
    masks="the head, for the images of training_set",
    licence="CC BY 4.0",
    citation="T. L. A. van den Heuvel, D. de Bruijn, C. L. de Korte, B. van Ginneken, Automated measurement of fetal "
    "head circumference using 2D ultrasound images, PLoS ONE 13 (2018) e0200412, doi:10.1371/journal.pone.0200412; "
    "data doi:10.5281/zenodo.1327317",
    how_to_get="download training_set.zip, test_set.zip and the two .csv from zenodo.org/records/1327317 and unpack "
    "them so that there are <root>/HC18/training_set/000_HC.png and, beside that folder, "
    "training_set_pixel_size_and_HC.csv",
    tested_on="real files",
    alike=0.9,  # heads are alike: strangers reach 0.77
    defects=(
        "The outlines of test_set were never published: its images are for training only, whatever the fold.",
        "Official annotations are thin ellipses; they are filled here.",
        "392_HC and 392_2HC are one picture; 263_HC and 280_HC of test_set nearly so.",
        "The trimester is not in the tables; pixel_mm is the size of the pixels of the official images.",
    ),
)

LOOKS_LIKE = "training_set_pixel_size_and_HC.csv"
PIXEL, ROUND = "pixel size(mm)", "head circumference (mm)"


def index(archive: Archive) -> pd.DataFrame:
    """The rows of the two tables; images of test_set, which nobody can be tested on, are `official` training images.

    Raises ValueError or FileNotFoundError for a row without files, a file without row, or a table that is not right.
    """
    training = archive.csv(LOOKS_LIKE, (PIXEL, ROUND), key="filename").assign(folder="training_set")
    test = archive.csv("test_set_pixel_size.csv", (PIXEL,), key="filename").assign(folder="test_set")
    masks = "training_set/" + training["filename"].str.removesuffix(".png") + "_Annotation.png"
    archive.exactly([*("training_set/" + training["filename"]), *masks], r"training_set/.*\.png", LOOKS_LIKE)
    archive.exactly("test_set/" + test["filename"], r"test_set/.*\.png", "test_set_pixel_size.csv")
    table = pd.concat([training, test], ignore_index=True)
    return pd.DataFrame(
        {
            "image_id": table["folder"] + "/" + table["filename"],
            "label": "unlabelled",
            "masks": [[{"file": mask, "fill": True}] for mask in masks] + [[]] * len(test),
            "patient": table["folder"].str.removesuffix("_set") + " " + table["filename"].str.split("_").str[0],
            "official": [""] * len(training) + ["train"] * len(test),
            "pixel_mm": table[PIXEL],
            "circumference_mm": table[ROUND],
        }
    )
