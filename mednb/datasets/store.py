"""The pixel store: every image decoded and resized once, then memory-mapped for ever after."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pandas as pd

from mednb.datasets import duplicates, splits
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card
from mednb.files import write_json

VERSION = 3  # part of every key: raise it when the same files would be stored differently


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
    masks, about = folder / "masks.npy", folder / "about.json"
    return Store(
        table=pd.read_parquet(folder / "table.parquet"),
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        masks=np.load(masks, mmap_mode="r") if masks.exists() else None,
        fingerprint=json.loads(about.read_text())["fingerprint"] if about.exists() else key,
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


def located(root: Path, card: Card, module: ModuleType) -> Archive:
    """The dataset's files: in <root>/<card.folder>, a zip there or beside it, or in the root itself.

    They are known by the path `module.LOOKS_LIKE`; one leading folder, such as a zip's own top folder, is skipped.
    Raises FileNotFoundError that says what was looked for and where, what is there, and which root would do, and
    ValueError when two folders look like the dataset.
    """
    for place in places(root, card, module):
        base = base_of(place, module.LOOKS_LIKE)
        if base is not None:
            return Archive(place, base)
    looked = f"{card.name} needs {root / card.folder / module.LOOKS_LIKE}"
    if not root.is_dir():
        is_file = "is a file and no folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"{looked}, but {root.absolute()} {is_file}. If the data lies elsewhere, say so with --data, root or "
            f"$MEDNB_DATA. To get it: {card.how_to_get}."
        )
    around = [root.absolute().parent, root.absolute().parent.parent, *sorted(root.iterdir())]
    right = [other for other in around if os.access(other, os.X_OK) and looks_right(other, card, module)]
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"The data root seems to be {right[0]}" if right else f"To get it: {card.how_to_get}"
    raise FileNotFoundError(f"{looked}, but {root.absolute()} holds {there or 'nothing'}. {hint}.")


def places(root: Path, card: Card, module: ModuleType) -> list[Path]:
    """Where a dataset may lie, in the order in which it is looked for."""
    zips = (f"{card.folder}.zip", *getattr(module, "ZIPS", ()))
    inside = [root / card.folder / name for name in zips]
    return [root / card.folder, *(root / name for name in zips), *inside, root]


def base_of(place: Path, looks_like: str) -> str | None:
    """What stands before `looks_like` in a folder or zip: nothing or one folder; None when it is not there."""
    if place.is_file():
        names = Archive(place).names
        found = {name[: name.index(looks_like)] for name in names if looks_like in name}
        found = {base for base in found if base.count("/") == base.endswith("/")}
    elif place.is_dir() and os.access(place, os.R_OK):
        found = {""} if (place / looks_like).exists() else set()
        if not found:
            folders = sorted(path for path in place.iterdir() if not path.name.startswith("."))
            found = {f"{path.name}/" for path in folders if (path / looks_like).exists()}
    else:
        return None
    if len(found) > 1:
        two = " and ".join(str(place / base) for base in sorted(found)[:2])
        raise ValueError(f"{two} both look like the dataset; move one away.")
    return found.pop() if found else None


def looks_right(root: Path, card: Card, module: ModuleType) -> bool:
    """Whether this root would do; a look at folders only."""
    return any(place.is_dir() and (place / module.LOOKS_LIKE).exists() for place in (root / card.folder, root))


def from_archive(module: ModuleType, archive: Archive, size: int) -> Store:
    """The store of a dataset that lies in files; a source module says which file is which.

    Without a column `patient`, groups of near-duplicates stand in for patients. Raises ValueError naming the file when
    one cannot be read or a mask has another size.
    """
    card = module.CARD

    def build(aside: Path) -> None:
        index, facts, thumbnails = module.index(archive), [], []
        fill(aside, len(index), size, True, decoded(archive, index, size, facts, thumbnails))
        table = index.drop(columns="masks").assign(modality=card.modality, organ=card.organ, source=card.name)
        table = pd.concat([table, pd.DataFrame(facts)], axis=1)
        if "patient" not in table:
            first = duplicates.groups(np.stack(thumbnails))
            table["patient"] = [PurePosixPath(table["image_id"][row]).stem for row in first]
        write_table(aside, table)
        content = [hashlib.sha256(archive.read(name)).hexdigest() for name in archive.names]
        write_json(aside / "about.json", {"fingerprint": key_of(card.name, archive.names, content, size)})

    return stored(card.name, size, key_of(card.name, archive.stamp(), source_text(module), size), build)


def source_text(module: ModuleType) -> str:
    """The text of the file that says which file is which: when it changes, what was stored is old."""
    return Path(module.index.__code__.co_filename).read_text(encoding="utf-8")


def decoded(
    archive: Archive, index: pd.DataFrame, size: int, facts: list[dict], thumbnails: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the images of the index one by one; what is noticed on the way is appended to `facts` and `thumbnails`."""
    from tqdm import tqdm

    rows = tqdm(index.itertuples(), f"decoding {len(index):,} images once", len(index), delay=2, disable=None)
    for row in rows:
        image, mask = read(archive, row)
        height, width = image.shape
        lesions = len(row.masks) if mask.any() else 0
        facts.append({"width": width, "height": height, "lesions": lesions, "lesion_area": mask.mean()})
        thumbnails.append(duplicates.thumbnail(image))
        yield resized(image, size)[None], resized_mask(mask, size)[None]


def read(archive: Archive, row: tuple) -> tuple[np.ndarray, np.ndarray]:
    """One image of an index as it lies in its file: (H, W) uint8, and the union of its masks, (H, W) bool."""
    image = read_grey(archive, row.image_id)
    mask = np.zeros(image.shape, bool)
    for file in row.masks:
        part = read_grey(archive, file)
        if part.shape != image.shape:
            (height, width), (h, w) = part.shape, image.shape
            raise ValueError(f"{archive.where(file)} is {width} x {height} pixels, but its image is {w} x {h}.")
        mask |= part > part.max() / 2  # whether lesion is written as 255 or as 1
    return image, mask


def read_grey(archive: Archive, file: str) -> np.ndarray:
    """(H, W) uint8 of one file; colour becomes grey, transparency black. ValueError names a file that is broken."""
    from PIL import Image

    broken = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    content = archive.read(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "BMP", "TIFF"]) as image:
                if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                    raise ValueError(f"its pixels are {image.mode!r}, not 8-bit grey or colour")
                if image.mode in ("LA", "RGBA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
                return np.asarray(image.convert("L"))
    except broken as error:
        raise ValueError(f"{archive.where(file)} cannot be read as an image: {error}.") from error


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
