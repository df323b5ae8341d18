"""The pixel store: every image decoded and resized once, then memory-mapped for ever after.

A store is a folder of the cache, whose name follows from the files, the settings and the version it is made from:

    pixels.npy       (N, size, size) or (N, 3, size, size), uint8 or uint16
    masks.npy        (N, size, size) bool; missing when there are none
    thumbnails.npy   (N, 48, 48) uint8, by which near-duplicates are found; missing for what is drawn
    splits.npy       (5, N) int8, the split of each image in each fold
    table.parquet    one row per image
    quarantine.csv   what could not be read, and why
    contents.sha256  the files that were read, as `sha256sum -c` takes them; hidden ones by what is shown instead
    about.json       the fingerprint, the hash of the split of each fold, how long each of these files is

It is made in a folder beside, which is renamed when it is whole. `decode.py` makes those of datasets that lie in files.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mednb.datasets import splits
from mednb.files import write_json

VERSION = 5  # part of every key: raise it when the same files would be stored differently
FOLDS = 5
SPLITS = [*splits.NAMES, splits.LEFT_OUT]  # the numbers in splits.npy are positions here


@dataclass(frozen=True)
class Store:
    """What lies in one folder of the cache; the arrays are memory maps."""

    table: pd.DataFrame
    pixels: np.ndarray
    masks: np.ndarray | None
    thumbnails: np.ndarray | None
    splits: np.ndarray
    split_hashes: list[str]
    fingerprint: str
    quarantine: pd.DataFrame


def cache() -> Path:
    """The cache's folder, by its whole path: $MEDNB_CACHE, else the platform's place for caches."""
    import platformdirs

    return Path(os.environ.get("MEDNB_CACHE") or platformdirs.user_cache_dir("mednb")).absolute()


def key_of(*parts: object) -> str:
    """16 hexadecimal digits of everything that decides what a store holds."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]


def stored(name: str, size: int, key: str, build: Callable[[Path], None], part: str | None = None) -> Store:
    """Open the store with this key; when there is none, or it is damaged, `build(folder)` makes one first.

    Under a lock, so that a second process waits for the first one instead of building too. When `build` raises, nothing
    is left. When the process is killed, or runs out of memory, `build` gets the same folder again next time, unless the
    key has changed.

    part: names the folder of what is not finished; None: the key. Files that have changed have another key, but the
        same part, so that nothing is left of what was made of the old ones.
    """
    from filelock import FileLock

    folder = cache() / f"{name}-{size}-{key}"
    found = opened(folder)
    if found is not None:
        return found
    aside = cache() / f".{name}-{size}-{part or key}.part"
    lock = FileLock(aside.with_suffix(".lock"))
    with writable():
        cache().mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        found = opened(folder)  # the process that was waited for has made it
        if found is None:
            with writable():
                shutil.rmtree(folder, ignore_errors=True)
                if not (aside / "key").exists() or (aside / "key").read_text(encoding="utf-8") != key:
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.mkdir()
                    (aside / "key").write_text(key, encoding="utf-8")
            try:
                build(aside)
                aside.rename(folder)
            except MemoryError:
                raise
            except Exception:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            found = opened(folder)
    finally:
        lock.release()
    return found


def opened(folder: Path) -> Store | None:
    """The store in this folder; None when there is none, or when its files are not those that were written."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        files = {folder / name: size for name, size in about["files"].items()}
        if any(path.stat().st_size != size for path, size in files.items()):
            return None
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in files if path.suffix == ".npy"}
        quarantine = folder / "quarantine.csv"
        return Store(
            table=pd.read_parquet(folder / "table.parquet"),
            pixels=arrays["pixels"],
            masks=arrays.get("masks"),
            thumbnails=arrays.get("thumbnails"),
            splits=arrays["splits"],
            split_hashes=about["split_hashes"],
            fingerprint=about["fingerprint"],
            quarantine=pd.read_csv(quarantine, dtype=str, keep_default_na=False)
            if quarantine in files
            else pd.DataFrame(columns=["image_id", "why"]),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError):
        return None


@contextmanager
def writable(need: int = 0) -> Iterator[None]:
    """What the disk refuses inside becomes a sentence that names the cache, and how many bytes it should have free."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            said = f"has no room for it ({need / 1e6:,.0f} MB are needed): make room"
        else:
            said = f"cannot be written ({error.strerror or error})"
        raise OSError(f"the cache {cache()} {said}, or name another folder in $MEDNB_CACHE.") from error


def names(codes: np.ndarray) -> pd.Series:
    """A row of `splits` -> (N,) of str."""
    import pyarrow

    words = pyarrow.DictionaryArray.from_arrays(np.asarray(codes), pyarrow.array(SPLITS)).cast(pyarrow.string())
    return pd.Series(words, dtype="str")


class Shelf:
    """A .npy file whose rows are written at their place, in any order and by any thread.

    Through the file and not through a memory map, where a full disk would kill the process instead of raising. Room is
    taken at once, so that a disk that is too small is noticed before the work.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.start = len(self.head())
        self.row = int(np.prod(shape[1:])) * self.dtype.itemsize
        self.bytes = self.start + shape[0] * self.row
        if not path.exists():
            aside = path.with_suffix(".new")
            with aside.open("wb") as file:
                take(file.fileno(), self.bytes)
                file.write(self.head())
            aside.rename(path)

    def head(self) -> bytes:
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, about)  # of one length for any number of rows
        return head.getvalue()

    def write(self, row: int, values: np.ndarray) -> None:
        """Write these rows, from `row` on."""
        rest = memoryview(np.ascontiguousarray(values, self.dtype)).cast("B")
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.start + row * self.row)
            while len(rest):
                rest = rest[file.write(rest) :]

    def safe(self) -> None:
        """Wait until what was written is on the disk."""
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def keep(self, rows: np.ndarray) -> None:
        """Only these rows, in ascending order: they move up, and the file becomes shorter."""
        values = np.load(self.path, mmap_mode="r")
        for start in range(0, len(rows), 64):
            self.write(start, values[rows[start : start + 64]])
        self.shape = (len(rows), *self.shape[1:])
        with self.path.open("r+b") as file:
            file.write(self.head())
            file.truncate(self.start + len(rows) * self.row)


def take(descriptor: int, n: int) -> None:
    """Make a file n bytes long and, where the disk's format can do that, take the room for them."""
    os.truncate(descriptor, n)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, n)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def fill(folder: Path, n: int, size: int, masked: bool, blocks: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Write `pixels.npy` and, when `masked`, `masks.npy`, block by block, so that memory holds one block at a time.

    blocks: (pixels (k, size, size) uint8, masks (k, size, size) bool or None), n images in all.
    """
    with writable(n * size * size * (1 + masked)):
        pixels = Shelf(folder / "pixels.npy", (n, size, size), np.uint8)
        masks = Shelf(folder / "masks.npy", (n, size, size), bool) if masked else None
    start = 0
    for some_pixels, some_masks in blocks:
        with writable(n * size * size * (1 + masked)):
            pixels.write(start, some_pixels)
            if masked:
                masks.write(start, some_masks)
        start += len(some_pixels)


def write_table(folder: Path, table: pd.DataFrame, fingerprint: str | None = None) -> None:
    """Write the table, and the split of every image in every fold, decided once, so that opening stays fast.

    fingerprint: of the images; None: the store's key says all, as for what is drawn.
    """
    first = ["image_id", "patient", "label", "modality", "source"]
    table = table[first + [column for column in table if column not in first]]
    parts, groups = splits.parts(table), pd.factorize(splits.grouped(table))[0]
    each = [splits.of_fold(parts, fold, FOLDS, groups) for fold in range(FOLDS)]
    codes = np.array([np.select([names == split for split in SPLITS], range(len(SPLITS))) for names in each], np.int8)
    fingerprint = fingerprint or (folder / "key").read_text(encoding="utf-8")
    with writable(table.memory_usage(deep=True).sum()):
        np.save(folder / "splits.npy", codes)
        table.to_parquet(folder / "table.parquet", index=False)
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".npy", ".parquet", ".csv", ".sha256")]
        about = {"fingerprint": fingerprint, "split_hashes": splits.split_hashes(table, each)}
        write_json(folder / "about.json", about | {"files": {path.name: path.stat().st_size for path in files}})
