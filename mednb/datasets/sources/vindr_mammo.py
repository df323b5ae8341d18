"""VinDr-Mammo: screening and diagnostic mammograms of four views, read twice, from Vietnam."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="vindr_mammo",
    title="VinDr-Mammo: a large-scale benchmark dataset for computer-aided detection and diagnosis",
    folder="VinDr-Mammo",
    modality="mammography",
    organ="breast",
    task="normal (BI-RADS 1), benign (2 and 3) or suspicious (4 and 5); boxes; official training and test",
    classes=("normal", "benign", "suspicious"),
    counts={"normal": 13406, "benign": 5606, "suspicious": 988},
    n_patients=5000,
    patients="5,000 examinations of four views each, by their published pseudonyms; whether a woman came twice is not "
    "told",
    n_masks=2254,
    masks="boxes around findings, filled: they hold healthy tissue too. Benign findings are not marked",
    licence="PhysioNet Restricted Health Data License 1.5.0: no redistribution",
    citation="H. T. Nguyen, H. Q. Nguyen, H. H. Pham et al., VinDr-Mammo: a large-scale benchmark dataset for "
    "computer-aided diagnosis in full-field digital mammography, Scientific Data 10 (2023) 277, "
    "doi:10.1038/s41597-023-02100-7; data doi:10.13026/br2v-7517",
    how_to_get="sign the agreement at https://physionet.org/content/vindr-mammo/ and download it so that there are "
    "<root>/VinDr-Mammo/images/ and <root>/VinDr-Mammo/breast-level_annotations.csv",
    alike=0.97,
    defects=(
        "No pathology: BI-RADS of the breast is what two radiologists and an arbiter thought.",
        "The counts of classes and boxes are the paper's as we know them; not checked on the files.",
        "Cameras of several makers, black and white turned in some files, which the reader turns back.",
    ),
)

LOOKS_LIKE = "breast-level_annotations.csv"

LABELS = {"1": "normal", "2": "benign", "3": "benign", "4": "suspicious", "5": "suspicious"}
OFFICIAL = {"training": "train", "test": "test"}
COLUMNS = ("study_id", "laterality", "view_position", "breast_birads", "breast_density", "split")
IDS = {"study_id": str, "image_id": str}  # hexadecimal, and not numbers where no letter is in them
BOX = ("xmin", "ymin", "xmax", "ymax")


def index(archive: Archive) -> pd.DataFrame:
    """The images that breast-level_annotations.csv lists, with the boxes of finding_annotations.csv.

    Besides label and patient (the examination): official, side, view, birads, density ("A" to "D") and findings.
    Raises FileNotFoundError for a row without image and ValueError for an image without row or an odd value.
    """
    table = archive.csv(LOOKS_LIKE, COLUMNS, "image_id", dtype=IDS)
    birads = table["breast_birads"].astype(str).str.removeprefix("BI-RADS ").str.strip()
    for column, values, allowed in (("breast_birads", birads, LABELS), ("split", table["split"], OFFICIAL)):
        if not values.isin(list(allowed)).all():
            odd = values[~values.isin(list(allowed))].iloc[0]
            raise ValueError(f"{archive.where(LOOKS_LIKE)} has {column} {odd!r}; known are {', '.join(allowed)}.")
    files = "images/" + table["study_id"] + "/" + table["image_id"] + ".dicom"
    archive.exactly(files, r"images/.*\.dicom", LOOKS_LIKE)
    found = archive.csv("finding_annotations.csv", ("image_id", "finding_categories", *BOX), dtype=IDS)
    found = found.dropna(subset=list(BOX))  # the other rows say that nothing was found
    boxes = {
        image: [{"box": box} for box in each[list(BOX)].to_numpy().tolist()]
        for image, each in found.groupby("image_id")
    }
    said = found.groupby("image_id")["finding_categories"].agg("".join).str.findall(r"'([^']+)'")
    words = said.map(lambda words: "; ".join(dict.fromkeys(words)))
    return pd.DataFrame(
        {
            "image_id": files,
            "label": birads.map(LABELS),
            "masks": [boxes.get(image, []) for image in table["image_id"]],
            "patient": table["study_id"],
            "official": table["split"].map(OFFICIAL),
            "side": table["laterality"].map({"L": "left", "R": "right"}),
            "view": table["view_position"],
            "birads": birads,
            "density": table["breast_density"].astype(str).str.removeprefix("DENSITY "),
            "findings": table["image_id"].map(words),
        }
    )
