"""Policies, one for a modality: each choice with its medical reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from mednb.views.keys import key
from mednb.views.operations import MEAN, STD
from mednb.views.recipe import ByModality, Policy

POLICIES = {
    "ultrasound": Policy(
        area=(0.2, 1.0),  # a depth of its own for each examination
        aspect=(3 / 4, 4 / 3),  # tissue yields under the probe
        flip=0.5,  # the probe may be held either way round; what is left and right is on no single image
        upside_down=0.0,  # never: skin is on top, and shadow and enhancement, which tell what a lesion is, lie below it
        rotation=10.0,  # how a probe is tilted
        gain=0.4,  # the scanner's overall gain
        depth_gain=0.4,  # time gain compensation: the operator's sliders, one for each depth
        gamma=0.4,  # dynamic range: log compression and grey maps differ from scanner to scanner
        blur=0.02,  # frequency and focus
        speckle=0.2,  # another frame of the same tissue has other speckle
    ),
    "mammography": Policy(
        area=(0.4, 1.0),  # a mass takes a hundredth of the breast: smaller crops would seldom show it in both views
        aspect=(0.9, 1.1),  # compression differs, but whether a mass is round or irregular is a sign
        flip=0.5,  # the left breast is the right one's mirror image
        upside_down=0.0,  # never: in the oblique view the pectoral muscle is on top
        rotation=10.0,  # positioning
        gain=0.2,  # exposure
        contrast=0.3,  # tube voltage, and how hard the breast was compressed
        gamma=0.3,  # film's or detector's characteristic curve, and the vendor's processing
        blur=0.005,  # hardly: spicules and microcalcifications are a few pixels wide
        noise=0.01,  # the film's grain, the digitiser
        quantum=0.04,  # few photons: dose. Dense tissue, which is bright, lets fewest through
    ),
    "ct": Policy(
        area=(0.3, 1.0),
        aspect=(0.9, 1.1),  # pixels are square and patients alike: hardly
        flip=0.0,  # never: the heart is left, the liver right, and a mirrored patient is another diagnosis
        upside_down=0.0,  # never: patients lie on their back, and fluid gathers below
        rotation=10.0,  # how a patient lies
        contrast=0.3,  # the width of the window
        level=0.1,  # and its level. Hounsfield units are calibrated: no gain, no gamma, and nothing turned round
        blur=0.01,  # reconstruction kernel, thickness of the slice
        noise=0.05,  # dose
    ),
    "photo": Policy(  # of skin, eye, tissue: whatever light and a lens see
        area=(0.2, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=0.5,  # skin and tissue have neither side
        upside_down=0.5,  # nor top
        rotation=180.0,  # nor direction
        gain=0.3,  # illumination
        contrast=0.3,  # exposure, camera
        saturation=0.2,  # a little: stain, camera
        hue=0.03,  # less: white balance; a lesion's colour is a sign
        blur=0.015,  # focus
        noise=0.02,  # the sensor
        erase=0.05,  # hairs, reflections, rulers, a pen's marks
    ),
    # The control: what SimCLR does to photographs of things (Chen et al. 2020), with no thought of medicine.
    "simclr_original": Policy(
        area=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=0.8,
        gain=0.8,
        contrast=0.8,
        saturation=0.8,  # of this and the next two grey images have nothing
        hue=0.2,
        grey=0.2,
        blur=2 / 224,
    ),
}
# The same without flips: in the chest, the heart is left.
POLICIES["x-ray"] = replace(POLICIES["mammography"], flip=0.0)
LABELLED = POLICIES["ultrasound"].labelled()
CAUTIOUS = POLICIES["x-ray"]  # for a modality that nobody has thought of: nothing is mirrored

BY_MODALITY = "by_modality"
NAMES = (*POLICIES, BY_MODALITY)
# Modalities that no policy is named after, and the policy that fits them. Optical coherence tomography has speckle too.
LIKE = dict.fromkeys(["dermatoscopy", "fundus", "histology", "microscopy"], "photo") | {"oct": "ultrasound"}


def policy(name: str, table: pd.DataFrame | None = None) -> Policy | ByModality:
    """The policy of that name; "by_modality" gives each image in `table` the policy of its `modality`.

    Raises ValueError for an unknown name, or a modality that has no policy.
    """
    if name == BY_MODALITY:
        return by_modality(table)
    if name not in POLICIES:
        raise ValueError(f"views '{name}' is unknown; choose one of {', '.join(NAMES)}")
    return POLICIES[name]


def by_modality(table: pd.DataFrame | None, otherwise: Policy | None = None) -> ByModality:
    """The policy of each image's modality; `otherwise` is for those that have none, without it a ValueError."""
    if table is None:
        raise ValueError(f"views '{BY_MODALITY}' need the images' table, which says the modality of each")
    modality = pd.Categorical(table["modality"])
    if (modality.codes < 0).any():
        raise ValueError(f"{table['image_id'][(modality.codes < 0).argmax()]} has no modality, by which views are made")
    found = {each: POLICIES.get(LIKE.get(each, each), otherwise) for each in modality.categories}
    if unknown := [each for each, of in found.items() if of is None]:
        raise ValueError(
            f"modality '{unknown[0]}' has no policy; choose views for all images, one of {', '.join(POLICIES)}, or say "
            "what they are in a column modality of your table"
        )
    return ByModality(found, torch.from_numpy(modality.codes.astype(np.int64)))


def labelled(table: pd.DataFrame) -> ByModality:
    """For learning with labels and masks: milder views, by each image's modality."""
    return by_modality(table, CAUTIOUS).labelled()


def strengths(views: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The ranges that views are drawn from: a row for each disturbance; of "by_modality" a column for each modality."""
    found = policy(views, table)
    return pd.DataFrame({name: vars(each) for name, each in getattr(found, "policies", {views: found}).items()})


def examples(
    pixels: np.ndarray, views: str, seed: int = 0, table: pd.DataFrame | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Two views of each image (N, H, W) or (N, 3, H, W) as pictures to look at: two such arrays between 0 and 1.

    table: of these images; only "by_modality" asks for it.
    """
    images = torch.from_numpy(np.array(pixels))
    index = torch.arange(len(images))
    of_images = policy(views, table)
    a, b = (of_images(images, key(seed, 0, index, view)) * STD + MEAN for view in (0, 1))
    return a.reshape(images.shape).numpy(), b.reshape(images.shape).numpy()
