"""Who is trained on, who is chosen on, who is tested on: whole patients, stratified by label, fixed by a seed."""

from __future__ import annotations

import hashlib
import math
import warnings

import numpy as np
import pandas as pd

NAMES = ("train", "val", "test")


def split(table: pd.DataFrame, fold: int = 0, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Give every image "train", "val" or "test", so that no patient is in two of them.

    table: one row per image with columns `patient` and `label`. The patients are cut once into `folds` parts with
    nearly equal class counts (scikit-learn's StratifiedGroupKFold); part `fold` is the test split, the next one is val,
    the others are train. So the test splits of all folds are disjoint and cover every image.
    Returns (N,) of str. Raises ValueError when `fold` is not one of them or there are fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not (isinstance(fold, (int, np.integer)) and 0 <= fold < folds):
        raise ValueError(f"fold is {fold!r}; with {folds} folds it is one of 0 to {folds - 1}.")
    patients = table["patient"].nunique()
    if patients < folds:
        raise ValueError(f"{len(table)} images of {patients} patients cannot be split into {folds} folds; take more.")
    parts = np.empty(len(table), int)
    cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A rare class may be absent from a part of a tiny draw. The counts show it; nothing is wrong with the split.
        warnings.filterwarnings("ignore", message="The least populated class")
        for part, (_, inside) in enumerate(cutter.split(table, table["label"], table["patient"])):
            parts[inside] = part
    names = np.full(len(table), "train", dtype=object)
    names[parts == (fold + 1) % folds] = "val"
    names[parts == fold] = "test"
    return names.astype(str)


def assert_disjoint(table: pd.DataFrame) -> None:
    """Raise ValueError naming the patients that have images in more than one split."""
    sides = table[["patient", "split"]].drop_duplicates().groupby("patient")["split"].agg(list)
    both = sides[sides.map(len) > 1]
    if len(both):
        some = ", ".join(f"{patient} ({' and '.join(names)})" for patient, names in both.iloc[:5].items())
        more = f" and {len(both) - 5} more" if len(both) > 5 else ""
        raise ValueError(f"{len(both)} patients are on both sides of a split: {some}{more}.")


def split_hash(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that change when any image moves to another split."""
    rows = sorted(zip(table["image_id"], table["split"], strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def some_patients(table: pd.DataFrame, fraction: float, seed: int, by: tuple[str, ...] = ("label",)) -> np.ndarray:
    """Row numbers of the images of this fraction of the patients, in every stratum of the columns `by`.

    Each patient has a random rank within the stratum that depends on the seed and on who is there, not on the fraction,
    so smaller fractions are nested in larger ones. At least one patient of each stratum is kept.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it is a share of the patients, above 0 and at most 1.")
    # Every patient belongs to one stratum: the most frequent one of their images, the first one on a tie.
    strata = table.groupby(["patient", *by], sort=False).size().rename("images").reset_index()
    strata = strata.sort_values("images", ascending=False, kind="stable").drop_duplicates("patient")
    kept = []
    for number, (_, stratum) in enumerate(strata.groupby(list(by))):
        patients = np.sort(stratum["patient"].to_numpy(dtype=str))
        ranked = patients[np.random.default_rng([seed, number]).permutation(len(patients))]
        # The small number keeps 0.1 of 70 at 7: in binary, 0.1 * 70 is a little above.
        kept.extend(ranked[: max(1, math.ceil(fraction * len(ranked) - 1e-9))])
    return np.flatnonzero(table["patient"].isin(kept).to_numpy())
