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

from mednb.files import write_json

VERSION = 1  # part of every key: raise it when the same files would be stored differently


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
