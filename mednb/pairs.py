"""Pairs: what counts as the same. A strategy names each image's partner; two views of an image and its partner are a
positive pair, and every other image of the batch is a negative."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mednb.datasets import Images
from mednb.views import key, policy


def same_image(table: pd.DataFrame, seed: int, epoch: int) -> np.ndarray:
    """Each image is its own partner: two views of one image are the same, all others are not (SimCLR)."""
    return np.arange(len(table))


# name -> function of (table, seed, epoch) that returns (N,) int: the row of each row's partner in this epoch
STRATEGIES = {"same_image": same_image}


def strategy(name: str):
    """The strategy of that name."""
    if name not in STRATEGIES:
        raise ValueError(f"pairs '{name}' is unknown; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def error_rates(images: Images, pairs: str, views: str, batch_size: int, seed: int = 0) -> pd.Series:
    """How often a strategy is wrong, as shares between 0 and 1. Labels and masks tell; pretraining sees neither.

    Images without a label tell nothing of classes: their pairs are left out, and NaN is what no pair is left of.

    - `false_positives`: positive pairs whose labels differ.
    - `lesion_lost`: positive pairs with a lesion of which at least one view shows nothing; NaN without masks.
    - `false_negatives_class`: pairs that a batch of `batch_size` treats as different though their labels are the same.
    - `false_negatives_patient`: the same of patients.
    """
    partner = strategy(pairs)(images.table, seed, 0)
    labels, patients = (pd.factorize(images.table[name])[0] for name in ("label", "patient"))
    labelled = images.has_label
    batch = np.random.default_rng(seed).permutation(len(images))[:batch_size]
    other = ~np.eye(len(batch), dtype=bool)
    told = other & labelled[batch][:, None] & labelled[batch]
    same = [share((codes[batch][:, None] == codes[batch])[of]) for codes, of in ((labels, told), (patients, other))]
    return pd.Series(
        {
            "false_positives": share((labels != labels[partner])[labelled & labelled[partner]]),
            "lesion_lost": lesion_lost(images.masks, partner, views, seed, images.table),
            "false_negatives_class": same[0],
            "false_negatives_patient": same[1],
        }
    )


def share(wrong: np.ndarray) -> float:
    """How many of these pairs (N,) bool are wrong; NaN where there are none."""
    return float(wrong.mean()) if len(wrong) else np.nan


def lesion_lost(
    masks: np.ndarray | None, partner: np.ndarray, views: str, seed: int = 0, table: pd.DataFrame | None = None
) -> float:
    """Share of positive pairs with a lesion, masks (N, H, W), of which at least one view shows none of it."""
    # Image by image: those of a mix are not one array, and those on the disk need not be in memory together.
    rows = np.flatnonzero([] if masks is None else [masks[row].any() for row in range(len(masks))])
    if not len(rows):
        return np.nan
    of_views, keys = policy(views, table), [key(seed, 0, torch.from_numpy(rows), view) for view in (0, 1)]
    seen = [
        of_views.of(torch.from_numpy(of)).masks(torch.from_numpy(masks[of]), keys[view]).flatten(1).any(1)
        for view, of in enumerate((rows, partner[rows]))
    ]
    return 1 - float((seen[0] & seen[1]).float().mean())
