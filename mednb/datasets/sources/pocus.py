"""POCUS: lungs with COVID-19, with other pneumonia and healthy ones; frames of videos, and single images."""

from __future__ import annotations

import re

import pandas as pd

from mednb.datasets import pixels
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="pocus",
    title="POCUS, point-of-care lung ultrasound for COVID-19 (covid19_ultrasound)",
    folder="covid19_ultrasound",
    modality="ultrasound",
    organ="lung",
    task="COVID-19, bacterial pneumonia, viral pneumonia or regular",
    classes=("covid", "pneumonia", "regular", "viral"),
    counts={"covid": 90, "pneumonia": 161, "regular": 246, "viral": 20},
    n_patients=102,
    patients="102, the column 'Patient ID / Name' of dataset_metadata.csv (covid only 11, viral 4); a recording "
    "without it counts as its own patient",
    n_masks=0,
    masks="none",
    licence="each file its own, in the column licence: mostly CC BY-NC 4.0; some of the repository's have none",
    citation="J. Born, N. Wiedemann, M. Cossio et al., Accelerating detection of lung pathologies with explainable "
    "ultrasound image analysis, Applied Sciences 11 (2021) 672, doi:10.3390/app11020672; "
    "github.com/jannisborn/covid19_ultrasound",
    how_to_get="clone github.com/jannisborn/covid19_ultrasound into <root>/covid19_ultrasound, so that there is "
    "data/dataset_metadata.csv; what the authors' script has made in data/image_dataset is read when it is there, else "
    "the recordings themselves",
    tested_on="real files",
    alike=0.9,  # cones are alike: strangers reach 0.90
    defects=(
        "Counts and patients are of the Creative Commons part, as images of data/image_dataset with 4 frames of a "
        "video. The repository has more: in October 2020 182 videos and 59 images with a certain label.",
        "A video's frames look alike: split by patient, never by frame.",
        "Patients 188 and 189, and 195 and 197, seem to share a recording (correlation 0.84, 0.87); nothing ties them.",
        "Pneu_northumbria_0409_set3_vid1 and Reg_northumbria_0409_set3_vid1 look like one recording with two labels; "
        "patient 37 has recordings of two classes.",
        "Sources differ by class: websites, scanners and cropping may tell a network more than the lung does.",
        "Of the repository's videos 3 frames a second are read and at most 30, as the authors' script has it; the rate "
        "is the table's, or 25 a second where it has none; label_uncertain is left out.",
        "Reading the repository's own layout is tested on a twin, not on its files.",
    ),
)

LOOKS_LIKE = "data/dataset_metadata.csv"
WHO, NAME = "Patient ID / Name", "Filename"
LABELS = {"cov": "covid", "pne": "pneumonia", "reg": "regular", "vir": "viral"}
MOVES, STANDS = "avi|gif|m4v|mov|mp4|mpe?g", "jpe?g|png"
RECORDED = r"(?i)data/pocus_%s/(convex|linear)/(?P<source>(?P<label>cov|pne|reg|vir)[^/]*\.(%s))"
MADE = r"(?i)data/image_dataset/(?P<label>[^/]+)/(?P<source>[^/]+?)(_frame(?P<frame>\d+)\.jpg|(?<=\.png|\.jpg|jpeg))"
A_SECOND, MOST, RATE = 3, 30, 25  # frames; of one video; of a video whose rate is not told


def index(archive: Archive) -> pd.DataFrame:
    """The pictures of data/image_dataset or, without that, the recordings of pocus_videos and pocus_images.

    A file's name says its label, dataset_metadata.csv its patient. Videos are decoded to count their frames, since the
    table's lengths are wrong for some. Raises ValueError for a class that is not known, or two rows of one recording
    with different patients, FileNotFoundError when there is nothing.
    """
    recordings = metadata(archive)
    rows = [row(archive, recordings, match) for match in archive.matching(MADE)]
    if not rows:
        videos = archive.matching(RECORDED % ("videos", MOVES))
        if not videos:
            raise FileNotFoundError(f"{archive.where('data')} holds neither image_dataset nor pocus_videos")
        rows = [row(archive, recordings, match) for match in archive.matching(RECORDED % ("images", STANDS))]
        for match in videos:
            whole = row(archive, recordings, match)
            count, step = pixels.frames(archive, match[0]), max(1, int(rate(recordings, match["source"]) / A_SECOND))
            for frame in range(0, count, step)[:MOST]:
                rows.append(whole | {"image_id": f"{match[0]}#{frame}", "frame": frame})
    return pd.DataFrame(rows)


def metadata(archive: Archive) -> dict[str, pd.Series]:
    """Name of a recording in small letters, without ending -> its row."""
    table = archive.csv(LOOKS_LIKE, (NAME, WHO, "Probe", "License", "Age", "Framerate")).dropna(subset=[NAME])
    table[NAME] = table[NAME].map(stem)
    twice = table.drop_duplicates([NAME, WHO])[NAME]
    if (again := twice.duplicated()).any():
        raise ValueError(f"{archive.where(LOOKS_LIKE)} has two rows of {twice[again].iloc[0]} with different patients")
    return {row[NAME]: row for _, row in table.drop_duplicates(NAME).iterrows()}


def stem(source: str) -> str:
    """A recording's name in small letters, without the ending of its file."""
    return re.sub(rf"\.({MOVES}|{STANDS})$", "", source.strip().lower())


def row(archive: Archive, recordings: dict[str, pd.Series], match: re.Match) -> dict:
    """What is known of one file."""
    label, source = match["label"].lower(), match["source"]
    label = LABELS.get(label, label)
    if label not in CARD.classes:
        raise ValueError(f"{archive.where(match[0])} lies in a class '{label}'; known are {', '.join(CARD.classes)}")
    about = recordings.get(stem(source), pd.Series(dtype=object))
    patient, frame = about.get(WHO), match.groupdict().get("frame")
    return {
        "image_id": match[0],
        "label": label,
        "masks": [],
        "patient": source if pd.isna(patient) else str(patient).removesuffix(".0"),
        "video": source,
        "frame": -1 if frame is None else int(frame),
        "scanner": str(about.get("Probe", "")).strip().lower(),
        "age": pd.to_numeric(about.get("Age"), errors="coerce"),
        "licence": str(about.get("License", "")),
    }


def rate(recordings: dict[str, pd.Series], source: str) -> float:
    """Frames a second of a video."""
    told = pd.to_numeric(recordings.get(stem(source), {}).get("Framerate"), errors="coerce")
    return RATE if pd.isna(told) or told <= 0 else float(told)
