import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_source

from mednb import datasets
from mednb.datasets import Images, mixes, splits
from mednb.datasets.card import Card


def member(name, n=40, size=16, classes=("benign", "malignant"), masks=True, seed=0, modality="ultrasound", **more):
    """A dataset of n images of n / 2 patients, whose first pixel is the row number."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (n, size, size), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(n)
    table = pd.DataFrame({"image_id": [f"{i}.png" for i in range(n)], "patient": [str(i // 2) for i in range(n)]})
    table["label"] = np.array(classes)[np.arange(n) // 2 % len(classes)]
    table = table.assign(group=table["patient"], modality=modality, organ="breast", source=name, fold=0, **more)
    table["split"] = splits.split(table)
    counts = table["label"].value_counts().to_dict()
    words = {"title": name.upper(), "patients": "known", "masks": "some", "citation": "them", "how_to_get": "ask"}
    known = {"modality": modality, "organ": "breast", "task": "tell", "n_patients": n // 2}
    card = Card(name, classes=classes, counts=counts, licence=f"{name} licence", **known, **words)
    stored = {"stored_pixels": pixels, "stored_masks": pixels > 200 if masks else None}
    return Images(name, card, size, table, f"f-{name}", splits.split_hash(table), **stored)


@pytest.fixture
def shelf(monkeypatch):
    """Datasets a, b and c, as `load` gives them."""
    there = {
        "a": member("a"),
        "b": member(
            "b", 100, classes=("benign", "malignant"), masks=False, seed=1, modality="mammography", side="left"
        ),
        "c": member("c", 20, classes=("normal", "covid"), seed=2),
    }
    monkeypatch.setattr(datasets, "load", lambda name, *_, **__: there[name])
    return there


# -------------------- arrays joined without a copy


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (n, 4, 5), dtype=np.uint8) for n in (3, 1, 7)]


@pytest.mark.parametrize(
    "rows",
    [0, 3, -1, np.int64(10), slice(None), slice(2, 5), slice(None, None, -2), [0, 10, 3, 3], np.array([-1, 4]), []],
)
def test_joined_arrays_are_indexed_like_one(arrays, rows):
    whole, joined = np.concatenate(arrays), mixes.Joined(arrays)
    rows = np.array(rows, int) if isinstance(rows, list) else rows
    assert (joined[rows] == whole[rows]).all() and joined[rows].dtype == whole.dtype
    assert joined[rows].shape == whole[rows].shape


def test_joined_arrays_are_indexed_by_masks_and_further_axes(arrays):
    whole, joined = np.concatenate(arrays), mixes.Joined(arrays)
    mask = whole[:, 0, 0] > 100
    assert (joined[mask] == whole[mask]).all()
    assert (joined[2:5, 1, :3] == whole[2:5, 1, :3]).all() and (joined[4, 2] == whole[4, 2]).all()
    assert (len(joined), joined.shape, joined.dtype, joined.ndim) == (11, whole.shape, whole.dtype, 3)
    assert (np.asarray(joined) == whole).all() and (np.array(list(joined)) == whole).all()


@pytest.mark.parametrize("row", [11, -12, np.array([0, 11])])
def test_a_row_that_is_not_there_is_an_index_error(arrays, row):
    with pytest.raises(IndexError):
        mixes.Joined(arrays)[row]


def test_images_of_another_size_or_depth_are_not_joined(arrays):
    for other in (arrays[0][:, :3], arrays[0].astype(np.uint16)):
        with pytest.raises(ValueError, match="cannot be joined with uint8"):
            mixes.Joined([arrays[0], other])


# -------------------- mixes


def test_a_mix_has_every_image_of_its_members_in_their_splits(shelf):
    images = mixes.mix("a+b")
    assert len(images) == 140 and isinstance(images.stored_pixels, mixes.Joined)
    assert (images.pixels[:40] == shelf["a"].pixels).all() and (images.pixels[40:] == shelf["b"].pixels).all()
    assert (images.table["split"][40:].to_numpy() == shelf["b"].table["split"].to_numpy()).all()
    assert images.table["image_id"].is_unique
    assert images.table["image_id"][0] == "a/0.png"


def test_two_patients_with_one_number_in_two_datasets_stay_two(shelf):
    images = mixes.mix(["a", "b"])
    assert images.table["patient"].nunique() == images.table["group"].nunique() == 20 + 50
    assert set(images.table.loc[images.table["patient"] == "a/0", "source"]) == {"a"}


def test_a_case_is_one_dataset_s_and_an_unknown_one_stays_unknown(shelf):
    shelf["a"] = member("a", case="1")
    shelf["c"] = member("c", 20, case="1")
    case = mixes.mix("a+b+c").table.groupby("source")["case"].unique().map(list)
    assert case["a"] == ["a/1"] and case["c"] == ["c/1"] and pd.isna(case["b"]).all()


def test_labels_keep_their_names_where_the_classes_are_the_same(shelf):
    assert mixes.mix("a+b").classes == ["benign", "malignant"]
    images = mixes.mix("a+c")
    assert images.classes == ["a/benign", "a/malignant", "c/normal", "c/covid"]
    assert (images.labels >= 0).all() and set(images.labels[40:]) == {2, 3}


def test_masks_are_empty_where_a_dataset_has_none_and_none_where_no_dataset_has(shelf):
    images = mixes.mix("a+b")
    assert (images.masks[:40] == shelf["a"].masks).all() and not images.masks[40:].any()
    shelf["a"] = member("a", masks=False)
    assert mixes.mix("a+b").masks is None


def test_a_subset_of_a_mix_keeps_rows_pixels_and_masks_together(shelf):
    images = mixes.mix("a+b+c")
    some = images.where(split="test", source=["b", "c"])
    rows = [images.table["image_id"].tolist().index(image_id) for image_id in some.table["image_id"]]
    assert (some.pixels == images.pixels[rows]).all() and (some.masks == images.masks[rows]).all()


def test_a_member_that_is_a_subset_is_joined_by_its_rows(shelf):
    shelf["a"] = shelf["a"].take(np.array([7, 3]))
    images = mixes.mix("a+c")
    assert images.pixels[:2, 0, 0].tolist() == [7, 3] and len(images.pixels) == 22


@pytest.mark.parametrize("balance", ["modality", "source"])
def test_a_balanced_group_has_the_same_total_in_every_split_and_no_image_is_lost(shelf, balance):
    table = mixes.mix("a+b+c", balance=balance).table
    assert len(table) == 160 and table["weight"].mean() == pytest.approx(1)
    for _, split in table.groupby("split"):
        totals = split.groupby(balance)["weight"].sum()
        assert totals.to_numpy() == pytest.approx(len(split) / len(totals))


def test_without_balance_every_image_weighs_one(shelf):
    assert (mixes.mix("a+b").table["weight"] == 1).all()


def test_the_card_of_a_mix_names_every_licence_and_counts_all(shelf):
    card = mixes.mix("a+c").card
    assert card.licence == "a: a licence; c: c licence"
    assert sum(card.counts.values()) == 60 and card.n_patients == 30 and card.n_masks is None
    assert str(card).startswith("a+c: a mix of A and C")
    assert mixes.mix("a+b").card.modality == "ultrasound and mammography"
    assert mixes.card_of("a+c", [card, replace(card, alike=0.9)], shared=True).alike == 0.9


def test_a_mix_remembers_the_split_of_every_member(shelf):
    images = mixes.mix("a+b")
    assert images.members == {"a": shelf["a"].split_hash, "b": shelf["b"].split_hash}
    assert images.where(split="train").members == images.members
    assert images.fingerprint != mixes.mix("b+a").fingerprint


def test_members_of_a_mix_under_a_split_of_ones_own_are_split_otherwise(shelf, tmp_path):
    images = mixes.mix("a+b")
    other = images.table.assign(split=images.table["split"].map({"train": "test", "test": "train", "val": "val"}))
    other.to_csv(tmp_path / "splits.csv", index=False)
    applied = splits.apply(images, tmp_path / "splits.csv")
    assert set(applied.members) == {"a", "b"} and not set(applied.members.values()) & set(images.members.values())


def test_a_limit_takes_whole_patients_of_every_member(shelf):
    images = mixes.mix("a+b", limit=70)
    assert 60 <= len(images) <= 70 and set(images.table["source"]) == {"a", "b"}
    assert (images.table["patient"].value_counts() == 2).all()


@pytest.mark.parametrize(
    ("names", "how", "sentence"),
    [
        ("a+a", {}, "in a\\+a a comes twice"),
        (["a"], {}, "in a there is one only"),
        ("a+b", {"balance": "label"}, "balance is 'label'; it is one of modality, organ, source, or None"),
    ],
)
def test_a_mix_that_makes_no_sense_is_a_sentence(shelf, names, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        mixes.mix(names, **how)


def test_images_of_two_datasets_that_look_the_same_stay_in_one_split(shelf):
    from test_duplicates import scene

    rng = np.random.default_rng(0)
    for name, n in (("a", 40), ("b", 100)):
        pixels = np.stack([scene(rng, 64) for _ in range(n)])
        shelf[name] = member(name, n, 64)
        shelf[name].stored_pixels[:] = pixels
    train, test = (np.flatnonzero(shelf[n].table["split"] == s)[0] for n, s in (("a", "train"), ("b", "test")))
    shelf["a"].stored_pixels[train] = shelf["b"].stored_pixels[test]
    assert len(mixes.mix("a+b")) == 140
    images = mixes.mix("a+b", across=0.7)
    lost = shelf["a"].table["patient"][train]
    assert set(images.left_out["patient"]) == {f"a/{lost}"} and len(images) == 138
    assert f"b/{test}.png" in set(images.table["image_id"])


def test_a_dataset_is_not_mixed_with_the_one_that_it_was_taken_from(shelf, monkeypatch):
    for name, part_of in (("a", ()), ("b", ("a",))):
        card = replace(shelf[name].card, part_of=part_of)
        monkeypatch.setitem(datasets.DATASETS, name, SimpleNamespace(CARD=card))
    for names in ("a+b", "b+c+a"):
        with pytest.raises(ValueError, match=r"the images of b are also in a, .* leave one of them out, or say across"):
            mixes.mix(names)
    assert len(mixes.mix("b+c")) == 120 and len(mixes.mix("a+b", across=0.99)) == 140
    assert datasets.named("breastmnist").CARD.part_of == ("busi",)
    assert "Its images are those of busi" in datasets.card_text("breastmnist")


@pytest.mark.parametrize("across", [0, -1, 1.5, float("nan"), "a", True])
def test_a_likeness_that_is_none_is_refused_and_does_not_switch_off_the_guard(shelf, across):
    with pytest.raises(ValueError, match=r"across is .*; it is a correlation, above 0 and up to 1, or None"):
        mixes.mix("a+b", across=across)


def test_a_folder_that_holds_the_other_dataset_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny_source)
    tiny_source.draw(tmp_path)
    for names in ("folder+tiny", "tiny+imagefolder"):
        with pytest.raises(ValueError, match=r"takes every image below .*, those of tiny in .*/Tiny too"):
            datasets.load(names, tmp_path, size=32)
    with pytest.raises(ValueError, match=r"those of imagefolder in .* too"):
        datasets.load("folder+imagefolder", tmp_path, size=32)
    (tmp_path / "Tiny").rename(tmp_path / "mine")
    shutil.make_archive(str(tmp_path / "Tiny"), "zip", tmp_path / "mine")  # which folder does not look into
    assert set(datasets.load("folder+tiny", tmp_path, size=32).table["dataset"]) == {"folder", "tiny"}


# -------------------- the order of an epoch


def test_without_weights_an_epoch_is_the_permutation_of_its_seed():
    for weights in (np.ones(50), np.full(50, 0.3)):
        expected = np.random.default_rng((3, 7)).permutation(50)
        assert (mixes.epoch_order(weights, 3, 7) == expected).all()


@pytest.mark.parametrize("seed", range(5))
def test_in_an_epoch_a_row_comes_as_often_as_its_weight_says_but_for_rounding(seed):
    weights = np.random.default_rng(seed).uniform(0.01, 3.5, 200)
    weights /= weights.mean()
    for epoch in range(20):
        order = mixes.epoch_order(weights, seed, epoch)
        counts = np.bincount(order, minlength=200)
        assert len(order) == 200
        assert (counts >= np.floor(weights - 1e-9)).all() and (counts <= np.ceil(weights + 1e-9)).all()


def test_over_epochs_a_row_comes_in_proportion_to_its_weight():
    weights = np.repeat([0.2, 1.7], [60, 40])
    counts = sum(np.bincount(mixes.epoch_order(weights, 0, epoch), minlength=100) for epoch in range(400))
    assert counts / 400 == pytest.approx(weights / weights.mean(), abs=5 * 0.5 / 20)


def test_a_light_row_is_met_by_other_rows_in_other_epochs():
    weights = np.repeat([0.5, 1.5], 50)
    light = {frozenset(order[order < 50]) for order in (mixes.epoch_order(weights, 0, epoch) for epoch in range(12))}
    assert len(light) == 12


def test_the_order_depends_on_seed_and_epoch_only():
    weights = np.random.default_rng(0).uniform(0, 2, 80)
    orders = [tuple(mixes.epoch_order(weights, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(mixes.epoch_order(10 * weights, 0, 0))


@pytest.mark.parametrize("bad", [[-1, 2], [np.nan, 1], [np.inf, 1]])
def test_weights_that_are_no_shares_are_a_sentence(bad):
    with pytest.raises(ValueError, match="weights are shares of an epoch"):
        mixes.epoch_order(bad, 0, 0)
