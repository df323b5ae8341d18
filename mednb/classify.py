"""Classification with few labels: nearest neighbours, a linear probe, and fine-tuning of the whole encoder.

All three learn from train and choose on val, by the area under the ROC curve, and only then answer: a `Classifier`
gives class probabilities (N, K). None of them can be given images of test to choose on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from mednb import embed, encoders, metrics, supervise
from mednb.datasets import Images, splits
from mednb.views import labelled

TASKS = ("knn", "linear", "finetune")
NEIGHBOURS = (1, 5, 10, 20, 50)
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATES = (1e-3, 5e-3)  # of the layer on top; the encoder's is a tenth: 1e-4 is what Wolf et al. (2023) take
LENGTHS = (0.5, 1.0)  # shares of the steps


@dataclass(frozen=True)
class Classifier:
    """What was fitted on train and chosen on val: called on images, it answers with class probabilities (N, K).

    It knows whose images it has seen, and refuses those that have the same patients, or near-duplicates, in another
    split: ValueError.
    """

    answer: Callable[[pd.DataFrame | Images], np.ndarray]
    chosen: dict
    """What was chosen on val, and the `score` there."""
    seen: pd.DataFrame

    def __call__(self, images: pd.DataFrame | Images) -> np.ndarray:
        table = images.table if isinstance(images, Images) else images
        splits.assert_disjoint(pd.concat([self.seen, splits.known(table)], ignore_index=True))
        return self.answer(images)


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, each class against the rest, mean over the classes that occur."""
    return float(metrics.auroc(labels, probabilities, np.ones((1, len(labels))))[0])


def knn(train: pd.DataFrame, val: pd.DataFrame, classes: list[str]) -> Classifier:
    """The k most similar training embeddings vote with exp(cosine / 0.07) (Wu et al. 2018); k is chosen on val.

    train, val: embeddings as `embed.frame` makes them, each of its split only (`splits.assert_apart`).
    """
    from sklearn.neighbors import KNeighborsClassifier

    def voters(k: int) -> KNeighborsClassifier:
        return KNeighborsClassifier(min(k, len(train)), metric="cosine", weights=lambda d: np.exp(-d / 0.07))

    return _best_on_val("k", {k: voters(k) for k in NEIGHBOURS}, train, val, classes)


def linear(train: pd.DataFrame, val: pd.DataFrame, classes: list[str]) -> Classifier:
    """Logistic regression on standardised, frozen embeddings; the penalty is chosen on val. Classes weigh the same.

    train, val: embeddings as `embed.frame` makes them, each of its split only (`splits.assert_apart`).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def regression(c: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=500))

    return _best_on_val("C", {c: regression(c) for c in PENALTIES}, train, val, classes)


def _best_on_val(name: str, models: Mapping, train: pd.DataFrame, val: pd.DataFrame, classes: list[str]) -> Classifier:
    from sklearn.exceptions import ConvergenceWarning

    splits.assert_apart(train, val)

    def probabilities(model, h: np.ndarray) -> np.ndarray:
        """(N, K): a class that the few labels do not hold has probability 0."""
        found = np.zeros((len(h), len(classes)))
        found[:, model.classes_] = model.predict_proba(h)
        return found

    h, h_val, y, y_val = embed.vectors(train), embed.vectors(val), _codes(train, classes), _codes(val, classes)
    if len(np.unique(y)) < 2:
        raise ValueError(f"the labelled images are all {classes[y[0]]}: a classifier needs two classes, or more images")
    _assert_two_classes(y_val, classes)
    best = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty need not converge to be judged on val
        for value, model in models.items():
            score = auroc(y_val, probabilities(model.fit(h, y), h_val))
            if best is None or score > best[0]:
                best = score, value, model
    score, value, model = best
    seen = pd.concat([splits.known(train), splits.known(val)], ignore_index=True)
    return Classifier(lambda of: probabilities(model, embed.vectors(of)), {name: value, "score": score}, seen)


def _assert_two_classes(val: np.ndarray, classes: list[str]) -> None:
    """ValueError where the labels of val are of one class: there is no area under a curve, and the first value won."""
    if len(np.unique(val)) < 2:
        held = f"only {classes[val[0]]}" if len(val) else "no image"
        raise ValueError(f"val holds {held}: nothing can be chosen by it; take more images, or another fold")


def _codes(frame: pd.DataFrame, classes: list[str]) -> np.ndarray:
    return pd.Categorical(frame["label"], categories=classes).codes.astype(np.int64)


def finetune(
    encoder: nn.Module, train: Images, val: Images, tried: Iterable[Mapping] | None = None, seed: int = 0
) -> Classifier:
    """Train the whole encoder with a linear layer on its embedding, the encoder frozen first: see `supervise.fit`.

    Which round is the best one, and which of the values in `tried` (`supervise.grid`), is chosen on val. `encoder`
    stays as it is.
    """
    splits.assert_apart(train.table, val.table)
    _assert_two_classes(val.labels, val.classes)
    classes = len(train.classes)

    def start() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(deepcopy(encoder), nn.Linear(encoder.width, classes))

    count = np.bincount(train.labels, minlength=classes)
    weight = torch.tensor(np.where(count, len(train) / np.maximum(count, 1), 0.0), dtype=torch.float32)

    def loss(answer, labels):
        return F.cross_entropy(answer, labels, weight.to(answer.device))

    def probabilities(network: nn.Module, images: Images) -> np.ndarray:
        return F.softmax(torch.from_numpy(embed.extract(network, images.pixels)), dim=1).numpy()

    def score(network: nn.Module) -> float:
        return auroc(val.labels, probabilities(network, val))

    how = {"seed": seed, "views": labelled(train.table), "pretrained": "0"}
    tried = supervise.grid(RATES, 300, LENGTHS) if tried is None else tried
    network, chosen = supervise.choose(tried, start, train.pixels, train.labels, loss, score, **how)
    seen = pd.concat([splits.known(train.table), splits.known(val.table)], ignore_index=True)
    return Classifier(lambda images: probabilities(network, images), chosen, seen)


def label_efficiency(
    images: Images,
    encoder: nn.Module,
    tasks: Iterable[str] = TASKS,
    fractions: Iterable[float] = (0.1, 0.25, 1.0),
    seed: int = 0,
    steps: int = 300,
    draws: int = 1,
    rates: Iterable[float] = RATES,
    lengths: Iterable[float] = LENGTHS,
    before_test: Callable[[], object] = lambda: None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict]]:
    """How good a classifier becomes with ever more labels, for one encoder.

    The labelled images are a fraction of the training patients, drawn `draws` times (all of them: once); val and test
    stay whole. Images that have no label have no part in it (`Images.labelled`). Learning rate and length of
    fine-tuning are chosen on val once, with the largest fraction, and kept. `before_test` is called when the first
    answers on test are due (`ledger.record`, say), and not when something was wrong before.

    Returns scores (task, label_fraction, draw, stratum, split, metric, value, n_patients, n_images) on val and test;
    the predictions for each test image (image_id, patient, label, what `Images.strata` gives, task, label_fraction,
    draw, seed, p0, p1, ...); and what was chosen for each task, label_fraction and draw.
    """
    tasks = list(tasks)
    unknown = set(tasks) - set(TASKS)
    if unknown or not tasks:
        what = f"{', '.join(sorted(unknown))} is unknown" if unknown else "there is none"
        raise ValueError(f"tasks: {what}; choose among {', '.join(TASKS)}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; the labelled patients are drawn once or more often")
    images = images.labelled()
    parts = {split: images.where(split=split) for split in splits.NAMES}
    frames = {split: embed.frame(part.table, embed.extract(encoder, part.pixels)) for split, part in parts.items()}
    tried, scores, predictions, chosen = supervise.grid(rates, steps, lengths), [], [], []
    tested = parts["test"].table[["image_id", "patient"]].assign(label=parts["test"].labels, seed=seed)
    tested = pd.concat([tested, parts["test"].strata()], axis=1)
    for fraction, draw in supervise.few_labels(fractions, draws):
        few = parts["train"].few(fraction, seed, draw)
        for task in tasks:
            if task == "finetune":
                classifier, of = finetune(encoder, few, parts["val"], tried, seed), parts
                tried = [{name: classifier.chosen[name] for name in ("lr", "steps")}]
            else:
                few_h = frames["train"][frames["train"]["image_id"].isin(few.table["image_id"])]
                classifier, of = {"knn": knn, "linear": linear}[task](few_h, frames["val"], images.classes), frames
            if not chosen:
                before_test()
            asked = {"task": task, "label_fraction": fraction, "draw": draw}
            chosen.append(asked | classifier.chosen)
            answers = {split: classifier(of[split]) for split in ("val", "test")}
            for split, p in answers.items():
                measured = {m.__name__: m(parts[split].labels, p, np.ones((1, len(p)))) for m in metrics.CLASSIFICATION}
                about = {**asked, "stratum": "", "split": split}
                about |= {"n_patients": parts[split].table["patient"].nunique(), "n_images": len(p)}
                scores += [{**about, "metric": name, "value": float(value[0])} for name, value in measured.items()]
            p = pd.DataFrame(answers["test"]).add_prefix("p")
            predictions.append(pd.concat([tested.assign(**asked), p], axis=1))
    return pd.DataFrame(scores), pd.concat(predictions, ignore_index=True), chosen


def leak(
    images: Images,
    encoder: nn.Module | None = None,
    tasks: Iterable[str] = ("knn",),
    seed: int = 0,
    limit: int = 2000,
    replicates: int = 1000,
) -> pd.DataFrame:
    """What a frozen encoder, or an untrained ResNet-18, seems to be worth when a split ignores whose the images are.

    Every image that has a label is tested once, in five folds, twice over: with patients and near-duplicates kept
    together, and shuffled as if every image were a patient of its own. The probes, the encoder and the numbers of
    images are the same. The 95 % intervals draw the patients, the same ones for both. At most about `limit` images are
    asked.

    Returns columns task, split ("kept together", "shuffled", "shuffled - together"), auroc, low, high; empty when there
    are not two classes in all train and val splits.
    """
    images = images.labelled() if images.has_label.any() else images
    if limit < len(images):
        images = images.take(splits.at_most(images.table, limit))
    table = images.table.drop(columns=[name for name in ("official", "official_fold") if name in images.table])
    columns = ["task", "split", "auroc", "low", "high"]
    if len(set(images.labels)) < 2:
        return pd.DataFrame(columns=columns)
    colours = 1 if images.pixels.ndim == 3 else images.pixels.shape[1]
    h = embed.extract(encoder or encoders.build(channels=colours, seed=seed), images.pixels)
    whose = pd.factorize(splits.grouped(table))[0]
    count = whose.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)
    weights = np.vstack([np.ones(count), drawn])[:, whose]
    ways = {"kept together": table, "shuffled": table.assign(patient=table["image_id"], group=table["image_id"])}
    rows = []
    for task in tasks:
        scores = {}
        for way, known in ways.items():
            p = np.zeros((len(known), len(images.classes)))
            for fold in range(5):
                frame = embed.frame(known.assign(split=splits.split(known, fold, seed=seed)), h)
                parts = [frame[frame["split"] == split] for split in splits.NAMES]
                if any(part["label"].nunique() < 2 for part in parts[:2]):  # too few images to learn or choose from
                    return pd.DataFrame(columns=columns)
                p[parts[2].index] = {"knn": knn, "linear": linear}[task](*parts[:2], images.classes)(parts[2])
            scores[way] = metrics.auroc(images.labels, p, weights)
        scores["shuffled - together"] = scores["shuffled"] - scores["kept together"]
        for way, score in scores.items():
            rows.append([task, way, score[0], *np.nanquantile(score[1:], [0.025, 0.975])])
    return pd.DataFrame(rows, columns=columns)
