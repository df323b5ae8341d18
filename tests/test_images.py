import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mednb import datasets


@pytest.fixture(scope="module")
def images():
    return datasets.load("phantoms", size=32, limit=120)


def test_pixels_masks_labels_and_table_belong_together(images):
    assert len(images) == len(images.table) == 120
    assert images.pixels.shape == images.masks.shape == (120, 32, 32)
    assert (images.pixels.dtype, images.masks.dtype, images.labels.dtype) == (np.uint8, bool, np.int64)
    assert (np.array(images.classes)[images.labels] == images.table["label"]).all()
    assert (images.table.index == np.arange(120)).all()
    assert images.table["image_id"].is_unique
    assert {"image_id", "patient", "label", "split", "modality", "source"} <= set(images.table)


def test_the_whole_is_a_memory_map(images):
    assert isinstance(images.pixels, np.memmap)


def test_a_subset_keeps_rows_pixels_and_masks_together(images):
    some = images.where(split="train", label=["benign", "malignant"])
    whole = images.table.set_index("image_id")
    rows = [whole.index.get_loc(image_id) for image_id in some.table["image_id"]]
    assert (some.pixels == images.pixels[rows]).all()
    assert (some.masks == images.masks[rows]).all()
    assert (some.labels == images.labels[rows]).all()
    assert set(some.table["split"]) == {"train"} and set(some.table["label"]) == {"benign", "malignant"}
    assert (some.table.index == np.arange(len(some))).all()


def test_subsets_of_subsets_are_subsets(images):
    twice = images.where(split="train").where(label="benign").few(0.5, seed=0)
    once = images.where(split="train", label="benign").few(0.5, seed=0)
    assert (twice.pixels == once.pixels).all()
    assert (twice.table["image_id"] == once.table["image_id"]).all()


def test_subsets_keep_the_hashes_and_the_codes_of_the_labels(images):
    some = images.where(label="malignant")
    assert (some.fingerprint, some.split_hash) == (images.fingerprint, images.split_hash)
    assert set(some.labels) == {2} and some.classes == images.classes


def test_unlabelled_is_no_class_alone_or_in_a_mix(images):
    assert images.labelled() is images
    for unlabelled in ("unlabelled", "hc18/unlabelled"):
        card = replace(images.card, classes=("benign", unlabelled, "malignant", "normal"), counts={unlabelled: 3})
        some = images.table.assign(label=images.table["label"].where(np.arange(120) % 3 > 0, unlabelled))
        some = replace(images, table=some, card=card)
        assert (some.has_label == (np.arange(120) % 3 > 0)).all()
        told = some.labelled()
        assert (told.table["image_id"] == some.table["image_id"][some.has_label].to_numpy()).all()
        assert told.classes == ["benign", "malignant", "normal"] and told.card.counts == {}
        assert (np.array(told.classes)[told.labels] == told.table["label"]).all()
    with pytest.raises(ValueError, match="no image of phantoms has a label"):
        replace(images, table=images.table.assign(label="unlabelled")).labelled()


def test_few_takes_whole_patients_of_every_class_and_is_nested(images):
    train = images.where(split="train")
    small, large = train.few(0.1, seed=3), train.few(0.4, seed=3)
    assert set(small.table["image_id"]) < set(large.table["image_id"])
    assert set(small.table["label"]) == set(train.classes)
    kept = train.table["patient"].isin(small.table["patient"])
    assert kept.sum() == len(small)


def test_an_unknown_column_or_value_is_a_sentence_with_the_choices(images):
    with pytest.raises(ValueError, match=r"no column 'spilt'. Did you mean split\? Columns: image_id, patient"):
        images.where(spilt="train")
    with pytest.raises(ValueError, match="split='tset'; split is one of: test, train, val"):
        images.where(split="tset")
    with pytest.raises(ValueError, match="label='cyst'; label is one of: benign, malignant, normal"):
        images.where(label=["benign", "cyst"])


def test_repr_and_html_say_how_many(images):
    assert "120 images of 32 x 32" in repr(images)
    counts = images.counts()
    assert counts["images"].sum() == 120
    assert counts["patients"].sum() == images.table["patient"].nunique()
    assert "<table" in images._repr_html_() and "benign" in images.where(split="val")._repr_html_()


def test_an_unknown_dataset_size_limit_or_fold_is_a_sentence():
    with pytest.raises(ValueError, match=r"no dataset 'bussi'. Did you mean busi\? Datasets: phantoms, .*busi"):
        datasets.load("bussi")
    with pytest.raises(ValueError, match="size is 8"):
        datasets.load("phantoms", size=8)
    with pytest.raises(ValueError, match="limit is 0"):
        datasets.load("phantoms", limit=0)
    with pytest.raises(ValueError, match="fold is 7"):
        datasets.load("phantoms", size=32, limit=60, fold=7)


def test_another_fold_is_another_split_of_the_same_images(images):
    other = datasets.load("phantoms", size=32, limit=120, fold=1)
    assert other.fingerprint == images.fingerprint and other.split_hash != images.split_hash
    assert not set(other.where(split="test").table["patient"]) & set(images.where(split="test").table["patient"])
    assert (other.pixels == images.pixels).all()


def test_cards_are_text_for_every_dataset():
    for name in datasets.DATASETS:
        assert datasets.card_text(name).startswith(f"{name}: ")
        assert name in datasets.describe_all()
    assert "10.1016/j.dib.2019.104863" in datasets.card_text("busi")


def test_the_import_is_light():
    heavy = ("torch", "sklearn", "scipy", "PIL", "pyarrow.parquet")
    code = f"import mednb.datasets, sys; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_what_is_for_a_mix_or_for_own_images_is_refused_elsewhere():
    with pytest.raises(ValueError, match=r"across is for images of two datasets.*phantoms is one"):
        datasets.load("phantoms", across=0.9)
    with pytest.raises(ValueError, match=r"table describes your own images.*folder\+phantoms is a mix"):
        datasets.load("folder+phantoms", ".", table="my.csv")
    mix = datasets.load("phantoms+phantoms_ct", size=32, across=0.9, balance=None)
    assert mix.split_hash and set(mix.table["dataset"]) == {"phantoms", "phantoms_ct"}
