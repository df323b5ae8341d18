"""EchoNet-Dynamic: videos of the beating heart; the two frames of each whose left ventricle was traced."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="echonet",
    title="EchoNet-Dynamic, apical four-chamber echocardiogram videos of Stanford",
    folder="EchoNet-Dynamic",
    modality="ultrasound",
    organ="heart",
    task="outline of the left ventricle; its ejection fraction",
    classes=("unlabelled",),
    counts={"unlabelled": 20048},
    n_patients=10024,
    patients="10,024 of the 10,030 videos are traced; each is of another patient, says the paper",
    n_masks=20048,
    masks="the left ventricle, as 20 chords across it and one along it, in one frame at the end of systole and one at "
    "the end of diastole",
    licence="non-commercial, under Stanford's data use agreement; not to be passed on",
    citation="D. Ouyang, B. He, A. Ghorbani et al., Video-based AI for beat-to-beat assessment of cardiac function, "
    "Nature 580 (2020) 252-256, doi:10.1038/s41586-020-2145-8",
    how_to_get="sign the agreement at echonet.github.io/dynamic, and unpack the zip so that there are "
    "<root>/EchoNet-Dynamic/FileList.csv, VolumeTracings.csv and Videos/, or put it at <root>/EchoNet-Dynamic.zip",
    alike=0.9,  # hearts lie in one place
    defects=(
        "Only traced frames are listed: videos without tracings are left out, as the authors do, and so is a tracing "
        "of a video that is not in FileList.csv or of a frame beyond its NumberOfFrames.",
        "The authors' split is kept: 7,465 videos to train, 1,288 to choose, 1,277 to test.",
        "The videos were cropped, masked and reduced to 112 x 112 pixels by the authors.",
        "How many are traced is from a public reader's count, not from the files.",
    ),
)

LOOKS_LIKE = "FileList.csv"
TRACED = "VolumeTracings.csv"
ENDS = ["X1", "Y1", "X2", "Y2"]


def index(archive: Archive) -> pd.DataFrame:
    """The frames of VolumeTracings.csv; `instant` is "ES" for the first that it names of a video and "ED" for the last.

    Raises ValueError or FileNotFoundError for a row without video, a video without row, or a table that is not right.
    """
    videos = archive.csv(LOOKS_LIKE, ("EF", "ESV", "EDV", "FPS", "NumberOfFrames", "Split"), key="FileName")
    videos["FileName"] = videos["FileName"].str.removesuffix(".avi")
    videos["Split"] = archive.one_of(LOOKS_LIKE, videos["Split"], ("train", "val", "test"))
    archive.exactly("Videos/" + videos["FileName"] + ".avi", r"Videos/.*\.avi", LOOKS_LIKE)
    traced = archive.csv(TRACED, ("FileName", *ENDS, "Frame"))
    if (lost := traced.isna().any(axis=1)).any():
        raise ValueError(f"{archive.where(TRACED)} has an empty cell in row {lost.argmax() + 1}")
    traced["FileName"] = traced["FileName"].str.removesuffix(".avi")
    about, rows = videos.set_index("FileName"), []
    split, length = about["Split"].to_dict(), about["NumberOfFrames"].to_dict()
    ends, frames = traced[ENDS].to_numpy(), traced.groupby(["FileName", "Frame"]).indices
    for (name, frame), chords in sorted(frames.items(), key=lambda item: item[1][0]):  # in the order of the table
        if not 0 <= frame < length.get(name, 0):
            continue
        rows.append(
            {
                "image_id": f"Videos/{name}.avi#{int(frame)}",
                "label": "unlabelled",
                "masks": [{"polygon": outline(ends[chords])}],
                "patient": name,
                "official": split[name],
                "video": name,
                "frame": int(frame),
            }
        )
    if not rows:
        raise ValueError(f"{archive.where(TRACED)} traces no video of FileList.csv")
    table = pd.DataFrame(rows)
    table["instant"] = np.where(table.duplicated("video", keep="last"), "ES", "ED")
    measured = about.loc[table["video"], ["EF", "ESV", "EDV", "FPS"]].reset_index(drop=True)
    return pd.concat([table, measured.rename(columns=str.lower)], axis=1)


def outline(chords: np.ndarray) -> list[list[float]]:
    """Chords across the ventricle (n, 4), the first of which is its long axis -> the polygon around them.

    Down the one side and up the other. The numbers count pixels from the first one's centre.
    """
    across = chords[1:]
    return (np.concatenate([across[:, :2], across[::-1, 2:]]) + 0.5).tolist()
