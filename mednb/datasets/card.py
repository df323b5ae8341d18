"""A dataset's card: the facts that a reader needs before using its images."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


TWIN = "a twin of the official layout"
UNLABELLED = "unlabelled"  # the label of an image of which nobody said what it shows


def is_label(name: str) -> bool:
    """Whether a label says anything. In a mix a label may have its dataset's name before it: "hc18/unlabelled"."""
    return name.rpartition("/")[2] != UNLABELLED


@dataclass(frozen=True)
class Card:
    """Facts about a dataset, written down once; nothing here is measured on the reader's disk."""

    name: str
    """What `load` calls it."""
    title: str
    modality: str
    """"ultrasound", "mammography", "ct", "photo", ..."""
    organ: str
    task: str
    classes: tuple[str, ...]
    """The labels, in the order of their codes; ("unlabelled",) when there are none."""
    counts: dict[str, int]
    """Images of each class in the complete download (in the default draw, for phantoms); empty when nobody says."""
    patients: str
    """How many there are, and how we know, because some downloads do not tell."""
    masks: str
    licence: str
    citation: str
    """With the DOI."""
    how_to_get: str
    """What to download by hand, from where, and where to put it."""
    folder: str | None = None
    """The dataset's folder under the data root; None when there are no files."""
    n_images: int | None = None
    """Of the complete download, where nobody says how many of each class; None: the sum of the counts."""
    n_patients: int | None = None
    """Of the complete download; None when it does not tell."""
    people: str | None = None
    """A name that datasets of the same patients share; None: nobody else has them."""
    part_of: tuple[str, ...] = ()
    """The datasets that its images were taken from: a mix with one of them holds the same images twice."""
    n_masks: int | None = None
    """Mask files, or outlines in tables, of the complete download."""
    defects: tuple[str, ...] = ()
    tested_on: str = TWIN
    """Or "real files"."""
    alike: float = 0.5
    """Two images of this dataset whose thumbnails correlate more than this are near-duplicates."""
    window: str | tuple[float, float] | None = None
    """What is black and what is white when `load` is not told: a name of `pixels.WINDOWS`, or (low, high)."""

    @property
    def tested(self) -> str:
        """What it was tested on; a twin does not show which images of the dataset look alike."""
        if self.folder == "":
            return "your own files, so by nobody"
        if self.tested_on != TWIN:
            return self.tested_on
        return f"{TWIN}; the threshold of near-duplicates, {self.alike}, was not tried on its images"

    def counted(self, table: pd.DataFrame) -> Card:
        """This card with the classes that a table has, and how many of each: of your own images, say."""
        counts = table["label"].value_counts().sort_index()
        return replace(self, classes=tuple(counts.index), counts=counts.to_dict())

    def __str__(self) -> str:
        total = self.n_images or sum(self.counts.values())
        counts = ", ".join(f"{label} {self.counts[label]:,}" if self.counts else label for label in self.classes)
        facts = {
            "images": f"{total:,} ({counts})" if total else counts or "as many as there are",
            "patients": self.patients,
            "masks": self.masks,
            "modality": f"{self.modality}, {self.organ}",
            "task": self.task,
            "licence": self.licence,
            "citation": self.citation,
            "to get it": self.how_to_get,
            "beware": "\n".join(self.defects) or "no known defects",
        }
        if self.folder != "":  # your own are tested by nobody
            facts["tested on"] = self.tested
        lines = [f"{self.name}: {self.title}"]
        for key, text in facts.items():
            head = f"  {key:<10} "
            for paragraph in text.split("\n"):
                lines.append(textwrap.fill(paragraph, 100, initial_indent=head, subsequent_indent=" " * 13))
                head = " " * 13
        return "\n".join(lines)
