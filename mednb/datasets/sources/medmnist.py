"""MedMNIST: small medical images of many kinds, each set in one file of numbers, at 28, 64, 128 or 224 pixels.

What the sets are, the package's own table says. It is read as text, since importing the package takes seconds and makes
a folder in the user's home.
"""

from __future__ import annotations

import ast
import importlib.util
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.lib.format import read_array, read_array_header_1_0, read_array_header_2_0, read_magic

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card
from mednb.datasets.pixels import Raw

FOLDER = "medmnist"
SIZES = (28, 64, 128, 224)
PARTS = ("train", "val", "test")
LAST = threading.local()  # the file that is being unpacked, and how far, one for each thread

SHOWS = {  # modality, organ
    "pathmnist": ("histology", "colon"),
    "chestmnist": ("x-ray", "chest"),
    "dermamnist": ("dermatoscopy", "skin"),
    "octmnist": ("oct", "retina"),
    "pneumoniamnist": ("x-ray", "chest"),
    "retinamnist": ("fundus", "retina"),
    "breastmnist": ("ultrasound", "breast"),
    "bloodmnist": ("microscopy", "blood"),
    "tissuemnist": ("microscopy", "kidney"),
    "organamnist": ("ct", "abdomen"),
    "organcmnist": ("ct", "abdomen"),
    "organsmnist": ("ct", "abdomen"),
}
PART_OF = {"breastmnist": ("busi",)}  # among the datasets here


def info() -> dict[str, dict]:
    """The package's table of its sets, {"organsmnist": {"python_class": ..., "label": {"0": ...}, ...}, ...}."""
    text = (Path(importlib.util.find_spec("medmnist").origin).parent / "info.py").read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "INFO":
            return ast.literal_eval(statement.value)
    raise ValueError("the package medmnist has no table INFO any more; install medmnist 3")


class Set:
    """One of the sets, as `load` needs it: a card, an index and a reader."""

    LOOKS_LIKE = ""  # the folder is enough; which files are in it, `index` says

    def __init__(self, key: str, about: dict, size: int = max(SIZES)):
        self.key, self.about, self.size = key, about, size
        self.labels = [about["label"][str(code)] for code in range(len(about["label"]))]
        self.many = about["task"].startswith("multi-label")
        self.CARD = self.card()

    def card(self) -> Card:
        modality, organ = SHOWS[self.key]
        name, n, part_of = self.about["python_class"], self.about["n_samples"], PART_OF.get(self.key, ())
        return Card(
            name=self.key,
            title=f"{name} of MedMNIST v2",
            folder=FOLDER,
            modality=modality,
            organ=organ,
            task=f"{self.about['task']}; official train {n['train']:,}, val {n['val']:,} and test {n['test']:,}"
            + ("; the label is the first finding of several, all are in the column findings" if self.many else ""),
            classes=(*self.labels, "none") if self.many else tuple(sorted(self.labels, key="malignant".__eq__)),
            counts={},
            n_images=sum(n.values()),
            patients="not told: each image counts as one, and those that are all but the same stay together. The "
            "official split is by patient where the source's is, says the paper",
            masks="none",
            licence=self.about["license"],
            citation="J. Yang, R. Shi, D. Wei et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D "
            "biomedical image classification, Scientific Data 10 (2023) 41, doi:10.1038/s41597-022-01721-8",
            how_to_get=f"`mednb data get {self.key}`, or {self.key}.npz (28 pixels), {self.key}_64.npz, _128.npz or "
            f"_224.npz from https://zenodo.org/records/10519652 into <root>/{FOLDER}",
            alike=0.99,
            part_of=part_of,
            defects=(
                "Images of one organ look alike on purpose, so only those that are all but the same are grouped.",
                "Taken is the smallest file that is at least as large as the size asked for, else the largest there.",
                *(f"Its images are those of {whole}: train on one, and the other one is no test." for whole in part_of),
            ),
        )

    def sized(self, size: int) -> Set:
        """The same set for images of this size: which file is taken follows from it."""
        return Set(self.key, self.about, size)

    def file(self, archive: Archive) -> str:
        """The file that fits the size best of those that are there."""
        names = {size: f"{self.key}{'' if size == 28 else f'_{size}'}.npz" for size in SIZES}
        there = [size for size in SIZES if names[size] in archive]
        if not there:
            looked = ", ".join(names.values())
            raise FileNotFoundError(f"{archive.where()} holds none of {looked}. To get one: {self.CARD.how_to_get}.")
        return names[min((size for size in there if size >= self.size), default=there[-1])]

    def index(self, archive: Archive) -> pd.DataFrame:
        """All images: columns image_id ("organsmnist_64.npz#17"), label, masks, patient, official; of sets with several
        labels also findings.

        Raises ValueError that names the file for numbers that are not those of the set.
        """
        file, n, codes, tables = self.file(archive), {}, {}, []
        with archive.on_disk(file) as path:
            try:
                with zipfile.ZipFile(path) as arrays:
                    for part in PARTS:
                        with arrays.open(f"{part}_images.npy") as numbers:
                            n[part] = header(numbers)[0][0]
                        with arrays.open(f"{part}_labels.npy") as numbers:
                            codes[part] = read_array(numbers).astype(int)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{archive.where(file)} cannot be read: {error}; download it again") from error
        for part in PARTS:
            if len(codes[part]) != n[part]:
                said = f"{len(codes[part]):,} labels of {n[part]:,} images"
                raise ValueError(f"{archive.where(file)} has {said} of {part}; download it again")
            tables.append(self.labelled(codes[part], archive.where(file)).assign(official=part))
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "image_id", [f"{file}#{i}" for i in range(len(table))])
        table["patient"] = [str(i) for i in range(len(table))]
        return table.assign(masks=[[] for _ in range(len(table))])

    def labelled(self, codes: np.ndarray, where: str) -> pd.DataFrame:
        """(n, 1) codes, or (n, findings) zeros and ones -> column label, and findings where there can be several."""
        highest = 1 if self.many else len(self.labels) - 1
        if codes.shape[1:] != ((len(self.labels),) if self.many else (1,)) or codes.min() < 0 or codes.max() > highest:
            raise ValueError(f"{where} has labels that {self.about['python_class']} does not have; download it again")
        if not self.many:
            return pd.DataFrame({"label": [self.labels[code] for code in codes[:, 0]]})
        findings = [[self.labels[code] for code in np.flatnonzero(row)] for row in codes]
        each = [found[0] if found else "none" for found in findings]
        return pd.DataFrame({"label": each, "findings": ["; ".join(found) for found in findings]})

    def read(self, archive: Archive, row: tuple) -> Raw:
        """One image, (H, W) or (H, W, 3) uint8; the file is never in memory as a whole."""
        file, _, number = row.image_id.partition("#")
        key = (archive.where(file), archive.version(file))
        if getattr(LAST, "key", None) != key or int(number) <= LAST.at:
            LAST.key, LAST.at, LAST.images = key, -1, unpacked(archive, file)
        for values in LAST.images:
            LAST.at += 1
            if LAST.at == int(number):
                return Raw(values, where=archive.where(row.image_id))
        raise ValueError(f"it has {LAST.at + 1:,} images")

    def get(self, folder: Path, size: int) -> None:
        """Download the file that fits this size into a folder through the package."""
        import medmnist

        getattr(medmnist, self.about["python_class"])("val", download=True, root=str(folder), size=best(size))

    def has(self, folder: Path, size: int) -> bool:
        """Whether the file that fits this size lies in a folder, whole."""
        from torchvision.datasets.utils import check_integrity

        end = "" if best(size) == 28 else f"_{best(size)}"
        return check_integrity(str(folder / f"{self.key}{end}.npz"), self.about[f"MD5{end}"])


def best(size: int) -> int:
    """The size of the files that are downloaded for images of this size."""
    return min((each for each in SIZES if each >= size), default=max(SIZES))


def unpacked(archive: Archive, file: str) -> Iterator[np.ndarray]:
    """The images of train, val and test, one after the other: a packed file can be read in no other order."""
    with archive.open(file) as data, zipfile.ZipFile(data) as arrays:
        for part in PARTS:
            with arrays.open(f"{part}_images.npy") as numbers:
                (n, *shape), dtype = header(numbers)
                for _ in range(n):
                    yield np.frombuffer(numbers.read(int(np.prod(shape))), dtype).reshape(shape)


def header(numbers: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that begins here, as .npy files have it; afterwards its numbers follow."""
    read = read_array_header_1_0 if read_magic(numbers) == (1, 0) else read_array_header_2_0
    shape, fortran, dtype = read(numbers)
    if fortran or dtype != np.uint8 or len(shape) not in (3, 4):
        raise ValueError(f"it holds numbers of type {dtype} and shape {shape}, which are no images")
    return shape, dtype


SETS = {key: Set(key, about) for key, about in info().items() if key in SHOWS}
