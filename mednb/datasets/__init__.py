"""Datasets: where the images come from, and who is trained, chosen and tested on.

    >>> from mednb import datasets
    >>> images = datasets.load("phantoms", size=64, limit=200)
    >>> images.where(split="train").few(0.25, seed=0)

A dataset is a module with a `CARD`. One that lies in files says how its folder is known (`LOOKS_LIKE`) and which file is
which (`index`), as `sources/busi.py` does, and leaves the rest to `store`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from types import ModuleType

from mednb.datasets import phantoms, splits, store
from mednb.datasets.card import Card
from mednb.datasets.images import Images
from mednb.datasets.sources import SOURCES

__all__ = ["DATASETS", "Card", "Images", "card_text", "check", "describe_all", "load", "named"]

DATASETS: dict[str, ModuleType] = {"phantoms": phantoms, **SOURCES}


def load(name: str, root: str | Path | None = None, size: int = 128, fold: int = 0, limit: int | None = None) -> Images:
    """The images of a dataset as size x size pixels, with their masks, patients and splits.

    name: one of `DATASETS`.
    root: the data root, which holds one folder per dataset; None: $MEDNB_DATA, else "data". Phantoms need none.
    size: pixels of a side. Decoded and resized once per size, then kept in $MEDNB_CACHE or the platform's cache.
    fold: 0 to 4, which fifth of the patients is the test split; the next fifth is val, the other three are train.
    limit: at most about this many images, whole patients, each of them in the split that they have without a limit.
        For phantoms: how many are drawn (None: 2,000). None: all.
    Raises ValueError or FileNotFoundError, one sentence that names the parameter or the file; then nothing is cached.
    """
    module = named(name)
    if not (isinstance(size, int) and size >= 16):
        raise ValueError(f"size is {size!r}; it is the side of the images in pixels, a whole number from 16.")
    if not (limit is None or (isinstance(limit, int) and limit > 0)):
        raise ValueError(f"limit is {limit!r}; it is a number of images, 1 or more, or None for all.")
    drawn = module.CARD.folder is None  # then the limit is how many
    if drawn:
        found = module.stored(size, limit)
    else:
        found = store.from_archive(module, store.located(data_root(root), module.CARD, module), size)
    table = found.table
    table["split"], table["fold"] = splits.of_fold(table.pop("part").to_numpy(), fold), fold
    splits.assert_disjoint(table)
    always = ["image_id", "patient", "label", "split", "fold", "modality", "source"]
    images = Images(
        name=name,
        card=module.CARD,
        size=size,
        table=table[always + [column for column in table if column not in always]],
        fingerprint=found.fingerprint,
        split_hash=splits.split_hash(table),
        stored_pixels=found.pixels,
        stored_masks=found.masks,
    )
    if limit is not None and limit < len(images):
        images = images.take(splits.at_most(table, limit))
    return images


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds one folder per dataset: `root`, else $MEDNB_DATA, else "data" in the working directory."""
    return Path(root or os.environ.get("MEDNB_DATA") or "data").expanduser()


def named(name: str) -> ModuleType:
    """The module of the dataset with this name; ValueError names the ones there are."""
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no dataset {name!r}.{hint} Datasets: {', '.join(DATASETS)}.")
    return DATASETS[name]


def describe_all() -> str:
    """One line per dataset: name, images, classes, modality and title."""
    lines = []
    for name, module in DATASETS.items():
        card = module.CARD
        images = f"{sum(card.counts.values()):>6,} images"
        lines.append(f"{name:<10}{images}   {', '.join(card.classes)}   {card.title}")
    return "\n".join(lines)


def card_text(name: str) -> str:
    """The dataset's card as text."""
    return str(named(name).CARD)


def check(name: str, root: str | Path | None = None) -> tuple[str, bool]:
    """Read every file of the dataset and report all that is wrong; see `mednb.datasets.checks`."""
    from mednb.datasets.checks import report

    return report(named(name), data_root(root))
