"""Pairs: what counts as the same. A strategy names each image's partner; two views of an image and its partner are a
positive pair, and every other image of the batch is a negative."""

from __future__ import annotations

import numpy as np
import pandas as pd


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


def error_rates(table: pd.DataFrame, pairs: str, batch_size: int, seed: int = 0) -> pd.Series:
    """How often a strategy is wrong, as shares between 0 and 1, which the labels tell and pretraining never sees.

    `false_positives`: positive pairs whose labels differ. `false_negatives_class`: of the pairs that a batch of
    `batch_size` treats as different, those with the same label. `false_negatives_patient`: those of the same patient.
    """
    partner = strategy(pairs)(table, seed, 0)
    labels, patients = (pd.factorize(table[name])[0] for name in ("label", "patient"))
    batch = np.random.default_rng(seed).permutation(len(table))[:batch_size]
    other = ~np.eye(len(batch), dtype=bool)
    same = [(codes[batch][:, None] == codes[batch])[other].mean() for codes in (labels, patients)]
    return pd.Series(
        {
            "false_positives": (labels != labels[partner]).mean(),
            "false_negatives_class": same[0],
            "false_negatives_patient": same[1],
        }
    )
