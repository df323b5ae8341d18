"""Pairs and how often they are wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mednb import pairs
from mednb.datasets import load
from mednb.views import POLICIES, key


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=60)


def test_same_image_makes_each_image_its_own_partner(images):
    assert (pairs.STRATEGIES["same_image"](images.table, 0, 3) == np.arange(len(images))).all()


def test_an_image_never_disagrees_with_itself(images):
    assert pairs.error_rates(images, "same_image", "ultrasound", 16)["false_positives"] == 0


def test_false_negatives_of_the_whole_set_are_counted(images):
    rates = pairs.error_rates(images, "same_image", "ultrasound", len(images))
    for column, name in (("label", "class"), ("patient", "patient")):
        counts = images.table[column].value_counts().to_numpy()
        expected = (counts * (counts - 1)).sum() / (len(images) * (len(images) - 1))
        assert rates[f"false_negatives_{name}"] == pytest.approx(expected)


def test_a_pair_that_shares_no_class_is_a_false_positive(images, monkeypatch):
    def next_image(table: pd.DataFrame, seed: int, epoch: int) -> np.ndarray:
        return (np.arange(len(table)) + 1) % len(table)

    monkeypatch.setitem(pairs.STRATEGIES, "next_image", next_image)
    labels = images.table["label"].to_numpy()
    rates = pairs.error_rates(images, "next_image", "ultrasound", 16)
    assert rates["false_positives"] == pytest.approx((labels != np.roll(labels, -1)).mean())


def test_images_without_a_label_tell_nothing_of_classes(images):
    labels = images.table["label"].where(images.table["label"] != "normal", "unlabelled")
    some = replace(images, table=images.table.assign(label=labels))
    rates = pairs.error_rates(some, "same_image", "ultrasound", len(some))
    counts = labels[labels != "unlabelled"].value_counts()
    assert rates["false_negatives_class"] == pytest.approx(
        (counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1))
    )
    none = replace(images, table=images.table.assign(label="unlabelled"))
    rates = pairs.error_rates(none, "same_image", "ultrasound", len(some))
    assert rates[["false_positives", "false_negatives_class"]].isna().all()
    assert rates["false_negatives_patient"] > 0


def test_a_lesion_that_fills_the_image_is_never_lost_and_a_small_one_is():
    partner = np.arange(50)
    assert pairs.lesion_lost(np.ones((50, 32, 32), bool), partner, "ultrasound") == 0
    small = np.zeros((50, 32, 32), bool)
    small[:, 2:4, 2:4] = True
    assert pairs.lesion_lost(small, partner, "ultrasound") > 0.3
    assert np.isnan(pairs.lesion_lost(None, partner, "ultrasound"))


def test_lesions_of_a_mix_are_lost_as_those_of_one_array_are():
    from mednb.datasets.mixes import Joined

    masks = np.zeros((50, 32, 32), bool)
    masks[10:, 2:4, 2:4] = True
    partner = np.arange(50)
    joined = Joined([masks[:20], masks[20:]])
    lost = pairs.lesion_lost(joined, partner, "ultrasound")
    assert lost == pairs.lesion_lost(masks, partner, "ultrasound")
    assert np.isnan(pairs.lesion_lost(Joined([masks[:5], masks[5:10]]), partner[:10], "ultrasound"))


def test_an_unknown_strategy_names_the_known_ones():
    with pytest.raises(ValueError, match="pairs 'same_cat' is unknown; choose one of same_image"):
        pairs.strategy("same_cat")


def test_a_lesion_is_lost_when_one_of_the_two_views_shows_none_of_it():
    masks = np.zeros((60, 32, 32), bool)
    masks[:, 2:6, 2:6] = True
    masks[30:, :, 16:] = True
    partner, rows = np.roll(np.arange(60), 7), torch.arange(60)
    of = torch.from_numpy(masks), torch.from_numpy(masks[partner])
    a, b = (POLICIES["ultrasound"].masks(m, key(3, 0, rows, view)).flatten(1).any(1) for view, m in enumerate(of))
    assert pairs.lesion_lost(masks, partner, "ultrasound", seed=3) == pytest.approx(1 - float((a & b).float().mean()))


def test_error_rates_are_of_one_batch_and_of_their_seed():
    images = load("phantoms", size=32, limit=60)
    rates = [pairs.error_rates(images, "same_image", "ultrasound", 2, seed) for seed in range(20)]
    assert {rate["false_negatives_class"] for rate in rates} == {0, 1}  # a batch of one pair
    assert len({rate["lesion_lost"] for rate in rates}) > 1
