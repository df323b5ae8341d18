"""Who is trained on, who is chosen on, who is tested on: whole patients, stratified by label, fixed by a seed."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pandas as pd

NAMES = ("train", "val", "test")


def split(table: pd.DataFrame, fold: int = 0, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Give every image "train", "val" or "test", (N,) of str, so that no patient is in two of them.

    table: one row per image with columns `patient` and `label`. The patients are cut once into `folds` parts; part
    `fold` is the test split, the next one is val, the others are train. So the test splits of all folds are disjoint
    and cover every image. Raises ValueError when `fold` is not one of them or there are fewer patients than folds.
    """
    return of_fold(parts(table, folds, seed), fold, folds)


def parts(table: pd.DataFrame, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The part of each image, (N,) int: whole patients, nearly equal class counts (sklearn's StratifiedGroupKFold)."""
    from sklearn.model_selection import StratifiedGroupKFold

    patients = table["patient"].nunique()
    if patients < folds:
        raise ValueError(f"{len(table)} images of {patients} patients cannot be split into {folds} folds; take more.")
    found = np.empty(len(table), int)
    cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A rare class may be absent from a part of a tiny draw. The counts show it; nothing is wrong with the split.
        warnings.filterwarnings("ignore", message="The least populated class")
        for part, (_, inside) in enumerate(cutter.split(table, table["label"], table["patient"])):
            found[inside] = part
    return found


def of_fold(parts: np.ndarray, fold: int, folds: int = 5) -> np.ndarray:
    """The splits, (N,) of str, when part `fold` is for testing."""
    if not (isinstance(fold, (int, np.integer)) and 0 <= fold < folds):
        raise ValueError(f"fold is {fold!r}; with {folds} folds it is one of 0 to {folds - 1}.")
    return np.select([parts == fold, parts == (fold + 1) % folds], ["test", "val"], "train")


def assert_disjoint(table: pd.DataFrame) -> None:
    """Raise ValueError naming the patients that have images in more than one split."""
    sides = table[["patient", "split"]].drop_duplicates().groupby("patient")["split"].agg(list)
    both = sides[sides.map(len) > 1]
    if len(both):
        some = ", ".join(f"{patient} ({' and '.join(names)})" for patient, names in both.iloc[:5].items())
        more = f" and {len(both) - 5} more" if len(both) > 5 else ""
        raise ValueError(f"Patients on both sides of a split: {some}{more}.")


def split_hash(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that change when any image moves to another split."""
    rows = sorted(zip(table["image_id"], table["split"], strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def few(table: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Row numbers of the images of this fraction of the patients of each label, at least one patient of each."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it is a share of the patients, above 0 and at most 1.")
    order = shares(table, seed, ["label"])
    return np.flatnonzero(table["patient"].isin(order["patient"][order["share"] < fraction]).to_numpy())


def at_most(table: pd.DataFrame, limit: int, seed: int = 0) -> np.ndarray:
    """Row numbers of the images of as many patients as have `limit` images, in the proportions of label and split."""
    order = shares(table, seed, ["label", "split"]).sort_values("share", kind="stable")
    images = order["patient"].map(table["patient"].value_counts())
    return np.flatnonzero(table["patient"].isin(order["patient"][images.cumsum() <= limit]).to_numpy())


def shares(table: pd.DataFrame, seed: int, by: list[str]) -> pd.DataFrame:
    """One row per patient with the share of their stratum that comes before them in an order drawn from the seed.

    The patients with a share below 0.1 are a tenth of every stratum, and they are among those below 0.25: label
    fractions are nested. A patient is in the stratum (values of the columns `by`) of most of their images, on a tie in
    the first one.
    """
    images = table.groupby(["patient", *by], sort=False).size().rename("images").reset_index()
    patients = images.sort_values("images", ascending=False, kind="stable").drop_duplicates("patient")
    patients = patients.sort_values("patient", ignore_index=True)
    for number, rows in enumerate(patients.groupby(by).indices.values()):
        ranks = np.random.default_rng([seed, number]).permutation(len(rows))
        patients.loc[rows, "share"] = ranks / len(rows)
    return patients
