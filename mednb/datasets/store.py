"""The pixel store: every image decoded and resized once, then memory-mapped for ever after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets import duplicates, splits
from mednb.datasets.card import Card
from mednb.files import write_json

VERSION = 2  # part of every key: raise it when the same files would be stored differently


@dataclass(frozen=True)
class Store:
    """What lies in one folder of the cache. `masks` is None when the source has none."""

    table: pd.DataFrame
    pixels: np.ndarray  # (N, H, W) uint8, memory map
    masks: np.ndarray | None  # (N, H, W) bool, memory map
    fingerprint: str


def cache() -> Path:
    """The cache's folder: $MEDNB_CACHE, else the platform's place for caches."""
    import platformdirs

    return Path(os.environ.get("MEDNB_CACHE") or platformdirs.user_cache_dir("mednb"))


def key_of(*parts: object) -> str:
    """16 hexadecimal digits of everything that decides what a store holds."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]


def stored(name: str, size: int, key: str, build: Callable[[Path], None]) -> Store:
    """Open the store with this key; when there is none, `build(folder)` makes one first.

    It is built in a folder beside and renamed when it is whole, under a lock: when `build` raises, or the process dies,
    nothing is cached, and a second process waits for the first one instead of building again.
    """
    from filelock import FileLock

    folder = cache() / f"{name}-{size}-{key}"
    if not folder.is_dir():
        cache().mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                aside = folder.with_name(f".{folder.name}.part")
                shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
                aside.mkdir()
                try:
                    build(aside)
                    aside.rename(folder)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
    masks = folder / "masks.npy"
    return Store(
        table=pd.read_parquet(folder / "table.parquet"),
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        masks=np.load(masks, mmap_mode="r") if masks.exists() else None,
        fingerprint=key,
    )


def fill(folder: Path, n: int, size: int, masked: bool, blocks: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Write `pixels.npy` and, when `masked`, `masks.npy`, block by block, so that memory holds one block at a time.

    blocks: (pixels (k, size, size) uint8, masks (k, size, size) bool or None), n images in all.
    """
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (n, size, size))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", bool, (n, size, size)) if masked else None
    start = 0
    for some_pixels, some_masks in blocks:
        rows = slice(start, start + len(some_pixels))
        pixels[rows] = some_pixels
        if masked:
            masks[rows] = some_masks
        start = rows.stop
    pixels.flush()
    if masked:
        masks.flush()


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write `table.parquet` with a column `part`, the fifth that each patient is in: cut once for all folds."""
    table.assign(part=splits.parts(table)).to_parquet(folder / "table.parquet", index=False)


def located(root: Path, layouts: tuple[str, ...], card: Card) -> Path:
    """The dataset's folder under the data root, by the first layout that is there.

    Raises FileNotFoundError that says what was looked for and where, what is there, and which root would do.
    """
    for layout in layouts:
        if (root / layout).is_dir():
            return root / layout
    looked = f"{card.name} needs {root / layouts[0]}"
    if not root.is_dir():
        raise FileNotFoundError(
            f"{looked}, but there is no folder {root.absolute()}. If it lies elsewhere, say so with --data, root or "
            f"$MEDNB_DATA. To get it: {card.how_to_get}."
        )
    around = [root.absolute().parent, root.absolute().parent.parent, *sorted(root.iterdir())]
    open_ = [other for other in around if os.access(other, os.X_OK)]
    right = [other for other in open_ if any((other / layout).is_dir() for layout in layouts)]
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"The data root seems to be {right[0]}" if right else f"To get it: {card.how_to_get}"
    raise FileNotFoundError(f"{looked}, but {root.absolute()} holds {there or 'nothing'}. {hint}.")


def from_files(card: Card, folder: Path, index: pd.DataFrame, size: int) -> Store:
    """The store of a dataset that lies in files.

    index: one row per image with `image_id` (its path inside `folder`), `label`, `masks` (paths inside `folder`, to be
    united; an empty list for none) and whatever else is known. Without a column `patient`, groups of near-duplicates
    stand in for patients. Raises ValueError naming the file when one cannot be read or a mask has another size.
    """
    files = sorted({*index["image_id"], *(mask for masks in index["masks"] for mask in masks)})
    # Reading every file each time would be slow, so the hash of their contents is remembered under a stamp of their
    # paths, lengths and times of change; when one of these differs, the contents are read again.
    listing = [(file, (stat := (folder / file).stat()).st_size, stat.st_mtime_ns) for file in files]
    stamp = cache() / "stamps" / f"{key_of(card.name, str(folder.resolve()), listing)}.json"
    contents = json.loads(stamp.read_text())["contents"] if stamp.exists() else contents_hash(folder, files)

    def build(aside: Path) -> None:
        facts, thumbnails = [], []
        fill(aside, len(index), size, True, decoded(folder, index, size, facts, thumbnails))
        table = index.drop(columns="masks").assign(modality=card.modality, source=card.folder, **pd.DataFrame(facts))
        if "patient" not in table:
            first = duplicates.groups(np.stack(thumbnails))
            table["patient"] = [Path(table["image_id"][row]).stem for row in first]
        write_table(aside, table)

    found = stored(card.name, size, key_of(card.name, index.to_csv(index=False), contents, size), build)
    if not stamp.exists():
        write_json(stamp, {"dataset": card.name, "folder": str(folder.resolve()), "contents": contents})
    return found


def contents_hash(folder: Path, files: list[str]) -> str:
    """SHA-256 over the names and contents of these files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.encode() + b"\0" + hashlib.sha256(inside(folder, file).read_bytes()).digest())
    return digest.hexdigest()


def inside(folder: Path, file: str) -> Path:
    """The path of a file of the dataset; ValueError when it is a link that leads out of the dataset's folder."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link that leads out of {folder}; copy the file there instead.")
    return path


def decoded(
    folder: Path, index: pd.DataFrame, size: int, facts: list[dict], thumbnails: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the images of the index one by one; what is noticed on the way is appended to `facts` and `thumbnails`."""
    from tqdm import tqdm

    rows = tqdm(index.itertuples(), f"decoding {len(index):,} images once", len(index), delay=2, disable=None)
    for row in rows:
        image, mask = read(folder, row)
        height, width = image.shape
        lesions = len(row.masks) if mask.any() else 0
        facts.append({"width": width, "height": height, "lesions": lesions, "lesion_area": mask.mean()})
        thumbnails.append(duplicates.thumbnail(image))
        yield resized(image, size)[None], resized_mask(mask, size)[None]


def read(folder: Path, row: tuple) -> tuple[np.ndarray, np.ndarray]:
    """One image of an index as it lies in its file: (H, W) uint8, and the union of its masks, (H, W) bool."""
    image = read_grey(folder, row.image_id)
    mask = np.zeros(image.shape, bool)
    for file in row.masks:
        part = read_grey(folder, file)
        if part.shape != image.shape:
            (height, width), (h, w) = part.shape, image.shape
            raise ValueError(f"{folder / file} is {width} x {height} pixels, but its image is {w} x {h}.")
        mask |= part > part.max() / 2  # whether lesion is written as 255 or as 1
    return image, mask


def read_grey(folder: Path, file: str) -> np.ndarray:
    """(H, W) uint8 of one file inside the dataset's folder; colour becomes grey, transparency black.

    The files come from strangers: a link that leads out of the folder, a picture of an absurd size (a decompression
    bomb), more than 8 bits, anything broken is a ValueError that names the file.
    """
    from PIL import Image

    path = inside(folder, file)
    broken = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG", "JPEG", "BMP", "TIFF"]) as image:
                if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                    raise ValueError(f"its pixels are {image.mode!r}, not 8-bit grey or colour")
                if image.mode in ("LA", "RGBA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
                return np.asarray(image.convert("L"))
    except broken as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) uint8 -> (size, size) uint8, stretched; antialiased, so that fine speckle is averaged and not aliased."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resized_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool -> (size, size) bool, stretched: True where at least half of the pixel's area is.

    A lesion never vanishes: when no pixel is half covered, the one that is covered most is kept.
    """
    from PIL import Image

    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX))
    small = share >= 0.5
    if mask.any() and not small.any():
        small.flat[share.argmax()] = True
    return small
