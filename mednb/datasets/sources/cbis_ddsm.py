"""CBIS-DDSM: digitised films of masses and calcifications, with outlines and pathology, from TCIA."""

from __future__ import annotations

import re

import pandas as pd

from mednb.datasets import dicom
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="cbis_ddsm",
    title="Curated Breast Imaging Subset of DDSM",
    folder="CBIS-DDSM",
    modality="mammography",
    organ="breast",
    task="benign or malignant; outlines; official train and test",
    classes=("benign", "malignant"),
    counts={},
    n_images=3103,
    patients="1,566 by TCIA, which counts those of masses and of calcifications apart; column patient_id of the "
    "tables, the published pseudonyms",
    n_masks=3568,
    masks="one file per abnormality; none where only the full mammograms were downloaded",
    licence="CC BY 3.0",
    citation="R. S. Lee, F. Gimenez, A. Hoogi, K. K. Miyake, M. Gorovoy, D. L. Rubin, A curated mammography data set "
    "for use in computer-aided detection and diagnosis research, Scientific Data 4 (2017) 170177, "
    "doi:10.1038/sdata.2017.177; data doi:10.7937/K9/TCIA.2016.7O02S9CY",
    how_to_get="with the NBIA Data Retriever from https://www.cancerimagingarchive.net/collection/cbis-ddsm/ (164 GB), "
    "with the four tables: put them at <root>/CBIS-DDSM/mass_case_description_train_set.csv and so on, and the folders "
    "Mass-Training_P_00001_LEFT_CC ... anywhere below <root>/CBIS-DDSM",
    alike=0.97,
    defects=(
        "The label is the worst of what is in the image; BENIGN_WITHOUT_CALLBACK counts as benign. No normal images.",
        "A patient may be in the training set of masses and in the test set of calcifications: see `official` against "
        "`split`.",
        "The tables' paths of mask and crop are often swapped, so the mask is told by its size, which is the image's. "
        "At least eight masks have another size (43.5 against 50 micrometres a pixel, it seems): they are stretched.",
        "How many images are benign and how many malignant was not verified.",
    ),
)

LOOKS_LIKE = "mass_case_description_train_set.csv"

TABLES = [(kind, part) for kind in ("mass", "calc") for part in ("train", "test")]
FOLDER = re.compile(r"(?:.*/)?((?:Mass|Calc)-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO))(?:_(\d+))?/.+\.dcm")
COLUMNS = ("patient_id", "left or right breast", "image view", "assessment", "pathology", "image file path")


def index(archive: Archive) -> pd.DataFrame:
    """The mammograms that the four tables name, with the masks of all their abnormalities.

    Besides label and patient: official, side, view, case (one breast), density (1 to 4), birads and abnormality ("mass"
    or "calc"). Raises FileNotFoundError for a row without mammogram or mask and ValueError for an unknown pathology.
    """
    from tqdm import tqdm

    films, parts = {}, {}
    for file in archive.names:
        if match := FOLDER.fullmatch(file):
            (parts.setdefault(f"{match[1]}_{match[2]}", []) if match[2] else films.setdefault(match[1], [])).append(
                file
            )
    rows = []
    for film, table in tqdm(
        described(archive).groupby("film", sort=False), "which file is a mask", delay=2, disable=None
    ):
        if len(films.get(film, ())) != 1:
            missing = f"{archive.where()}: {film} should hold one mammogram and holds {len(films.get(film, ()))}"
            raise FileNotFoundError(f"{missing}; download it again.")
        first, image = table.iloc[0], films[film][0]
        side = first["left or right breast"].lower()
        masks = []
        for folder in table["folder"] if parts else ():
            if folder not in parts:
                raise FileNotFoundError(f"{archive.where()} has no {folder} with the mask of {film}; download it.")
            masks.append(mask_of(archive, image, parts[folder]))
        rows.append(
            {
                "image_id": image,
                "label": "malignant" if (table["pathology"] == "MALIGNANT").any() else "benign",
                "masks": masks,
                "patient": first["patient_id"],
                "official": first["official"],
                "side": side,
                "view": first["image view"],
                "case": f"{first['patient_id']} {side}",
                "density": first["density"],
                "birads": str(table["assessment"].max()),
                "abnormality": first["kind"],
            }
        )
    return pd.DataFrame(rows)


def described(archive: Archive) -> pd.DataFrame:
    """The four tables as one, a row per abnormality, with the folders of its film and its mask."""
    found = []
    for kind, part in TABLES:
        name = f"{kind}_case_description_{part}_set.csv"
        table = archive.csv(name, (*COLUMNS, "ROI mask file path"))
        odd = sorted(set(table["pathology"]) - {"BENIGN", "BENIGN_WITHOUT_CALLBACK", "MALIGNANT"})
        if odd:
            raise ValueError(f"{archive.where(name)} has the pathology {odd[0]!r}; BENIGN or MALIGNANT is known.")
        table["film"], table["folder"] = (
            table[column].str.strip().str.split("/").str[0] for column in ("image file path", "ROI mask file path")
        )
        table["density"] = table[next(column for column in table if column.replace("_", " ") == "breast density")]
        found.append(table.assign(kind=kind, official=part))
    return pd.concat(found, ignore_index=True)


def mask_of(archive: Archive, image: str, files: list[str]) -> str | dict:
    """Which of the files of an abnormality is its mask, and not the crop around it: the one of the image's size."""
    keywords = ("Rows", "Columns", "BitsAllocated")
    (rows, columns, _), *sizes = (tuple(dicom.header(archive, file, *keywords).values()) for file in (image, *files))
    # Where none has it, the larger one; where both have it, the one of 8 bits: crops have 16.
    order = [((r, c) == (rows, columns), r * c, -bits) for r, c, bits in sizes]
    best = max(range(len(files)), key=order.__getitem__)
    return files[best] if order[best][0] else {"file": files[best], "stretch": True}
