"""Datasets: where the images come from, and who is trained, chosen and tested on.

>>> from mednb import datasets
>>> images = datasets.load("phantoms", size=64, limit=200)
>>> images.where(split="train").few(0.25, seed=0)
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mednb.datasets import phantoms
from mednb.datasets.card import Card
from mednb.datasets.images import Images

DATASETS = {"phantoms": phantoms}

__all__ = ["DATASETS", "Card", "Images", "load"]


def named(name: str):
    """The module of the dataset with this name; ValueError names the ones there are."""
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no dataset {name!r}.{hint} Datasets: {', '.join(DATASETS)}.")
    return DATASETS[name]


def load(name: str, root: str | Path | None = None, size: int = 128, fold: int = 0, limit: int | None = None) -> Images:
    """The images of a dataset, size x size pixels, with their masks, patients and splits."""
    from mednb.datasets import splits

    module = named(name)
    found = module.stored(Path(root or os.environ.get("MEDNB_DATA") or "data"), size, limit)
    table = found.table
    table.insert(3, "split", splits.split(table, fold))
    table.insert(4, "fold", fold)
    splits.assert_disjoint(table)
    return Images(
        name=name,
        card=module.CARD,
        size=size,
        table=table,
        fingerprint=found.fingerprint,
        split_hash=splits.split_hash(table),
        stored_pixels=found.pixels,
        stored_masks=found.masks,
    )
