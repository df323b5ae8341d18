"""COVID-CT: slices of the chest cut out of papers on COVID-19."""

from __future__ import annotations

import re

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="covid_ct",
    title="COVID-CT-Dataset (UCSD)",
    folder="COVID-CT",
    modality="ct",
    organ="lung",
    task="COVID-19 or not; official train, val and test",
    classes=("non_covid", "covid"),
    counts={"non_covid": 397, "covid": 349},
    patients="216 with COVID-19 by the authors; the spreadsheets name them by image. An image that they do not name "
    "counts as a patient of its own, and near-duplicates stay together",
    masks="none",
    licence="the pictures belong to the papers' authors and publishers (the authors' README)",
    citation="X. Yang, X. He, J. Zhao, Y. Zhang, S. Zhang, P. Xie, COVID-CT-Dataset: a CT scan dataset about COVID-19 "
    "(2020), arXiv:2003.13865",
    how_to_get="clone https://github.com/UCSD-AI4H/COVID-CT to <root>/COVID-CT and unpack the two zips in "
    "Images-processed there, so that there is <root>/COVID-CT/Images-processed/CT_COVID/",
    alike=0.9,
    defects=(
        "Cut out of PDFs: JPEG artefacts, arrows, letters, all sizes from 148 x 61 pixels on, unknown windows.",
        "Published by others than those of class non_covid: the source of a picture may give its label away.",
        "The column names of the two tables of patients are those that public loaders read, not seen in the files.",
    ),
)

LOOKS_LIKE = "Data-split/COVID/"
ZIPS = ("COVID-CT-master.zip",)

WORDS = {"covid": "COVID", "non_covid": "NonCOVID"}
LISTS = ("train", "val", "test")


def index(archive: Archive) -> pd.DataFrame:
    """The images that the official lists name: columns image_id, label, masks (none), official, patient.

    Raises FileNotFoundError for a name without image or for images that are still zipped, and ValueError for a name in
    two lists or an image in none.
    """
    rows, patients = [], named_patients(archive)
    for label, word in WORDS.items():
        folder = f"Images-processed/CT_{word}"
        images = {match[1]: match[0] for match in archive.matching(rf"{folder}/(?:.*/)?([^/]+\.(?:png|jpg|jpeg))")}
        if not images and f"{folder}.zip" in archive:
            raise FileNotFoundError(f"{archive.where(folder + '.zip')} is still a zip; unpack it where it lies.")
        official = {}
        for part in LISTS:
            file = f"Data-split/{word}/{part}CT_{word}.txt"
            for name in filter(None, map(str.strip, archive.read(file).decode("utf-8").splitlines())):
                if name not in images:
                    raise FileNotFoundError(f"{archive.where(file)} names {name}, which is not in {folder}.")
                if name in official:
                    raise ValueError(f"{archive.where(file)} names {name}, which is in {official[name]} already.")
                official[name] = part
        for name, image in images.items():
            if name not in official:
                raise ValueError(f"{archive.where(image)} is in none of the lists in Data-split/{word}.")
            patient = patients.get(stem(name), f"of {stem(name)}")
            row = {"image_id": image, "label": label, "masks": [], "patient": f"{label} {patient}"}
            rows.append(row | {"official": official[name]})
    return pd.DataFrame(rows)


def stem(name: str) -> str:
    """The name without its suffix, which the tables leave out or have another one of."""
    return re.sub(r"\.(png|jpe?g)$", "", name.strip(), flags=re.IGNORECASE)


def named_patients(archive: Archive) -> dict[str, str]:
    """Stem of the image -> patient, from the two tables, where they are there and have these columns."""
    found = {}
    for name, read in (("COVID-CT-MetaInfo.xlsx", archive.excel), ("NonCOVID-CT-MetaInfo.csv", archive.csv)):
        table = read(name, dtype=str) if name in archive else pd.DataFrame()
        table.columns = [str(column).strip().lower() for column in table.columns]
        image = next((column for column in ("file name", "image name", "image") if column in table), None)
        patient = next((column for column in ("patient id", "patient") if column in table), None)
        if image and patient:
            known = table[[image, patient]].dropna()
            found |= dict(zip(known[image].map(stem), known[patient].str.strip(), strict=True))
    return found
