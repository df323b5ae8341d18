"""What can go wrong while a store is built or opened: it is a sentence, or mends itself, and leaves nothing behind."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_source

from mednb import datasets
from mednb.datasets import decode, pixels, store

HERE = Path(__file__).parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with 48 pictures, and a cache of its own."""
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny_source)
    tiny_source.draw(tmp_path / "data", n=48)
    return tmp_path / "data"


def load(root, size=16, **how):
    return datasets.load("tiny", root, size, **how)


def left(root: Path) -> list[str]:
    """What lies in the cache, but for locks."""
    folder = root.parent / "cache"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []


def store_folder(root: Path) -> Path:
    (name,) = left(root)
    return root.parent / "cache" / name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ killed, interrupted


def interrupted(root: Path, monkeypatch, after: int) -> None:
    """A build that Ctrl-C ends when so many images are read."""
    plain, count = decode.read, []

    def read(*given):
        count.append(1)
        if len(count) > after:
            raise KeyboardInterrupt
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "usable_cores", lambda: 1)
        patch.setattr(decode, "EVERY", 0)
        patch.setattr(decode, "read", read)
        with pytest.raises(KeyboardInterrupt):
            load(root)


def counted(monkeypatch) -> list:
    """Grows with every image that is read."""
    plain, count = decode.read, []
    monkeypatch.setattr(decode, "read", lambda *given: (count.append(1), plain(*given))[1])
    return count


def test_a_build_goes_on_after_one_of_its_processes_was_killed(root, monkeypatch):
    plain = (tiny_source.index, tiny_source.CARD)

    def index(archive):
        return plain[0](archive).assign(killer=os.getpid())

    def read(archive, row):
        if row.Index == 40 and os.getpid() != row.killer:
            time.sleep(1)  # until the first ones are marked
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels.read(archive, row.image_id)

    killed = SimpleNamespace(CARD=plain[1], index=index, read=read, ZIPS=(), LOOKS_LIKE=tiny_source.LOOKS_LIKE)
    monkeypatch.setitem(datasets.DATASETS, "tiny", killed)
    for name, value in {"FEW": 0, "EVERY": 0, "CHUNK": 8, "usable_cores": lambda: 2}.items():
        monkeypatch.setattr(decode, name, value)
    with pytest.raises(MemoryError, match=r"a process that read images was killed.*what is done is kept"):
        load(root)
    (journal,) = (root.parent / "cache").glob(".*.part/facts.jsonl")
    assert journal.stat().st_size
    monkeypatch.setattr(decode, "FEW", 1000)
    assert len(load(root)) == 48


def test_no_work_waits_outside_the_queue_of_the_processes(tmp_path, monkeypatch):
    """Or an executor that is ended early, by Ctrl-C or a broken file, adds a traceback of its own to what is said."""
    from joblib.externals.loky import reusable_executor

    def work(number):
        while number and not (tmp_path / "go").exists():
            time.sleep(0.02)
        return number

    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    found = decode.spread(work, range(12), decode.FEW + 1)
    assert next(found) == 0
    try:
        tiny.within(20, lambda: reusable_executor._executor._work_ids.qsize() == 0)
    finally:
        (tmp_path / "go").touch()
    assert list(found) == [*range(1, 12)]


def test_a_build_that_was_killed_goes_on_and_ends_with_the_same_bytes(root, tmp_path, monkeypatch):
    (slow := tmp_path / "slow.py").write_text(
        f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
import tiny_source
from mednb import datasets
from mednb.datasets import decode
plain = decode.read
decode.EVERY, decode.CHUNK, decode.usable_cores = 0, 16, lambda: 1
decode.read = lambda *given: (time.sleep(0.02), plain(*given))[1]
datasets.DATASETS["tiny"] = tiny_source
datasets.load("tiny", {str(root)!r}, 16)
"""
    )
    building = subprocess.Popen([sys.executable, slow])
    (journal,) = tiny.within(60, lambda: [p for p in tmp_path.glob("cache/.*.part/facts.jsonl") if p.stat().st_size])
    building.send_signal(signal.SIGKILL)
    building.wait()
    assert journal.exists() and not list((tmp_path / "cache").glob("tiny-*"))
    with journal.open("a") as file:
        file.write('{"row": 47, "wid')  # a line that was half written
    monkeypatch.setattr(decode, "CHUNK", 16)
    read = counted(monkeypatch)
    load(root)
    assert 0 < len(read) < 48
    resumed = contents(store_folder(root))
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "fresh"))
    load(root)
    (fresh,) = (tmp_path / "fresh").glob("tiny-*")
    assert resumed == contents(fresh)


def test_an_interrupted_build_goes_on(root, monkeypatch):
    interrupted(root, monkeypatch, after=40)
    assert [name.endswith(".part") for name in left(root)] == [True]
    read = counted(monkeypatch)
    load(root)
    assert 0 < len(read) <= 48 - decode.CHUNK
    assert len(left(root)) == 1


def test_what_was_begun_with_other_files_is_thrown_away(root, monkeypatch):
    interrupted(root, monkeypatch, after=40)
    tiny_source.save(root / "Tiny/pictures/a0000.png", tiny_source.picture(77))
    read = counted(monkeypatch)
    assert (load(root).pixels[0] != 0).any()
    assert len(read) == 48 and len(left(root)) == 1


def test_what_was_begun_by_another_version_is_thrown_away(root, monkeypatch):
    interrupted(root, monkeypatch, after=40)
    (part,) = (root.parent / "cache" / name for name in left(root))
    (part / "key").write_text("of an older version")
    read = counted(monkeypatch)
    load(root)
    assert len(read) == 48


def test_files_that_change_while_they_are_read_are_noticed(root, monkeypatch):
    plain = decode.read_rows

    def read_rows(*given):
        plain(*given)
        tiny_source.save(root / "Tiny/pictures/a0000.png", tiny_source.picture(5))

    monkeypatch.setattr(decode, "read_rows", read_rows)
    with pytest.raises(ValueError, match=r"Tiny was changed while it was read; load it again\.$"):
        load(root)
    assert left(root) == []


# -------------------------------------------------------------------------------------------------------- the disk


def refuse(root: Path, sentence: str, error: type[Exception] = OSError, **how) -> None:
    with pytest.raises(error, match=sentence) as caught:
        load(root, **how)
    assert "\n" not in str(caught.value)
    assert left(root) == []


def test_a_disk_that_is_too_small_is_said_before_the_work(root, monkeypatch):
    read = counted(monkeypatch)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    refuse(root, r"the cache .*cache has no room for it \(25 MB are needed\): .*\$MEDNB_CACHE\.$", size=512)
    assert read == []


def test_a_limit_on_files_is_a_full_disk_too(root):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        refuse(root, r"the cache .*cache has no room for it .*\$MEDNB_CACHE\.$", size=512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(load(root)) == 48  # and when there is room, all is well


def test_a_disk_that_fills_up_later_leaves_nothing_either(root, monkeypatch):
    def full(self, row, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.Shelf, "write", full)
    refuse(root, "has no room for it")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that not even root may write to")
def test_a_cache_that_cannot_be_written_is_named(root, monkeypatch):
    monkeypatch.setenv("MEDNB_CACHE", "/proc/mednb")
    refuse(root, r"the cache /proc/mednb cannot be written \(.*\), or name another folder in \$MEDNB_CACHE\.$")


def test_a_cache_that_is_a_file_is_named(root, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "taken"))
    refuse(root, r"the cache .*taken cannot be written")


def test_a_store_is_opened_from_a_cache_that_cannot_be_written(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("nothing is made"))
    assert load(root).fingerprint == first.fingerprint


def test_nothing_is_written_where_the_data_is(root):
    def listing():
        return {str(path): path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}

    before = listing()
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert len(load(root)) == 48
    assert listing() == before


# ------------------------------------------------------------------------------------------------ a damaged store


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["pixels.npy", "masks.npy", "thumbnails.npy", "splits.npy", "table.parquet"])
@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_damaged_store_is_made_again(root, name, damage):
    first = load(root)
    whole = contents(store_folder(root))
    damage(store_folder(root) / name)
    assert load(root).fingerprint == first.fingerprint
    assert contents(store_folder(root)) == whole


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]"])
def test_a_store_without_its_facts_is_made_again(root, text):
    first = load(root)
    (store_folder(root) / "about.json").write_text(text)
    assert load(root).fingerprint == first.fingerprint


# ---------------------------------------------------------------------------------------------- where the data lies


def test_a_root_that_is_missing_or_a_file_is_said(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tiny needs .*nowhere/Tiny/pictures, but .*nowhere does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"file is a file and no folder\. .*To get it: draw it\.$"):
        load(tmp_path / "file")


def test_two_folders_that_look_like_the_dataset_are_both_named(root):
    (root / "Tiny/pictures").rename(root / "Tiny/away")
    for name in ("v1", "v2"):
        (root / f"Tiny/{name}/pictures").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Tiny/v1 and .*Tiny/v2 both look like the dataset; move one of them away"):
        load(root)


def test_an_empty_folder_is_said(root):
    for path in (root / "Tiny/pictures").iterdir():
        path.unlink()
    refuse(root, r"Tiny holds no images of tiny\.$", FileNotFoundError)


def test_a_zip_that_was_cut_short_is_named(root):
    (root / "Tiny").rename(root / "away")
    (root / "Tiny.zip").write_bytes(b"PK\3\4 and nothing more")
    refuse(root, r"Tiny\.zip cannot be read as a zip", ValueError)


def test_an_image_that_is_listed_twice_is_named(root, monkeypatch):
    once = tiny_source.index
    monkeypatch.setattr(tiny_source, "index", lambda archive: pd.concat([once(archive), once(archive)[3:5]]))
    refuse(root, r"pictures/a0006\.png is listed twice\.$", ValueError)


def test_a_label_that_the_card_does_not_have_is_named(root, monkeypatch):
    once = tiny_source.index
    monkeypatch.setattr(tiny_source, "index", lambda archive: once(archive).assign(label="c"))
    refuse(root, r"a0000\.png has the label 'c'; tiny has a, b\.$", ValueError)


def test_too_few_images_for_five_folds_are_said(root):
    for path in sorted((root / "Tiny/pictures").iterdir())[3:]:
        path.unlink()
    refuse(root, "3 images of 3 patients cannot be split into 5 folds", ValueError)


def test_when_nothing_can_be_read_there_is_no_store_even_with_quarantine(root):
    for path in (root / "Tiny/pictures").iterdir():
        path.write_bytes(b"")
    refuse(root, r"none of the 48 images of tiny can be read; .*a0000\.png", ValueError, broken="quarantine")


# ------------------------------------------------------------------------------------------------ what was asked for


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"size": "128"}, "size is '128'; it is the side of the images in pixels, a whole number from 16"),
        ({"size": 12.5}, "size is 12.5"),
        ({"size": True}, "size is True"),
        ({"size": 15}, "size is 15"),
        ({"bits": 12}, "bits is 12; it is one of 8, 16"),
        ({"channels": 2}, "channels is 2; it is one of 1, 3"),
        ({"resize": "strech"}, "resize is 'strech'; it is one of 'stretch', 'pad', 'crop_to_body'"),
        ({"around": "leison"}, "around is 'leison'; it is one of None, 'lesion'"),
        ({"window": "lungs"}, r"window is 'lungs'; it is a name \(lung, .*brain.*\), two numbers"),
        ({"window": (100, 0)}, r"window is \(100, 0\)"),
        ({"window": (1, 2, 3)}, r"window is \(1, 2, 3\)"),
        ({"window": 40}, "window is 40"),
        ({"stride": 0}, "stride is 0; it is every how many-th frame is taken, a whole number from 1"),
        ({"broken": "ignore"}, "broken is 'ignore'; it is one of 'raise', 'quarantine'"),
        ({"fold": 5}, "fold is 5; it is one of 0 to 4"),
        ({"limit": -1}, "limit is -1; it is a number of images"),
        ({"limit": 2.5}, "limit is 2.5"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_sentence_with_the_choices(root, how, sentence):
    refuse(root, sentence, ValueError, **how)


def test_a_window_of_a_list_is_the_same_as_one_of_two_numbers(root):
    assert load(root, window=[50, 100]).fingerprint == load(root, window=(50, 100)).fingerprint


def test_numbers_of_numpy_are_numbers(root):
    window = (np.float32(50), np.float32(100))
    assert load(root, window=window).fingerprint == load(root, window=(50.0, 100.0)).fingerprint
    assert len(datasets.load("phantoms", size=32, limit=np.int64(60), fold=np.int64(1))) == 60


def test_what_is_drawn_takes_no_way_of_reading():
    with pytest.raises(ValueError, match="phantoms are drawn whole in 8 bits; leave out bits"):
        datasets.load("phantoms", size=32, limit=60, bits=16)


def test_one_number_for_two_patients_of_two_datasets_stays_two_patients(root, monkeypatch):
    tiny_source.draw(root, n=48, patients=12)
    card = replace(tiny_source.CARD, name="second")
    monkeypatch.setitem(datasets.DATASETS, "second", SimpleNamespace(**vars(tiny_source) | {"CARD": card}))
    both = datasets.load("tiny+second", root, 16)
    assert both.table["patient"].nunique() == 24
    assert {"tiny/p0", "second/p0"} <= set(both.table["patient"])


def test_a_shelf_keeps_the_rows_that_it_is_told_to(tmp_path):
    shelf = store.Shelf(tmp_path / "a.npy", (300, 2, 3), np.uint16)
    values = np.arange(300 * 6, dtype=np.uint16).reshape(300, 2, 3)
    shelf.write(0, values[:200])
    shelf.write(200, values[200:])
    rows = np.flatnonzero(np.arange(300) % 3)
    shelf.keep(rows)
    assert (np.load(tmp_path / "a.npy") == values[rows]).all()
    assert (np.load(tmp_path / "a.npy", mmap_mode="r") == values[rows]).all()
