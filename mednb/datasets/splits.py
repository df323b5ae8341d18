"""Who is trained on, who is chosen on, who is tested on: whole patients, stratified by label and source.

What may not be torn apart is a group: a patient's images, and those of others that look the same (a near-duplicate, a
patient with two numbers). Where the authors of a dataset have split it, their split is kept, as far as it has no leak.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from sklearn.model_selection import StratifiedGroupKFold

    from mednb.datasets.images import Images

NAMES = ("train", "val", "test")
LEFT_OUT = ""  # the split of an image that its group forbids to use
SALTED = r"(?:^|/)(?:p|hidden)-[0-9a-f]{10}(?:#|$)"  # what privacy.hashed makes of a patient, or of a file's name
FIXED = {"train": -1, "val": -2, "test": -3}  # parts that the authors gave away, whatever the fold


def split(table: pd.DataFrame, fold: int = 0, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Give every image "train", "val" or "test", (N,) of str, so that no group is in two of them.

    table: one row per image with columns `patient` and `label`, and those that `parts` looks at besides. The groups are
    cut once into `folds` parts; part `fold` is the test split, the next one is val, the others are train. So the test
    splits of all folds are disjoint and cover every image. Raises ValueError when `fold` is not one of them or there
    are fewer groups than folds.
    """
    return of_fold(parts(table, folds, seed), fold, folds, grouped(table))


def parts(table: pd.DataFrame, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The part of each image, (N,) int: 0 to folds - 1, or one of `FIXED`.

    table: columns `patient` and `label`; where known `group` (see `together`; else the patient), `source`, and what the
    authors fixed: `official_fold` (the part itself, when it has as many folds) or `official` ("train", "val", "test" or
    empty: no word; where every image has one, "train" is what is left to cut val or test from, if one is missing).
    The rest is cut into whole groups with nearly equal counts of every label of every source (sklearn's
    StratifiedGroupKFold). Raises ValueError when there are fewer groups than folds, or an official value is odd.
    """
    if "official_fold" in table and table["official_fold"].isin(range(folds)).all():
        found = table["official_fold"].to_numpy(int)
        if len(set(found)) == folds:
            return found
    if "official" not in table or table["official"].fillna("").eq("").all():
        return cut(table, folds, seed)
    official = table["official"].fillna("").to_numpy(str)
    odd = sorted(set(official) - {*NAMES, ""})
    if odd:
        raise ValueError(f"official is '{odd[0]}' for an image; it is one of {', '.join(NAMES)}, or empty.")
    found = np.select([official == "test", official == "val"], [FIXED["test"], FIXED["val"]], FIXED["train"])
    if not {"val", "test"} <= set(official):  # what the authors did not fix goes round among the rest
        rest = official == ("" if "" in official else "train")
        if not rest.any():
            raise ValueError(
                f"all images are {' or '.join(sorted(set(official)))} by their table: none is left to train on."
            )
        found[rest] = cut(table[rest], folds, seed)
    return found


def cut(table: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Whole groups in `folds` parts, (N,) int from 0, stratified by label and source."""
    groups = unsalted(grouped(table))
    if groups.nunique() < folds:
        raise ValueError(
            f"{len(table)} images of {groups.nunique()} patients cannot be split into {folds} folds; take more."
        )
    strata = table["label"].astype(str)
    if "source" in table:
        strata = table["source"].astype(str) + "/" + strata
    if strata.value_counts().max() < folds:
        strata = np.zeros(len(table))  # too few of each to deal them out evenly
    found = np.empty(len(table), int)
    cutter = stratified(folds, seed)
    with warnings.catch_warnings():
        # A rare class may be absent from a part of a tiny draw. The counts show it; nothing is wrong with the split.
        warnings.filterwarnings("ignore", message="The least populated class")
        for part, (_, inside) in enumerate(cutter.split(table, strata, groups)):
            found[inside] = part
    return found


def stratified(folds: int, seed: int) -> StratifiedGroupKFold:
    """sklearn's StratifiedGroupKFold, shuffled, in a fifth of its time and with the same result.

    It tries each fold for each group by itself, which takes most of the time that a split takes. Here they are tried
    together. Should sklearn rename the method, its own does the work.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    class Stratified(StratifiedGroupKFold):
        def _find_best_fold(self, y_counts_per_fold, y_cnt, group_y_counts):
            tried = y_counts_per_fold + np.eye(folds)[:, :, None] * group_y_counts  # (tried, fold, class)
            uneven = (tried / y_cnt).std(axis=1).mean(axis=1).tolist()
            images = y_counts_per_fold.sum(axis=1).tolist()
            best = 0
            for fold in range(1, folds):
                # np.isclose, without what it takes to be called.
                close = abs(uneven[fold] - uneven[best]) <= 1e-8 + 1e-5 * uneven[best]
                if uneven[fold] < uneven[best] or (close and images[fold] < images[best]):
                    best = fold
            return best

    return Stratified(folds, shuffle=True, random_state=seed)


def of_fold(parts: np.ndarray, fold: int, folds: int = 5, groups: np.ndarray | None = None) -> np.ndarray:
    """The splits, (N,) of str, when part `fold` is for testing.

    Where the authors fixed test, part `fold` is val; where they fixed both, the fold changes nothing. With `groups`,
    the official splits cannot tear one apart either: test wins over val, and val over train; the images on the other
    side are `LEFT_OUT`.
    """
    if not (isinstance(fold, (int, np.integer)) and 0 <= fold < folds):
        raise ValueError(f"fold is {fold!r}; with {folds} folds it is one of 0 to {folds - 1}.")
    test, val = parts == FIXED["test"], parts == FIXED["val"]
    turn = fold if test.any() else (fold + 1) % folds
    names = np.select(
        [test if test.any() else parts == fold, val if val.any() else parts == turn], ["test", "val"], "train"
    )
    return names if groups is None else one_side(names, groups)


def one_side(names: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Splits (N,) of str, without those that tear a group apart: test wins over val, val over train."""
    names = np.asarray(names, str)
    rank = pd.Series((names == "val") + 2 * (names == "test"))
    wins = rank.groupby(np.asarray(groups)).transform("max")
    return np.where(rank == wins, names, LEFT_OUT)


def usable(images: Images) -> Images:
    """The images without those that their group forbids to use; these are listed in `left_out`."""
    out = images.table["split"].eq(LEFT_OUT).to_numpy()
    if not out.any():
        return images
    why = "a near-duplicate, or an image of the same patient, is in val or test"
    listed = images.table.loc[out, ["image_id", "patient", "label"]].assign(why=why)
    return replace(images.take(np.flatnonzero(~out)), left_out=pd.concat([images.left_out, listed], ignore_index=True))


def grouped(table: pd.DataFrame) -> pd.Series:
    """What may not be torn apart: the column `group` where there is one, else `patient`."""
    return table["group"] if "group" in table else table["patient"]


def unsalted(names: pd.Series) -> pd.Series:
    """Names of images, patients or groups, but whatever holds a salted hash (see `privacy`) by its place among them.

    What is decided by these, or in their order, is the same under every salt: on another machine, or in a new cache.
    """
    salted = names.str.contains(SALTED, na=False)
    if not salted.any():
        return names
    first = pd.Series(pd.factorize(names)[0], names.index).astype(str).str.zfill(9)
    return names.where(~salted, "~" + first)


def together(patients: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The group of each image, (N,) of str: the patients that near-duplicates tie together, named after the first one.

    patients: (N,) of str. first: (N,) int, for each image the row of the first image that looks the same, as
    `duplicates.groups` gives it.
    """
    from mednb.datasets.duplicates import linked

    patients = np.asarray(patients)
    own = pd.Series(np.arange(len(patients))).groupby(patients).transform("first").to_numpy()
    rows = np.arange(len(patients))
    return patients[linked(len(patients), np.concatenate([rows, rows]), np.concatenate([own, first]))]


def assert_disjoint(table: pd.DataFrame) -> None:
    """Raise ValueError naming the patients, or the groups of near-duplicates, that are in more than one split."""
    for column, what in (("patient", "Patients"), ("group", "Groups of near-duplicates")):
        if column not in table:
            continue
        codes, names = pd.factorize(table[column])
        split, _ = pd.factorize(table["split"].where(table["split"] != LEFT_OUT))
        codes, split = codes[split >= 0], split[split >= 0]
        first = np.full(len(names), -1)
        first[codes[::-1]] = split[::-1]  # the split of each one's first image
        both = names[np.unique(codes[split != first[codes]])]
        if len(both):
            sides = table[table["split"] != LEFT_OUT].groupby(column)["split"].unique()
            some = ", ".join(f"{name} ({' and '.join(sides[name])})" for name in both[:5])
            more = f" and {len(both) - 5} more" if len(both) > 5 else ""
            raise ValueError(f"{what} on both sides of a split: {some}{more}.")


def assert_apart(train: pd.DataFrame, val: pd.DataFrame) -> None:
    """Raise ValueError unless a model may learn from the images in `train` and be chosen by those in `val`.

    Both are tables with the columns image_id, patient and split, and group where known. Every image must be of the
    split that it is used as, and no patient, and no group of near-duplicates, may be in both.
    """
    for used, table in (("train", train), ("val", val)):
        other = table[table["split"] != used]
        if len(other):
            what = "learn from train" if used == "train" else "be chosen on val"
            raise ValueError(
                f"a model must {what}, but {len(other)} of the {len(table)} images it was given for that are of "
                f"another split: {other['image_id'].iloc[0]} is of {other['split'].iloc[0] or 'none'}."
            )
    assert_disjoint(pd.concat([known(train), known(val)], ignore_index=True))


def known(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that say whose an image is, and what it may be used for."""
    return table[[column for column in ("image_id", "patient", "group", "split") if column in table]]


def given_away(table: pd.DataFrame, names: np.ndarray, by: str = "group") -> float:
    """The share of the test images whose patient, or a near-duplicate of them, is in train under the splits `names`.

    by: "group" for both; "patient" for the patient alone. 0 for a split that `assert_disjoint` lets pass.
    """
    names = np.asarray(names)
    who = grouped(table) if by == "group" else table[by]
    tested = who[names == "test"]
    return float(tested.isin(who[names == "train"]).mean()) if len(tested) else 0.0


def leaks(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What a split gives away, and what the same images give away when they are shuffled without regard to patients.

    Returns columns split, reason, share (of the test images; see `given_away`).
    """
    own = table["split"].to_numpy(str)
    names = {"this split": own, "shuffled": np.random.default_rng(seed).permutation(own)}
    reasons = {"the same patient": "patient", "the patient or a near-duplicate": "group"}
    rows = [(name, reason, given_away(table, n, by)) for name, n in names.items() for reason, by in reasons.items()]
    return pd.DataFrame(rows, columns=["split", "reason", "share"])


def split_hash(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that change when any image moves to another split."""
    return split_hashes(table, [table["split"].to_numpy(str)])[0]


def split_hashes(table: pd.DataFrame, each: list[np.ndarray]) -> list[str]:
    """The `split_hash` of the same images under each of these splits, (N,) of str."""
    named = unsalted(table["image_id"]).tolist()
    lines = (map("\t".join, sorted(zip(named, names.tolist(), strict=True))) for names in each)
    return [hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16] for rows in lines]


def write(images: Images, path: str | Path) -> None:
    """Write the split of every image to a CSV file, so that others can use the same one: see `apply`."""
    from mednb.files import whole

    with whole(path) as aside:
        images.table[["image_id", "patient", "label", "split", "fold"]].to_csv(aside, index=False)


def apply(images: Images, path: str | Path | None) -> Images:
    """The same images under the split in a CSV file with the columns image_id and split, such as `write` makes.

    None leaves them under their own. Every image needs one row. Raises ValueError with the file and the image when one
    is missing, given twice or not there, when a split has another name than train, val and test, or when a patient
    would be in two of them.
    """
    if path is None:
        return images
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of splits {path}")
    try:
        given = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    missing = {"image_id", "split"} - set(given)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(given)}")
    here = images.table["image_id"]
    for wrong, rows in {
        "gives twice": given["image_id"][given["image_id"].duplicated()],
        f"names what {images.name} does not hold here": given["image_id"][~given["image_id"].isin(here)],
        "has no row for": here[~here.isin(given["image_id"])],
        f"has a split other than {', '.join(NAMES)} for": given["image_id"][~given["split"].isin(NAMES)],
    }.items():
        if len(rows):
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            raise ValueError(f"{path} {wrong}: {rows.iloc[0]}{more}")
    table = images.table.assign(split=here.map(given.set_index("image_id")["split"]))
    if "fold" in given and given["fold"].str.fullmatch(r"\d+").all():
        table["fold"] = given["fold"].astype(int).iloc[0]
    try:
        assert_disjoint(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    said = split_hash(table)
    return replace(images, table=table, split_hash=said, members=images.members and dict.fromkeys(images.members, said))


def few(table: pd.DataFrame, fraction: float, seed: int, draw: int = 0) -> np.ndarray:
    """Row numbers of the images of this fraction of the patients of each label, at least one patient of each."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it is a share of the patients, above 0 and at most 1.")
    order = shares(table, seed, ["label"], draw)
    return np.flatnonzero(table["patient"].isin(order["patient"][order["share"] < fraction]).to_numpy())


def at_most(table: pd.DataFrame, limit: int) -> np.ndarray:
    """Row numbers of the images of as many patients as have `limit` images, in the proportions of label and split.

    Raises ValueError when not even one patient has so few.
    """
    order = shares(table, 0, ["label", "split"]).sort_values("share", kind="stable")
    images = order["patient"].map(table["patient"].value_counts())
    if limit < images.iloc[0]:
        raise ValueError(
            f"limit is {limit}, but patients stay whole, and the first one has {images.iloc[0]} images; the smallest "
            f"limit that would do is {images.iloc[0]}."
        )
    return np.flatnonzero(table["patient"].isin(order["patient"][images.cumsum() <= limit]).to_numpy())


def shares(table: pd.DataFrame, seed: int, by: list[str], draw: int = 0) -> pd.DataFrame:
    """One row per patient with the share of their stratum that comes before them in an order drawn from the seed.

    A seed has several draws. The patients with a share below 0.1 are a tenth of every stratum, and they are among those
    below 0.25: label fractions are nested. A patient is in the stratum (values of the columns `by`) of most of their
    images, on a tie in the first one.
    """
    images = table.groupby(["patient", *by], sort=False).size().rename("images").reset_index()
    patients = images.sort_values("images", ascending=False, kind="stable").drop_duplicates("patient").sort_index()
    patients = patients.sort_values("patient", key=unsalted, ignore_index=True)
    for number, rows in enumerate(patients.groupby(by).indices.values()):
        ranks = np.random.default_rng([seed, number, draw]).permutation(len(rows))
        patients.loc[rows, "share"] = ranks / len(rows)
    return patients
