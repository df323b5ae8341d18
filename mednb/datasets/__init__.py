"""Datasets: where the images come from, and who is trained, chosen and tested on.

    >>> from mednb import datasets
    >>> images = datasets.load("phantoms", size=64, limit=200)
    >>> images.where(split="train").few(0.25, seed=0)

A dataset is a module with a `CARD`. One that lies in files says how its folder is known (`LOOKS_LIKE`) and which file
is which (`index`), as `sources/busi.py` does, and leaves the rest to `decode`.
"""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np

from mednb.datasets import decode, phantoms, splits, store
from mednb.datasets.card import Card
from mednb.datasets.images import Images
from mednb.datasets.located import located
from mednb.datasets.mixes import mix
from mednb.datasets.sources import SOURCES

__all__ = ["DATASETS", "Card", "Images", "card_text", "check", "describe_all", "load", "mix", "named"]

DATASETS: dict[str, ModuleType] = {
    "phantoms": phantoms.ultrasound,
    "phantoms_mammography": phantoms.mammography,
    "phantoms_ct": phantoms.ct,
    **SOURCES,
}


def load(
    name: str,
    root: str | Path | None = None,
    size: int = 128,
    fold: int = 0,
    limit: int | None = None,
    *,
    resize: str = "stretch",
    around: str | None = None,
    window: str | tuple[float, float] | None = None,
    bits: int = 8,
    channels: int = 1,
    stride: int = 1,
    broken: str = "raise",
    curate: bool = False,
    table: str | Path | None = None,
    balance: str | None = "modality",
    across: float | None = None,
) -> Images:
    """The images of a dataset as size x size pixels, with their masks, patients and splits.

    name: one of `DATASETS`, or several as a mix, "busi+busbra" (see `mix`).
    root: the data root, which holds one folder per dataset; None: $MEDNB_DATA, else "data". Phantoms need none.
    size: pixels of a side. Decoded and resized once per size, then kept in $MEDNB_CACHE or the platform's cache.
    fold: 0 to 4, which fifth of the patients is the test split; the next fifth is val, the other three are train. Where
        the authors have split their dataset, their split is kept.
    limit: at most about this many images, whole patients, each of them in the split that they have without a limit.
        For phantoms: how many are drawn (None: 2,000). None: all.
    resize: "stretch" fills the square; "pad" keeps the aspect, with black at the sides; "crop_to_body" cuts the black
        background off first.
    around: "lesion" crops a square around the lesion, and for images without one a square as large, which is known for
        ultrasound and mammography of the breast only; None: the whole.
    window: which values are black and white: a name such as "lung" or "brain", or two numbers; None: what the dataset's
        card says, else the file. Files of 16 bits that use 14 of them or less are dark then, and a warning says so.
    bits: 8 or 16 bits a pixel.
    channels: 1 for grey, 3 for red, green and blue.
    stride: of videos and volumes, every how many-th frame is taken.
    broken: what happens when a file cannot be read: "raise" an error, or put it in "quarantine": the image is left out
        and listed in `images.quarantine`.
    curate: whether a training image is left out that looks the same as one before it (see `duplicates.curated`): for
        pretraining. Val and test stay whole.
    table: of your own images ("folder", whose root is the folder itself): a CSV file with a column image, and patient,
        label, mask and split where you know them (see `sources.folder`).
    balance: of a mix: every "modality", "organ" or "source" weighs the same; None: every image does.
    across: of a mix: images of two datasets whose thumbnails correlate more than this stay in one split; None: not
        looked for, and refused where one dataset was taken from another.
    Raises ValueError or FileNotFoundError, one sentence that names the parameter or the file; then nothing is cached.
    """
    settings = decode.Settings(size, resize, around, window, bits, channels, stride, broken)
    if isinstance(limit, bool) or not (limit is None or (isinstance(limit, (int, np.integer)) and limit > 0)):
        raise ValueError(f"limit is {limit!r}; it is a number of images, 1 or more, or None for all.")
    if isinstance(fold, bool) or not (isinstance(fold, (int, np.integer)) and 0 <= fold < store.FOLDS):
        raise ValueError(f"fold is {fold!r}; it is one of 0 to {store.FOLDS - 1}.")
    fold, limit = int(fold), None if limit is None else int(limit)
    if "+" in str(name):
        assert_alone(name, table)
        how = {"balance": balance, "across": across, "curate": curate}
        return mix(name, root, fold=fold, limit=limit, **how, **vars(settings))
    if across is not None:
        raise ValueError(f"across is for images of two datasets, as in 'busi+busbra'; {name} is one, so leave it out.")
    module = fitted(with_table(named(name), root, table), settings.size)
    if module.CARD.folder is None:  # drawn, and the limit is how many
        if (bits, channels, around, window) != (8, 1, None, None):
            raise ValueError(f"{name} are drawn whole in 8 bits; leave out bits, channels, around and window.")
        found = module.stored(settings.size, limit)
    else:
        found = decode.from_archive(module, located(data_root(root), module.CARD, module), settings)
    table, card = found.table, module.card_of(found.table) if hasattr(module, "card_of") else module.CARD
    members = None
    if module.CARD.folder == "":  # all have one name, and a study may learn from one of them and be tested on another
        members = {f"{name} {store.key_of(str(data_root(root).resolve()))[:8]}": found.split_hashes[fold]}
    if "organ" not in table:  # what is drawn shows one
        table = table.assign(organ=card.organ)
    table.insert(3, "split", store.names(found.splits[fold]))
    table.insert(4, "fold", fold)
    images = Images(
        name=name,
        card=card,
        size=settings.size,
        table=table,
        fingerprint=found.fingerprint,
        split_hash=found.split_hashes[fold],
        members=members,
        stored_pixels=found.pixels,
        stored_masks=found.masks,
        quarantine=found.quarantine,
        stored_thumbnails=found.thumbnails,
    )
    images = splits.usable(images)
    if curate and "near_duplicate" in images.table:
        dropped = images.table["near_duplicate"] & (images.table["split"] == "train")
        images = images.take(np.flatnonzero(~dropped))
    if limit is not None and limit < len(images):
        images = images.take(splits.at_most(images.table, limit))
    return images


def assert_alone(name: str, table: str | Path | None) -> None:
    if table is not None and "+" in name:
        raise ValueError(f"table describes your own images, 'folder', loaded alone; {name} is a mix, so leave it out.")


def with_table(module: ModuleType, root: str | Path | None, table: str | Path | None) -> ModuleType:
    """A source with your table, where you have one; ValueError when it takes none, or needs a root that is missing."""
    if module.CARD.folder == "" and root is None:
        raise ValueError(
            f"{module.CARD.name} needs root, --data or a notebook's data: the folder that holds your images."
        )
    if table is not None:
        if not hasattr(module, "with_table"):
            raise ValueError(f"table is for your own images, 'folder'; {module.CARD.name} has tables of its own.")
        module = module.with_table(table)
    return module


def fitted(module: ModuleType, size: int) -> ModuleType:
    """A source of the files that fit the size, where there are several."""
    return module.sized(size) if hasattr(module, "sized") else module


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


def describe_all(root: str | Path | None = None) -> str:
    """One line per dataset: name, whether its files are under the data root, images, classes and title."""
    lines = []
    for name, module in DATASETS.items():
        card = module.CARD
        there = {None: "drawn", "": "yours"}.get(card.folder) or ("there" if is_there(name, root) else "-")
        total = card.n_images or sum(card.counts.values())
        images = f"{total:,} images" if total else ""
        classes = ", ".join(card.classes[:4]) + (", ..." if len(card.classes) > 4 else "")
        lines.append(f"{name:<20} {there:<6} {images:>15}   {card.modality}: {classes}   {card.title}")
    return "\n".join(lines)


def is_there(name: str, root: str | Path | None = None) -> bool:
    """Whether the files of a dataset, or the folder in which they should be, are under the data root."""
    module, root = named(name), data_root(root)
    try:
        return located(root, module.CARD, module).path != root or bool(module.LOOKS_LIKE)
    except (OSError, ValueError):
        return False


def card_text(name: str) -> str:
    """The dataset's card as text; of a mix ("busi+busbra"), the cards of its members."""
    return "\n\n".join(str(named(each).CARD) for each in name.split("+"))


def get(name: str, root: str | Path | None = None, size: int = 128) -> str:
    """Download a dataset where its source allows that; otherwise, what to download by hand and where to put it.

    What is there already, whole, is not downloaded again. Files arrive in a folder aside and are moved when all are.

    Raises OSError when the download fails; then, as when it is interrupted, nothing is left of it.
    """
    module, root = named(name), data_root(root)
    how = module.CARD.how_to_get.replace("<root>", str(root))
    if not hasattr(module, "get"):
        return how
    folder = root / module.CARD.folder
    if not (folder.exists() and module.has(folder, size)):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
        try:
            module.get(aside, size)
            for path in sorted(path for path in aside.rglob("*") if not path.is_dir()):
                place = folder / path.relative_to(aside)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        except (OSError, RuntimeError, ValueError, EOFError) as error:  # no network, a wrong checksum, cut short
            said = " ".join(str(error.__context__ or error).split()).rstrip(".")  # medmnist's own words fill a page
            raise OSError(f"{name} was not downloaded: {said}. Try again, or do it by hand: {how}.") from error
        finally:
            shutil.rmtree(aside)
            with suppress(OSError):  # another process has put something there
                for path in made:
                    path.rmdir()
    return f"{name} is in {folder}"


def check(name: str, root: str | Path | None = None, table: str | Path | None = None) -> tuple[str, bool]:
    """Read every file of the dataset and report all that is wrong; see `mednb.datasets.checks`.

    table: of your own images, as `load` takes it.
    """
    from mednb.datasets.checks import report

    assert_alone(name, table)
    modules = [with_table(named(each), root, table) for each in name.split("+")]
    reports, well = zip(*(report(module, data_root(root)) for module in modules), strict=True)
    return "\n".join(reports), all(well)
