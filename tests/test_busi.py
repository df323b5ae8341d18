import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from mednb import datasets
from mednb.datasets.sources import busi

PER_CLASS = 8


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as file:
        return file.size


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A data root with BUSI's official layout and pictures of our own, and a cache of its own."""
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "data/BUSI/Dataset_BUSI_with_GT"
    for label in ("normal", "benign", "malignant"):
        for number in range(1, PER_CLASS + 1):
            height, width = rng.integers(60, 90, 2)
            tissue = gaussian_filter(rng.normal(size=(height, width)), 2)
            image = (120 + 200 * tissue).clip(0, 255).astype(np.uint8)
            mask = np.zeros((height, width), bool)
            if label != "normal":
                mask[20:40, 10:30] = True
            write(folder / label / f"{label} ({number}).png", np.stack([image] * 3, axis=-1))
            write(folder / label / f"{label} ({number})_mask.png", mask)
    return tmp_path / "data"


def files(root: Path) -> Path:
    return root / "BUSI/Dataset_BUSI_with_GT"


def cached(root: Path) -> list[Path]:
    """What a reader would take for a dataset in the cache."""
    folder = root.parent / "cache"
    return [path for path in folder.rglob("*") if not path.name.endswith(".lock")] if folder.exists() else []


def test_the_official_layout_is_read(fake):
    images = datasets.load("busi", fake, size=32)
    assert len(images) == 3 * PER_CLASS
    assert images.table["label"].value_counts().to_dict() == dict.fromkeys(images.classes, PER_CLASS)
    row = images.table.iloc[PER_CLASS]
    assert row["image_id"] == "Dataset_BUSI_with_GT/benign/benign (1).png"
    width, height = size_of(fake / "BUSI" / row["image_id"])
    assert (row["width"], row["height"]) == (width, height)
    assert row["lesion_area"] == pytest.approx(20 * 20 / (width * height))
    assert images.masks[images.labels == 0].sum() == 0
    area = images.masks[images.labels > 0].mean((1, 2))
    assert area == pytest.approx(images.table["lesion_area"][images.labels > 0].to_numpy(), abs=0.03)


def test_the_pixels_are_those_of_the_file(fake):
    images = datasets.load("busi", fake, size=32)
    with Image.open(fake / "BUSI" / images.table["image_id"][5]) as file:
        expected = file.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    assert (images.pixels[5] == np.asarray(expected)).all()


def test_a_root_without_the_outer_folder_is_read_too(fake):
    inner, outer = datasets.load("busi", fake / "BUSI", size=32), datasets.load("busi", fake, size=32)
    assert inner.fingerprint == outer.fingerprint
    assert (inner.table["image_id"] == outer.table["image_id"]).all()


def test_several_masks_are_united(fake):
    folder = files(fake) / "benign"
    width, height = size_of(folder / "benign (2).png")
    second = np.zeros((height, width), np.uint8)
    second[45:55, 40:50] = 255
    write(folder / "benign (2)_mask_1.png", second)
    images = datasets.load("busi", fake, size=32)
    row = images.table.index[images.table["image_id"].str.endswith("benign (2).png")][0]
    assert images.table["lesions"][row] == 2
    assert images.table["lesion_area"][row] == pytest.approx((20 * 20 + 10 * 10) / (width * height))
    assert images.masks[row, 50 * 32 // height, 45 * 32 // width]


def test_numbers_are_in_their_order_and_not_in_that_of_the_alphabet(fake):
    for ending in (".png", "_mask.png"):
        (files(fake) / f"benign/benign (2){ending}").rename(files(fake) / f"benign/benign (10){ending}")
    names = datasets.load("busi", fake, size=32).where(label="benign").table["image_id"]
    assert [name.split("(")[1] for name in names] == [f"{n}).png" for n in (1, 3, 4, 5, 6, 7, 8, 10)]


def test_near_duplicates_are_one_patient_across_labels(fake):
    with Image.open(files(fake) / "benign/benign (3).png") as file:
        brighter = np.asarray(file.convert("L")).astype(float) * 1.2
    for name in ("benign/benign (9)", "malignant/malignant (9)"):
        write(files(fake) / f"{name}.png", brighter.clip(0, 255).astype(np.uint8))
        write(files(fake) / f"{name}_mask.png", np.ones(brighter.shape, np.uint8))  # lesion written as 1, not 255
    images = datasets.load("busi", fake, size=32)
    group = images.table[images.table["patient"] == "benign (3)"]
    assert [Path(name).stem for name in group["image_id"]] == ["benign (3)", "benign (9)", "malignant (9)"]
    assert len(set(group["split"])) == 1
    assert images.table["patient"].nunique() == len(images) - 2
    assert images.masks[group.index[1]].all()


def test_groups_do_not_depend_on_the_size(fake):
    small, large = datasets.load("busi", fake, size=16), datasets.load("busi", fake, size=64)
    assert (small.table["patient"] == large.table["patient"]).all()
    assert small.split_hash == large.split_hash and small.fingerprint != large.fingerprint


def test_the_key_follows_the_contents_and_not_the_times(fake):
    before = datasets.load("busi", fake, size=32).fingerprint
    path = files(fake) / "benign/benign (1).png"
    path.touch()
    assert datasets.load("busi", fake, size=32).fingerprint == before
    with Image.open(path) as file:
        pixels = np.asarray(file).copy()
    pixels[0, 0] ^= 255
    write(path, pixels)
    assert datasets.load("busi", fake, size=32).fingerprint != before


def test_a_limit_keeps_the_splits(fake):
    whole = datasets.load("busi", fake, size=32)
    some = datasets.load("busi", fake, size=32, limit=12)
    assert len(some) == 12
    expected = whole.table.set_index("image_id")["split"][some.table["image_id"]]
    assert (expected.to_numpy() == some.table["split"]).all()


def refuse(root: Path, error: type[Exception], sentence: str, root_given: Path | None = None) -> None:
    """Loading raises this sentence and leaves nothing in the cache; checking reports it."""
    with pytest.raises(error, match=sentence) as caught:
        datasets.load("busi", root_given or root, size=32)
    assert "\n" not in str(caught.value)
    assert not cached(root)
    told, well = datasets.check("busi", root_given or root)
    assert not well and str(caught.value) in told


def test_a_truncated_image_is_named(fake):
    path = files(fake) / "malignant/malignant (4).png"
    path.write_bytes(path.read_bytes()[:-200])
    refuse(fake, ValueError, r"malignant \(4\)\.png cannot be read as an image")


def test_a_mask_of_another_size_is_named(fake):
    write(files(fake) / "benign/benign (5)_mask.png", np.zeros((33, 44), bool))
    refuse(fake, ValueError, r"benign \(5\)_mask\.png is 44 x 33 pixels, but its image is \d+ x \d+")


def test_an_empty_class_is_named(fake):
    for path in (files(fake) / "normal").iterdir():
        path.unlink()
    refuse(fake, FileNotFoundError, r"normal holds no images; there should be 'normal \(1\)\.png'")
    (files(fake) / "normal").rmdir()
    refuse(fake, FileNotFoundError, "normal holds no images")


def test_a_mask_without_its_image_is_named(fake):
    (files(fake) / "benign/benign (6).png").unlink()
    refuse(fake, FileNotFoundError, r"benign \(6\)_mask\.png is a mask without its image 'benign \(6\)\.png'")


def test_a_lesion_without_its_mask_is_named(fake):
    (files(fake) / "benign/benign (6)_mask.png").unlink()
    refuse(fake, FileNotFoundError, r"benign \(6\)\.png has no mask 'benign \(6\)_mask\.png'")


def test_all_masks_that_are_missing_are_told_at_once(fake):
    for label in ("benign", "malignant"):
        for number in range(1, 7):
            (files(fake) / f"{label}/{label} ({number})_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^[^;]*benign \(1\)_mask.*malignant \(4\)_mask\.png'; and 2 more$"):
        datasets.load("busi", fake, size=32)
    told, well = datasets.check("busi", fake)
    assert not well and "24 images, no patient ids, 12 masks" in told and "benign: 8" in told
    assert told.count("has no mask") == 10 and "more" in told


def test_a_file_of_another_name_is_named(fake):
    path = files(fake) / "benign/benign (6) copy.png"
    path.write_bytes((files(fake) / "benign/benign (6).png").read_bytes())
    refuse(fake, ValueError, r"benign \(6\) copy\.png: the name should be 'benign \(1\)\.png'")


def test_hidden_files_and_other_files_are_left_alone(fake):
    (files(fake) / "benign/._benign (1).png").write_bytes(b"what a Mac leaves behind")
    (files(fake) / "benign/Thumbs.db").write_bytes(b"what Windows leaves behind")
    assert len(datasets.load("busi", fake, size=32)) == 3 * PER_CLASS


def test_a_link_out_of_the_dataset_is_named(fake, tmp_path):
    path = files(fake) / "benign/benign (7).png"
    path.rename(tmp_path / "secret.png")
    path.symlink_to(tmp_path / "secret.png")
    refuse(fake, ValueError, r"benign \(7\)\.png is a link that leads out of")


def test_a_wrong_root_says_what_was_looked_for_what_is_there_and_where_it_is(fake):
    needs = r"busi needs .*BUSI/Dataset_BUSI_with_GT/benign, but "
    refuse(
        fake,
        FileNotFoundError,
        needs + r".*nowhere does not exist\. .*MEDNB_DATA\. To get it: download",
        fake / "nowhere",
    )
    inner = r".* holds benign, malignant, normal\. The data root seems to be .*data/BUSI\.$"
    refuse(fake, FileNotFoundError, needs + inner, files(fake))
    refuse(fake, FileNotFoundError, needs + r".*The data root seems to be .*/data\.$", fake.parent)
    (fake / "other").mkdir()
    refuse(fake, FileNotFoundError, needs + r".*other holds nothing\. The data root seems", fake / "other")


def test_the_root_comes_from_the_environment(fake, monkeypatch):
    monkeypatch.setenv("MEDNB_DATA", str(fake))
    assert len(datasets.load("busi", size=32)) == 3 * PER_CLASS


def test_a_check_lists_all_that_is_wrong_and_the_missing_rest(fake):
    for number in (1, 2):
        (files(fake) / f"benign/benign ({number}).png").write_bytes(b"broken")
    told, well = datasets.check("busi", fake)
    assert not well and not cached(fake)
    assert "benign (1).png cannot be read" in told and "benign (2).png cannot be read" in told
    assert "malignant: 8 images; the complete download has 210" in told
    assert "0.0% of the test images" in told


@pytest.mark.data
def test_the_real_images_are_complete_and_open_fast(data_root):
    images = datasets.load("busi", data_root, size=64)
    assert {label: int(count) for label, count in images.table["label"].value_counts().items()} == images.card.counts
    assert images.table["lesions"].sum() == 798 - 133
    assert images.masks[images.labels > 0].any((1, 2)).all()
    began = time.process_time()
    datasets.load("busi", data_root, size=64)
    assert time.process_time() - began < 0.3


@pytest.mark.data
def test_the_real_near_duplicates_are_found_and_stay_together(data_root):
    """Against groups that were made by another normalisation and looked at; ours may be larger, never smaller."""
    table = datasets.load("busi", data_root, size=64).table
    reference = pd.read_csv(data_root / "BUSI/NEAR_DUPLICATE_GROUPS.csv").set_index("file")["group"]
    known = table["image_id"].map(reference)
    assert known.notna().all()
    for column in ("patient", "split"):
        assert (table.groupby(known)[column].agg(lambda values: len(set(values))) == 1).all()
    assert 570 <= table["patient"].nunique() <= reference.nunique() == 595


@pytest.mark.data
def test_the_real_images_pass_their_check(data_root):
    told, well = datasets.check("busi", data_root)
    assert well, told
    assert "8 groups of near-duplicates carry contradictory labels" in told
    groups = re.findall(r"    (\w+: .*; \w+: .*)", told)
    found = {tuple(sorted(f"{label} {n}" for label, n in re.findall(r"(\w+) \((\d+)\)", group))) for group in groups}
    said = next(defect for defect in busi.CARD.defects if "contradict" in defect).partition(": ")[2].rstrip(".")
    of_card = [re.findall(r"(\w+) ([\d+]+)", group) for group in said.split(", ")]
    named = {tuple(sorted(f"{label} {n}" for label, all_n in group for n in all_n.split("+"))) for group in of_card}
    assert named == found  # the card names the groups that the check finds
