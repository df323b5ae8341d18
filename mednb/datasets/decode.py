"""Files of a dataset -> a store: every image decoded and resized once, by all cores, and never again.

All cores share the work, and memory holds what they work on and no more. What is done is marked every two seconds, so
that a build that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import threading
import time
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pandas as pd

from mednb.datasets import duplicates, splits, store
from mednb.datasets.archive import MANY, Archive
from mednb.files import whole, write_json
from mednb.machine import usable_cores

CHUNK = 32  # images that a worker takes at a time
FEW = 500  # images; of more it takes longer to read them than to start processes for it
DARK = 2**14  # 16 bits of which none is set above make a picture of less than a quarter of the brightness
EVERY = 2.0  # seconds between two marks of what is done
READING = 4  # part of every key, and of no fingerprint: raise it when some odd files would be read differently


@dataclass(frozen=True)
class Settings:
    """How files become pixels, as `mednb.datasets.load` explains it. Raises ValueError that offers the choices."""

    size: int = 128
    resize: str = "stretch"
    around: str | None = None
    window: str | tuple[float, float] | None = None
    bits: int = 8
    channels: int = 1
    stride: int = 1
    broken: str = "raise"

    def __post_init__(self):
        from mednb.datasets import pixels, resize

        numbers = {"size": (16, "the side of the images in pixels"), "stride": (1, "every how many-th frame is taken")}
        for name, (least, what) in numbers.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} is {value!r}; it is {what}, a whole number from {least}.")
            object.__setattr__(self, name, int(value))
        choices = {"resize": resize.HOW, "around": (None, "lesion"), "bits": (8, 16), "channels": (1, 3)}
        for name, values in (choices | {"broken": ("raise", "quarantine")}).items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(map(repr, values))}.")
        if isinstance(self.window, list):
            object.__setattr__(self, "window", tuple(self.window))
        if self.window is not None and self.window not in pixels.WINDOWS:
            number = (int, float, np.integer, np.floating)
            two = isinstance(self.window, tuple) and [isinstance(value, number) for value in self.window] == [True] * 2
            if two:
                plain = tuple(value.item() if isinstance(value, np.generic) else value for value in self.window)
                object.__setattr__(self, "window", plain)
            if not (two and self.window[0] < self.window[1]):
                names = ", ".join(pixels.WINDOWS)
                raise ValueError(
                    f"window is {self.window!r}; it is a name ({names}), two numbers that become black and white, or "
                    "None for what the file says."
                )


def from_archive(module: ModuleType, archive: Archive, settings: Settings) -> store.Store:
    """The store of a dataset that lies in files; a source module says which file is which.

    Raises ValueError or FileNotFoundError naming the file when one cannot be read, unless settings.broken is
    "quarantine"; OSError when the cache cannot be written.
    """
    # What is remembered of a stamp holds the names of folders, and those of your own may tell a patient.
    name, stamp = module.CARD.name, stamp_of(archive) if module.CARD.folder else archive.stamp()
    how = asdict(settings)

    def build(folder: Path) -> None:
        decode(folder, module, Witness(archive.path, archive.base), settings, stamp)

    key = store.key_of(name, stamp, source_text(module), READING, how)
    found = store.stored(name, settings.size, key, build, part=store.key_of(name, str(archive.path.resolve()), how))
    if said := dark(found.table):
        warnings.warn(said, stacklevel=3)
    return found


def stamp_of(archive: Archive) -> str:
    """`archive.stamp()`, remembered for folders with so many files that walking through them takes a second.

    Their stamp depends on the folders' times of change; while these stay as they were, so does the stamp.
    """
    note = store.cache() / "stamps" / f"{store.key_of(archive.where())}.json"
    if note.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["folders"] == {folder: changed(folder) for folder in known["folders"]}:
            return known["stamp"]
    if archive.zipped:
        return archive.stamp()
    walked = [(folder, changed(folder), len(files)) for folder, _, files in os.walk(archive.where())]
    stamp = archive.stamp()
    if sum(count for *_, count in walked) > MANY:
        with suppress(OSError):  # a cache that cannot be written to remembers nothing
            write_json(note, {"stamp": stamp, "folders": {folder: when for folder, when, _ in walked}})
    return stamp


def changed(folder: str) -> int | None:
    """When a file last came to a folder or left it; None when there is no such folder."""
    return Path(folder).stat().st_mtime_ns if Path(folder).is_dir() else None


def source_text(module: ModuleType) -> str:
    """The text of the file that says which file is which: what was stored by another text is old."""
    return Path(module.index.__code__.co_filename).read_text(encoding="utf-8") + getattr(module, "version", "")


def decode(folder: Path, module: ModuleType, archive: Witness, settings: Settings, stamp: str) -> None:
    """Fill a folder with all that belongs to a store, or with what is still missing of it.

    stamp: the archive's, before anything was read. Raises ValueError when it has another one afterwards.
    """
    index = indexed(module, archive, settings.stride)
    n, size, masked = len(index), settings.size, index["masks"].map(len).any()
    if settings.around and not masked:
        raise ValueError(f"{module.CARD.name} has no masks, so nobody knows where its lesions are; leave around out.")
    shape = (n, size, size) if settings.channels == 1 else (n, settings.channels, size, size)
    arrays = {
        "pixels": (shape, np.uint8 if settings.bits == 8 else np.uint16),
        "masks": ((n, size, size) if masked else (0,), bool),
        "thumbnails": ((n, duplicates.SIDE, duplicates.SIDE), np.uint8),
    }
    need = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays.values())
    with store.writable(need):
        shelves = {name: store.Shelf(folder / f"{name}.npy", *about) for name, about in arrays.items() if about[0][0]}
        journal = Journal(folder, module.shown(index) if hasattr(module, "shown") else str)
        journal.add([], archive.told())

    Row = namedtuple("Row", ["Index", *index.columns], rename=True)

    def work(rows: list[tuple]) -> tuple[list[dict], list[str]]:
        """Some images into their places; what was noticed of each, and the files that were read for them."""
        known, rows = [], [Row._make(row) for row in rows]
        block = {name: np.zeros((len(rows), *shelf.shape[1:]), shelf.dtype) for name, shelf in shelves.items()}
        for at, row in enumerate(rows):
            try:
                image, mask, thumbnail, facts = read(module, archive, row, settings)
            except (OSError, ValueError) as error:
                if settings.broken == "raise":
                    raise
                known.append({"row": row.Index, "why": str(error)})
                continue
            block["pixels"][at], block["thumbnails"][at] = image, thumbnail
            if masked:
                block["masks"][at] = mask
            known.append({"row": row.Index, **facts})
        with store.writable(need):
            for name, shelf in shelves.items():
                shelf.write(rows[0].Index, block[name])
        return known, archive.told()

    read_rows(index, work, journal, shelves)
    with ThreadPoolExecutor(2) as beside:  # both wait for the disk, and the cores need not
        marked, now = beside.submit(journal.mark, shelves), beside.submit(archive.stamp)
        looks = duplicates.prepared(np.load(folder / "thumbnails.npy", mmap_mode="r"))
        marked.result()
        if now.result() != stamp:
            raise ValueError(f"{archive.where()} was changed while it was read; load it again.")
    finish(folder, module, index, journal.facts(), looks, shelves, settings)


def read_rows(index: pd.DataFrame, work: Callable, journal: Journal, shelves: dict[str, store.Shelf]) -> None:
    """Have all rows that are not done yet worked on by all cores, and mark what is done, but for the last."""
    from tqdm import tqdm

    rows, missing = index.itertuples(name=None), len(index) - len(journal.done)
    chunks = iter(lambda: list(islice(rows, CHUNK)), [])
    todo = (chunk for chunk in chunks if chunk[-1][0] not in journal.done)
    bar = tqdm(desc=f"decoding {len(index):,} images once", total=len(index), delay=2, disable=None)
    marked = time.monotonic()
    with bar, closing(spread(work, todo, missing)) as found:
        bar.update(len(journal.done))
        for known, contents in found:
            journal.add(known, contents)
            bar.update(len(known))
            if time.monotonic() - marked > EVERY:
                journal.mark(shelves)
                marked = time.monotonic()


def spread(work: Callable, todo: Iterable, images: int) -> Iterator:
    """What `work` returns for each of these, in their order, by all cores and never far ahead of whoever asks.

    Few images are shared among threads. Many are shared among processes, because threads take turns in all that Python
    itself does, and the more cores there are, the longer they wait; joblib keeps them at hand for the next store.
    """
    from joblib import Parallel, delayed

    cores = usable_cores()
    processes = images > FEW and cores > 1
    backend, work = ("loky", sent(work)) if processes else ("threading", work)
    # Not ahead of what joblib's queue takes, or an error in one would be followed by a traceback of its thread.
    workers = Parallel(cores, backend=backend, return_as="generator", pre_dispatch="2 * n_jobs")
    try:
        yield from workers(delayed(work)(one) for one in todo)
    except BrokenExecutor as error:
        raise MemoryError(
            "a process that read images was killed, most likely because memory ran out; what is done is kept, so free "
            "some memory and load them again"
        ) from error


def sent(work: Callable) -> Callable:
    """The same work for other processes, which find there the cache and the salt that this process has now.

    They are kept from one store to the next, and their environment is that of the moment when they began. The work is
    packed once: it is larger than what it is done on.
    """
    import cloudpickle

    now = {"MEDNB_CACHE": str(store.cache()), "MEDNB_SALT": os.environ.get("MEDNB_SALT", "")}
    return partial(there, cloudpickle.dumps(work), os.getpid(), now)


def there(packed: bytes, here: int, now: dict[str, str], one: object) -> object:
    """What packed work returns, with the environment of process `here`."""
    if os.getpid() != here:
        os.environ.update(now)
    return unpacked(packed)(one)


@lru_cache(1)
def unpacked(packed: bytes) -> Callable:
    return pickle.loads(packed)


def read(module: ModuleType, archive: Archive, row: tuple, settings: Settings) -> tuple:
    """One row of an index: image, mask and thumbnail as they are stored, and what is known of them, a dict.

    Raises ValueError or OSError that names the file, or what is shown instead of its name.
    """
    with module.veiled(archive, row) if hasattr(module, "veiled") else nullcontext():
        return made_of(module, archive, row, settings)


def made_of(module: ModuleType, archive: Archive, row: tuple, settings: Settings) -> tuple:
    """What `read` returns."""
    from mednb.datasets import masks, pixels, resize

    if hasattr(module, "read"):
        with pixels.named(archive.where(row.image_id)):
            raw = module.read(archive, row)
    else:
        raw = pixels.read(archive, *file_of(row))
    usual = module.CARD.window, 8, 1
    asked = settings.window or module.CARD.window, settings.bits, settings.channels
    image = pixels.grey(raw, *asked)
    # Who looks like whom, and so who is in which split, is the same for every way of reading.
    thumbnail = duplicates.thumbnail(image if asked == usual else pixels.grey(raw, *usual))
    mask = masks.of(archive, row, image.shape[-2:])
    shows = tuple(getattr(row, name, getattr(module.CARD, name)) for name in ("modality", "organ"))
    if settings.around and shows not in resize.TYPICAL and not mask.any():
        raise ValueError(
            f"{archive.where(row.image_id)} has no lesion, and how large a square without one should be is known of "
            f"{' and '.join(map(' of the '.join, resize.TYPICAL))} only: another scale would give its label away. "
            "Leave around out, or such images with broken='quarantine'."
        )
    shares = resize.TYPICAL.get(shows, ())
    small, small_mask, facts = resize.resized(
        image, mask, settings.size, settings.resize, settings.around, row.image_id, shares
    )
    facts |= {name: value for name, value in raw.facts.items() if name not in row._fields}
    if (asked[0], raw.window) == (None, None) and pixels.limits(raw, None) == (0, 65_535):
        # White is the type's highest, since nobody says how many of the bits are used: see `dark`.
        facts["highest"] = float(np.max(raw.values))
    facts["lesions"] = len(row.masks) if facts["lesion_area"] else 0
    return small, small_mask, thumbnail, facts


def dark(table: pd.DataFrame) -> str | None:
    """What to say when files of 16 bits use so few of them that the pictures are dark: 12 bits become nearly black."""
    if "highest" not in table or not table["highest"].max() < DARK:  # NaN: none is of 16 bits
        return None
    brightest = table.loc[table["highest"].idxmax()]
    highest, others = int(brightest["highest"]), table["highest"].isna().sum()
    # A window is for all images, and in 8 bits no value reaches its white.
    but = f", but changes the {others:,} other images: convert the files so that all are of one kind" if others else ""
    return (
        f"{brightest['image_id']} has 16 bits and no value above {highest:,}, and no other image has: with 65,535 as "
        f"white they are dark. window=(0, {2 ** max(1, highest.bit_length()) - 1}) shows them as they are meant{but}."
    )


def file_of(row: tuple) -> tuple[str, int | None]:
    """The file of a row, and which frame of it: "a.avi#17" is frame 17 of a.avi, but "a#17.png" is a picture."""
    file, _, frame = row.image_id.rpartition("#")
    if not (file and frame.isdecimal()):
        return getattr(row, "file", row.image_id), None
    return getattr(row, "file", file), int(getattr(row, "frame", frame))


def indexed(module: ModuleType, archive: Archive, stride: int) -> pd.DataFrame:
    """The source's index, checked, with every stride-th frame of each video; the rest has no frames."""
    card = module.CARD
    try:
        index = module.index(archive)
    except MemoryError:
        raise
    except Exception as error:  # a stranger's table may hold anything where a number or a name should be
        said = " ".join(str(error).split())
        if isinstance(error, (ValueError, OSError)) and (str(archive.path) in said or not card.folder):
            raise
        where, kind = archive.where(archive.table), type(error).__name__
        raise ValueError(f"{where} is not as the authors of {card.name} wrote it ({kind}: {said})") from error
    if not len(index):
        raise FileNotFoundError(f"{archive.where()} holds no images of {card.name}.")
    twice = index["image_id"][index["image_id"].duplicated()]
    if len(twice):
        raise ValueError(f"{archive.where(twice.iloc[0])} is listed twice.")
    odd = index[~index["label"].isin(card.classes or index["label"])]  # your own have the classes that they have
    if len(odd):
        where, label = archive.where(odd["image_id"].iloc[0]), odd["label"].iloc[0]
        raise ValueError(f"{where} has the label {label!r}; {card.name} has {', '.join(card.classes)}.")
    if stride > 1 and "frame" in index:
        moving = index["frame"].fillna(-1) >= 0
        place = index[moving].sort_values("frame", kind="stable").groupby(films(index[moving]), sort=False).cumcount()
        index = index.drop(index=place.index[place % stride > 0])
    return index.reset_index(drop=True)


def films(index: pd.DataFrame) -> pd.Series:
    """What a row is a frame of: its video where the source names one, else its file, which may be the image alone."""
    file = index["file"] if "file" in index else index["image_id"].str.replace(r"#\d+$", "", regex=True)
    return index["video"].fillna(file) if "video" in index else file


def finish(
    folder: Path,
    module: ModuleType,
    index: pd.DataFrame,
    facts: pd.DataFrame,
    looks: duplicates.Prepared,
    shelves: dict[str, store.Shelf],
    settings: Settings,
) -> None:
    """From what was read to a table: what is left out, who belongs together, who is in which split."""
    card = module.CARD
    broken = facts["why"].notna().to_numpy()
    if broken.any():
        left_out = pd.DataFrame({"image_id": index["image_id"][broken], "why": facts["why"][broken]})
        if broken.all():
            raise ValueError(f"none of the {len(index):,} images of {card.name} can be read; {left_out['why'].iloc[0]}")
        with store.writable():
            (folder / "key").unlink()  # rows that were half moved up are of no use to the next build
            left_out.to_csv(folder / "quarantine.csv", index=False)
            for shelf in shelves.values():
                shelf.keep(np.flatnonzero(~broken))
        index, facts = (table[~broken].reset_index(drop=True) for table in (index, facts))
        looks = looks[0][~broken], looks[1][~broken]
    facts = facts.drop(columns=["row", "why"]).infer_objects()
    said = {"modality": card.modality, "organ": card.organ, "source": card.name}
    table = index.drop(columns=["masks", *(name for name in facts if name in index)])
    table = table.assign(**{name: said[name] for name in said if name not in index}).join(facts)
    for column in table.columns[[kind.kind == "O" for kind in table.dtypes]]:  # a file's columns are of one kind
        yes_or_no = pd.api.types.infer_dtype(table[column]) == "boolean"  # and where some files say neither, unknown
        table[column] = table[column].astype("boolean") if yes_or_no else table[column].map(str, na_action="ignore")

    with ThreadPoolExecutor(1) as beside:  # Python has time for it while numpy compares images
        printed = beside.submit(fingerprint, folder, card.name, index, settings)
        first = duplicates.groups(looks, card.alike)
        if "patient" not in index:
            table["patient"] = stand_ins(table, first)
        table["group"] = splits.together(table["patient"].to_numpy(str), first)
        table["near_duplicate"] = ~duplicates.curated(looks, within=first)
    store.write_table(folder, table, printed.result())
    (folder / "facts.jsonl").unlink()


def stand_ins(table: pd.DataFrame, first: np.ndarray) -> np.ndarray:
    """(N,) of str for patients whom nobody names: whatever hangs together by a case, a video, a file or its looks.

    Named after the first of them: a file by its stem, where that is enough to tell it from the others.
    """
    file = films(table)
    stem = file.map(lambda name: PurePosixPath(name).stem)
    known = stem if stem.nunique() == file.nunique() else file
    if "case" in table:
        known = table["case"].astype(str).where(table["case"].notna(), known)
    return splits.together(known.to_numpy(str), first)


def fingerprint(folder: Path, name: str, index: pd.DataFrame, settings: Settings) -> str:
    """What the images are: the names and bytes of their files, what the source says of them, and how they were read.

    The same for the same files in another place. Patients count by who is the same and not by name, since their names
    are hashed with a salt.
    """
    contents = folder / "contents.sha256"
    lines = sorted(set(contents.read_text(encoding="utf-8").splitlines()), key=lambda line: line[66:])
    text = "\n".join(lines) + "\n"
    with store.writable(), whole(contents) as aside:
        aside.write_text(text, encoding="utf-8")
    # What holds a salted name counts by its contents alone.
    without_salt = re.compile(splits.SALTED).sub
    lines = sorted((line[:66] + without_salt("", line[66:]) for line in lines), key=lambda line: (line[66:], line))
    digest = hashlib.sha256(("\n".join(lines) + "\n").encode())
    index = index.assign(**{name: splits.unsalted(index[name]) for name in ("image_id", "video") if name in index})
    if "patient" in index:
        index = index.assign(patient=pd.factorize(index["patient"])[0])
    for start in range(0, len(index), 10_000):
        digest.update(index[start : start + 10_000].to_csv(index=False).encode())
    return store.key_of(name, digest.hexdigest(), asdict(settings))


class Witness(Archive):
    """An archive that notes the SHA-256 of each file while it is read, so that no byte is read twice for it."""

    def __init__(self, path: Path, base: str):
        super().__init__(path, base)
        self.own = threading.local()

    def read(self, name: str) -> bytes:
        content = super().read(name)
        self.note(name, hashlib.sha256(content))
        return content

    @contextmanager
    def on_disk(self, *names: str) -> Iterator[Path]:
        with super().on_disk(*names) as path:
            for name in names if not self.zipped else ():
                with Path(self.where(name)).open("rb") as file:
                    self.note(name, hashlib.file_digest(file, "sha256"))
            yield path

    def note(self, name: str, digest) -> None:
        self.own.__dict__.setdefault("lines", []).append(f"{digest.hexdigest()}  {name}\n")

    def told(self) -> list[str]:
        """The lines about files that this thread has read since it was last asked."""
        return self.own.__dict__.pop("lines", [])


class Journal:
    """What is known of the images that are done: facts.jsonl, a line for each, and contents.sha256.

    A line is written when the pixels are safely on the disk. The last one may be cut off; then it does not count.

    shown: what a file is called there, given its name.
    """

    encode = json.JSONEncoder(default=np.generic.item).encode

    def __init__(self, folder: Path, shown: Callable[[str], str] = str):
        self.shown = shown
        self.path, self.contents = folder / "facts.jsonl", folder / "contents.sha256"
        for path in (self.path, self.contents):
            path.touch()
            text = path.read_bytes()
            path.write_bytes(text[: text.rfind(b"\n") + 1])
        self.done = set(self.facts()["row"])
        self.lines, self.files = [], []

    def add(self, known: list[dict], contents: list[str]) -> None:
        self.lines += [self.encode(each) + "\n" for each in known]
        self.files += [f"{line[:66]}{self.shown(line[66:-1])}\n" for line in contents]

    def mark(self, shelves: dict[str, store.Shelf]) -> None:
        """Make safe what was added."""
        with store.writable():
            for shelf in shelves.values():
                shelf.safe()
            for path, lines in ((self.contents, self.files), (self.path, self.lines)):
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(lines)
                lines.clear()

    def facts(self) -> pd.DataFrame:
        """One row per image that is done, in the order of the index: `row`, `why` it could not be read, the rest."""
        if not self.path.stat().st_size:
            return pd.DataFrame({"row": [], "why": []})
        import pyarrow.json

        facts = pyarrow.json.read_json(self.path).to_pandas(integer_object_nulls=True)
        facts = facts.drop_duplicates("row", keep="last").sort_values("row", ignore_index=True)
        return facts if "why" in facts else facts.assign(why=None)
