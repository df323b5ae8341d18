"""Scores of weighted images are those of scikit-learn and torchmetrics, for many weightings at once."""

import time

import numpy as np
import pytest

from mednb import datasets, metrics


def drawn(classes, images=60, draws=7, ties=True):
    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.arange(images) % classes)
    p = rng.dirichlet(np.ones(classes), images)
    p = (p * 8).round() + 1e-3 if ties else p
    p /= p.sum(axis=1, keepdims=True)
    return labels, p, rng.integers(0, 4, (draws, images)).astype(float)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [True, False])
def test_auroc_is_that_of_scikit_learn(classes, ties):
    from sklearn.metrics import roc_auc_score

    labels, p, weights = drawn(classes, ties=ties)
    for mine, weight in zip(metrics.auroc(labels, p, weights), weights, strict=True):
        score = p[:, 1] if classes == 2 else p
        theirs = roc_auc_score(labels, score, sample_weight=weight, multi_class="ovr", average="macro")
        assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_balanced_accuracy_is_that_of_scikit_learn(classes):
    from sklearn.metrics import balanced_accuracy_score

    labels, p, weights = drawn(classes)
    for mine, weight in zip(metrics.balanced_accuracy(labels, p, weights), weights, strict=True):
        theirs = balanced_accuracy_score(labels, p.argmax(axis=1), sample_weight=weight)
        assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [True, False])
def test_auprc_and_f1_are_those_of_scikit_learn(classes, ties):
    from sklearn.metrics import average_precision_score, f1_score

    labels, p, weights = drawn(classes, ties=ties)
    asked = slice(1, 2) if classes == 2 else slice(None)  # of two classes the last one is the positive one
    truth, average = labels[:, None] == np.arange(classes), "binary" if classes == 2 else "macro"
    mine = zip(metrics.auprc(labels, p, weights), metrics.f1(labels, p, weights), weights, strict=True)
    for area, harmonic, weight in mine:
        assert area == pytest.approx(average_precision_score(truth[:, asked], p[:, asked], sample_weight=weight))
        assert harmonic == pytest.approx(f1_score(labels, p.argmax(axis=1), sample_weight=weight, average=average))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_sensitivity_at_90_specificity_and_ece_are_those_of_torchmetrics(classes):
    import torch
    from torchmetrics.functional import classification

    labels, p, _ = drawn(classes, ties=False)
    torch_p, torch_y = torch.from_numpy(p), torch.from_numpy(labels)
    found, _ = classification.multiclass_sensitivity_at_specificity(torch_p, torch_y, classes, min_specificity=0.9)
    found = found[1:] if classes == 2 else found
    once = np.ones((1, len(labels)))
    assert metrics.sensitivity_at_90_specificity(labels, p, once)[0] == pytest.approx(found.mean().item(), abs=1e-6)
    error = classification.multiclass_calibration_error(torch_p, torch_y, classes, n_bins=15, norm="l1").item()
    assert metrics.ece(labels, p, once)[0] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("metric", metrics.CLASSIFICATION)
@pytest.mark.parametrize("ties", [True, False])
def test_a_weight_of_two_is_the_image_twice(metric, ties):
    labels, p, weights = drawn(3, ties=ties)
    for mine, weight in zip(metric(labels, p, weights), weights.astype(int), strict=True):
        again = np.repeat(labels, weight), np.repeat(p, weight, axis=0)
        assert mine == pytest.approx(metric(*again, np.ones((1, weight.sum())))[0])


@pytest.mark.parametrize("metric", metrics.CLASSIFICATION)
def test_a_perfect_answer_is_perfect(metric):
    labels = np.array([0, 1, 2, 2])
    score = metric(labels, np.eye(3)[labels], np.ones((1, 4)))[0]
    assert score == (0 if metric.__name__ in metrics.LOWER_IS_BETTER else 1)


def test_the_threshold_of_a_sensitivity_lets_one_of_ten_others_pass():
    labels = np.array([1] * 4 + [0] * 10)
    of_one = np.array([0.9, 0.7, 0.5, 0.3, 0.8, 0.6, *[0.1] * 8])
    once = np.ones((1, 14))
    # Of class 1 the threshold is 0.7: one of ten others lies above it, and half of its images. For class 0 none of the
    # four others may lie above, so that its threshold leaves eight of its ten images.
    p = np.stack([1 - of_one, of_one], 1)
    assert metrics.sensitivity_at_90_specificity(labels, p, once)[0] == 0.5
    third = np.column_stack([p, np.zeros(14)])  # nobody is of a third class: it is left out of the mean
    assert metrics.sensitivity_at_90_specificity(labels, third, once)[0] == (0.5 + 0.8) / 2


def test_the_last_of_two_classes_is_what_is_looked_for():
    cards = [module.CARD for module in datasets.DATASETS.values()]
    positive = {card.name: card.classes[-1] for card in cards if len(card.classes) == 2}
    assert {"busbra", "cbis_ddsm", "covid_ct", "head_ct", "lidc", "oasbud", "udiat"} <= set(positive)
    assert {"breastmnist", "pneumoniamnist"} <= set(positive)
    assert set(positive.values()) == {"malignant", "covid", "haemorrhage", "nodule", "pneumonia"}


def test_a_class_that_was_not_drawn_is_left_out():
    labels, p = np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2]]
    weights = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert metrics.balanced_accuracy(labels, p, weights).tolist() == [0.75, 1.0]
    assert metrics.f1(labels, p, weights).tolist() == [pytest.approx(2 / 3), 1.0]
    area = metrics.auroc(labels, p, weights)
    assert area[0] == pytest.approx(0.75)  # both classes that are left: one of two pairs is a tie
    assert np.isnan(area[1])  # one class alone has no curve


def test_the_reliability_diagram_holds_what_ece_averages():
    labels, p, _ = drawn(3, images=200, ties=False)
    shown = metrics.reliability(labels, p)
    assert shown["n_images"].sum() == 200
    assert ((shown["low"] <= shown["confidence"]) & (shown["confidence"] <= shown["high"])).all()
    gap = (shown["confidence"] - shown["accuracy"]).abs()
    assert np.average(gap, weights=shown["n_images"]) == pytest.approx(metrics.ece(labels, p, np.ones((1, 200)))[0])


def test_a_thousand_draws_take_a_tenth_of_a_second():
    labels, p, weights = drawn(3, images=150, draws=1000, ties=False)

    def seconds():
        start = time.process_time()
        for metric in metrics.CLASSIFICATION:
            metric(labels, p, weights)
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.1
