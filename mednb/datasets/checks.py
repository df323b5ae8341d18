"""What is wrong with a dataset's files? Everything at once, where `load` stops at the first thing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from mednb.datasets import duplicates, splits, store

SHOWN = 10  # of each kind of finding; the rest is counted


def report(module: ModuleType, root: Path) -> tuple[str, bool]:
    """Read every file of a dataset, write nothing, and say what was found.

    Returns the report and whether all is well: every file can be read, every mask has its image's size, and the counts
    are those of the complete download. Near-duplicates with contradictory labels are reported, but they are the
    dataset's, not the download's, so all can be well in spite of them.
    """
    card = module.CARD
    if card.folder is None:
        return f"{card.name}: drawn from a seed when asked for; there are no files to check.", True
    try:
        archive = store.located(root, card, module)
        index = module.index(archive)
    except (OSError, ValueError) as error:
        return str(error), False

    thumbnails, read, wrong = [], [], []
    for row in index.itertuples():
        try:
            image, _ = store.read(archive, row)
        except (OSError, ValueError) as error:
            wrong.append(str(error))
        else:
            thumbnails.append(duplicates.thumbnail(image))
            read.append(row.Index)
    counts = index["label"].value_counts()
    for label in card.classes:
        if counts.get(label, 0) != card.counts[label]:
            wrong.append(f"{label}: {counts.get(label, 0)} images, the complete download has {card.counts[label]}.")

    lines = [f"{card.name} in {archive.where()}", f"  {len(index):,} images, {sum(map(len, index['masks'])):,} masks"]
    lines += [f"  {label}: {counts.get(label, 0):,}" for label in card.classes]
    table = index.loc[read].reset_index(drop=True)
    if "patient" not in table and len(table):
        first = duplicates.groups(np.stack(thumbnails))
        table["patient"] = [Path(table["image_id"][row]).stem for row in first]
        groups = table.groupby("patient")
        several = groups.size()[groups.size() > 1]
        lines.append(
            f"  no patient ids: {groups.ngroups:,} groups of near-duplicates stand in for patients, "
            f"{len(several):,} of them hold {several.sum():,} images"
        )
        contradictory = [members for _, members in groups if members["label"].nunique() > 1]
        lines.append(f"  {len(contradictory)} groups carry contradictory labels")
        lines += [f"    {', '.join(Path(file).stem for file in members['image_id'])}" for members in contradictory]
    try:
        table["split"] = splits.split(table)
        splits.assert_disjoint(table)
        lines.append("  no patient is in two splits")
    except ValueError as error:
        wrong.append(str(error))
    lines += [f"  WRONG  {sentence}" for sentence in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        lines.append(f"  WRONG  and {len(wrong) - SHOWN} more")
    lines.append("  all is well" if not wrong else f"  {len(wrong)} things are wrong")
    return "\n".join(lines), not wrong
