"""CDD-CESM: mammograms with a contrast agent, as the low-energy picture and as the difference of two energies."""

from __future__ import annotations

import json
import math

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="cdd_cesm",
    title="Categorized Digital Database for Low energy and Subtracted Contrast Enhanced Spectral Mammography",
    folder="CDD-CESM",
    modality="mammography",
    organ="breast",
    task="normal, benign or malignant by pathology or follow-up; outlines",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 757, "benign": 587, "malignant": 662},
    n_patients=326,
    patients="326 by the paper; the number in the file's name",
    masks="polygons, ellipses and circles drawn by hand, some 2,970 on 1,233 images; points are left out",
    licence="CC BY 4.0",
    citation="R. Khaled, M. Helal, O. Alfarghaly et al., Categorized contrast enhanced mammography dataset for "
    "diagnostic and artificial intelligence research, Scientific Data 9 (2022) 122, doi:10.1038/s41597-022-01238-0; "
    "data doi:10.7937/29kw-ae92",
    how_to_get="with IBM Aspera from https://www.cancerimagingarchive.net/collection/cdd-cesm/: the images, "
    "Radiology-manual-annotations.xlsx and Radiology_hand_drawn_segmentations_v2.csv; put the two tables and the "
    "folders 'Low energy images of CDD-CESM' and 'Subtracted images of CDD-CESM' into <root>/CDD-CESM",
    alike=0.97,
    defects=(
        "Two pictures of everything: 'energy' says low or subtracted. The subtracted ones are no common mammograms.",
        "Compressed (JPEG), cut to the breast by the authors, and the two pictures of a view can be a little apart.",
        "The counts of the classes are those that the literature gives; not checked on the files.",
    ),
)

LOOKS_LIKE = "Radiology_hand_drawn_segmentations_v2.csv"

SHEETS = ("Radiology-manual-annotations.xlsx", "Radiology_manual_annotations.xlsx", "Radiology manual annotations.xlsx")
FILE = r"(?:.*/)?(P(\d+)_([LR])_(DM|CM)_([A-Z]+\d?)) ?\.jpg"  # some names have a space too many
PATHOLOGY = "Pathology Classification/ Follow up"


def index(archive: Archive) -> pd.DataFrame:
    """The pictures that the spreadsheet lists: label, outlines, patient, side, view, case (one breast), energy, age,
    density (ACR, "A" to "D") and birads.

    Raises FileNotFoundError for a row or an outline without picture and ValueError for a picture without row.
    """
    sheet = next((name for name in SHEETS if name in archive), SHEETS[0])
    columns = ("Age", "Breast density (ACR)", "BIRADS", PATHOLOGY)
    table = archive.excel(sheet, ("Image_name", *columns), sheet_name="all", dtype=str)
    table = {name.strip(): row for name, row in zip(table["Image_name"], table.to_dict("records"), strict=True)}
    pictures = {match[1]: match for match in archive.matching(FILE)}
    shapes = outlines(archive)
    for names, where in ((table, sheet), (shapes, LOOKS_LIKE)):
        if missing := sorted(set(names) - set(pictures)):
            raise FileNotFoundError(
                f"{archive.where(where)} names {len(missing)} pictures that are not there, such as {missing[0]}.jpg."
            )
    rows = []
    for name, match in pictures.items():
        if name not in table:
            raise ValueError(f"{archive.where(match[0])} has no row in {sheet}.")
        about = table[name]
        label = about[PATHOLOGY].strip().lower()
        if label not in CARD.classes:
            raise ValueError(
                f"{archive.where(sheet)} has the pathology {label!r} of {name}; it should be one of three."
            )
        side = "left" if match[3] == "L" else "right"
        rows.append(
            {
                "image_id": match[0],
                "label": label,
                "masks": shapes.get(name, []),
                "patient": f"P{match[2]}",
                "side": side,
                "view": match[5],
                "case": f"P{match[2]} {side}",
                "energy": "low" if match[4] == "DM" else "subtracted",
                "age": pd.to_numeric(about["Age"], errors="coerce"),
                "density": about["Breast density (ACR)"],
                "birads": about["BIRADS"],
            }
        )
    return pd.DataFrame(rows)


def outlines(archive: Archive) -> dict[str, list[dict]]:
    """Name of the picture -> its shapes, from the table that the VGG Image Annotator wrote."""
    found = {}
    table = archive.csv(LOOKS_LIKE, ("#filename", "region_shape_attributes"))
    for name, text in zip(table["#filename"], table["region_shape_attributes"], strict=True):
        try:
            shape = drawn(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{archive.where(LOOKS_LIKE)} has a shape of {name} that cannot be read: {text}"
            ) from error
        shapes = found.setdefault(name.removesuffix(".jpg").strip(), [])
        if shape:
            shapes.append(shape)
    return found


def drawn(said: dict) -> dict | None:
    """A shape of the annotator's as ours; None for a point or nothing."""
    kind = said.get("name")
    if kind in ("polygon", "polyline"):
        return {"polygon": [list(point) for point in zip(said["all_points_x"], said["all_points_y"], strict=True)]}
    if kind == "circle":
        return {"circle": [said["cx"], said["cy"], said["r"]]}
    if kind == "ellipse":
        degrees = math.degrees(said.get("theta", 0))
        return {"ellipse": [said["cx"], said["cy"], said["rx"], said["ry"], degrees]}
    if kind == "rect":
        return {"box": [said["x"], said["y"], said["x"] + said["width"], said["y"] + said["height"]]}
    if kind in ("point", None):
        return None
    raise ValueError(kind)
