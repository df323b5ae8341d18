"""Phantoms of mammograms: both breasts of the synthetic patients in two views each, drawn on the spot from a seed.

A breast is half an ellipsoid, compressed to a slab, of fat and glandular tissue; how much of it is glandular is the
patient's density. Where gland lies is a random field in space, the same seen from both sides of the slab: the CC view
looks down on it, the MLO view from 45 degrees, with the pectoral muscle in a corner. X-rays are attenuated on their way
(exponentially, by Lambert and Beer), blurred by the focal spot, counted with quantum noise, and shown after the
thickness at the skin line is evened out. The right breast is the left one's mirror image with tissue of its own.

The patient's lesion (the one that ultrasound shows) lies in one breast, as a mass of little more than the density of
gland: malignant ones spiculated and indistinct, often with a cluster of fine calcifications; benign ones smooth, with
few coarse ones or none. The other breast is normal, and its images are labelled so. Dense tissue hides masses. What is
a column, `phantoms` says: of calcifications whether the lesion has its own. Nothing clinical follows from phantoms.

Attenuation at 20 keV: P. C. Johns, M. J. Yaffe, X-ray characterisation of normal and neoplastic breast tissues, Phys.
Med. Biol. 32 (1987) 675.
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
    name="phantoms_mammography",
    title="Synthetic mammograms of the patients of phantoms, drawn from a seed",
    modality="mammography",
    organ="breast",
    task="normal, benign or malignant, of each breast; outline of the mass",
    counts={"normal": 1200, "benign": 450, "malignant": 350},
    patients="500, four images of each: left and right, CC and MLO",
    n_patients=500,
    **anatomy.SHARED,
)

FAT, GLAND, MASS, MUSCLE, CALCIUM = 0.045, 0.080, 0.085, 0.070, 1.2  # attenuation, per mm
FIELD_MM = 120.0  # width and height of the picture
DEPTHS = 12  # layers of the slab that a ray is followed through
VIEWS = {"CC": 0.0, "MLO": 45.0}  # degrees of the tube
CALCIFICATIONS = 24  # at most, in one image
SCANNERS = pd.DataFrame({"blur_mm": [0.3, 0.6, 0.9], "photons": [9e3, 5e3, 3e3], "gamma": [1.0, 1.3, 0.8]}, list("PQR"))

# Scales in mm along the axis to the nipple, across and up: lobes of gland, strands in them, lumps in fat.
TEXTURES = {"lobes": (14, 10, 10), "strands": (9, 2.5, 2.5), "lumps": (5, 5, 5)}


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
    """Four images of each of a block of people: the table, waves of the tissue, outlines and calcifications."""
    rng = np.random.default_rng([seed, block, 3])
    people = screened(rng, anatomy.people(seed, block))
    table = exposures(rng, people)
    who = np.repeat(np.arange(len(people)), 4)
    breast = 2 * who + (table["side"] == "right").to_numpy()  # each has tissue of its own
    turn = np.deg2rad(table["angle_deg"].to_numpy(np.float32))
    scene = {
        name: seen_from(anatomy.waves(rng, 2 * len(people), *scales)[breast], turn) for name, scales in TEXTURES.items()
    }
    scene["outline"] = rng.uniform(0, 2 * np.pi, (len(table), 6)).astype(np.float32)  # another projection of the mass
    scene["calcium"] = calcifications(rng, people, table, who, turn)
    return table, scene


def screened(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """People with what mammography adds: the breast, the scanner, signs and place of the lesion; mm."""
    n = len(people)
    more = pd.DataFrame({"modality": [CARD.modality] * n, "source": CARD.name})
    more["scanner"] = rng.choice(SCANNERS.index.to_numpy(dtype=str), n)
    more[SCANNERS.columns] = SCANNERS.loc[more["scanner"]].to_numpy() * np.exp(rng.normal(0, 0.1, (n, 3)))
    more["breast_mm"] = rng.uniform(70, 105, n)  # from the chest wall to the nipple
    more["wide_mm"] = more["breast_mm"] * rng.uniform(0.52, 0.6, n)  # half of its width
    more["thick_mm"] = rng.uniform(35, 60, n)  # of the compressed breast
    suspicion = people["suspicion"].fillna(0).to_numpy()
    lesion = pd.DataFrame(
        {
            "mass_mm": 1.7 * people["lesion_mm"],  # the ultrasound's section is not the largest
            "contrast": sign(rng, suspicion, 1.1, 1.4, 0.15).clip(0.8),  # of the mass
            "halo": sign(rng, suspicion, 0.5, 0.0, 0.25).clip(0),  # a thin dark rim
            "calcified": np.where(rng.random(n) < sign(rng, suspicion, 0.25, 0.65, 0), 1.0, 0.0),
            "depth": rng.uniform(0.25, 0.7, n),  # from the chest wall to the nipple, as a share
            "clock_deg": rng.uniform(0, 360, n),  # around the axis to the nipple
            "off_axis": rng.uniform(0, 0.55, n),  # from the axis, as a share of the breast's width there
        }
    )
    return people.drop(columns="lesion_mm").join(more).join(lesion.mask(people["label"] == "normal"))


def exposures(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """Four rows for each person, left CC, left MLO, right CC, right MLO; the breast without the lesion is normal."""
    table = people.loc[people.index.repeat(4)].reset_index(drop=True)
    n = len(table)
    sick, table["side"] = table["side"], np.tile(np.repeat(["left", "right"], 2), len(people))
    table["view"] = np.tile(list(VIEWS), 2 * len(people))
    table["case"] = table["patient"] + "-" + table["side"]
    table.insert(0, "image_id", table["case"] + "-" + table["view"])
    table["angle_deg"] = table["view"].map(VIEWS) + rng.normal(0, 3, n)
    table["shift_mm"] = rng.normal(0, 4, n)  # how the breast lies on the table
    table["gain"] = rng.normal(0, 0.06, n)  # exposure, in units of the grey range
    table["thick_mm"] *= np.exp(rng.normal(0, 0.05, n))
    lesion = ["suspicion", "birads", "mass_mm", "lobulation", "spiculation", "spicules", "margin_mm", "contrast"]
    lesion += ["halo", "calcified", "depth", "clock_deg", "off_axis"]
    healthy = table["side"] != sick
    table.loc[healthy, lesion] = np.nan
    table.loc[healthy, "label"] = "normal"

    # Where the lesion's middle is in the picture, the chest wall on the left; mm. A right breast is mirrored later.
    across = table["off_axis"] * table["wide_mm"] * np.sqrt(1 - table["depth"] ** 2)
    turn = np.deg2rad(table["clock_deg"] - table["angle_deg"])
    table["x_mm"] = table["depth"] * table["breast_mm"]
    table["z_mm"] = FIELD_MM / 2 + table["shift_mm"] + across * np.cos(turn)
    return table


def seen_from(wave: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Waves in space (n, 4, WAVES) as seen by a tube at an angle (n,): along the nipple, across, into the picture."""
    along, across, up, phase = wave.swapaxes(0, 1)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    return np.stack([along, across * cos + up * sin, up * cos - across * sin, phase], axis=1)


def calcifications(
    rng: np.random.Generator, people: pd.DataFrame, table: pd.DataFrame, who: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """(n, CALCIFICATIONS, 3): x and z in the picture and diameter of each, in mm; 0 where there is none.

    A few lie anywhere in either breast. A calcified lesion has 8 to 20 fine ones in and around it when it looks
    suspicious, else 1 to 3 coarse ones in its middle. They are the same ones in both views.
    """
    n, k = len(people), CALCIFICATIONS
    fine = (people["suspicion"].fillna(0) > 0.5).to_numpy()[:, None]
    number = np.where(fine, rng.integers(8, 21, (n, 1)), rng.integers(1, 4, (n, 1)))
    reach = np.where(fine, 1.3, 0.4) * people["mass_mm"].fillna(0).to_numpy()[:, None]
    offset = rng.normal(0, 0.5, (3, n, k)) * reach  # along, across, up
    diameter = np.where(fine, rng.uniform(0.2, 0.55, (n, k)), rng.uniform(0.9, 2.0, (n, k)))
    diameter = diameter * (np.arange(k) < number) * people["calcified"].fillna(0).to_numpy()[:, None]
    along, across, up = (each[who] for each in offset)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, z = table["x_mm"].to_numpy()[:, None], table["z_mm"].to_numpy()[:, None]
    found = np.stack([x + along, z + across * cos + up * sin, diameter[who]], axis=2)

    loose = rng.random((2 * n, k)) < 1.2 / k  # in each breast, at places and with sizes of their own
    breast = 2 * who + (table["side"] == "right").to_numpy()
    place = rng.uniform(-1, 1, (3, 2 * n, k))[:, breast]
    wide, deep = (table[name].to_numpy()[:, None] for name in ("wide_mm", "breast_mm"))
    other_x = (0.15 + 0.3 * (place[0] + 1)) * deep
    other_z = FIELD_MM / 2 + table["shift_mm"].to_numpy()[:, None] + 0.5 * wide * (place[1] * cos + place[2] * sin)
    others = np.stack([other_x, other_z, np.where(loose[breast], 0.9, 0)], axis=2)
    free = np.nan_to_num(found[..., 2:]) == 0
    return np.nan_to_num(np.where(free, others, found)).astype(np.float32)


def render(table: pd.DataFrame, scene: dict, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Exposures -> pixels (n, size, size) uint8 and masks (n, size, size) bool."""
    of = anatomy.numbers(table)
    ruler = np.broadcast_to((np.arange(size, dtype=np.float32) + 0.5) * np.float32(FIELD_MM / size), (len(table), size))
    x, z = ruler[:, None, :], ruler[:, :, None] - FIELD_MM / 2 - of["shift_mm"]
    # How far out a ray goes through the breast: 0 at the middle of the chest wall, 1 at the skin.
    out = np.sqrt((x / of["breast_mm"]) ** 2 + (z / of["wide_mm"]) ** 2)
    thick = of["thick_mm"] * np.sqrt((1 - out**8).clip(0))
    gland = thick * glandular(of, scene, ruler, z, out)

    dx, dz = x - of["x_mm"], ruler[:, :, None] - of["z_mm"]
    edge = anatomy.outline(of, of["mass_mm"], scene["outline"], dx, dz)
    radius, there = np.hypot(dx, dz), of["mass_mm"] > 0
    outside = np.where(there, radius - edge, np.float32(99))
    chord = 2 * np.sqrt((edge**2 - radius**2).clip(0)) * passed(-outside, 1.5 * of["margin_mm"] + 0.1)
    strands = of["spiculation"] * near(outside - 2, 4) * np.cos(of["spicules"] * np.arctan2(dz, dx)).clip(0) ** 4

    attenuation = FAT * (thick - gland) + GLAND * gland
    attenuation += np.where(there, of["contrast"] * (MASS - FAT) * (0.8 * chord + 12 * strands), 0)
    attenuation -= np.where(there, 0.12 * of["halo"] * near(outside - 0.8, 1.0), 0)
    attenuation += calcium(scene["calcium"], ruler, FIELD_MM / size)
    muscle = (table["view"] == "MLO").to_numpy()[:, None, None] * passed(
        0.42 * FIELD_MM - 1.1 * x - ruler[:, :, None], 3
    )
    attenuation += muscle * (MUSCLE - FAT) * 0.7 * of["thick_mm"] * (out < 1)
    pixels = film(attenuation, thick, of, rng)

    right = (table["side"] == "right").to_numpy()[:, None, None]
    masks = (outside < 0) & (out < 1)
    return np.where(right, pixels[:, :, ::-1], pixels), np.where(right, masks[:, :, ::-1], masks)


def glandular(of: dict, scene: dict, ruler: np.ndarray, z: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(n, size, size) share of a ray's way that is gland: layer by layer, more of it in the middle of the breast."""
    share = np.zeros_like(out)
    middle = -0.1 - 1.5 * out + 0.7 * (of["density"] - 2.5)
    for layer in (np.arange(DEPTHS) + 0.5) / DEPTHS - 0.5:
        deep = layer * of["thick_mm"][:, 0]  # (n, 1) mm into the picture
        lobes, strands, lumps = (
            field(np.stack([wave[:, 0], wave[:, 1], wave[:, 3] + wave[:, 2] * deep], axis=1), ruler, z[..., 0])
            for wave in (scene[name] for name in TEXTURES)
        )
        share += passed(1.1 * lobes + 0.7 * strands + 0.5 * lumps + middle, 0.5)
    return share / DEPTHS


def calcium(places: np.ndarray, ruler: np.ndarray, mm: float) -> np.ndarray:
    """(n, size, size) attenuation of small spheres, blurred to pixels of `mm`: a sum of Gaussians of the same mass."""
    x, z, diameter = places[..., 0, None], places[..., 1, None], places[..., 2, None]
    sigma = np.sqrt((diameter / 2.5) ** 2 + (0.45 * mm) ** 2)
    height = CALCIUM * diameter * (diameter / 2.5) ** 2 / sigma**2
    over = near(ruler[:, None] - x, np.sqrt(2) * sigma)  # (n, k, size)
    below = near(ruler[:, None] - z, np.sqrt(2) * sigma) * height
    return below.transpose(0, 2, 1) @ over


def film(attenuation: np.ndarray, thick: np.ndarray, of: dict, rng: np.random.Generator) -> np.ndarray:
    """Attenuation (n, size, size) -> pixels uint8: blur, quantum noise, and the picture as it is read."""
    from scipy import fft

    size = attenuation.shape[-1]
    per_pixel = 2 * np.pi * fft.rfftfreq(size).astype(np.float32), 2 * np.pi * fft.fftfreq(size).astype(np.float32)
    sigma = np.maximum(of["blur_mm"] * size / FIELD_MM, 0.3)
    focal_spot = np.exp(-((per_pixel[0] * sigma) ** 2) / 2) * np.exp(-((per_pixel[1][:, None] * sigma) ** 2) / 2)
    signal = fft.irfft2(fft.rfft2(attenuation) * focal_spot, s=(size, size))
    # Of N photons sqrt(N) is noise, so in the logarithm it is 1 / sqrt(N); fewer arrive behind thick tissue.
    area = (FIELD_MM / size) ** 2
    signal += np.exp(signal / 2) / np.sqrt(of["photons"] * area) * rng.standard_normal(signal.shape, np.float32)
    evened = signal - FAT * thick  # what is left is what differs from fat
    grey = (0.12 + evened / 2.1 + of["gain"]).clip(0, 1) ** of["gamma"]
    return (255 * grey * (thick > 0) + 0.5).astype(np.uint8)
