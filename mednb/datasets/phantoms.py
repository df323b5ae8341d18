"""Phantoms: synthetic breast ultrasound, drawn on the spot from a seed.

A patient has layers (skin, fat with septa, glandular tissue, pectoral muscle, chest wall), a scanner with its settings,
and, unless normal, one lesion. Two to four frames are taken: the probe slides, presses and turns, and the speckle is
another one. The picture forms as in a scanner: echoes in dB, multiplied onto random scatterers, blurred by the pulse,
which makes speckle (the envelope of complex Gaussian noise), then attenuated, amplified with depth, log-compressed.

Benign and malignant differ as BI-RADS describes: benign lesions tend to be oval, parallel to the skin, sharply outlined
and even inside, with enhancement behind them; malignant ones irregular or spiculated, taller than wide, indistinct,
uneven and darker, with a shadow. The distributions of each sign overlap, and what says nothing about the class (gain,
depth gain, tissue, contact, scanner) varies more than it. So a classifier of raw pixels stays weak, and there is
something for an encoder to learn. Every factor is a column of the table, so that one can ask what an encoder knows.
Nothing clinical follows from phantoms.

Speckle: R. F. Wagner et al., Statistics of speckle in ultrasound B-scans, IEEE Trans. Sonics Ultrason. 30 (1983) 156.
Words: E. A. Sickles, C. J. D'Orsi et al., ACR BI-RADS Atlas, 5th edition (2013).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets import store
from mednb.datasets.card import Card

VERSION = 5  # part of the store's key: raise it when the same seed would draw something else
COUNT = 2000  # images drawn when no limit is given
BLOCK = 60  # patients drawn at once; the first n phantoms are the same however many follow
WAVES = 24  # plane waves that make up one random field

CARD = Card(
    name="phantoms",
    title="Synthetic breast ultrasound, drawn from a seed",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; outline of the lesion",
    classes=("normal", "benign", "malignant"),
    counts={"normal": 409, "benign": 911, "malignant": 680},
    patients="670, two to four images of each; fewer or more when fewer or more images are drawn",
    masks="one per image, exact; empty for normal",
    licence="MIT, as the rest of mednb",
    citation="none; they are part of mednb",
    how_to_get="nothing to get: they are drawn when they are asked for",
    defects=("Drawn, not scanned: what holds for phantoms need not hold for patients.",),
)

# What a scanner does to the picture, whoever is in it: beam width and pulse length (mm), dynamic range (dB), the share
# of the speckle that compounding leaves, the gamma of its grey map.
SCANNERS = pd.DataFrame(
    {
        "beam_mm": [0.7, 1.0, 0.9, 1.3],
        "pulse_mm": [0.35, 0.45, 0.40, 0.60],
        "range_db": [46, 38, 54, 42],
        "speckle": [0.3, 0.5, 0.4, 0.6],
        "gamma": [1.0, 0.9, 1.2, 1.1],
    },
    index=["A", "B", "C", "D"],
)

# Scales (mm across, mm down) of what varies from place to place: lobules of fat, grain of the gland, bright fibres,
# strands of the muscle, islands of darker and brighter tissue, the inside of a lesion. The upper and the lower border
# of the gland and the contact of the probe with the skin vary across only.
FLAT = 1e6
TEXTURES = {
    "fat": (5, 3),
    "gland": (2.5, 1.2),
    "fibre": (7, 1.6),
    "muscle": (8, 0.4),
    "patch": (6, 3.5),
    "upper": (9, FLAT),
    "lower": (12, FLAT),
    "contact": (4, FLAT),
    "lesion": (1.6, 1.2),
}


def stored(size: int, limit: int | None) -> store.Store:
    """`limit` phantoms (None: 2,000) of size x size pixels, drawn once with seed 0 and cached."""
    n = COUNT if limit is None else limit

    def build(folder: Path) -> None:
        tables = []

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for table, pixels, masks in drawn(n, size, seed=0):
                tables.append(table)
                yield pixels, masks

        store.fill(folder, n, size, True, blocks())
        store.write_table(folder, pd.concat(tables, ignore_index=True))

    return store.stored("phantoms", size, store.key_of("phantoms", VERSION, n, size), build)


def draw(n: int, size: int = 64, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """n phantoms: a table with every factor, pixels (n, size, size) uint8, masks (n, size, size) bool."""
    tables, pixels, masks = zip(*drawn(n, size, seed), strict=True)
    return pd.concat(tables, ignore_index=True), np.concatenate(pixels), np.concatenate(masks)


def drawn(n: int, size: int, seed: int) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """The same, some images at a time."""
    at_once = max(1, 2**19 // size**2)  # so that large images fit into memory
    for block in itertools.count():
        # Factors and speckle have streams of their own, so that a phantom of another size shows the same anatomy.
        anatomy, speckle = (np.random.default_rng([seed, block, stream]) for stream in (0, 1))
        people = patients(anatomy, first=block * BLOCK)
        textures = {name: waves(anatomy, BLOCK, *scales) for name, scales in TEXTURES.items()}
        outlines = anatomy.uniform(0, 2 * np.pi, (BLOCK, 6)).astype(np.float32)
        table, who = frames(anatomy, people)
        for start in range(0, len(table), at_once):
            rows = slice(start, min(start + at_once, start + n))
            some = table[rows].reset_index(drop=True)
            waves_of = {name: wave[:, who[rows]] for name, wave in textures.items()}
            pixels, masks = render(some, waves_of, outlines[who[rows]], size, speckle)
            yield some.assign(lesion_area=masks.mean((1, 2)), width=size, height=size), pixels, masks
            n -= len(some)
            if n == 0:
                return


def patients(rng: np.random.Generator, first: int) -> pd.DataFrame:
    """A block of patients: label, scanner and its settings, tissue, lesion (NaN where there is none); mm and dB."""
    n = BLOCK
    # 20 % normal, 45 % benign, 35 % malignant in every run of 20 patients, so that small draws hold all classes.
    label = rng.permuted(np.tile(np.repeat(CARD.classes, [4, 9, 7]), (n // 20, 1)), axis=1).ravel()
    people = pd.DataFrame({"patient": [f"phantom-{i:05d}" for i in range(first, first + n)], "label": label})
    people["modality"], people["source"] = CARD.modality, CARD.name

    people["scanner"] = rng.choice(SCANNERS.index.to_numpy(dtype=str), n)
    people[SCANNERS.columns] = SCANNERS.loc[people["scanner"]].to_numpy() * np.exp(rng.normal(0, 0.12, (n, 5)))
    people["speckle"] = people["speckle"].clip(upper=0.9)
    people["field_mm"] = rng.uniform(28, 42, n)  # width and depth of the picture
    people["gain_db"] = rng.normal(0, 3, n)
    people["depth_gain_db"] = rng.normal(-8, 5, n)  # what the correction for attenuation misses at the bottom
    people["depth_bend_db"] = rng.normal(0, 3, n)  # and in the middle

    people["skin_mm"] = rng.uniform(1.2, 2.4, n)
    people["fat_mm"] = rng.uniform(3, 12, n)
    people["gland_mm"] = rng.uniform(9, 20, n)
    people["muscle_mm"] = rng.uniform(4, 9, n)
    people["contact_db"] = rng.uniform(0, 16, n)  # shadows of poor contact with the skin
    people["fat_db"] = rng.normal(-6, 2.5, n)
    people["muscle_db"] = rng.normal(-6, 3, n)
    people["texture_db"] = rng.uniform(1.5, 4.5, n)  # unevenness of the gland
    people["patch_db"] = rng.uniform(0.5, 4.5, n)  # islands of darker and brighter tissue
    people["septa_db"] = rng.uniform(3, 10, n)  # bright strands

    # How suspicious a lesion looks is one hidden number around 0 or 1; every sign follows it, with noise of its own.
    suspicion = (label == "malignant") + rng.normal(0, 0.35, n)

    def sign(benign: float, malignant: float, noise: float) -> np.ndarray:
        return benign + (malignant - benign) * suspicion + rng.normal(0, noise, n)

    lesion = pd.DataFrame(
        {
            "lesion_mm": np.exp(rng.normal(np.log(5.4), 0.22, n)).clip(3.5, 9),  # mean radius
            "aspect": sign(0.6, 0.92, 0.12).clip(0.35, 1.4),  # height by width
            "lobulation": np.abs(sign(0.04, 0.13, 0.04)),  # of the outline, as a share of the radius
            "spiculation": sign(-0.06, 0.2, 0.08).clip(0),
            "spicules": rng.integers(7, 13, n),
            "margin_mm": np.exp(sign(np.log(0.25), np.log(0.9), 0.3)),  # width of the transition
            "echo_db": sign(-13, -14.5, 3),  # against glandular tissue
            "uneven_db": sign(0.8, 3, 0.7).clip(0),  # of the echo inside
            "halo_db": sign(0, 3, 1.5),  # a bright rim
            "posterior_db": sign(2, -4, 4.5),  # behind the lesion: enhancement or shadow
            "tilt_deg": rng.normal(0, 12, n),
            "x_mm": rng.uniform(-0.35, 0.35, n) * people["field_mm"],  # from the middle of the picture
            "z_mm": people["skin_mm"] + people["fat_mm"] + rng.uniform(0.1, 0.7, n) * people["gland_mm"],
        }
    )
    lesion["z_mm"] = lesion["z_mm"].clip(upper=0.75 * people["field_mm"])
    return people.join(lesion.where(people["label"] != "normal"))


def frames(rng: np.random.Generator, people: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Two to four frames of each patient, (n,) the patient's row of each: the probe slides, presses and turns."""
    who = np.repeat(np.arange(len(people)), rng.integers(2, 5, len(people)))
    table = people.iloc[who].reset_index(drop=True)
    n = len(table)
    table["frame"] = table.groupby("patient").cumcount()
    table.insert(0, "image_id", table["patient"] + "-" + table["frame"].astype(str))
    x, reach = table["x_mm"].fillna(0), 0.4 * table["field_mm"]
    table["slide_mm"] = rng.normal(0, 3, n).clip(x - reach, x + reach)  # the middle of the lesion stays in sight
    table["press_mm"] = rng.normal(0, 1, n).clip(-2, 2)  # thins the fat and lifts what is below
    table["x_mm"] -= table["slide_mm"]
    table[["z_mm", "fat_mm"]] -= table[["press_mm", "press_mm"]].to_numpy()
    table["tilt_deg"] += rng.normal(0, 7, n)
    table["lesion_mm"] *= np.exp(rng.normal(0, 0.08, n))  # another section of the same lesion
    table["aspect"] *= np.exp(rng.normal(0, 0.06, n))
    table["gain_db"] += rng.normal(0, 1.5, n)
    return table, who


def waves(rng: np.random.Generator, n: int, across_mm: float, down_mm: float) -> np.ndarray:
    """Plane waves of n Gaussian random fields with these scales: (3, n, WAVES), wave numbers per mm and phase.

    A sum of plane waves can be asked for at any point, so a probe that slides sees the same tissue again.
    """
    across, down = rng.normal(0, 1 / across_mm, (n, WAVES)), rng.normal(0, 1 / down_mm, (n, WAVES))
    return np.stack([across, down, rng.uniform(0, 2 * np.pi, (n, WAVES))]).astype(np.float32)


def field(wave: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n, len(z), len(x)) values, mean 0 and variance 1, of n fields at depths z and across x, each (n, size) in mm."""
    across, down, phase = wave[..., None]
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


def render(
    table: pd.DataFrame, textures: dict, outlines: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames -> pixels (n, size, size) uint8 and masks (n, size, size) bool.

    textures: the waves of each random field; outlines: (n, 6), the phases of the lesion's outline.
    """
    numbers = table.select_dtypes("number").fillna(0).astype(np.float32)
    of = {name: numbers[name].to_numpy()[:, None, None] for name in numbers}
    mm = of["field_mm"] / size
    ruler = (np.arange(size, dtype=np.float32) + 0.5) * mm[:, 0]  # (n, size)
    x, z = (ruler - of["field_mm"][:, 0] / 2)[:, None, :], ruler[:, :, None]
    texture = {name: field(wave, x[:, 0] + of["slide_mm"][:, 0], z[..., 0]) for name, wave in textures.items()}

    echo = tissue(of, texture, z)
    outside = distance_to_lesion(of, outlines, x, z)
    inside = passed(-outside, of["margin_mm"] + 1e-3)
    echo += inside * (of["echo_db"] + of["uneven_db"] * texture["lesion"] - echo)
    echo += of["halo_db"] * near(outside - 0.8, 0.9)

    # What a beam has met on its way down weakens or strengthens everything behind.
    behind = (inside.cumsum(1) * mm / (2 * of["lesion_mm"] + 1e-3)).clip(0, 1.2)
    depth = z / of["field_mm"]
    beam = of["posterior_db"] * behind - of["contact_db"] * (texture["contact"] - 1).clip(0) * depth
    beam += of["gain_db"] + of["depth_gain_db"] * depth + of["depth_bend_db"] * 4 * depth * (1 - depth)
    pixels = scan(echo, beam, of, rng)
    return pixels, outside < 0


def tissue(of: dict, texture: dict, z: np.ndarray) -> np.ndarray:
    """(n, size, size) echo in dB, against glandular tissue, of layers with wavy borders."""
    fat = z - of["skin_mm"]
    gland = fat - of["fat_mm"] - 1.2 * texture["upper"]
    muscle = gland - of["gland_mm"] - 1.2 * texture["lower"]
    wall = muscle - of["muscle_mm"]
    lobules = of["fat_db"] + of["septa_db"] * near(texture["fat"], 0.25)
    fibres = of["texture_db"] * texture["gland"] + of["septa_db"] * near(texture["fibre"], 0.2)
    strands = of["muscle_db"] + 4 * texture["muscle"] + 0.5 * of["septa_db"] * near(texture["fibre"], 0.3)
    echo = 5.0 + passed(fat, 0.2) * (lobules - 5)
    echo += passed(gland, 0.4) * (fibres - echo)
    echo += passed(muscle, 0.3) * (strands - echo) + 5 * near(muscle, 0.4)
    echo += passed(wall, 0.5) * (-10 - echo) + 8 * near(wall, 0.6)
    return echo + of["patch_db"] * texture["patch"]


def distance_to_lesion(of: dict, phase: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n, size, size) mm from the outline, negative inside; far away everywhere in a normal patient."""
    x, z = x - of["x_mm"], z - of["z_mm"]
    turn = np.deg2rad(of["tilt_deg"])
    # Squeezed so that an ellipse becomes a circle of the same area: size tells nothing about the class.
    squeeze = np.sqrt(of["aspect"] + 1e-3)
    along, up = (x * np.cos(turn) + z * np.sin(turn)) * squeeze, (z * np.cos(turn) - x * np.sin(turn)) / squeeze
    angle, radius = np.arctan2(up, along), np.hypot(along, up)
    phase = phase[..., None, None]
    shape = sum(np.cos(k * angle + phase[:, k]) / np.float32(np.sqrt(k - 1)) for k in range(2, 6))
    # Spicules at uneven angles and of uneven length.
    spikes = np.cos(of["spicules"] * angle + 2 * np.cos(angle + phase[:, 0])).clip(0) ** 2
    spikes *= 1 + np.cos(2 * angle + phase[:, 1])
    edge = of["lesion_mm"] * (1 + of["lobulation"] * shape + of["spiculation"] * (spikes - 0.25))
    return np.where(of["lesion_mm"] > 0, radius - edge, np.float32(99))


def scan(echo: np.ndarray, beam: np.ndarray, of: dict, rng: np.random.Generator) -> np.ndarray:
    """Echoes, and what the beam lost or gained (dB) -> pixels (n, size, size) uint8 with speckle."""
    from scipy import fft

    n, size, _ = echo.shape
    scatterers = rng.standard_normal((n, size, size, 2), np.float32).view(np.complex64)[..., 0]
    scatterers *= 10 ** (echo / 20) * np.float32(np.sqrt(0.5))  # two parts share the power
    # The pulse is a Gaussian, shorter down than across. Its transfer function is one factor per axis.
    waves_per_pixel = 2 * np.pi * fft.fftfreq(size).astype(np.float32)
    wide, long = (np.maximum(0.42 * of[name] * size / of["field_mm"], 0.35) for name in ("beam_mm", "pulse_mm"))
    pulse = np.exp(-((waves_per_pixel * wide) ** 2) / 2) * np.exp(-((waves_per_pixel[:, None] * long) ** 2) / 2)
    pulse *= np.sqrt(4 * np.pi * wide * long)  # keeps the power of white noise
    envelope = np.abs(fft.ifft2(fft.fft2(scatterers) * pulse))

    # Compounding several looks fills the holes of the speckle: a mixture of the mean echo and the envelope.
    amplitude = (1 - of["speckle"]) * 10 ** (echo / 20) + of["speckle"] * envelope
    # The noise of the electronics is what is left in a deep shadow.
    level = 20 * np.log10(amplitude * 10 ** (beam / 20) + 0.1)
    grey = ((level + 22) / of["range_db"]).clip(0, 1) ** of["gamma"]
    return (255 * grey + 0.5).astype(np.uint8)
