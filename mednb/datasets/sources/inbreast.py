"""INbreast: full-field digital mammograms with exact outlines."""

from __future__ import annotations

import plistlib
import re

import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="inbreast",
    title="INbreast: a full-field digital mammographic database",
    folder="INbreast",
    modality="mammography",
    organ="breast",
    task="normal (BI-RADS 1), benign (2 and 3) or suspicious (4 to 6); outlines of everything seen",
    classes=("normal", "benign", "suspicious"),
    counts={"normal": 67, "benign": 243, "suspicious": 100},
    patients="115 cases by the paper; the files' names carry a published hash of the patient, so who came twice is one",
    masks="outlines of masses, calcifications, clusters, distortions, asymmetries and spiculated regions, all united; "
    "a single calcification is a dot",
    licence="on request from the authors; which one is unclear",
    citation="I. C. Moreira, I. Amaral, I. Domingues, A. Cardoso, M. J. Cardoso, J. S. Cardoso, INbreast: toward a "
    "full-field digital mammographic database, Academic Radiology 19 (2012) 236-248, doi:10.1016/j.acra.2011.09.014",
    how_to_get="ask the authors (INESC TEC, Porto) or find the copy that they allow, and unpack it so that there are "
    "<root>/INbreast/AllDICOMs/, <root>/INbreast/AllXML/ and <root>/INbreast/INbreast.csv",
    alike=0.97,
    defects=(
        "No pathology in the table: BI-RADS is a radiologist's suspicion, not the truth, and 4a is mostly benign.",
        "The counts are the sums that the literature gives for the paper's table of BI-RADS; not checked on the files.",
        "Whether OsiriX counts the outlines' pixels from their corner or their centre is not said: half a pixel.",
    ),
)

LOOKS_LIKE = "AllDICOMs/"
ZIPS = ("INbreast Release 1.0.zip",)

NAME = re.compile(r"AllDICOMs/(\d+)_(\w+)_MG_([LR])_(\w+?)_ANON\.dcm")
LABELS = {"1": "normal", "2": "benign", "3": "benign", "4": "suspicious", "5": "suspicious", "6": "suspicious"}


def index(archive: Archive) -> pd.DataFrame:
    """The images in AllDICOMs with what INbreast.csv and AllXML say of them.

    Besides label and patient: side, view, birads ("1" to "6", 4 with its letter) and density (ACR, 1 to 4).
    Raises FileNotFoundError for a row or outlines without image and ValueError for an image without row.
    """
    table = archive.csv("INbreast.csv", ("View", "ACR", "Bi-Rads"), "File Name", sep=";", dtype=str)
    table = {row["File Name"].strip(): row for row in table.dropna(how="all").to_dict("records")}
    images = {match[1]: match for match in archive.matching(NAME.pattern)}
    outlines = {match[1]: match[0] for match in archive.matching(r"AllXML/(\d+)\.xml")}
    for numbers, what in ((table, "INbreast.csv lists"), (outlines, "AllXML has outlines of")):
        if missing := sorted(set(numbers) - set(images)):
            raise FileNotFoundError(f"{archive.where()}: {what} {missing[0]}, but AllDICOMs has no such image.")
    rows = []
    for number, match in images.items():
        if number not in table:
            raise ValueError(f"{archive.where(match[0])} has no row in INbreast.csv.")
        about = {name: str(value).strip() for name, value in table[number].items()}
        if about["Bi-Rads"][:1] not in LABELS:
            where = archive.where("INbreast.csv")
            raise ValueError(f"{where} has Bi-Rads {about['Bi-Rads']!r} in the row of {number}; it should be 1 to 6.")
        rows.append(
            {
                "image_id": match[0],
                "label": LABELS[about["Bi-Rads"][0]],
                "masks": drawn(archive, outlines[number]) if number in outlines else [],
                "patient": match[2],
                "side": "left" if match[3] == "L" else "right",
                "view": about["View"],
                "birads": about["Bi-Rads"],
                "density": about["ACR"] if about["ACR"].isdigit() else None,
            }
        )
    return pd.DataFrame(rows)


def drawn(archive: Archive, file: str) -> list[dict]:
    """The outlines in a file that OsiriX wrote, a property list of Apple's. (plistlib refuses entities.)"""
    try:
        regions = [region for image in plistlib.loads(archive.read(file))["Images"] for region in image["ROIs"]]
        points = [[list(map(float, point.strip("() ").split(","))) for point in r["Point_px"]] for r in regions]
    except MemoryError:
        raise
    except Exception as error:  # what a damaged property list raises is not documented
        raise ValueError(f"{archive.where(file)} cannot be read as OsiriX's outlines: {error}") from error
    return [{"polygon": each} for each in points if each]
