"""Images: a table with one row per image, and their pixels."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from mednb.datasets import duplicates, splits
from mednb.datasets.card import Card, is_label


@dataclass(frozen=True, repr=False)
class Images:
    """Medical images with what is known of each; subsets are new `Images` over the same pixels on disk.

    `table` has one row per image, in the order of `pixels`: `image_id, patient, label, split, modality, source` always,
    and whatever else the source knows. `fingerprint` names the source files and the settings they were read with,
    `split_hash` the split of every image of the whole dataset; both stay the same in every subset.
    """

    name: str
    card: Card
    size: int
    table: pd.DataFrame
    fingerprint: str
    split_hash: str
    stored_pixels: np.ndarray = field(repr=False)
    stored_masks: np.ndarray | None = field(repr=False)
    rows: np.ndarray | None = None  # rows of the store that this subset holds; None: all of them
    members: dict[str, str] | None = None  # the split_hash of each dataset in a mix, or of a folder of your own
    left_out: pd.DataFrame | None = None  # images that no split may have: image_id, patient, label, why
    quarantine: pd.DataFrame | None = None  # images that could not be read: image_id, why
    stored_thumbnails: np.ndarray | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        splits.assert_disjoint(self.table)  # whatever is trained or tested on takes Images, so a leak goes nowhere

    @property
    def classes(self) -> list[str]:
        """Names of the labels, in the order of their codes; the same for every subset."""
        return list(self.card.classes)

    @property
    def channels(self) -> int:
        """1 of grey images, 3 of colour."""
        return 1 if self.stored_pixels.ndim == 3 else self.stored_pixels.shape[1]

    @cached_property
    def pixels(self) -> np.ndarray:
        """(N, H, W) or (N, 3, H, W), uint8 or uint16: a memory map of the whole store, or the rows of this subset, read
        at first access."""
        return self.stored_pixels if self.rows is None else self.stored_pixels[self.rows]

    @cached_property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool, True on the lesion; None when the source has no masks."""
        if self.stored_masks is None or self.rows is None:
            return self.stored_masks
        return self.stored_masks[self.rows]

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """(N, 48, 48) uint8 of the whole pictures, however they were resized: near-duplicates are found by them."""
        if self.stored_thumbnails is None:
            return duplicates.thumbnails(self.pixels)
        return self.stored_thumbnails if self.rows is None else self.stored_thumbnails[self.rows]

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64: the position of each image's label in `classes`."""
        return pd.Categorical(self.table["label"], categories=self.classes).codes.astype(np.int64)

    @property
    def has_label(self) -> np.ndarray:
        """(N,) bool: whether anybody has said what the image shows."""
        return self.table["label"].map(is_label).to_numpy(bool)

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray) -> Images:
        """The images at these row numbers of `table`, in this order."""
        rows = np.arange(len(self))[rows]
        return replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            rows=rows if self.rows is None else self.rows[rows],
        )

    def where(self, **wanted) -> Images:
        """The images whose columns have the wanted values, as in `where(split="train", label=["benign", "normal"])`.

        Raises ValueError when there is no such column, or when no image here has one of the values.
        """
        keep = np.ones(len(self), bool)
        for column, values in wanted.items():
            if column not in self.table:
                near = difflib.get_close_matches(column, self.table.columns, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ValueError(f"{self.name} has no column {column!r}.{hint} Columns: {', '.join(self.table)}.")
            values = list(values) if isinstance(values, (list, tuple, set, np.ndarray, pd.Series)) else [values]
            there = set(self.table[column].dropna())
            for value in values:
                if value not in there:
                    some = ", ".join(map(str, sorted(there)[:20])) + (", ..." if len(there) > 20 else "")
                    raise ValueError(f"no image here has {column}={value!r}; {column} is one of: {some}.")
            keep &= self.table[column].isin(values).to_numpy()
        return self.take(np.flatnonzero(keep))

    def labelled(self) -> Images:
        """The images that have a label: "unlabelled" is no class that a classifier could be right about.

        Raises ValueError where no image has one.
        """
        if self.has_label.all():
            return self
        if not self.has_label.any():
            raise ValueError(f"no image of {self.name} has a label")
        counts = {name: count for name, count in self.card.counts.items() if is_label(name)}
        card = replace(self.card, classes=tuple(filter(is_label, self.classes)), counts=counts)
        return replace(self.take(self.has_label), card=card)

    def few(self, fraction: float, seed: int, draw: int = 0) -> Images:
        """A label fraction: this share of the patients of each class, whole, at least one of each.

        Nested: for one seed and draw, the patients of a smaller fraction are among those of a larger one. A patient
        with several labels counts as their most frequent one. Raises ValueError unless 0 < fraction <= 1.
        """
        return self.take(splits.few(self.table, fraction, seed, draw))

    def counts(self) -> pd.DataFrame:
        """Images and patients of each class in each split: columns label, split, images, patients."""
        there = self.table.groupby(["label", "split"], observed=True, sort=False)
        counts = there["patient"].agg(images="size", patients="nunique").reset_index()
        order = counts["label"].map(self.classes.index), counts["split"].map(["train", "val", "test"].index)
        return counts.iloc[np.lexsort(order[::-1])].reset_index(drop=True)

    def strata(self) -> pd.DataFrame:
        """By what test results are told apart, one row per image: where known source, scanner, and always lesion_area.

        lesion_area: pixels of the picture in its file; NaN when there are no masks.
        """
        table = self.table.reset_index(drop=True)
        area = np.nan
        if self.stored_masks is not None and {"width", "height", "lesion_area"} <= set(table):
            area = table["lesion_area"] * table["width"] * table["height"]
        return table[[name for name in ("source", "scanner") if name in table]].assign(lesion_area=area)

    def __repr__(self) -> str:
        counts = self.table["label"].value_counts()
        labels = ", ".join(f"{label} {counts.get(label, 0):,}" for label in self.classes)
        kind = ", in colour" if self.channels > 1 else ""
        kind += ", with 16 bits" if self.stored_pixels.dtype == np.uint16 else ""
        kind += ", weighted" if "weight" in self.table and (self.table["weight"] != 1).any() else ""
        aside = {"in quarantine": self.quarantine, "left out": self.left_out}
        more = "".join(f"; {len(some):,} more {what}" for what, some in aside.items() if some is not None and len(some))
        return (
            f"Images({self.name}, {len(self):,} images of {self.size} x {self.size}{kind} "
            f"from {self.table['patient'].nunique():,} patients: {labels}{more})"
        )

    def _repr_html_(self) -> str:
        counts = self.counts()
        values = [counts[column].to_numpy() for column in ("images", "patients")]
        text = pd.Series([f"{images:,} of {patients:,}" for images, patients in zip(*values, strict=True)])
        wide = counts.assign(text=text).pivot_table("text", "label", "split", "first", fill_value="none", sort=False)
        return f"<p>{repr(self)[7:-1]}</p><p>images of how many patients:</p>{wide.to_html()}"
