"""Phantoms: synthetic breast ultrasound, drawn on the spot from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets import store
from mednb.datasets.card import Card

VERSION = 0
COUNT = 2000

CARD = Card(
    name="phantoms",
    title="Synthetic breast ultrasound, drawn from a seed",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; outline of the lesion",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 400, "benign": 900, "malignant": 700},
    patients="two to four images of each; the number of patients follows the number of images",
    masks="one per image, exact; empty for normal",
    licence="MIT, as the rest of mednb",
    citation="mednb",
    how_to_get="nothing to get: they are drawn when they are asked for",
)


def stored(size: int, limit: int | None) -> store.Store:
    n = COUNT if limit is None else limit

    def build(folder: Path) -> None:
        table, pixels, masks = draw(n, size)
        store.fill(folder, n, size, True, [(pixels, masks)])
        table.to_parquet(folder / "table.parquet")

    return store.stored("phantoms", size, store.key_of("phantoms", VERSION, n, size), build)


def draw(n: int, size: int = 64, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n), rng.integers(2, 5, n))[:n]
    label = rng.permuted(np.tile(np.repeat([0, 1, 2], [4, 9, 7]), (n // 20 + 1, 1)), axis=1).ravel()[patients]
    y, x = np.mgrid[:size, :size] / size
    cx, cy = (rng.uniform(0.25, 0.75, (n, 1, 1)) for _ in range(2))
    a = rng.uniform(0.1, 0.25, (n, 1, 1))
    aspect = np.where(label == 1, 0.6, 1.1)[:, None, None]
    inside = ((x - cx) / a) ** 2 + ((y - cy) / (a * aspect)) ** 2 < 1
    inside &= (label > 0)[:, None, None]
    pixels = rng.rayleigh(60, (n, size, size)) * (1 - 0.6 * inside)
    table = pd.DataFrame(
        {
            "image_id": [f"phantom-{i:06d}" for i in range(n)],
            "patient": [f"p{i:06d}" for i in patients],
            "label": np.array(CARD.classes)[label],
            "modality": "ultrasound",
            "source": "phantoms",
            "width": size,
            "height": size,
        }
    )
    return table, pixels.clip(0, 255).astype(np.uint8), inside
