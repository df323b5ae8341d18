import hashlib
import os
import re
import shutil
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_source
from PIL import Image

from mednb import datasets
from mednb.datasets import decode, store
from mednb.datasets.archive import Archive


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with 24 pictures, and a cache of its own."""
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny_source)
    tiny_source.draw(tmp_path / "data")
    return tmp_path / "data"


def load(root, **how):
    return datasets.load("tiny", root, size=16, **how)


def same_images(a, b):
    """Whether two `Images` agree in everything."""
    pd.testing.assert_frame_equal(a.table, b.table)
    return (a.pixels == b.pixels).all() and (a.masks == b.masks).all() and a.fingerprint == b.fingerprint


def test_pixels_and_masks_are_in_the_order_of_the_table(root):
    images = load(root)
    assert images.pixels.shape == images.masks.shape == (24, 16, 16)
    for row in (0, 7, 23):
        with Image.open(root / "Tiny" / images.table["image_id"][row]) as file:
            assert (images.pixels[row] == np.asarray(file.resize((16, 16), Image.Resampling.BILINEAR))).all()
    assert (images.masks.any((1, 2)) == (images.table["label"] == "b")).all()
    assert (images.table["lesion_pixels"] == images.masks.sum((1, 2))).all()


def test_one_thread_and_many_store_the_same(root, monkeypatch):
    many = load(root)
    monkeypatch.setenv("MEDNB_CACHE", str(root.parent / "other"))
    monkeypatch.setattr(decode, "usable_cores", lambda: 1)
    assert same_images(load(root), many)


def test_processes_store_the_same_as_threads(root, monkeypatch):
    threads = load(root)
    monkeypatch.setenv("MEDNB_CACHE", str(root.parent / "other"))
    monkeypatch.setattr(decode, "FEW", 0)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    assert same_images(load(root), threads)
    one, other = (next((root.parent / cache).glob("tiny-*")) for cache in ("cache", "other"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_processes_that_are_kept_find_the_folder_and_the_cache_that_are_meant_now(tmp_path, monkeypatch):
    """Their own working directory and environment stay what they were for the first store."""
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny_source)
    monkeypatch.setenv("MEDNB_CACHE", "cache")
    monkeypatch.setattr(decode, "FEW", 0)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    for place, offset in (("a", 0), ("b", 100)):
        tiny_source.draw(tmp_path / place / "data")
        for path in (tmp_path / place / "data/Tiny/pictures").iterdir():
            tiny_source.save(path, tiny_source.picture(int(path.stem[1:]) + offset))
    for place in "ab":
        monkeypatch.chdir(tmp_path / place)
        images = load("data")
        for row, name in enumerate(images.table["image_id"]):
            with Image.open(tmp_path / place / "data/Tiny" / name) as file:
                assert (images.pixels[row] == np.asarray(file.resize((16, 16), Image.Resampling.BILINEAR))).all()
        assert len(list((tmp_path / place / "cache").glob("tiny-16-*"))) == 1
    assert os.environ["MEDNB_CACHE"] == "cache"


def test_what_processes_cannot_read_is_named(root, monkeypatch):
    monkeypatch.setattr(decode, "FEW", 0)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    broken = root / "Tiny/pictures/a0004.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=re.escape(str(broken))):
        load(root)
    images = load(root, broken="quarantine")
    assert len(images) == 23 and images.quarantine["image_id"].tolist() == ["pictures/a0004.png"]


@pytest.mark.parametrize(
    ("how", "shape", "dtype"),
    [
        ({"bits": 16}, (24, 16, 16), np.uint16),
        ({"channels": 3}, (24, 3, 16, 16), np.uint8),
        ({"resize": "pad"}, (24, 16, 16), np.uint8),
        ({"window": (50, 100)}, (24, 16, 16), np.uint8),
        ({"around": "lesion"}, (24, 16, 16), np.uint8),
    ],
)
def test_every_way_of_reading_is_a_store_of_its_own(root, how, shape, dtype):
    plain, other = load(root), load(root, **how)
    assert (other.pixels.shape, other.pixels.dtype) == (shape, dtype)
    assert isinstance(other.pixels, np.memmap)
    said = ("16 bits" if dtype == np.uint16 else "") or ("in colour" if len(shape) == 4 else "16 x 16 from")
    assert said in repr(other)
    assert other.fingerprint != plain.fingerprint and other.split_hash == plain.split_hash
    brought = other.pixels // 257 if dtype == np.uint16 else other.pixels
    assert how in ({"bits": 16}, {"channels": 3}) or (brought != plain.pixels).any()


def test_the_index_is_not_asked_again_when_nothing_changed(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(decode, "decode", lambda *_: pytest.fail("decoded again"))
    assert same_images(load(root), first)


def test_the_fingerprint_is_that_of_names_and_bytes(root, tmp_path):
    images = load(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    with zipfile.ZipFile(tmp_path / "Tiny_v2.zip", "w") as file:
        for path in sorted((root / "Tiny").rglob("*.png")):
            file.write(path, f"Tiny_v2/{path.relative_to(root / 'Tiny')}")
    assert same_images(load(tmp_path / "elsewhere"), images)
    assert same_images(load(tmp_path), images)  # the zip, with a folder of its own on top
    tiny_source.save(root / "Tiny/pictures/a0002.png", tiny_source.picture(99))
    assert load(root).fingerprint != images.fingerprint


def test_the_files_that_were_read_are_listed_with_their_checksums(root, tmp_path):
    load(root)
    (listed,) = (tmp_path / "cache").glob("tiny-16-*/contents.sha256")
    sums = dict(line.split("  ", 1)[::-1] for line in listed.read_text().splitlines())
    files = {str(path.relative_to(root / "Tiny")): path for path in (root / "Tiny").rglob("*.png")}
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_patients_and_near_duplicates_are_one_group(root):
    tiny_source.draw(root, patients=12)  # a picture and the one 12 later
    brighter = (tiny_source.picture(3) * 0.8).astype(np.uint8)
    tiny_source.save(root / "Tiny/pictures/b0007.png", brighter)
    table = load(root).table.set_index("image_id")
    group = table["group"]["pictures/b0007.png"]
    assert set(table.index[table["group"] == group]) == {
        f"pictures/b{number:04d}.png" for number in (3, 15, 7, 19)
    }  # two patients, of whom one image each looks like the other's
    assert table["patient"].nunique() == 12 and table["group"].nunique() == 11
    assert len(table[["group", "split"]].drop_duplicates()) == 11


def test_without_patients_a_near_duplicate_is_the_same_patient_and_curation_drops_it(root):
    tiny_source.save(root / "Tiny/pictures/b0007.png", tiny_source.picture(3))
    images = load(root)
    assert images.table["patient"].nunique() == 23
    twins = images.table[images.table["patient"] == "b0003"]
    assert list(twins["near_duplicate"]) == [False, True]
    dropped = set(images.table["image_id"]) - set(load(root, curate=True).table["image_id"])
    assert dropped == ({"pictures/b0007.png"} if twins["split"].iloc[0] == "train" else set())


def test_frames_of_a_film_are_thinned_by_the_stride(tmp_path):
    rows = [("one.avi", 3), ("two.avi", 5)]
    index = pd.DataFrame(
        [{"image_id": f"{file}#{i}", "frame": i, "label": "a", "masks": []} for file, n in rows for i in range(n)]
        + [{"image_id": "still.png", "frame": -1, "label": "a", "masks": []}]
    )

    class Films:
        CARD = tiny_source.CARD

        @staticmethod
        def index(_archive):
            return index

    kept = decode.indexed(Films, decode.Witness(tmp_path, ""), 2)["image_id"]
    assert list(kept) == ["one.avi#0", "one.avi#2", "two.avi#0", "two.avi#2", "two.avi#4", "still.png"]
    files = [decode.file_of(row) for row in index.itertuples()]
    assert files[2] == ("one.avi", 2) and files[-1] == ("still.png", None)


def test_pictures_of_one_video_are_thinned_by_the_stride_too(tmp_path):
    index = pd.DataFrame({"image_id": ["v_3.jpg", "v_6.jpg", "v_9.jpg", "w_3.jpg"], "video": ["v", "v", "v", "w"]})
    index = index.assign(frame=[3, 6, 9, 3], label="a", masks=[[]] * 4)

    class Films:
        CARD = tiny_source.CARD

        @staticmethod
        def index(_archive):
            return index

    assert list(decode.indexed(Films, decode.Witness(tmp_path, ""), 2)["image_id"]) == ["v_3.jpg", "v_9.jpg", "w_3.jpg"]
    assert decode.file_of(next(index.itertuples())) == ("v_3.jpg", None)  # the frame is a number in a video, not a page


def test_quarantine_leaves_out_what_cannot_be_read_and_says_why(root):
    whole = load(root)
    image, mask = root / "Tiny/pictures/a0004.png", root / "Tiny/masks/b0011.png"
    image.write_bytes(image.read_bytes()[:60])
    tiny_source.save(mask, np.ones((9, 9), bool))
    with pytest.raises(ValueError, match=r"a0004\.png|b0011\.png"):  # whichever was read first
        load(root)
    images = load(root, broken="quarantine")
    assert list(images.quarantine["image_id"]) == ["pictures/a0004.png", "pictures/b0011.png"]
    assert "a0004.png" in images.quarantine["why"][0] and "9 x 9" in images.quarantine["why"][1]
    kept = whole.table["image_id"].isin(images.table["image_id"]).to_numpy()
    assert kept.sum() == len(images) == len(images.pixels) == len(images.masks) == 22
    assert (images.pixels == whole.pixels[kept]).all() and (images.masks == whole.masks[kept]).all()
    assert images.table["width"].dtype == whole.table["width"].dtype
    again = load(root, broken="quarantine")
    assert same_images(again, images) and len(again.quarantine) == 2
    assert "; 2 more in quarantine)" in repr(images)


def test_a_number_that_is_a_name_is_still_one_in_the_quarantine(root, monkeypatch):
    monkeypatch.setattr(tiny_source, "index", numbered)
    (root / "Tiny/00003").write_bytes(b"no picture")
    for _ in range(2):
        assert load(root, broken="quarantine").quarantine["image_id"].tolist() == ["00003"]


def numbered(archive, index=tiny_source.index):
    """The pictures, and the one whose name is a number."""
    return pd.concat([index(archive), pd.DataFrame([{"image_id": "00003", "label": "a", "masks": []}])])


def test_memory_does_not_hold_the_images(root, monkeypatch):
    tiny_source.draw(root, n=160)
    monkeypatch.setattr(decode, "CHUNK", 4)
    datasets.load("tiny", root, size=32)  # so that what is imported does not count
    tracemalloc.start()
    images = datasets.load("tiny", root, size=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.pixels.nbytes + images.masks.nbytes == 160 * 512 * 512 * 2  # 84 MB
    assert peak < 25e6
    tracemalloc.start()
    datasets.load("tiny", root, size=512)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_facts_of_a_header_become_columns_and_a_readers_own_error_is_a_sentence(root, monkeypatch):
    from mednb.datasets.pixels import Raw

    def read(archive, row):
        return Raw(np.asarray(Image.open(archive.where(row.image_id))), facts={"burned_in": row.Index % 2 == 0})

    monkeypatch.setattr(tiny_source, "read", read, raising=False)
    assert list(load(root).table["burned_in"][:3]) == [True, False, True]

    def fails(archive, row):
        raise KeyError("rf1")

    monkeypatch.setattr(tiny_source, "read", fails)
    with pytest.raises(ValueError, match=r"[ab]\d{4}\.png.*rf1"):  # whichever thread comes to one first
        datasets.load("tiny", root, size=17)


def test_what_only_some_headers_say_is_yes_no_or_unknown(root, monkeypatch):
    from mednb.datasets.pixels import Raw

    said = [{"burned_in": True}, {"burned_in": False}, {}]

    def read(archive, row):
        return Raw(np.asarray(Image.open(archive.where(row.image_id))), facts=said[row.Index % 3])

    monkeypatch.setattr(tiny_source, "read", read, raising=False)
    for images in (load(root), load(root)):  # as it was decoded, and from the cache
        assert list(images.table["burned_in"][:2]) == [True, False] and images.table["burned_in"].isna().sum() == 8
        assert [len(images.where(burned_in=answer)) for answer in (True, False, [True, False])] == [8, 8, 16]


def test_12_bits_in_files_of_16_are_warned_of_at_every_load(root):
    for path in (root / "Tiny/pictures").iterdir():
        tiny_source.save(path, np.asarray(Image.open(path)).astype(np.uint16) * 16)
    brightest = max((root / "Tiny/pictures").iterdir(), key=lambda path: np.asarray(Image.open(path)).max())
    highest = np.asarray(Image.open(brightest)).max()
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"above {highest:,}, .*window=\(0, 4095\) shows them") as warned:
            load(root)
        assert len(warned) == 1 and warned[0].filename == __file__
    load(root, window=(0, 4095))  # no warning, which would be an error here
    tiny_source.save(brightest, np.full((40, 30), 65_535, np.uint16))
    load(root)


def test_around_the_lesion_needs_lesions_and_a_size_for_images_without(root, monkeypatch):
    monkeypatch.setattr(tiny_source, "CARD", replace(tiny_source.CARD, modality="ct", organ="lung"))
    with pytest.raises(ValueError, match=r"a\d+\.png has no lesion, .* known of ultrasound of the breast and mammo"):
        load(root, around="lesion")
    assert set(load(root, around="lesion", broken="quarantine").table["label"]) == {"b"}
    shutil.rmtree(root / "Tiny/masks")
    with pytest.raises(ValueError, match="tiny has no masks, so nobody knows where its lesions are; leave around out"):
        load(root, around="lesion")


def test_a_store_keeps_the_thumbnails_and_the_splits_of_all_folds(root, tmp_path):
    first, second = load(root), load(root, fold=1)
    (folder,) = (tmp_path / "cache").glob("tiny-16-*")
    found = store.opened(folder)
    assert found.thumbnails.shape == (24, 48, 48)
    assert found.split_hashes[:2] == [first.split_hash, second.split_hash]
    assert first.split_hash != second.split_hash
    assert not list(folder.glob("*.jsonl"))


def test_the_stamp_of_very_many_files_is_remembered_until_a_folder_changes(root, monkeypatch):
    monkeypatch.setattr(decode, "MANY", 10)
    before = load(root)
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "stamp", lambda _: pytest.fail("walked through all files again"))
        assert same_images(load(root), before)
    tiny_source.save(root / "Tiny/pictures/a0024.png", tiny_source.picture(24))
    assert len(load(root)) == 25
    monkeypatch.setattr(decode, "MANY", 1000)
    (root / "Tiny/pictures/a0024.png").unlink()
    assert same_images(load(root), before)
