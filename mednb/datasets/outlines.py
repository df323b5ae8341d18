"""Masks in the size of their files: an outline is measured where resizing has not yet cost it anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mednb.datasets import decode, masks, resize
from mednb.datasets.located import located

if TYPE_CHECKING:
    from mednb.datasets.images import Images


def outlines(images: Images, root: str | Path | None = None) -> list[np.ndarray]:
    """The mask of each image as its file has it, (height, width) bool; else the stored one, (size, size) bool.

    The file's is taken where it shows the same as the stored one: the whole picture, stretched. So images that were
    padded, cropped or drawn keep the stored mask, and so do your own, since the table that describes them is not asked
    again. root: as in `load`.
    """
    found = list(np.asarray(images.masks))
    for name, rows in _members(images.table, images.name).items():
        of_file = _of_files(name, root, images.table.iloc[rows])
        for row, mask in zip(rows, of_file, strict=True):
            if mask is not None and np.array_equal(resize.smaller_mask(mask, images.size), found[row]):
                found[row] = mask
    return found


def _members(table: pd.DataFrame, name: str) -> dict[str, np.ndarray]:
    """The rows of each dataset of a mix, or all of them."""
    return table.reset_index().groupby("dataset").indices if "+" in name else {name: np.arange(len(table))}


def _of_files(name: str, root: str | Path | None, table: pd.DataFrame) -> list[np.ndarray | None]:
    from mednb import datasets

    module = datasets.named(name)
    if not module.CARD.folder or not {"width", "height"} <= set(table):
        return [None] * len(table)
    archive = located(datasets.data_root(root), module.CARD, module)
    index = decode.indexed(module, archive, 1).set_index("image_id", drop=False)
    own = table["image_id"].str.removeprefix(f"{name}/")
    shapes = zip(table["height"].astype(int), table["width"].astype(int), strict=True)
    rows = index.reindex(own).itertuples(index=False)
    return [masks.of(archive, row, shape) for row, shape in zip(rows, shapes, strict=True)]
