"""Probes choose on val, answer with probabilities, and never learn from test."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from mednb import classify
from mednb.datasets import load


@pytest.fixture
def three_groups():
    """Embeddings of three well separated classes in each split."""
    rng = np.random.default_rng(0)
    y = {split: np.arange(n) % 3 for split, n in (("train", 30), ("val", 21), ("test", 24))}
    return {split: (np.eye(3)[labels] * 4 + rng.normal(size=(len(labels), 3)) * 0.3) for split, labels in y.items()}, y


def test_auroc_is_scikit_learns_macro_average():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), 60).round(2)
    p /= p.sum(1, keepdims=True)
    expected = np.mean([sklearn.metrics.roc_auc_score(labels == k, p[:, k]) for k in range(3)])
    assert classify.auroc(labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("probe", [classify.knn, classify.linear])
def test_a_probe_separates_what_is_separable(probe, three_groups):
    h, y = three_groups
    answers = probe(h, y, 3)
    assert set(answers) == {"val", "test"}
    for split, p in answers.items():
        np.testing.assert_allclose(p.sum(1), 1)
        assert (p.argmax(1) == y[split]).all()


@pytest.mark.parametrize("probe", [classify.knn, classify.linear])
def test_the_labels_of_test_change_nothing(probe, three_groups):
    h, y = three_groups
    shuffled = {**y, "test": y["test"][::-1]}
    np.testing.assert_array_equal(probe(h, y, 3)["test"], probe(h, shuffled, 3)["test"])


@pytest.mark.parametrize("probe", [classify.knn, classify.linear])
def test_a_class_without_labels_is_never_the_answer(probe, three_groups):
    h, y = three_groups
    few = y["train"] != 1
    answers = probe({**h, "train": h["train"][few]}, {**y, "train": y["train"][few]}, 3)
    assert (answers["test"][:, 1] == 0).all()


def test_the_linear_probe_chooses_its_penalty_on_val(three_groups, monkeypatch):
    h, y = three_groups
    asked = []
    monkeypatch.setattr(classify, "auroc", lambda labels, p: asked.append(labels) or -len(asked))
    classify.linear(h, y, 3)
    assert len(asked) == len(classify.PENALTIES)
    assert all((labels == y["val"]).all() and len(labels) == len(y["val"]) for labels in asked)


def test_the_penalty_does_not_depend_on_the_scale_of_the_embedding(three_groups):
    h, y = three_groups
    scaled = {split: x * 1000 + 5 for split, x in h.items()}
    np.testing.assert_allclose(classify.linear(h, y, 3)["test"], classify.linear(scaled, y, 3)["test"], atol=1e-4)


def test_nearest_neighbours_vote_by_similarity():
    h = {"train": np.array([[1, 0], [0, 1.0]]), "val": np.array([[1, 0.1], [0.1, 1]]), "test": np.array([[1.0, 0.2]])}
    y = {"train": np.array([0, 1]), "val": np.array([0, 1]), "test": np.array([0])}
    assert classify.knn(h, y, 2)["test"].argmax() == 0


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=80)


@pytest.fixture
def found(images, tiny_encoder):
    return classify.label_efficiency(images, tiny_encoder, fractions=[0.3, 1.0], seed=1, steps=10)


def test_every_task_fraction_split_and_metric_has_one_score(found):
    scores, _ = found
    assert not scores.duplicated(["task", "label_fraction", "split", "metric"]).any()
    assert len(scores) == 3 * 2 * 2 * 2
    assert scores["value"].between(0, 1).all()


def test_scores_are_those_of_the_predictions(images, found):
    scores, predictions = found
    on_test = scores.query("split == 'test' and metric == 'auroc'").set_index(["task", "label_fraction"])["value"]
    for asked, p in predictions.groupby(["task", "label_fraction"]):
        expected = classify.auroc(p["label"].to_numpy(), p[["p0", "p1", "p2"]].to_numpy())
        assert on_test[asked] == pytest.approx(expected)
        assert set(p["image_id"]) == set(images.where(split="test").table["image_id"])


def test_fine_tuning_leaves_the_encoder_as_it_was(images, tiny_encoder):
    before = {name: value.clone() for name, value in tiny_encoder.state_dict().items()}
    parts = {split: images.where(split=split) for split in classify.SPLITS}
    pixels, y = ({split: getattr(part, what) for split, part in parts.items()} for what in ("pixels", "labels"))
    p = classify.finetune(tiny_encoder, pixels, y, 3, steps=10)["test"]
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in tiny_encoder.state_dict().items())


def test_an_unknown_task_is_refused_with_the_choices(images, tiny_encoder):
    with pytest.raises(ValueError, match="tasks: lineal is unknown; choose among knn, linear, finetune"):
        classify.label_efficiency(images, tiny_encoder, tasks=["lineal"])
