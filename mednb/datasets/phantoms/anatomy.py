"""Who is in the phantoms: synthetic people with a lesion or none, the same in every modality, and random tissue.

Benign and malignant differ as BI-RADS describes: benign lesions tend to be smooth, oval and sharply outlined, malignant
ones irregular, spiculated and indistinct. How suspicious a lesion looks is one hidden number around 0 or 1; every sign
of every modality follows it with noise of its own, so that the signs overlap, and no picture gives all of them.

Words: E. A. Sickles, C. J. D'Orsi et al., ACR BI-RADS Atlas, 5th edition (2013).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets import store
from mednb.datasets.card import Card

CLASSES = ("normal", "benign", "malignant")
COUNT = 2000  # images drawn when no limit is given
BLOCK = 60  # people drawn at once; the first n phantoms are the same however many follow
WAVES = 24  # plane waves that make up one random field
FOLDS = 5
VERSION = 8  # part of every store's key: raise it when the same seed would draw something else

# What the cards of all phantoms say alike.
SHARED = {
    "classes": CLASSES,
    "people": "phantoms",
    "masks": "one per image, exact; empty for normal",
    "licence": "MIT, as the rest of mednb",
    "citation": "none; they are part of mednb",
    "how_to_get": "nothing to get: they are drawn when they are asked for",
    "defects": ("Drawn, not scanned: what holds for phantoms need not hold for patients.",),
    "tested_on": "themselves",
}


def people(seed: int, block: int) -> pd.DataFrame:
    """A block of people: label, what is known of them, their lesion (NaN where there is none); mm.

    `official_fold` is the fifth that each of them is in: a person is on the same side of a split in every modality.
    """
    n, rng = BLOCK, np.random.default_rng([seed, block, 0])
    # 20 % normal, 45 % benign, 35 % malignant in every run of 20 people, so that small draws hold all classes.
    label = rng.permuted(np.tile(np.repeat(CLASSES, [4, 9, 7]), (n // 20, 1)), axis=1).ravel()
    table = pd.DataFrame({"patient": [f"phantom-{i:05d}" for i in range(block * n, (block + 1) * n)], "label": label})
    within = table.groupby("label").cumcount().to_numpy()  # every fifth of each class in turn
    table["official_fold"] = (within + 7 * block + pd.Categorical(label, CLASSES).codes) % FOLDS
    suspicion = (label == "malignant") + rng.normal(0, 0.35, n)

    table["age"] = (52 + 9 * suspicion + rng.normal(0, 11, n)).clip(25, 90).round()
    table["density"] = (2.9 - 0.03 * (table["age"] - 52) + rng.normal(0, 0.8, n)).clip(1, 4)  # 1 fatty to 4 dense
    lesion = pd.DataFrame(
        {
            "suspicion": suspicion,
            "birads": np.select([suspicion < 0.1, suspicion < 0.4, suspicion < 1.1], [2, 3, 4], 5),
            "side": rng.choice(["left", "right"], n),
            "lesion_mm": np.exp(rng.normal(np.log(5.4), 0.22, n)).clip(3.5, 9),  # mean radius
            "lobulation": np.abs(sign(rng, suspicion, 0.04, 0.13, 0.04)),  # of the outline, as a share of the radius
            "spiculation": sign(rng, suspicion, -0.06, 0.2, 0.08).clip(0),
            "spicules": rng.integers(7, 13, n),
            "margin_mm": np.exp(sign(rng, suspicion, np.log(0.25), np.log(0.9), 0.3)),  # width of the transition
        }
    )
    return table.join(lesion.mask(table["label"] == "normal"))


def sign(rng: np.random.Generator, suspicion: np.ndarray, benign: float, malignant: float, noise: float) -> np.ndarray:
    """A sign that goes from one value to the other as suspicion goes from 0 to 1, with noise of its own."""
    return benign + (malignant - benign) * suspicion + rng.normal(0, noise, len(suspicion))


def drawn(
    n: int,
    size: int,
    seed: int,
    scenes: Callable[[int, int], tuple[pd.DataFrame, dict]],
    render: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """n phantoms, some at a time: their table, pixels (k, size, size), masks (k, size, size) bool.

    scenes(seed, block) gives the table of a block's pictures and what else is drawn for them, by name, arrays with a
    row for each picture; render(table, scene, size, rng) makes the pictures.
    """
    at_once = max(1, 2**19 // size**2)  # so that large images fit into memory
    for block in itertools.count():
        # Anatomy and noise have streams of their own, so that a phantom of another size shows the same anatomy.
        table, scene = scenes(seed, block)
        noise = np.random.default_rng([seed, block, 1])
        for start in range(0, len(table), at_once):
            rows = slice(start, min(start + at_once, start + n))
            some = table[rows].reset_index(drop=True)
            pixels, masks = render(some, {name: values[rows] for name, values in scene.items()}, size, noise)
            area = masks.mean((1, 2))
            yield some.assign(lesion_area=area, lesions=(area > 0).astype(int), width=size, height=size), pixels, masks
            n -= len(some)
            if n == 0:
                return


def whole(blocks: Iterator[tuple]) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The table, the pixels and the masks of phantoms that were drawn some at a time."""
    tables, pixels, masks = zip(*blocks, strict=True)
    return pd.concat(tables, ignore_index=True), np.concatenate(pixels), np.concatenate(masks)


def stored(card: Card, drawn: Callable[..., Iterator], size: int, limit: int | None) -> store.Store:
    """`limit` phantoms (None: 2,000) of size x size pixels, drawn once with seed 0 and cached."""
    n = COUNT if limit is None else limit

    def build(folder: Path) -> None:
        tables = []

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for table, pixels, masks in drawn(n, size):
                tables.append(table)
                yield pixels, masks

        store.fill(folder, n, size, True, blocks())
        store.write_table(folder, pd.concat(tables, ignore_index=True))

    return store.stored(card.name, size, store.key_of(card.name, VERSION, n, size), build)


def numbers(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The table's numbers as float32 arrays (n, 1, 1), to be multiplied with pictures; 0 where there is no lesion."""
    values = table.select_dtypes("number").fillna(0).astype(np.float32)
    return {name: values[name].to_numpy()[:, None, None] for name in values}


# -------------------- tissue and lesions


def waves(rng: np.random.Generator, n: int, *scales_mm: float) -> np.ndarray:
    """Plane waves of n Gaussian random fields with these scales along each axis: (n, axes + 1, WAVES), wave numbers
    per mm and phase.

    A sum of plane waves can be asked for at any point, so a probe that slides sees the same tissue again.
    """
    along = [rng.normal(0, 1 / scale, (n, WAVES)) for scale in scales_mm]
    return np.stack([*along, rng.uniform(0, 2 * np.pi, (n, WAVES))], axis=1).astype(np.float32)


def field(wave: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n, len(z), len(x)) values, mean 0 and variance 1, of n fields in a plane, (n, 3, WAVES), at x and z in mm."""
    across, down, phase = (wave[:, axis, :, None] for axis in range(3))
    # cos(a + b) = cos(a) cos(b) - sin(a) sin(b): a wave is two small tables and a matrix product.
    a, b = across * x[:, None] + phase, down * z[:, None]
    over, below = np.concatenate([np.cos(a), np.sin(a)], axis=1), np.concatenate([np.cos(b), -np.sin(b)], axis=1)
    return below.transpose(0, 2, 1) @ over * np.float32(np.sqrt(2 / WAVES))


def passed(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """From 0 before the distance is 0 to 1 behind, over this width."""
    return 0.5 + 0.5 * np.tanh(distance / width)


def near(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where the distance is 0, and 0 far on both sides."""
    return np.exp(-((distance / width) ** 2))


def outline(of: dict, radius: np.ndarray, phase: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n, size, size) mm from the centre of the lesion to its outline in the direction of each pixel.

    radius: mean, in mm; phase: (n, 6), what makes two outlines differ; x, z: mm from the lesion's centre.
    """
    angle, phase = np.arctan2(z, x), phase[..., None, None]
    shape = sum(np.cos(k * angle + phase[:, k]) / np.float32(np.sqrt(k - 1)) for k in range(2, 6))
    # Spicules at uneven angles and of uneven length.
    spikes = np.cos(of["spicules"] * angle + 2 * np.cos(angle + phase[:, 0])).clip(0) ** 2
    spikes *= 1 + np.cos(2 * angle + phase[:, 1])
    return radius * (1 + of["lobulation"] * shape + of["spiculation"] * (spikes - 0.25))
