"""Scores of weighted images are those of scikit-learn and torchmetrics, for many weightings at once."""

import time

import numpy as np
import pytest

from mednb import metrics


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
        if classes > 2 or not ties:  # rounding breaks p0 = 1 - p1, and with it the symmetry of two classes
            assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_balanced_accuracy_is_that_of_scikit_learn(classes):
    from sklearn.metrics import balanced_accuracy_score

    labels, p, weights = drawn(classes)
    for mine, weight in zip(metrics.balanced_accuracy(labels, p, weights), weights, strict=True):
        theirs = balanced_accuracy_score(labels, p.argmax(axis=1), sample_weight=weight)
        assert mine == pytest.approx(theirs, abs=1e-12)


def test_a_class_that_was_not_drawn_is_left_out():
    labels, p = np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2]]
    weights = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert metrics.balanced_accuracy(labels, p, weights).tolist() == [0.75, 1.0]
    area = metrics.auroc(labels, p, weights)
    assert area[0] == pytest.approx(0.75)  # both classes that are left: one of two pairs is a tie
    assert np.isnan(area[1])  # one class alone has no curve


def test_a_thousand_draws_take_a_tenth_of_a_second():
    labels, p, weights = drawn(3, images=150, draws=1000, ties=False)

    def seconds():
        start = time.perf_counter()
        metrics.auroc(labels, p, weights)
        metrics.balanced_accuracy(labels, p, weights)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1
