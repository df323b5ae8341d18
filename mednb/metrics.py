"""Scores of class probabilities, for many weightings of the same images at once: an interval needs a thousand of each.

Every score takes labels (N,) int, probabilities (N, K) and weights (R, N), and gives (R,): once for each row of
weights. A weight of 2 is the same as the image twice. Scores of several classes are the mean over the classes, one
against the rest; a class without weight is left out of it. NaN where no class is left.

Of two classes the last one is the positive one, what is looked for (of your own images the last by alphabet): F1, AUPRC
and the sensitivity are of this class alone, as is usual. AUROC is the same for either, and balanced accuracy always is
the mean of both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean recall of the classes when the most probable class is the answer."""
    truth, right, _ = _counts(labels, probabilities, weights)
    with np.errstate(invalid="ignore"):
        return _mean_of_defined(right / truth)


def f1(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur (harmonic mean of precision and recall), the most probable class answering."""
    truth, right, answered = (of[:, _asked(probabilities)] for of in _counts(labels, probabilities, weights))
    with np.errstate(invalid="ignore"):
        return _mean_of_defined(np.where(truth > 0, 2 * right / (truth + answered), np.nan))


def auroc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve; ties count half. A class that has all of the weight has no curve and is left out."""
    areas = []
    for positive, negative in _curves(labels, probabilities, weights):
        above = positive.cumsum(axis=1) - positive / 2
        with np.errstate(invalid="ignore"):
            areas.append((negative * above).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1)))
    return _mean_of_defined(np.stack(areas, axis=1))


def auprc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as average precision: the precision at each step of recall."""
    areas = []
    for positive, negative in _curves(labels, probabilities, weights):
        found = positive.cumsum(axis=1)
        with np.errstate(invalid="ignore"):
            precision = found / (found + negative.cumsum(axis=1))
            areas.append((positive * np.nan_to_num(precision)).sum(axis=1) / found[:, -1])
    return _mean_of_defined(np.stack(areas, axis=1))


def sensitivity_at_90_specificity(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest sensitivity of a threshold that at least 90 % of the other images stay below."""
    found = []
    for positive, negative in _curves(labels, probabilities, weights):
        alarms = negative.cumsum(axis=1)
        specific = alarms <= 0.1 * alarms[:, -1:] + 1e-9
        with np.errstate(invalid="ignore"):
            sensitivity = (positive * specific).sum(axis=1) / positive.sum(axis=1)
        found.append(np.where(alarms[:, -1] > 0, sensitivity, np.nan))
    return _mean_of_defined(np.stack(found, axis=1))


def ece(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, bins: int = 15) -> np.ndarray:
    """Expected calibration error: how far confidence is from accuracy, mean over images in bins of equal width.

    Guo et al., On calibration of modern neural networks (ICML 2017). Confidence is the probability of the answer. A
    classifier that learnt with weighted classes (`classify.linear`, `classify.finetune`) takes each to be as frequent
    as the others, and this measures that too. Of few images it is never near 0, since bins are off by chance: a
    perfectly calibrated classifier has about 0.09 of a hundred and 0.04 of 400.
    """
    confidence, right, bin_of = _binned(labels, probabilities, bins)
    in_bin = bin_of[:, None] == np.arange(bins)
    with np.errstate(invalid="ignore"):
        return np.abs(weights @ (in_bin * (confidence - right)[:, None])).sum(axis=1) / weights.sum(axis=1)


CLASSIFICATION = (balanced_accuracy, auroc, auprc, f1, sensitivity_at_90_specificity, ece)
SEGMENTATION = ("dice", "iou", "hd95", "found", "false_alarms")  # columns of cases.parquet, measured for each image
LOWER_IS_BETTER = ("ece", "hd95", "false_alarms")
UNBOUNDED = ("hd95", "false_alarms")  # all others are between 0 and 1


def of(task: str) -> tuple[str, ...]:
    """The names of the metrics that a task is measured by."""
    return SEGMENTATION if task == "segment" else tuple(metric.__name__ for metric in CLASSIFICATION)


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """The reliability diagram: one row for each bin of confidence that holds an image.

    labels (N,) int, probabilities (N, K). Columns: low, high (the bin's ends), confidence, accuracy (means over the
    bin's images), n_images. `ece` is the mean of |confidence - accuracy| over these rows, weighted by n_images.
    """
    confidence, right, bin_of = _binned(labels, probabilities, bins)
    images = pd.DataFrame({"low": bin_of / bins, "high": (bin_of + 1) / bins, "confidence": confidence})
    found = images.assign(accuracy=right).groupby(["low", "high"])
    return found[["confidence", "accuracy"]].mean().assign(n_images=found.size()).reset_index()


def _counts(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weight of each class (R, K): of its images, of those that were answered rightly, and of those answered so."""
    classes = np.arange(probabilities.shape[1])
    member, answer = labels[:, None] == classes, probabilities.argmax(axis=1)[:, None] == classes
    return weights @ member, weights @ (member & answer), weights @ answer


def _asked(probabilities: np.ndarray) -> list[int]:
    """The classes that a score is the mean of: all, or the positive one of two."""
    classes = probabilities.shape[1]
    return [1] if classes == 2 else list(range(classes))


def _curves(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each class asked the weight of its images, and of all others, at each distinct probability, highest first."""
    for k in _asked(probabilities):
        order = np.argsort(-probabilities[:, k], kind="stable")
        groups = np.flatnonzero(np.diff(probabilities[order, k], prepend=np.inf) < 0)
        sorted_weights, of_class = weights[:, order], labels[order] == k
        positive, negative = sorted_weights * of_class, sorted_weights * ~of_class
        if len(groups) < len(order):
            positive, negative = (np.add.reduceat(each, groups, axis=1) for each in (positive, negative))
        yield positive, negative


def _binned(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence (N,), whether the answer is right (N,) bool, and the bin of the confidence (N,)."""
    confidence = probabilities.max(axis=1)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # a confidence of 1 belongs to the last
    return confidence, probabilities.argmax(axis=1) == labels, bin_of


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
