"""Phantoms of breast ultrasound, drawn on the spot from a seed.

A patient has layers (skin, fat with septa, glandular tissue, pectoral muscle, chest wall), a scanner with its settings,
and, unless normal, one lesion. Two to four frames of a short video are taken: the probe slides, presses and turns, and
the speckle is another one. The picture forms as in a scanner: echoes in dB, multiplied onto random scatterers, blurred
by the pulse, which makes speckle (the envelope of complex Gaussian noise), then attenuated, amplified with depth,
log-compressed.

Benign lesions tend to be parallel to the skin and even inside, with enhancement behind them; malignant ones taller than
wide, uneven and darker, with a shadow. What says nothing about the class (gain, depth gain, tissue, contact, scanner)
varies more than the signs do. So a classifier of raw pixels stays weak, and there is something for an encoder to
learn. All of these are columns of the table (see `phantoms`), so that one can ask what an encoder knows. Nothing
clinical follows from phantoms.

Speckle: R. F. Wagner et al., Statistics of speckle in ultrasound B-scans, IEEE Trans. Sonics Ultrason. 30 (1983) 156.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mednb.datasets import store
from mednb.datasets.card import Card
from mednb.datasets.phantoms import anatomy
from mednb.datasets.phantoms.anatomy import field, near, passed, sign

CARD = Card(
    name="phantoms",
    title="Synthetic breast ultrasound, drawn from a seed",
    modality="ultrasound",
    organ="breast",
    task="normal, benign or malignant; outline of the lesion",
    counts={"normal": 414, "benign": 905, "malignant": 681},
    patients="664, two to four images of each; fewer or more when fewer or more images are drawn",
    n_patients=664,
    **anatomy.SHARED,
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
    """`limit` phantoms (None: 2,000) of size x size pixels, drawn once and cached."""
    return anatomy.stored(CARD, drawn, size, limit)


def draw(n: int, size: int = 64, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """n phantoms: their table, pixels (n, size, size) uint8, masks (n, size, size) bool."""
    return anatomy.whole(drawn(n, size, seed))


def drawn(n: int, size: int, seed: int = 0) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """The same, some images at a time."""
    return anatomy.drawn(n, size, seed, scenes, render)


def scenes(seed: int, block: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The frames of a block of people, and for each of them the waves of its tissue and the phases of its outline."""
    rng = np.random.default_rng([seed, block, 2])
    table, who = frames(rng, examined(rng, anatomy.people(seed, block)))
    scene = {name: anatomy.waves(rng, anatomy.BLOCK, *scales) for name, scales in TEXTURES.items()}
    scene["outline"] = rng.uniform(0, 2 * np.pi, (anatomy.BLOCK, 6)).astype(np.float32)
    return table, {name: values[who] for name, values in scene.items()}


def examined(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """People with what ultrasound adds: scanner and its settings, layers, signs of the lesion; mm and dB."""
    n = len(people)
    more = pd.DataFrame({"modality": CARD.modality, "source": CARD.name, "case": people["patient"]})
    more["scanner"] = rng.choice(SCANNERS.index.to_numpy(dtype=str), n)
    more[SCANNERS.columns] = SCANNERS.loc[more["scanner"]].to_numpy() * np.exp(rng.normal(0, 0.12, (n, 5)))
    more["speckle"] = more["speckle"].clip(upper=0.9)
    more["field_mm"] = rng.uniform(28, 42, n)  # width and depth of the picture
    more["gain_db"] = rng.normal(0, 3, n)
    more["depth_gain_db"] = rng.normal(-8, 5, n)  # what the correction for attenuation misses at the bottom
    more["depth_bend_db"] = rng.normal(0, 3, n)  # and in the middle

    more["skin_mm"] = rng.uniform(1.2, 2.4, n)
    more["fat_mm"] = rng.uniform(3, 12, n)
    more["gland_mm"] = rng.uniform(9, 20, n)
    more["muscle_mm"] = rng.uniform(4, 9, n)
    more["contact_db"] = rng.uniform(0, 16, n)  # shadows of poor contact with the skin
    more["fat_db"] = rng.normal(-6, 2.5, n)
    more["muscle_db"] = rng.normal(-6, 3, n)
    more["texture_db"] = rng.uniform(1.5, 4.5, n)  # unevenness of the gland
    more["patch_db"] = rng.uniform(0.5, 4.5, n)  # islands of darker and brighter tissue
    more["septa_db"] = rng.uniform(3, 10, n)  # bright strands

    suspicion = people["suspicion"].fillna(0).to_numpy()
    lesion = pd.DataFrame(
        {
            "aspect": sign(rng, suspicion, 0.6, 0.92, 0.12).clip(0.35, 1.4),  # height by width
            "echo_db": sign(rng, suspicion, -13, -14.5, 3),  # against glandular tissue
            "uneven_db": sign(rng, suspicion, 0.8, 3, 0.7).clip(0),  # of the echo inside
            "halo_db": sign(rng, suspicion, 0, 3, 1.5),  # a bright rim
            "posterior_db": sign(rng, suspicion, 2, -4, 4.5),  # behind the lesion: enhancement or shadow
            "tilt_deg": rng.normal(0, 12, n),
            "x_mm": rng.uniform(-0.35, 0.35, n) * more["field_mm"],  # from the middle of the picture
            "z_mm": more["skin_mm"] + more["fat_mm"] + rng.uniform(0.1, 0.7, n) * more["gland_mm"],
        }
    )
    lesion["z_mm"] = lesion["z_mm"].clip(upper=0.75 * more["field_mm"])
    normal = people["label"] == "normal"
    whole = people.join(more).join(lesion.mask(normal))
    whole["side"] = whole["side"].where(~normal, rng.choice(["left", "right"], n))
    return whole


def frames(rng: np.random.Generator, people: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Two to four frames of each patient, (n,) the patient's row of each: the probe slides, presses and turns.

    The frames of a patient are those of one video, in the order in which the probe slides on; `position` goes from 0 to
    1 over 20 mm.
    """
    who = np.repeat(np.arange(len(people)), rng.integers(2, 5, len(people)))
    table = people.iloc[who].reset_index(drop=True)
    n = len(table)
    table["video"] = table["patient"]
    table["frame"] = table.groupby("patient").cumcount()
    table.insert(0, "image_id", table["patient"] + "-" + table["frame"].astype(str))
    x, reach = table["x_mm"].fillna(0), 0.4 * table["field_mm"]
    slide = rng.normal(0, 3, n).clip(x - reach, x + reach)  # the middle of the lesion stays in sight
    table["slide_mm"] = slide.iloc[np.lexsort([slide, who])].to_numpy()
    table["position"] = (0.5 + table["slide_mm"] / 20).clip(0, 1)
    table["press_mm"] = rng.normal(0, 1, n).clip(-2, 2)  # thins the fat and lifts what is below
    table["x_mm"] -= table["slide_mm"]
    table[["z_mm", "fat_mm"]] -= table[["press_mm", "press_mm"]].to_numpy()
    table["tilt_deg"] += rng.normal(0, 7, n)
    table["lesion_mm"] *= np.exp(rng.normal(0, 0.08, n))  # another section of the same lesion
    table["aspect"] *= np.exp(rng.normal(0, 0.06, n))
    table["gain_db"] += rng.normal(0, 1.5, n)
    return table, who


def render(table: pd.DataFrame, scene: dict, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames -> pixels (n, size, size) uint8 and masks (n, size, size) bool."""
    of = anatomy.numbers(table)
    mm = of["field_mm"] / size
    ruler = (np.arange(size, dtype=np.float32) + 0.5) * mm[:, 0]  # (n, size)
    x, z = (ruler - of["field_mm"][:, 0] / 2)[:, None, :], ruler[:, :, None]
    texture = {name: field(scene[name], x[:, 0] + of["slide_mm"][:, 0], z[..., 0]) for name in TEXTURES}

    echo = tissue(of, texture, z)
    outside = distance_to_lesion(of, scene["outline"], x, z)
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
    edge = anatomy.outline(of, of["lesion_mm"], phase, along, up)
    return np.where(of["lesion_mm"] > 0, np.hypot(along, up) - edge, np.float32(99))


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
