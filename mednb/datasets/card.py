"""A dataset's card: the facts that a reader needs before using its images."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Facts about a dataset, written down once; nothing here is measured on the reader's disk.

    `counts` gives the images per class of the complete download (of the default draw, for phantoms). `folder` is the
    dataset's folder under the data root, None when there are no files. `patients` says in words how many there are and
    how we know, because some downloads do not tell.
    """

    name: str
    title: str
    modality: str
    organ: str
    task: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    patients: str
    masks: str
    licence: str
    citation: str
    how_to_get: str
    folder: str | None = None
    defects: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(f"{label} {self.counts[label]:,}" for label in self.classes)
        facts = {
            "images": f"{sum(self.counts.values()):,} ({counts})",
            "patients": self.patients,
            "masks": self.masks,
            "modality": f"{self.modality}, {self.organ}",
            "task": self.task,
            "licence": self.licence,
            "citation": self.citation,
            "to get it": self.how_to_get,
            "beware": "\n".join(self.defects) or "no known defects",
        }
        lines = [f"{self.name}: {self.title}"]
        for key, text in facts.items():
            head = f"  {key:<10} "
            for paragraph in text.split("\n"):
                lines.append(textwrap.fill(paragraph, 100, initial_indent=head, subsequent_indent=" " * 13))
                head = " " * 13
        return "\n".join(lines)
