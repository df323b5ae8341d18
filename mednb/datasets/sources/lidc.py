"""LIDC-IDRI: the slices of CT volumes of the chest, with the lung nodules that four radiologists outlined."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mednb.datasets import dicom
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="lidc",
    title="Lung Image Database Consortium image collection (LIDC-IDRI), slices",
    folder="LIDC-IDRI",
    modality="ct",
    organ="lung",
    task="whether a nodule of 3 mm or more is in the slice; outlines of nodules; pretraining",
    classes=("no nodule", "nodule"),
    counts={},
    n_images=243958,
    n_patients=1010,
    patients="1,010 (eight of them with two volumes), the folders of the download, whose published pseudonyms are kept",
    masks="what at least one of up to four radiologists outlined as a nodule of 3 mm or more, united. They drew on the "
    "pixels just outside",
    licence="CC BY 3.0",
    citation="S. G. Armato III, G. McLennan, L. Bidaut et al., The Lung Image Database Consortium (LIDC) and Image "
    "Database Resource Initiative (IDRI), Medical Physics 38 (2011) 915-931, doi:10.1118/1.3528204; "
    "data doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    how_to_get="with the NBIA Data Retriever from https://www.cancerimagingarchive.net/collection/lidc-idri/ (125 GB), "
    "with the radiologists' XML files; put the folders LIDC-IDRI-0001 ... and the XML files anywhere below "
    "<root>/LIDC-IDRI",
    window="lung",
    alike=0.97,
    defects=(
        "Neighbouring slices look the same: only a split by patient means anything. `stride` thins them out.",
        "A slice without an outline can hold nodules below 3 mm. How many slices have a nodule was not counted.",
        "Where a slice lies stands in the headers only: opening it the first time takes minutes.",
        "Outlines that exclude something (a hole) are left out.",
    ),
)

LOOKS_LIKE = ""  # the folders can lie anywhere below

FILE = r"(?:.*/)?(LIDC-IDRI-\d{4})/(?:.*/)?[^/]+\.dcm"
NIH = "{http://www.nih.gov}"


def index(archive: Archive) -> pd.DataFrame:
    """The slices of all CT volumes; radiographs of the same patients are left out.

    Besides label and patient: case and video (one volume), frame (from the feet on) and position (0 at the feet's end,
    1 at the head's). Raises FileNotFoundError when there are no slices and ValueError for an outline without slice.
    """
    from tqdm import tqdm

    rows = []
    for match in tqdm(archive.matching(FILE), "reading where slices lie", delay=2, disable=None):
        said = dicom.header(
            archive, match[0], "Modality", "SeriesInstanceUID", "SOPInstanceUID", "ImagePositionPatient"
        )
        if said["Modality"] == "CT":
            if not said["ImagePositionPatient"]:
                raise ValueError(f"{archive.where(match[0])} does not say in its header where the slice lies.")
            place = float(said["ImagePositionPatient"][2])
            rows.append((match[0], match[1], str(said["SeriesInstanceUID"]), str(said["SOPInstanceUID"]), place))
    if not rows:
        raise FileNotFoundError(f"{archive.where()} holds no LIDC-IDRI-0001/.../*.dcm. To get it: {CARD.how_to_get}.")
    table = pd.DataFrame(rows, columns=["image_id", "patient", "volume", "slice", "place"])
    table = table.sort_values(["patient", "volume", "place", "image_id"], ignore_index=True)
    volumes = table.groupby("volume")
    table["frame"], last = volumes.cumcount(), volumes["place"].transform("size") - 1
    table["position"] = table["frame"] / last.clip(lower=1)
    number = table.groupby("patient")["volume"].transform(lambda volume: pd.factorize(volume)[0] + 1)
    table["case"] = table["video"] = table["patient"] + " " + number.astype(str)

    outlines = drawn(archive, set(table["volume"]), set(table["slice"]))
    table["masks"] = [outlines.get(slice, []) for slice in table["slice"]]
    table["label"] = ["nodule" if masks else "no nodule" for masks in table["masks"]]
    return table.drop(columns=["volume", "slice", "place"])  # numbers by which a patient could be found elsewhere


def drawn(archive: Archive, volumes: set[str], slices: set[str]) -> dict[str, list[dict]]:
    """Number of the slice -> the outlines of nodules in it, each once, from the radiologists' XML files."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    found = {}
    for match in archive.matching(r".*\.xml"):
        try:
            tree = fromstring(archive.read(match[0]))
        except (ParseError, DefusedXmlException) as error:
            raise ValueError(f"{archive.where(match[0])} cannot be read as XML: {error}") from error
        there = tree.findtext(f"{NIH}ResponseHeader/{NIH}SeriesInstanceUid") in volumes
        for slice, points in outlined(tree) if there else ():
            if slice not in slices:
                raise ValueError(f"{archive.where(match[0])} outlines a nodule in a slice that is not there.")
            found.setdefault(slice, {})[tuple(points)] = {"polygon": [[x + 0.5, y + 0.5] for x, y in points]}
    return {slice: list(outlines.values()) for slice, outlines in found.items()}


def outlined(tree) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Number of the slice and corners of each outline in a file; a nodule below 3 mm is one point, and no outline."""
    for region in tree.iterfind(f"{NIH}readingSession/{NIH}unblindedReadNodule/{NIH}roi"):
        points = [
            (float(edge.findtext(f"{NIH}xCoord")), float(edge.findtext(f"{NIH}yCoord")))
            for edge in region.iterfind(f"{NIH}edgeMap")
        ]
        if len(points) > 1 and region.findtext(f"{NIH}inclusion", "TRUE").strip().upper() == "TRUE":
            yield region.findtext(f"{NIH}imageSOP_UID", "").strip(), points
