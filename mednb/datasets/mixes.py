"""Mixes: several datasets as one pretraining set, balanced by weights and not by throwing images away."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from mednb.datasets import duplicates, splits
from mednb.datasets.card import Card
from mednb.datasets.images import Images
from mednb.datasets.located import located

BALANCES = ("modality", "organ", "source")


class Joined:
    """Arrays of images one after another, (N, ...), without a copy: rows are read from the array that holds them."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = list(arrays)
        self.ends = np.cumsum([len(array) for array in self.arrays])
        self.dtype, self.ndim = self.arrays[0].dtype, self.arrays[0].ndim
        self.shape = (int(self.ends[-1]), *self.arrays[0].shape[1:])
        for array in self.arrays:
            if (array.dtype, array.shape[1:]) != (self.dtype, self.shape[1:]):
                raise ValueError(
                    f"images of {array.dtype} {array.shape[1:]} cannot be joined with {self.dtype} {self.shape[1:]}; "
                    "read them with one size, bits and channels"
                )

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.concatenate(self.arrays).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, rows) -> np.ndarray:
        """One image, or those of a slice, of row numbers or of a mask (N,) bool, read into memory."""
        if isinstance(rows, tuple):
            return self[rows[0]][
                (slice(None), *rows[1:]) if np.ndim(rows[0]) or isinstance(rows[0], slice) else rows[1:]
            ]
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        wanted = np.arange(len(self))[rows]
        of = np.searchsorted(self.ends, wanted, side="right")
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for number, array in enumerate(self.arrays):
            here = np.flatnonzero(of == number)
            if len(here):
                found[here] = array[wanted[here] - (self.ends[number] - len(array))]
        return found


def mix(
    names: str | Sequence[str],
    root: str | Path | None = None,
    size: int = 128,
    fold: int = 0,
    limit: int | None = None,
    *,
    balance: str | None = None,
    across: float | None = None,
    **reading,
) -> Images:
    """Several datasets as one, each with its own splits at this fold.

    names: at least two of `DATASETS`, as a list or "busi+busbra".
    balance: "modality", "organ" or "source": every value of this column weighs the same in every split, by the column
        `weight` (mean 1), from which `epoch_order` draws; None: every image weighs 1. No image is thrown away.
    across: a correlation (see `mednb.datasets.duplicates`); images of two datasets that are more alike stay in one
        split: test wins over val, val over train, and those on the other side are left out. None: not looked for, and
        refused where one dataset was taken from another (`Card.part_of`).
    reading: what else `load` takes.

    Patients, groups, cases, videos and image_ids carry the name of their dataset ("busi/benign (1)"): two patients
    with one number stay two, unless the datasets have the same people (`Card.people`). Labels do too ("busi/benign"),
    unless the datasets have the same classes. Masks of a dataset without any are empty. Raises ValueError for a name
    that comes twice, for the same images under two names (also where "folder" would find those of the others), or for
    images of different shapes.
    """
    from mednb.datasets import DATASETS, data_root, load

    names = names.split("+") if isinstance(names, str) else list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2:
        wrong = f"{twice[0]} comes twice" if twice else "there is one only"
        raise ValueError(f"a mix has two datasets or more, each once: in {'+'.join(names)} {wrong}.")
    if balance not in (*BALANCES, None):
        raise ValueError(f"balance is {balance!r}; it is one of {', '.join(BALANCES)}, or None.")
    assert_likeness(across)
    known = [DATASETS[name] for name in names if name in DATASETS]
    if across is None:
        assert_nobody_twice([module.CARD for module in known])
    assert_none_in_another(known, data_root(root))
    images = joined([load(name, root, size, fold, **reading) for name in names])
    if across is not None:
        images = apart(images, across)
    if limit is not None and limit < len(images):
        images = images.take(splits.at_most(images.table, limit))
    table = images.table
    return replace(images, table=table.assign(weight=1.0 if balance is None else weights(table, balance)))


def assert_likeness(across: float | None) -> None:
    """Raise ValueError for what can be no correlation above which images are tied: more than 1 would tie nothing."""
    number = isinstance(across, (int, float, np.number)) and not isinstance(across, bool)
    if across is not None and not (number and 0 < across <= 1):
        raise ValueError(f"across is {across!r}; it is a correlation, above 0 and up to 1, or None.")


def assert_nobody_twice(cards: Sequence[Card]) -> None:
    """Raise ValueError when the images of one dataset were taken from another one of them."""
    for card in cards:
        for whole in set(card.part_of) & {other.name for other in cards}:
            raise ValueError(
                f"the images of {card.name} are also in {whole}, so a mix of both may be tested on what it was trained "
                "on: leave one of them out, or say across=0.5, the likeness above which two images stay in one split."
            )


def assert_none_in_another(modules: Sequence[ModuleType], root: Path) -> None:
    """Raise ValueError when a dataset that takes every image below the root would take those of another one too."""
    for whole in modules:
        for other in modules if whole.CARD.folder == "" else ():
            if other is whole or other.CARD.folder is None:
                continue
            archive = located(root, other.CARD, other)
            if not archive.zipped:
                raise ValueError(
                    f"{whole.CARD.name} takes every image below {root}, those of {other.CARD.name} in "
                    f"{archive.where()} too, so each that both can read would be there twice, with two splits; "
                    "load the two apart."
                )


def joined(members: Sequence[Images]) -> Images:
    """Images of several datasets as one, lazily; see `mix`."""
    cards = [member.card for member in members]
    shared = len({card.classes for card in cards}) == 1
    name = "+".join(member.name for member in members)
    starts = np.cumsum([0, *(len(member.stored_pixels) for member in members)])
    tables, rows = [], []
    for start, member in zip(starts, members, strict=False):
        table, people = member.table.copy(), member.card.people or member.name
        for column in ["image_id", "patient", "group", "case", "video", *([] if shared else ["label"])]:
            if column in table:
                prefix = people if column in ("patient", "group") else member.name
                table[column] = (f"{prefix}/" + table[column].astype(str)).where(table[column].notna())
        tables.append(table.assign(dataset=member.name))
        rows.append(start + (np.arange(len(member)) if member.rows is None else member.rows))
    table = pd.concat(tables, ignore_index=True)
    table["group"] = splits.grouped(table) if "group" not in table else table["group"].fillna(table["patient"])
    masks = None
    if any(member.stored_masks is not None for member in members):
        masks = Joined([masks_of(member) for member in members])
    thumbnails = None
    if all(member.stored_thumbnails is not None for member in members):
        thumbnails = Joined([member.stored_thumbnails for member in members])
    whole = all(member.rows is None for member in members)
    return Images(
        name=name,
        card=card_of(name, cards, shared),
        size=members[0].size,
        table=table,
        fingerprint=hashlib.sha256("\n".join(member.fingerprint for member in members).encode()).hexdigest()[:16],
        split_hash=splits.split_hash(table),
        stored_pixels=Joined([member.stored_pixels for member in members]),
        stored_masks=masks,
        rows=None if whole else np.concatenate(rows),
        stored_thumbnails=thumbnails,
        members={k: v for each in members for k, v in (each.members or {each.name: each.split_hash}).items()},
    )


def masks_of(member: Images) -> np.ndarray:
    """(N, H, W) bool: the stored masks, or nothing everywhere, in no memory."""
    if member.stored_masks is not None:
        return member.stored_masks
    return np.broadcast_to(np.zeros((), bool), (len(member.stored_pixels), member.size, member.size))


def card_of(name: str, cards: Sequence[Card], shared: bool) -> Card:
    """The card of a mix: what holds for one dataset only is said with its name."""

    def each(fact: str) -> str:
        return "; ".join(f"{card.name}: {getattr(card, fact)}" for card in cards)

    counts = [{label if shared else f"{card.name}/{label}": n for label, n in card.counts.items()} for card in cards]
    classes = list(dict.fromkeys(label for count in counts for label in count))
    known = [card.n_patients for card in cards]
    masked = [card.n_masks for card in cards]
    return Card(
        name=name,
        title="a mix of " + " and ".join(card.title for card in cards),
        modality=" and ".join(dict.fromkeys(card.modality for card in cards)),
        organ=" and ".join(dict.fromkeys(card.organ for card in cards)),
        task=each("task"),
        classes=tuple(classes),
        counts={label: sum(count.get(label, 0) for count in counts) for label in classes},
        patients=each("patients"),
        n_patients=None if None in known else sum(known),
        masks=each("masks"),
        n_masks=None if None in masked else sum(masked),
        licence=each("licence"),
        citation=each("citation"),
        how_to_get=each("how_to_get"),
        defects=tuple(f"{card.name}: {defect}" for card in cards for defect in card.defects),
        tested_on=each("tested"),
        alike=max(card.alike for card in cards),
    )


def apart(images: Images, threshold: float) -> Images:
    """The images of a mix without those that look like one of another dataset in a split that wins over theirs."""
    thumbnails, of = images.thumbnails, images.table["dataset"].to_numpy(str)
    names, ties = list(dict.fromkeys(of)), [(np.empty(0, int), np.empty(0, int))]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            rows, columns = np.flatnonzero(of == a), np.flatnonzero(of == b)
            alike = duplicates.between(thumbnails[rows], thumbnails[columns], threshold)
            ties.append((rows[alike["first"]], columns[alike["second"]]))
    first = duplicates.linked(len(images), *(np.concatenate(ends) for ends in zip(*ties, strict=True)))
    table = images.table.assign(group=splits.together(images.table["group"].to_numpy(str), first))
    table["split"] = splits.one_side(table["split"].to_numpy(str), table["group"].to_numpy(str))
    return splits.usable(replace(images, table=table, split_hash=splits.split_hash(table)))


def weights(table: pd.DataFrame, balance: str) -> np.ndarray:
    """(N,) float of mean 1 in every split, such that every value of the column `balance` has the same total there."""
    cell = table.groupby(["split", balance])[balance].transform("size")
    split = table.groupby("split")[balance].agg(["size", "nunique"]).loc[table["split"]]
    return (split["size"].to_numpy() / split["nunique"].to_numpy()) / cell.to_numpy()


def epoch_order(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, (N,) int: each as often as its weight says, in random order.

    weights: (N,) of any positive scale. With equal weights, a permutation. Else drawn systematically (Madow 1949): the
    weights, scaled to mean 1, lie end to end on a line in random order, and at every step of length 1 the row that lies
    there is taken; so a row of weight w comes floor(w) or ceil(w) times in an epoch, and w times on average.
    """
    weights = np.asarray(weights, float)
    n = len(weights)
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(n)
    if n == 0 or np.all(weights == weights[0]):
        return order
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("a weight is negative or no number; weights are shares of an epoch, 0 or more.")
    line = generator.permutation(n)
    ends = np.cumsum(weights[line]) * (n / weights.sum())
    taken = np.searchsorted(ends, generator.random() + np.arange(n), side="right")
    return line[np.minimum(taken, n - 1)][order]
