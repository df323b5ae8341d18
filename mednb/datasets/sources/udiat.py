"""UDIAT, also called Dataset B: breast ultrasound images, each with one lesion."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="udiat",
    title="UDIAT, Breast Ultrasound Dataset B",
    folder="UDIAT",
    modality="ultrasound",
    organ="breast",
    task="benign or malignant; outline of the lesion",
    classes=("benign", "malignant"),
    counts={"benign": 110, "malignant": 53},
    patients="the download has no patient ids, so groups of near-duplicate images stand in for them",
    n_masks=163,
    masks="one per image",
    licence="on request, under an agreement with the authors: research only",
    citation="M. H. Yap, G. Pons, J. Marti et al., Automated breast ultrasound lesions detection using convolutional "
    "neural networks, IEEE Journal of Biomedical and Health Informatics 22 (2018) 1218-1226, "
    "doi:10.1109/JBHI.2017.2731873",
    how_to_get="ask for it as helward.mmu.ac.uk/STAFF/M.Yap/dataset.php says, and unpack it so that there are "
    "<root>/UDIAT/DatasetB.xlsx, original/000001.png and GT/000001.png, or put the zip at <root>/UDIAT.zip",
    defects=("Some publications count 109 benign and 54 malignant; public readers of DatasetB.xlsx find 110 and 53.",),
)

LOOKS_LIKE = "DatasetB.xlsx"
ZIPS = ("UDIAT_Dataset_B.zip", "Dataset_B.zip", "BUS.zip")


def index(archive: Archive) -> pd.DataFrame:
    """The rows of DatasetB.xlsx: the image's number, its type and its diagnosis.

    Raises ValueError or FileNotFoundError for a row without files, a file without row, or a spreadsheet that is not
    right.
    """
    table = archive.excel(LOOKS_LIKE, ("Type", "Diagnosis"), key="Image")
    numbers = table["Image"].astype(int).astype(str).str.zfill(6)
    images, masks = (f"{kind}/" + numbers + ".png" for kind in ("original", "GT"))
    archive.exactly([*images, *masks], r"(original|GT)/.*\.png", LOOKS_LIKE)
    return pd.DataFrame(
        {
            "image_id": images,
            "label": archive.one_of(LOOKS_LIKE, table["Type"], CARD.classes),
            "masks": [[mask] for mask in masks],
            "histology": table["Diagnosis"],
        }
    )
