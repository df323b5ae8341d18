import multiprocessing
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mednb.datasets import store
from mednb.datasets.archive import Archive


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build_ones(folder):
    store.fill(folder, 3, 8, True, [(np.ones((3, 8, 8), np.uint8), np.ones((3, 8, 8), bool))])
    pd.DataFrame({"image_id": list("abc")}).to_parquet(folder / "table.parquet")


def test_a_store_is_built_once_and_then_opened(cache):
    calls = []

    def build(folder):
        calls.append(folder)
        build_ones(folder)

    for _ in range(2):
        found = store.stored("ones", 8, "key", build)
        assert isinstance(found.pixels, np.memmap) and found.pixels.shape == (3, 8, 8)
        assert found.masks.dtype == bool and found.masks.all()
        assert len(found.table) == 3 and found.fingerprint == "key"
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
    assert len(store.stored("ones", 8, "key", build_ones).table) == 3  # and the next build is free to go


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
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        assert pool.map(open_slowly, range(2), chunksize=1) == [3, 3]
    assert len(list(cache.glob("built-*"))) == 1


def test_the_cache_lies_where_the_environment_says(cache, monkeypatch):
    assert store.cache() == cache
    monkeypatch.delenv("MEDNB_CACHE")
    assert store.cache().name == "mednb"


def test_keys_depend_on_every_part():
    keys = {store.key_of("busi", "content", 64), store.key_of("busi", "content", 32), store.key_of("x", "content", 64)}
    assert len(keys) == 3
    assert all(len(key) == 16 for key in keys)


def test_resizing_keeps_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8)
    small = store.resized(image, 32)
    assert small.shape == (32, 32) and small.dtype == np.uint8
    assert small.mean() == pytest.approx(image.mean(), abs=1)
    assert small.std() < image.std() / 4  # averaged, not picked


def test_a_mask_keeps_its_area_and_its_place():
    mask = np.zeros((300, 200), bool)
    mask[60:180, 50:150] = True
    small = store.resized_mask(mask, 40)
    assert small.mean() == mask.mean()
    assert small[8:24, 10:30].all() and small.sum() == 16 * 20


def test_a_lesion_never_vanishes():
    mask = np.zeros((500, 500), bool)
    mask[300:302, 200:203] = True
    small = store.resized_mask(mask, 32)
    assert np.argwhere(small).tolist() == [[300 * 32 // 500, 200 * 32 // 500]]
    assert not store.resized_mask(np.zeros((500, 500), bool), 32).any()


@pytest.mark.parametrize(
    ("mode", "colour", "grey"),
    [("L", 77, 77), ("RGB", (77, 77, 77), 77), ("RGBA", (200, 200, 200, 0), 0), ("1", 1, 255), ("LA", (77, 255), 77)],
)
def test_every_8_bit_picture_becomes_grey_and_transparency_black(tmp_path, mode, colour, grey):
    Image.new(mode, (20, 10), colour).save(tmp_path / "a.png")
    image = store.read_grey(Archive(tmp_path), "a.png")
    assert image.shape == (10, 20) and image.dtype == np.uint8
    assert (image == grey).all()


def test_16_bits_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png cannot be read as an image: its pixels are 'I;16'"):
        store.read_grey(Archive(tmp_path), "deep.png")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        store.read_grey(Archive(tmp_path), "a.png")


def test_a_decompression_bomb_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("L", (50, 50)).save(tmp_path / "bomb.png")
    for limit in (2000, 1000):  # Pillow only warns up to twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=r"bomb\.png cannot be read as an image"):
            store.read_grey(Archive(tmp_path), "bomb.png")


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "elsewhere"
    inside.mkdir(), outside.mkdir()
    for folder in (inside, outside):
        Image.new("L", (8, 8), 9).save(folder / "real.png")
    (inside / "out.png").symlink_to(outside / "real.png")
    (inside / "in.png").symlink_to(inside / "real.png")
    assert (store.read_grey(Archive(inside), "in.png") == 9).all()
    with pytest.raises(ValueError, match=r"out.png is a link that leads out of"):
        store.read_grey(Archive(inside), "out.png")
    (tmp_path / "linked").symlink_to(inside)  # the dataset's folder itself may lie elsewhere
    assert (store.read_grey(Archive(tmp_path / "linked"), "real.png") == 9).all()
