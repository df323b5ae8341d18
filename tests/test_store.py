import multiprocessing
import time

import numpy as np
import pandas as pd
import pytest

from mednb.datasets import store


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table_of(n):
    """A table of n images of as many patients, at least five."""
    ids = [f"image {i}" for i in range(n)]
    return pd.DataFrame({"image_id": ids, "patient": ids, "label": "benign", "modality": "photo", "source": "ones"})


def build_ones(folder):
    store.fill(folder, 6, 8, True, [(np.ones((6, 8, 8), np.uint8), np.ones((6, 8, 8), bool))])
    store.write_table(folder, table_of(6))


def test_a_store_is_built_once_and_then_opened(cache):
    calls = []

    def build(folder):
        calls.append(folder)
        build_ones(folder)

    for _ in range(2):
        found = store.stored("ones", 8, "key", build)
        assert isinstance(found.pixels, np.memmap) and found.pixels.shape == (6, 8, 8)
        assert found.masks.dtype == bool and found.masks.all()
        assert len(found.table) == 6 and found.fingerprint == "key"
    assert len(calls) == 1


def test_blocks_are_written_one_after_the_other(tmp_path):
    blocks = [(np.full((n, 4, 4), n, np.uint8), None) for n in (1, 2, 3)]
    store.fill(tmp_path, 6, 4, False, iter(blocks))
    assert np.load(tmp_path / "pixels.npy")[:, 0, 0].tolist() == [1, 2, 2, 3, 3, 3]
    assert not (tmp_path / "masks.npy").exists()


def test_a_build_that_fails_leaves_nothing(cache):
    def build(folder):
        build_ones(folder)
        raise ValueError("broken at the end")

    with pytest.raises(ValueError, match="broken"):
        store.stored("ones", 8, "key", build)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert len(store.stored("ones", 8, "key", build_ones).table) == 6  # and the next build is free to go


def test_what_a_killed_process_left_is_cleared(cache):
    half = cache / ".ones-8-key.part"
    half.mkdir(parents=True)
    (half / "pixels.npy").write_bytes(b"half")
    assert store.stored("ones", 8, "key", build_ones).pixels.all()
    assert not half.exists()


def slow_build(folder):
    (folder.parent / f"built-{time.monotonic_ns()}").touch()
    time.sleep(0.3)
    build_ones(folder)


def open_slowly(_):
    return len(store.stored("ones", 8, "key", slow_build).table)


def test_two_processes_build_it_once(cache):
    cache.mkdir()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(open_slowly, range(2), chunksize=1) == [6, 6]
    assert len(list(cache.glob("built-*"))) == 1


def test_the_cache_lies_where_the_environment_says(cache, monkeypatch):
    assert store.cache() == cache
    monkeypatch.delenv("MEDNB_CACHE")
    assert store.cache().name == "mednb"


def test_keys_depend_on_every_part():
    keys = {store.key_of("busi", "content", 64), store.key_of("busi", "content", 32), store.key_of("x", "content", 64)}
    assert len(keys) == 3
    assert all(len(key) == 16 for key in keys)
