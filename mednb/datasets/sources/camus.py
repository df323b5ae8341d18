"""CAMUS: the heart of 500 patients in two views, at the end of diastole and of systole."""

from __future__ import annotations

from functools import cache

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="camus",
    title="CAMUS, cardiac acquisitions for multi-structure ultrasound segmentation",
    folder="CAMUS",
    modality="ultrasound",
    organ="heart",
    task="outline of the left ventricle; its ejection fraction",
    classes=("unlabelled",),
    counts={"unlabelled": 2000},
    n_patients=500,
    patients="500, the folders' names",
    n_masks=2000,
    masks="the cavity of the left ventricle, inside the endocardium (1 in the file; the wall, 2, and the left atrium, "
    "3, are left out); in the older MetaImage download 1,800, for the folder training only",
    licence="free for research after registration",
    citation="S. Leclerc, E. Smistad, J. Pedrosa et al., Deep learning for segmentation using an open large-scale "
    "dataset in 2D echocardiography, IEEE Transactions on Medical Imaging 38 (2019) 2198-2210, "
    "doi:10.1109/TMI.2019.2900516",
    how_to_get="register at humanheart-project.creatis.insa-lyon.fr, download database_nifti and database_split, and "
    "put both in <root>/CAMUS, so that there is database_nifti/patient0001/patient0001_2CH_ED.nii.gz; or, of the older "
    "download, the folders training and testing",
    alike=0.9,  # hearts lie in one place
    defects=(
        "The frames between the two instants, in the files half_sequence or sequence, are left out: they look like "
        "these.",
        "The split of database_split is the authors'. Without it, or in the older download, the folds are ours; its "
        "folder testing has no masks, so nobody is tested on it.",
        "Columns are named as in the .cfg files, in small letters; of ten images one or two are of poor quality.",
    ),
)

LOOKS_LIKE = ("database_nifti/patient0001/", "training/patient0001/")
ZIPS = ("CAMUS_public.zip",)
IMAGE = r"(database_nifti|training|testing)/(patient\d+)/\2_([24]CH)_(ED|ES)(\.nii\.gz|\.nii|\.mhd)"
CAVITY = 1
SPLITS = {"training": "train", "validation": "val", "testing": "test"}
FACTS = {"Age": "age", "Sex": "sex", "ImageQuality": "quality", "EF": "ef", "LVef": "ef", "NbFrame": "frames"}


def index(archive: Archive) -> pd.DataFrame:
    """The images <patient>_<view>_<instant>, with their masks ..._gt and what Info_<view>.cfg says.

    Raises FileNotFoundError for an image without its mask or .cfg and a mask without its image, ValueError for a .cfg
    that is not right, or a patient who is in no official split or in two.
    """
    official, rows, faults = splits(archive), [], []
    for match in archive.matching(r"(.*_[24]CH_(?:ED|ES))_gt(\.nii\.gz|\.nii|\.mhd)"):
        if match[1] + match[2] not in archive:
            faults.append(FileNotFoundError(f"{archive.where(match[0])} is a mask without its image"))
    told = cache(lambda folder, view: facts(archive, f"{folder}Info_{view}.cfg"))
    for match in archive.matching(IMAGE):
        place, patient, view, instant, ending = match.groups()
        mask = match[0].removesuffix(ending) + "_gt" + ending
        if place != "testing" and mask not in archive:
            faults.append(FileNotFoundError(f"{archive.where(mask)} is missing"))
        row = {
            "image_id": match[0],
            "label": "unlabelled",
            "masks": [{"file": mask, "values": [CAVITY]}] if place != "testing" else [],
            "patient": patient if place != "testing" else f"testing {patient}",  # they are numbered from 1 again
            "official": "train" if place == "testing" else "",
            "view": view,
            "instant": instant,
            "video": match[0].rpartition("_")[0],
        }
        if official:
            if patient not in official:
                raise ValueError(f"{archive.where(match[0])} is of a patient whom no file of database_split names")
            row["official"] = official[patient]
        rows.append(row | told(f"{place}/{patient}/", view))
    archive.faulty(faults)
    return pd.DataFrame(rows)


def facts(archive: Archive, name: str) -> dict:
    """What a .cfg file, lines of `key: value`, says of the patient and the recording."""
    lines = archive.read(name).decode(errors="replace").splitlines()
    said = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    if not said.keys() & {"EF", "LVef"}:
        raise ValueError(f"{archive.where(name)} has no line 'EF: ...' and none 'LVef: ...'")
    found = {column: said[key] for key, column in FACTS.items() if key in said}
    return found | {key: pd.to_numeric(found[key], errors="coerce") for key in ("age", "ef", "frames") if key in found}


def splits(archive: Archive) -> dict[str, str]:
    """Patient -> "train", "val" or "test", from database_split; empty when it is not there."""
    found = {}
    for match in archive.matching(r"database_split/subgroup_(training|validation|testing)\.txt"):
        for patient in archive.read(match[0]).decode(errors="replace").split():
            if found.setdefault(patient, SPLITS[match[1]]) != SPLITS[match[1]]:
                raise ValueError(f"{archive.where(match[0])} names {patient}, whom another file there names too")
    return found
