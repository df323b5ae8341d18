"""Is the store built as fast as this machine can decode, and how long does opening it take? Run it by hand:

    python tests/bench_store.py --data DIR

BUSI and BUS-BRA at 128 pixels. The bare loop decodes and resizes the same files, images and masks, into arrays, with
Pillow and nothing else, by threads and by processes; the better one counts. "needed" is the same loop, by processes,
with what a store cannot do without: each file's SHA-256, and a second, smaller picture for near-duplicates. "kornia" is
the bare loop with the decoder that the store has for images. All are held against what the store does between knowing
the files and having all pixels on the disk ("decoding": with masks that are measured, the journal and fsync), and
against all that building takes. The sides take turns, since a machine has moods. The processes of both are there before
the clock starts.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kornia_rs
import numpy as np
from PIL import Image

from mednb import datasets
from mednb.datasets import decode, duplicates
from mednb.datasets.located import located
from mednb.datasets.sources import busbra, busi
from mednb.machine import usable_cores

SIZE = 128
MODULES = (busi, busbra)


def bare(jobs: list[tuple[str, bool]], needed: bool = False, kornia: bool = False) -> None:
    small = np.empty((len(jobs), SIZE, SIZE), np.uint8)
    for at, (file, is_mask) in enumerate(jobs):
        content = Path(file).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if kornia and not is_mask:
                decoded = kornia_rs.io.decode_image_png_u8(content, image.size[::-1], "mono")
                grey = Image.fromarray(decoded[..., 0])
            else:
                grey = image.convert("L")
        small[at] = grey.resize((SIZE, SIZE), Image.Resampling.BOX if is_mask else Image.Resampling.BILINEAR)
        if needed:
            hashlib.sha256(content).hexdigest()
        if needed and not is_mask:
            duplicates.thumbnail(np.asarray(grey))


def every_file(root: Path) -> list[list[tuple[str, bool]]]:
    """Path and whether it is a mask, of every file that the store reads, some at a time."""
    jobs = []
    for module in MODULES:
        archive = located(root, module.CARD, module)
        for row in module.index(archive).itertuples():
            jobs += [(archive.where(row.image_id), False), *((archive.where(mask), True) for mask in row.masks)]
    return [jobs[start : start + 32] for start in range(0, len(jobs), 32)]


@contextlib.contextmanager
def clocked(spent: dict, name: str):
    """Adds what the block takes to spent[name], in seconds."""
    started = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0) + time.perf_counter() - started


def build(root: Path, spent: dict) -> None:
    """The stores of both from nothing ("store"), of which "decoding" is what is like the bare loop, and the rest lists
    files, finds groups, draws splits and writes tables; then both opened again ("opening")."""
    plain, mark = decode.read_rows, decode.Journal.mark
    started = []

    def read_rows(*everything) -> None:
        started.append((time.perf_counter(), spent.get("decoding", 0)))
        plain(*everything)

    def marked(*everything) -> None:
        mark(*everything)
        began, before = started[-1]
        spent["decoding"] = before + time.perf_counter() - began  # the last mark counts

    decode.read_rows, decode.Journal.mark = read_rows, marked
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MEDNB_CACHE"] = cache
        with clocked(spent, "store"):
            for module in MODULES:
                archive = located(root, module.CARD, module)
                decode.from_archive(module, archive, decode.Settings(SIZE))
        with clocked(spent, "opening"):
            for module in MODULES:
                datasets.load(module.CARD.name, root, SIZE)
    decode.read_rows, decode.Journal.mark = plain, mark


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=os.environ.get("MEDNB_DATA", "data"))
    asked.add_argument("--turns", type=int, default=5)
    asked = asked.parse_args()
    parts, cores, turns = every_file(asked.data), usable_cores(), []
    build(asked.data, {})  # once for what Python imports and the disk remembers
    print(f"{sum(map(len, parts)):,} files at {SIZE} pixels on {cores} cores, seconds:")
    with ThreadPoolExecutor(cores) as threads, multiprocessing.get_context("forkserver").Pool(cores) as processes:
        processes.map(bare, parts[: 2 * cores])
        for _ in range(asked.turns):
            spent = {}
            with clocked(spent, "bare threads"):
                list(threads.map(bare, parts))
            with clocked(spent, "bare processes"):
                processes.map(bare, parts)
            with clocked(spent, "needed"):
                processes.starmap(bare, zip(parts, itertools.repeat(True)))
            with clocked(spent, "kornia"):
                processes.starmap(bare, zip(parts, itertools.repeat(False), itertools.repeat(True)))
            build(asked.data, spent)
            print(", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items()))
            turns.append(spent)
    of = {key: np.array([spent[key] for spent in turns]) for key in turns[0]}
    loops = {
        "bare": np.minimum(of["bare threads"], of["bare processes"]),
        "needed": of["needed"],
        "kornia": of["kornia"],
    }
    stages = {"decoding": "decoding into the store", "store": "with listing, groups, splits and tables"}
    for (loop, seconds), (stage, said) in itertools.product(loops.items(), stages.items()):
        ratio = seconds / of[stage]
        print(
            f"{said}: {statistics.median(ratio):.0%} of the {loop} loop "
            f"({ratio.min():.0%} to {ratio.max():.0%} in {len(turns)} turns)"
        )
    print(f"opening both: {statistics.median(of['opening']):.3f} s")


if __name__ == "__main__":
    main()
