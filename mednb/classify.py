"""Classification with few labels: nearest neighbours, a linear probe, and fine-tuning of the whole encoder.

All three choose on val, by the area under the ROC curve, and answer for val and test with class probabilities (N, K).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from mednb import embed, results, supervise
from mednb.datasets import Images
from mednb.views import LABELLED, ByModality, Policy, labelled

TASKS = ("knn", "linear", "finetune")
SPLITS = ("train", "val", "test")
NEIGHBOURS = (1, 5, 10, 20, 50)
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, each class against the rest, mean over the classes that occur."""
    return float(results.auroc(labels, probabilities, np.ones((1, len(labels))))[0])


def knn(h: dict[str, np.ndarray], y: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """The k most similar training embeddings vote with exp(cosine / 0.07) (Wu et al. 2018); k is chosen on val.

    `h` and `y` hold embeddings (N, D) and labels (N,) of the splits train and val, and of test, which is answered only.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def fitted(k: int) -> KNeighborsClassifier:
        return KNeighborsClassifier(min(k, len(y["train"])), metric="cosine", weights=lambda d: np.exp(-d / 0.07))

    return _best_on_val((fitted(k) for k in NEIGHBOURS), h, y, classes)


def linear(h: dict[str, np.ndarray], y: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """Logistic regression on standardised, frozen embeddings; the penalty is chosen on val. Classes weigh the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(c: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=500))

    return _best_on_val((fitted(c) for c in PENALTIES), h, y, classes)


def _best_on_val(models: Iterable, h: dict, y: dict, classes: int) -> dict[str, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning

    best, chosen = -np.inf, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty need not converge to be judged on val
        for model in models:
            model.fit(h["train"], y["train"])
            score = auroc(y["val"], _probabilities(model, h["val"], classes))
            if chosen is None or score > best:
                best, chosen = score, model
    return {split: _probabilities(chosen, h[split], classes) for split in ("val", "test")}


def _probabilities(model, h: np.ndarray, classes: int) -> np.ndarray:
    """(N, K): a class that the few labels do not hold has probability 0."""
    probabilities = np.zeros((len(h), classes))
    probabilities[:, model.classes_] = model.predict_proba(h)
    return probabilities


def finetune(
    encoder: nn.Module,
    pixels: dict,
    y: dict[str, np.ndarray],
    classes: int,
    steps: int = 300,
    seed: int = 0,
    views: Policy | ByModality = LABELLED,
) -> dict[str, np.ndarray]:
    """Train the whole encoder with a linear layer on its embedding; the best round is chosen on val.

    `pixels` and `y` hold images (N, H, W) uint8 and labels (N,) of train, val and test; `views` disturbs those of
    train. `encoder` stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(deepcopy(encoder), nn.Linear(encoder.width, classes))
    count = np.bincount(y["train"], minlength=classes)
    weight = torch.tensor(np.where(count, len(y["train"]) / np.maximum(count, 1), 0.0), dtype=torch.float32)

    def loss(answer, labels):
        return F.cross_entropy(answer, labels, weight.to(answer.device))

    def probabilities(of: nn.Module, split: str) -> np.ndarray:
        return F.softmax(torch.from_numpy(embed.extract(of, pixels[split])), dim=1).numpy()

    def score(of: nn.Module) -> float:
        return auroc(y["val"], probabilities(of, "val"))

    network = supervise.fit(network, pixels["train"], y["train"], loss, score, steps=steps, seed=seed, views=views)
    return {split: probabilities(network, split) for split in ("val", "test")}


def label_efficiency(
    images: Images,
    encoder: nn.Module,
    tasks: Iterable[str] = TASKS,
    fractions: Iterable[float] = (0.1, 0.25, 1.0),
    seed: int = 0,
    steps: int = 300,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How good a classifier becomes with ever more labels, for one encoder.

    Returns scores (task, label_fraction, split, metric, value, n_patients, n_images) on val and test, and the
    predictions for each test image (image_id, patient, label, task, label_fraction, seed, p0, p1, ...). The labelled
    images are a fraction of the training patients; val and test stay whole.
    """
    unknown = set(tasks) - set(TASKS)
    if unknown:
        raise ValueError(f"tasks: {', '.join(sorted(unknown))} is unknown; choose among {', '.join(TASKS)}")
    parts = {split: images.where(split=split) for split in SPLITS}
    h = {split: embed.extract(encoder, part.pixels) for split, part in parts.items()}
    y = {split: part.labels for split, part in parts.items()}
    pixels = {split: part.pixels for split, part in parts.items()}
    of_train = pd.Series(range(len(parts["train"])), index=parts["train"].table["image_id"])
    scores, predictions = [], []
    for fraction in fractions:
        few = parts["train"].few(fraction, seed).table
        rows = of_train[few["image_id"]].to_numpy()
        few_h, few_y, few_pixels = ({**all_, "train": all_["train"][rows]} for all_ in (h, y, pixels))
        for task in tasks:
            if task == "finetune":
                answers = finetune(encoder, few_pixels, few_y, len(images.classes), steps, seed, labelled(few))
            else:
                answers = {"knn": knn, "linear": linear}[task](few_h, few_y, len(images.classes))
            asked = {"task": task, "label_fraction": fraction}
            for split, p in answers.items():
                about = {
                    **asked,
                    "split": split,
                    "n_patients": parts[split].table["patient"].nunique(),
                    "n_images": len(p),
                }
                for metric in (results.balanced_accuracy, results.auroc):
                    value = float(metric(y[split], p, np.ones((1, len(p))))[0])
                    scores.append({**about, "metric": metric.__name__, "value": value})
            test = parts["test"].table[["image_id", "patient"]].assign(label=y["test"], **asked, seed=seed)
            p = pd.DataFrame(answers["test"]).add_prefix("p")
            predictions.append(pd.concat([test, p], axis=1))
    return pd.DataFrame(scores), pd.concat(predictions, ignore_index=True)
