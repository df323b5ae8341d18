"""mini-MIAS: digitised films of both breasts with the place and the kind of what is seen in them."""

from __future__ import annotations

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="mini_mias",
    title="Mammographic Image Analysis Society, MiniMammographic Database",
    folder="mini-MIAS",
    modality="mammography",
    organ="breast",
    task="normal, benign or malignant; circle around each abnormality",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 207, "benign": 63, "malignant": 52},
    patients="161 by the file numbers: films 2k-1 and 2k are the right and the left breast of patient k",
    n_patients=161,
    n_masks=119,
    masks="no outlines: the 119 circles of Info.txt, filled, some of them much larger than the abnormality; 4 images "
    "with an abnormality have none",
    licence="research only, may not be rented, leased or sold (Licence.txt, 1995); the owner later put the films in "
    "full resolution on Apollo (Cambridge) under CC BY",
    citation="J. Suckling et al., The Mammographic Image Analysis Society Digital Mammogram Database, Exerpta Medica, "
    "International Congress Series 1069 (1994) 375-378; films in full resolution: "
    "https://www.repository.cam.ac.uk/handle/1810/250394",
    how_to_get="download all-mias.tar.gz from the database's page (http://peipa.essex.ac.uk/info/mias.html) and unpack "
    "it so that there is <root>/mini-MIAS/all-mias/Info.txt beside mdb001.pgm (or .png)",
    tested_on="real files",
    alike=0.97,  # breasts are alike: strangers reach 0.96
    defects=(
        "mdb144 shows a benign and a malignant mass: its label is malignant, the worst of what is in it.",
        "mdb059, mdb216, mdb233 and mdb245 have an abnormality without a place: their masks are empty.",
        "Labels, tape and scratches of the films are in the pictures, bright and at the edge.",
    ),
)

LOOKS_LIKE = "all-mias/Info.txt"
ZIPS = ("all-mias.zip", "MIAS.zip")

SEVERITY = {"B": "benign", "M": "malignant"}
KINDS = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM", "NORM")


def index(archive: Archive) -> pd.DataFrame:
    """The films in all-mias as Info.txt has them: label, circles, patient, side, density, abnormality.

    density: F fatty, G fatty-glandular, D dense-glandular. abnormality: CALC, CIRC, SPIC, MISC, ARCH, ASYM or NORM, of
    several the first. Raises FileNotFoundError for a row without film and ValueError for a film without row.
    """
    films = {match[1]: match[0] for match in archive.matching(r"all-mias/(mdb\d{3})\.(?:pgm|png)")}
    rows = {}
    for film, density, abnormality, *rest in said(archive):
        if film not in films:
            raise FileNotFoundError(f"{archive.where('all-mias/Info.txt')} lists {film}, but there is no {film}.pgm.")
        number = int(film[3:])
        row = rows.setdefault(
            film,
            {
                "image_id": films[film],
                "label": "normal",
                "masks": [],
                "patient": f"p{(number + 1) // 2:03d}",
                "side": "right" if number % 2 else "left",
                "density": density,
                "abnormality": abnormality,
            },
        )
        row["label"] = max(row["label"], SEVERITY.get(rest[0] if rest else "", "normal"), key=CARD.classes.index)
        if len(rest) == 4:
            x, y, radius = map(int, rest[1:])
            row["masks"].append({"circle": [x, 1024 - y, radius], "of": [1024, 1024]})  # counted from the bottom
    for film, file in films.items():
        if film not in rows:
            raise ValueError(f"{archive.where(file)} has no row in Info.txt; download Info.txt again.")
    return pd.DataFrame(list(rows.values()))


def said(archive: Archive) -> list[list[str]]:
    """The rows of Info.txt, in words, after its explanations."""
    text = archive.read("all-mias/Info.txt").decode("latin-1")
    rows = [line.split() for line in text.splitlines() if line.startswith("mdb")]
    for row in rows:
        known = len(row) >= 3 and row[2] in KINDS and (row[2] == "NORM" or (len(row) > 3 and row[3] in SEVERITY))
        placed = len(row) < 5 or row[4].startswith("*NOTE") or (len(row) == 7 and "".join(row[4:]).isdigit())
        if not (known and placed):
            raise ValueError(f"{archive.where('all-mias/Info.txt')} has a row that cannot be read: {' '.join(row)!r}.")
    return rows
