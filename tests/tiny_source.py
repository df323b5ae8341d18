"""A dataset of a few pictures, in a layout of its own, and a source module that reads it: this file."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card

CARD = Card(
    name="tiny",
    title="A few pictures",
    folder="Tiny",
    modality="ultrasound",
    organ="breast",
    task="a or b",
    classes=("a", "b"),
    counts={"a": 12, "b": 12},
    patients="those of patients.csv, where there is one",
    masks="one for each b",
    licence="none",
    citation="none",
    how_to_get="draw it",
)
LOOKS_LIKE = "pictures/"
ZIPS = ("Tiny_v2.zip",)


def index(archive: Archive) -> pd.DataFrame:
    rows = []
    for match in archive.matching(r"pictures/([ab])(\d+)\.png"):
        mask = f"masks/{match[1]}{match[2]}.png"
        rows.append({"image_id": match[0], "label": match[1], "masks": [mask] if mask in archive else []})
    table = pd.DataFrame(rows, columns=["image_id", "label", "masks"])
    if "patients.csv" in archive:
        whose = archive.csv("patients.csv", ("image", "patient"), dtype=str).set_index("image")["patient"]
        table["patient"] = table["image_id"].map(whose)
    return table


def picture(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    """Blocks of noise: no two seeds are near-duplicates."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5), dtype=np.uint8)
    return np.kron(coarse, np.ones((5, 5), np.uint8))


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def draw(root: Path, n: int = 24, patients: int | None = None) -> Path:
    """n pictures below root/Tiny, the b among them with a mask; `patients`: so many, in a table."""
    folder, rows = root / "Tiny", []
    for i in range(n):
        label, image = "ab"[i % 2], picture(i)
        save(folder / f"pictures/{label}{i:04d}.png", image)
        rows.append({"image": f"pictures/{label}{i:04d}.png", "patient": f"p{i % (patients or n)}"})
        if label == "b":
            mask = np.zeros(image.shape, bool)
            mask[8:24, 6:18] = True
            save(folder / f"masks/b{i:04d}.png", mask)
    if patients:
        pd.DataFrame(rows).to_csv(folder / "patients.csv", index=False)
    return folder
