"""STL-10: photographs of animals and vehicles, as something to pretrain on that is not medical."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card
from mednb.datasets.pixels import Raw

THINGS = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

CARD = Card(
    name="stl10",
    title="STL-10, photographs of ten kinds of things and 100,000 of others",
    folder="STL-10",
    modality="photo",
    organ="none",
    task="ten classes; unlabelled images for pretraining; official train and test",
    classes=(*THINGS, "unlabelled"),
    counts=dict.fromkeys(THINGS, 1300) | {"unlabelled": 100_000},
    patients="none: each photograph counts as one, near-duplicates stay together",
    masks="none",
    licence="taken from ImageNet, whose terms allow research; the page states no licence",
    citation="A. Coates, H. Lee, A. Y. Ng, An analysis of single-layer networks in unsupervised feature learning, "
    "AISTATS 2011, PMLR 15, 215-223 (no DOI)",
    how_to_get="`mednb data get stl10`, or stl10_binary.tar.gz from https://cs.stanford.edu/~acoates/stl10/ unpacked "
    "so that there is <root>/STL-10/stl10_binary/train_X.bin",
    alike=0.9,
    defects=("The unlabelled images hold other animals and vehicles too.",),
)

LOOKS_LIKE = "stl10_binary/train_X.bin"

PARTS = {"train": "train", "test": "test", "unlabeled": "train"}  # as the files are called, and the official split
SIDE = 96
BYTES = 3 * SIDE * SIDE


def index(archive: Archive) -> pd.DataFrame:
    """All images of the three files: columns image_id ("stl10_binary/train_X.bin#17"), label, masks, official, patient.

    Raises FileNotFoundError for a missing file and ValueError for one of another length, or a label that is none.
    """
    tables = []
    for part, official in PARTS.items():
        file = f"stl10_binary/{part}_X.bin"
        if part == "unlabeled" and file not in archive:
            continue  # 2.8 GB that not everybody unpacks
        with archive.on_disk(file) as path:
            n, rest = divmod(path.stat().st_size, BYTES)
        if rest or not n:
            raise ValueError(f"{archive.where(file)} is cut off: images have {BYTES:,} bytes each. Download it again.")
        labels = np.full(n, "unlabelled", object) if part == "unlabeled" else named(archive, part, n)
        table = pd.DataFrame({"image_id": [f"{file}#{i}" for i in range(n)], "label": labels})
        table["patient"] = [f"{part} {i}" for i in range(n)]
        tables.append(table.assign(masks=[[] for _ in range(n)], official=official))
    return pd.concat(tables, ignore_index=True)


def named(archive: Archive, part: str, n: int) -> np.ndarray:
    """(n,) of str: the labels of the training or test images."""
    file = f"stl10_binary/{part}_y.bin"
    numbers = np.frombuffer(archive.read(file), np.uint8)
    if len(numbers) != n or not ((numbers >= 1) & (numbers <= len(THINGS))).all():
        raise ValueError(f"{archive.where(file)} should hold {n:,} numbers from 1 to 10; download it again.")
    return np.array(THINGS, object)[numbers - 1]


def read(archive: Archive, row: tuple) -> Raw:
    """One image, (96, 96, 3) uint8: written column by column, red, green and blue apart."""
    file, _, number = row.image_id.partition("#")
    with archive.open(file) as data:
        data.seek(int(number) * BYTES)
        values = np.frombuffer(data.read(BYTES), np.uint8)
    return Raw(
        np.ascontiguousarray(values.reshape(3, SIDE, SIDE).transpose(2, 1, 0)), where=archive.where(row.image_id)
    )


def get(folder: Path, size: int) -> None:
    """Download it (2.6 GB; it has one size) into a folder through torchvision."""
    from torchvision.datasets import STL10

    STL10(str(folder), download=True)


def has(folder: Path, size: int) -> bool:
    """Whether it lies in a folder, whole."""
    from torchvision.datasets import STL10

    try:
        return bool(STL10(str(folder)))
    except RuntimeError:
        return False
