"""Phantoms of chest CT: slices of the synthetic patients' volumes, in Hounsfield units, drawn from a seed.

A chest is a stack of ellipses whose shape changes from the apex of the lungs to the dome of the liver: fat, muscle,
ribs, spine, lungs with vessels (lines where two random surfaces meet, so that a vessel goes on in the next slice),
heart, aorta, windpipe and liver. Each patient has eight slices at even distances; those with a lesion have a nodule
in one lung, and three of their slices lie on it. A slice's label is what it shows, so most are normal.

Malignant nodules tend to be spiculated with a halo of ground glass, benign ones smooth and calcified inside. Noise is
that of the reconstruction: blurred by the kernel, its strength the scanner's. What is a column, `phantoms` says; a
slice shows both sides, so that of the nodule is `lung`. Nothing clinical follows from phantoms.

Words: MacMahon et al., Fleischner Society guidelines for pulmonary nodules, Radiology 284 (2017) 228.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mednb.datasets import pixels, store
from mednb.datasets.card import Card
from mednb.datasets.phantoms import anatomy
from mednb.datasets.phantoms.anatomy import field, near, passed, sign

SLICES = 8  # of each patient
WINDOW = (-1100, 500)  # Hounsfield units that are black and white

CARD = Card(
    name="phantoms_ct",
    title="Synthetic chest CT of the patients of phantoms, drawn from a seed",
    modality="ct",
    organ="lung",
    task="slice with no nodule, a benign or a malignant one; outline of the nodule",
    counts={"normal": 1397, "benign": 336, "malignant": 267},
    patients="250, eight slices of each",
    n_patients=250,
    **anatomy.SHARED,
)

FIELD_MM, LENGTH_MM = 300.0, 280.0  # width and height of a slice, from the first slice to the last
SCANNERS = pd.DataFrame({"noise_hu": [25, 45, 70], "kernel_mm": [1.6, 1.1, 0.7]}, list("XYZ"))

# Scales in mm across, down and along the patient.
TEXTURES = {"vessel": (16, 16, 18), "branch": (12, 12, 16), "soft": (14, 14, 14), "inside": (4, 4, 4)}


def stored(size: int, limit: int | None) -> store.Store:
    """`limit` phantoms (None: 2,000) of size x size pixels, drawn once and cached."""
    return anatomy.stored(CARD, drawn, size, limit)


def draw(n: int, size: int = 64, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """n phantoms: their table, pixels (n, size, size) uint8, masks (n, size, size) bool."""
    return anatomy.whole(drawn(n, size, seed))


def drawn(n: int, size: int, seed: int = 0) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """The same, some images at a time."""
    for table, hounsfield, masks in volumes(n, size, seed):
        stacked = pixels.grey(pixels.Raw(hounsfield.reshape(-1, size)), WINDOW)  # one long slice
        yield table, stacked.reshape(hounsfield.shape), masks


def volumes(n: int, size: int, seed: int = 0) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """The same in Hounsfield units, (k, size, size) float32."""
    return anatomy.drawn(n, size, seed, scenes, render)


def scenes(seed: int, block: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The slices of a block of people, and for each of them the waves of its tissue and the phases of its outline."""
    rng = np.random.default_rng([seed, block, 4])
    table, who = slices(rng, scanned(rng, anatomy.people(seed, block)))
    scene = {name: anatomy.waves(rng, anatomy.BLOCK, *scales)[who] for name, scales in TEXTURES.items()}
    scene["outline"] = rng.uniform(0, 2 * np.pi, (anatomy.BLOCK, 6)).astype(np.float32)[who]
    return table, scene


def scanned(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """People with what CT adds: their chest, the scanner, signs and place of the nodule; mm and Hounsfield units."""
    n = len(people)
    more = pd.DataFrame({"modality": [CARD.modality] * n, "source": CARD.name})
    more["case"] = more["video"] = people["patient"]
    more["scanner"] = rng.choice(SCANNERS.index.to_numpy(dtype=str), n)
    more[SCANNERS.columns] = SCANNERS.loc[more["scanner"]].to_numpy() * np.exp(rng.normal(0, 0.1, (n, 2)))
    more["wide_mm"] = rng.uniform(128, 146, n)  # half the width of the chest
    more["deep_mm"] = more["wide_mm"] * rng.uniform(0.66, 0.76, n)
    more["fat_mm"] = rng.uniform(6, 22, n)
    more["heart_mm"] = rng.uniform(40, 54, n)
    more["lung_hu"] = rng.normal(-860, 30, n)  # how deeply they have breathed in
    more["vessels"] = rng.uniform(0.7, 1.3, n)
    suspicion = people["suspicion"].fillna(0).to_numpy()
    lesion = pd.DataFrame(
        {
            "nodule_mm": 2.0 * people["lesion_mm"],
            "ground_glass": sign(rng, suspicion, 0.05, 0.6, 0.2).clip(0, 1),  # of the halo
            "calcified": sign(rng, suspicion, 0.75, 0.1, 0.25).clip(0, 1),
            "uneven_hu": sign(rng, suspicion, 15, 90, 20).clip(0),
            "level": rng.uniform(0.12, 0.85, n),  # from the apex to the dome of the liver
            "off_x": rng.uniform(-0.3, 0.3, n),  # in its lung, as a share of the lung's width and depth
            "off_z": rng.uniform(-0.45, 0.45, n),
        }
    )
    whole = people.drop(columns="lesion_mm").join(more).join(lesion.mask(people["label"] == "normal"))
    whole["lung"] = whole.pop("side")  # the nodule's; a slice shows both sides
    return whole


def slices(rng: np.random.Generator, people: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Eight rows for each person, from the apex down, (n,) the person's row of each; three meet the nodule."""
    n = len(people)
    position = (np.arange(SLICES) + rng.uniform(0.1, 0.9, (n, SLICES))) / SLICES
    level = people["level"].to_numpy()[:, None]
    nearest = np.abs(position - level).argsort(1).argsort(1)
    through = level + (nearest - 1) * 0.45 * people["nodule_mm"].to_numpy()[:, None] / LENGTH_MM
    position = np.sort(np.where((nearest < 3) & ~np.isnan(level), through, position), axis=1)
    who = np.repeat(np.arange(n), SLICES)
    table = people.iloc[who].reset_index(drop=True)
    table["position"], table["frame"] = position.ravel(), np.tile(np.arange(SLICES), n)
    table.insert(0, "image_id", table["patient"] + "-" + table["frame"].astype(str))

    away = (table["position"] - table["level"]) * LENGTH_MM
    cut = np.sqrt((table["nodule_mm"] ** 2 - away**2).clip(0))  # the radius of the nodule in this slice
    shown = cut > 0.5 * table["nodule_mm"]
    lesion = ["suspicion", "birads", "lobulation", "spiculation", "spicules", "margin_mm", "ground_glass"]
    lesion += ["calcified", "uneven_hu", "off_x", "off_z"]
    table["lesion_mm"] = cut.where(shown)
    table.loc[~shown, lesion] = np.nan
    table.loc[~shown, "label"] = "normal"
    return table.drop(columns=["nodule_mm", "level"]), who


def render(table: pd.DataFrame, scene: dict, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Slices -> Hounsfield units (n, size, size) float32 and masks (n, size, size) bool."""
    of = anatomy.numbers(table)
    ruler = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * np.float32(FIELD_MM)
    ruler = np.broadcast_to(ruler, (len(table), size))
    x, z, along = ruler[:, None, :], ruler[:, :, None], of["position"] * LENGTH_MM
    texture = {
        name: field(np.stack([wave[:, 0], wave[:, 1], wave[:, 3] + wave[:, 2] * along[:, 0]], axis=1), ruler, ruler)
        for name, wave in ((name, scene[name]) for name in TEXTURES)
    }
    level = of["position"]
    taper = 1 - 0.25 * (1 - level) ** 3  # shoulders are narrower than the chest
    wide, deep = of["wide_mm"] * taper, of["deep_mm"] * taper

    def ellipse(x0, z0, a, b):  # mm from the border, negative inside, nearly
        return (np.sqrt(((x - x0) / a) ** 2 + ((z - z0) / b) ** 2) - 1) * np.minimum(a, b)

    body = ellipse(0, 0, wide, deep)
    wall = ellipse(0, 0, wide - of["fat_mm"], deep - of["fat_mm"])
    hu = -1000 + passed(-body, 1) * 900
    hu += passed(-wall, 1) * (50 + 12 * texture["soft"] - hu)
    ribs = near(wall + 9, 4) * passed(np.cos(9 * np.arctan2(z, x) + 40 * level) - 0.3, 0.2)
    hu += ribs * (350 - hu)
    spine = ellipse(0, 0.62 * deep, 17, 15)
    hu += passed(-spine, 1) * (170 + 40 * texture["soft"] - hu) + 250 * near(spine, 3)

    opening = np.sqrt((1 - (2 * level - 0.95) ** 2).clip(0.02))  # of the lungs: closed above and below
    place = {side: (turn * 0.47 * wide, -0.04 * deep) for side, turn in (("right", -1), ("left", 1))}
    reach = 0.40 * wide * opening, 0.70 * deep * opening
    liver = passed(level - 0.86 + 0.06 * texture["soft"], 0.03)
    air = of["lung_hu"] + 25 * texture["soft"] + 60 * z / deep  # denser below, where a lying patient's blood is
    thin = near(texture["vessel"], 0.22) * near(texture["branch"], 0.22) * of["vessels"]
    tissue = air + 850 * thin.clip(0, 1)
    for side, (x0, z0) in place.items():
        lung = passed(-ellipse(x0, z0, *reach), 1.5) * (1 - liver * (side == "right"))
        hu += lung * (tissue - hu)
    heart = ellipse(
        0.16 * wide, -0.18 * deep, of["heart_mm"] * (0.55 + 0.5 * level), of["heart_mm"] * (0.4 + 0.45 * level)
    )
    hu += passed(-heart, 1.5) * passed(level - 0.35, 0.1) * (45 - hu)
    hu += passed(-ellipse(14, 0.36 * deep, 12, 12), 1) * (48 - hu)  # the aorta before the spine
    hu += passed(-ellipse(0, 0.1 * deep, 8, 8), 1) * passed(0.45 - level, 0.03) * (-990 - hu)  # the windpipe

    outside = nodule(hu, of, table["lung"], place, reach, scene["outline"], texture["inside"], x, z)
    return reconstructed(hu, of, rng), outside < 0


def nodule(hu, of: dict, lung: pd.Series, place: dict, reach: tuple, phase: np.ndarray, inside, x, z) -> np.ndarray:
    """Paint the nodule into `hu`; (n, size, size) mm from its outline, negative inside, far away without one."""
    left = (lung == "left").to_numpy()[:, None, None]
    x0 = np.where(left, *(place[side][0] for side in ("left", "right"))) + of["off_x"] * reach[0] * 2
    dx, dz = x - x0, z - (place["left"][1] + of["off_z"] * reach[1])
    edge = anatomy.outline(of, of["lesion_mm"], phase, dx, dz)
    outside = np.where(of["lesion_mm"] > 0, np.hypot(dx, dz) - edge, np.float32(999))
    halo = of["ground_glass"] * passed(4 - outside, 3)
    hu += halo * 450 * (hu < -500)
    solid = 30 + of["uneven_hu"] * inside + 420 * of["calcified"] * passed(-outside - 0.5 * of["lesion_mm"], 1.5)
    hu += passed(-outside, of["margin_mm"] + 0.3) * (solid - hu)
    return outside


def reconstructed(hu: np.ndarray, of: dict, rng: np.random.Generator) -> np.ndarray:
    """What the scanner makes of it: noise as correlated as its kernel, and the kernel's blur; float32."""
    from scipy import fft

    size = hu.shape[-1]
    across = 2 * np.pi * fft.rfftfreq(size).astype(np.float32)
    down = 2 * np.pi * fft.fftfreq(size).astype(np.float32)[:, None]
    sigma = of["kernel_mm"] * size / FIELD_MM
    kernel = np.exp(-(across**2 + down**2) * sigma**2 / 2)
    noise = of["noise_hu"] * rng.standard_normal(hu.shape, np.float32)
    return fft.irfft2(fft.rfft2(hu + noise) * kernel, s=(size, size)).astype(np.float32)
