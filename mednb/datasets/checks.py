"""What is wrong with a dataset's files? Everything at once, where `load` stops at the first thing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from mednb.datasets import decode, duplicates, splits
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card
from mednb.datasets.located import located
from mednb.datasets.store import FOLDS

SHOWN = 10  # of each kind of finding; the rest is counted


def report(module: ModuleType, root: Path) -> tuple[str, bool]:
    """Read every file of a dataset, write nothing, and say what was found.

    Returns the report and whether all is well: every file can be read, every mask has its image's size, the counts of
    images, patients and masks are those of the complete download, and no patient or near-duplicate is in two splits.
    What is odd with the dataset itself is reported (contradictory labels, words burnt into pixels, images that the
    authors' own split leaks), but all can be well in spite of it.
    """
    card = module.CARD
    if card.folder is None:
        return f"{card.name}: drawn from a seed when asked for; there are no files to check.", True
    try:
        there = located(root, card, module)
    except (OSError, ValueError) as error:
        return str(error), False
    archive = Noting(there.path, there.base)
    lines = [f"{card.name} in {archive.where()}"]
    try:
        index = decode.indexed(module, archive, stride=1)
    except (OSError, ValueError) as error:
        wrong = [*archive.faults, str(error)]
        lines.append(f"{len(archive.names):,} files; which is which cannot be told until that is mended:")
    else:
        facts, thumbnails = looked_at(module, archive, index)
        read = facts["why"].isna().to_numpy()
        wrong = [*archive.faults, *facts["why"][~read], *miscounted(card, index)]
        table = pd.concat([index, facts], axis=1)[read].reset_index(drop=True)
        lines += [*counted(card, index), *measured(table)]
        if len(table):
            lines += grouped(card, table, thumbnails[read])
            try:
                lines += split(table)
            except ValueError as error:
                wrong.append(str(error))
        lines.append(f"licence: {card.licence}")
    wrong = list(dict.fromkeys(wrong))  # what is missing is missed again when it is read
    lines += [f"WRONG  {sentence}" for sentence in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        lines.append(f"WRONG  and {len(wrong) - SHOWN} more")
    lines.append(
        "all is well" if not wrong else f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong"
    )
    return "\n  ".join(lines), not wrong


class Noting(Archive):
    """An archive that notes what is wrong with its files and goes on, so that everything is found at once."""

    def __init__(self, path: Path, base: str):
        super().__init__(path, base)
        self.faults: list[str] = []

    def faulty(self, errors: list[Exception]) -> None:
        self.faults += map(str, errors)


def looked_at(module: ModuleType, archive: Archive, index: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """What every file tells, a row per image with `why` where it cannot be read, and the thumbnails (N, 48, 48)."""
    from tqdm import tqdm

    settings, known = decode.Settings(), set(index)

    def look(row: tuple) -> tuple[dict, np.ndarray]:
        try:
            _, _, thumbnail, facts = decode.read(module, archive, row, settings)
        except (OSError, ValueError) as error:
            return {"why": str(error)}, np.zeros((duplicates.SIDE, duplicates.SIDE), np.uint8)
        return {name: value for name, value in facts.items() if name not in known}, thumbnail

    each = decode.spread(look, index.itertuples(), len(index))
    each = tqdm(each, f"reading {len(index):,} images", len(index), delay=2, disable=None)
    facts, thumbnails = zip(*each, strict=True)
    columns = {"why": None, "width": np.nan, "height": np.nan, "lesion_area": np.nan}
    facts = pd.DataFrame(facts, index=index.index)
    return facts.assign(**{name: value for name, value in columns.items() if name not in facts}), np.stack(thumbnails)


def miscounted(card: Card, index: pd.DataFrame) -> list[str]:
    """Where the files are not those of the complete download."""
    counts, wrong = index["label"].value_counts(), []
    for label, complete in card.counts.items():
        if counts.get(label, 0) != complete:
            wrong.append(f"{label}: {counts.get(label, 0):,} images; the complete download has {complete:,}.")
    patients = index["patient"].nunique() if "patient" in index else None
    for what, here, complete in (
        ("images", len(index), card.n_images),
        ("patients", patients, card.n_patients),
        ("masks", index["masks"].map(len).sum(), card.n_masks),
    ):
        if None not in (here, complete) and here != complete:
            wrong.append(f"{here:,} {what}; the complete download has {complete:,}.")
    return wrong


def counted(card: Card, index: pd.DataFrame) -> list[str]:
    """Images, patients, masks and classes."""
    patients = f"{index['patient'].nunique():,} patients" if "patient" in index else "no patient ids"
    masked = index["masks"].map(len)
    masks = f"{masked.sum():,} masks" + (f" ({(masked == 0).sum():,} images have none)" if masked.any() else "")
    labels = index["label"].value_counts()
    each = [f"  {label}: {labels.get(label, 0):,}" for label in card.classes or sorted(labels.index)]
    return [f"{len(index):,} images, {patients}, {masks}", *each]


def measured(table: pd.DataFrame) -> list[str]:
    """Sizes of the pictures, empty masks, words burnt into the pixels."""
    if not len(table):
        return ["no image can be read"]
    width, height = table["width"].astype(int), table["height"].astype(int)
    sizes = len(set(zip(width, height, strict=True)))
    lines = [f"pictures of {width.min()} to {width.max()} x {height.min()} to {height.max()} pixels, {sizes:,} sizes"]
    if sizes == 1:
        lines = [f"all pictures are of {width.min()} x {height.min()} pixels"]
    empty = (table["masks"].map(len) > 0) & (table["lesion_area"] == 0)
    if empty.any():
        labels = ", ".join(f"{n:,} {label}" for label, n in table["label"][empty].value_counts().items())
        lines.append(f"{empty.sum():,} images have a mask that is empty ({labels})")
    burnt = table["burned_in"].fillna(False).astype(bool) if "burned_in" in table else pd.Series(False, table.index)
    if burnt.any():
        lines.append(f"{burnt.sum():,} files say that words are burnt into their pixels: they may name the patient")
    dark = decode.dark(table)
    return [*lines, dark] if dark else lines


def grouped(card: Card, table: pd.DataFrame, thumbnails: np.ndarray) -> list[str]:
    """Which images look the same; adds the columns patient (where nobody knows it) and group to the table."""
    first = duplicates.groups(thumbnails, card.alike)
    known = "patient" in table
    if not known:
        table["patient"] = decode.stand_ins(table, first)
    table["patient"] = table["patient"].astype(str)
    table["group"] = splits.together(table["patient"].to_numpy(), first)
    several = pd.Series(first).value_counts().loc[lambda size: size > 1]
    alike = f"(correlation above {card.alike})"
    lines = [f"{several.sum():,} images are in {len(several):,} groups of near-duplicates {alike}"]
    if not len(several):
        lines = [f"no two images are near-duplicates {alike}"]
    tied = table.groupby("group")["patient"].nunique().loc[lambda patients: patients > 1]
    if not known:
        lines.append(f"{table['patient'].nunique():,} groups stand in for patients")
    elif len(tied):
        lines.append(f"{tied.sum():,} patients have an image that looks like another patient's: they stay together")
    largest = table["group"].value_counts()[:1]
    if largest.iloc[0] > len(table) / 2 and (not known or largest.index[0] in tied):
        one = f"one group holds {largest.iloc[0]:,} of the {len(table):,} images"
        lines.append(f"{one}: the threshold of near-duplicates, {card.alike}, seems too low for them")
    members = table.groupby(first)
    contradictory = [rows for _, rows in members if len(set(rows["label"])) > 1]
    if contradictory:
        lines.append(f"{len(contradictory)} groups of near-duplicates carry contradictory labels")
        lines += [f"  {shown(rows)}" for rows in contradictory[:SHOWN]]
    return lines


def shown(rows: pd.DataFrame) -> str:
    """The members of a group by label, the last part of the first names of each."""
    names = rows["image_id"].str.rpartition("/")[2].groupby(rows["label"], sort=False)
    return "; ".join(f"{label}: {', '.join(some[:4])}{', ...' if len(some) > 4 else ''}" for label, some in names)


def split(table: pd.DataFrame) -> list[str]:
    """Who would be on both sides, in all folds, by our splits and if images were shuffled; ValueError for a leak."""
    parts, generator = splits.parts(table, FOLDS), np.random.default_rng(0)
    fixed = (parts < 0).any() or "official_fold" in table
    how = "by the authors' split" if fixed else f"in the {FOLDS} folds"
    leaks, shuffled, left_out = [], [], []
    for fold in range(FOLDS):
        names = splits.of_fold(parts, fold, FOLDS, splits.grouped(table))
        splits.assert_disjoint(table.assign(split=names))
        leaks.append(splits.given_away(table, names))
        shuffled.append(splits.given_away(table, generator.permutation(names)))
        left_out.append((names == splits.LEFT_OUT).sum())
    lines = [
        f"{max(leaks):.1%} of the test images have their patient or a near-duplicate in train {how}; "
        f"{np.mean(shuffled):.1%} had they been shuffled"
    ]
    if any(left_out):
        why = "the authors' split has their patient, or a near-duplicate, in val or test"
        lines.append(f"{max(left_out):,} images are left out of training: {why}")
    return lines


WAYS = {
    "stretch": {"resize": "stretch"},
    "pad": {"resize": "pad"},
    "crop_to_body": {"resize": "crop_to_body"},
    "around the lesion": {"around": "lesion"},
}


def resizings(name: str, root: str | Path | None = None, size: int = 128, **reading) -> pd.DataFrame:
    """How many pixels each way of resizing leaves of the lesions: columns image_id, label, resize, before, after.

    before: pixels of the lesion in its file; after: at `size`. Every image is read once for each way. Empty when the
    dataset has no masks; what is drawn is drawn in one way only, and a way that is refused is left out.

    Silva (2025) resized mammograms uniformly and lost small lesions.
    """
    from mednb import datasets

    ways = dict(list(WAYS.items())[:1]) if is_drawn(name) else WAYS
    rows = []
    for way, how in ways.items():
        try:
            images = datasets.load(name, root, size, **(reading | how))
        except ValueError:
            if not rows:  # the files were read for the first way, so it is not they that are wrong
                raise
            continue
        if images.masks is None:
            return pd.DataFrame(columns=["image_id", "label", "resize", "before", "after"])
        after = np.array([mask.sum() for mask in images.masks])
        table = images.table.assign(resize=way, after=after)
        pixels = table["width"] * table["height"] if "width" in table else size**2
        table["before"] = (table["lesion_area"] * pixels).round()
        rows.append(table.loc[table["lesion_area"] > 0, ["image_id", "label", "resize", "before", "after"]])
    return pd.concat(rows, ignore_index=True)


def is_drawn(name: str) -> bool:
    from mednb import datasets

    return any(datasets.named(each).CARD.folder is None for each in name.split("+"))
