"""STU-Hospital: a small set of breast ultrasound images with outlined lesions, used to test on another hospital."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="stu",
    title="STU-Hospital, breast ultrasound of the First Affiliated Hospital of Shantou University",
    folder="STU-Hospital",
    modality="ultrasound",
    organ="breast",
    task="outline of the lesion",
    classes=("unlabelled",),
    counts={"unlabelled": 42},
    patients="the download has no patient ids, so groups of near-duplicate images stand in for them",
    n_masks=42,
    masks="one per image",
    licence="none stated",
    citation="Z. Zhuang, N. Li, A. N. Joseph Raj, V. G. V. Mahesh, S. Qiu, An RDAU-NET model for lesion segmentation "
    "in breast ultrasound images, PLoS ONE 14 (2019) e0221535, doi:10.1371/journal.pone.0221535",
    how_to_get="download github.com/xbhlk/STU-Hospital as a zip and put it at <root>/STU-Hospital.zip, or unpack it so "
    "that there is <root>/STU-Hospital/Hospital/Test_Image_1.png",
    defects=("Whether a lesion is benign or malignant is not told.",),
)

LOOKS_LIKE = "Hospital/mask_1.png"
ZIPS = ("STU-Hospital-master.zip", "STU-Hospital-main.zip")


def index(archive: Archive) -> pd.DataFrame:
    """The pairs Test_Image_<n>.png and mask_<n>.png in Hospital, by number.

    Raises FileNotFoundError for one without the other.
    """
    images, masks = (
        {int(match[1]): match[0] for match in archive.matching(rf"Hospital/{name}_(\d+)\.png")}
        for name in ("Test_Image", "mask")
    )
    if alone := sorted(set(images) ^ set(masks)):
        there, missing = (images, "mask") if alone[0] in images else (masks, "Test_Image")
        raise FileNotFoundError(f"{archive.where(there[alone[0]])} is there without its {missing}_{alone[0]}.png")
    rows = [{"image_id": images[n], "label": "unlabelled", "masks": [masks[n]]} for n in sorted(images)]
    return pd.DataFrame(rows)
