"""Studies that never ran: folders of runs as the stage notebooks leave them, with effects that were planted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mednb import metrics, results

CLASSES = ["normal", "benign", "malignant"]
STAGES = ("pretrain", "embed", "classify", "segment")
EFFECTS = {"none": 0.0, "simclr": 0.8, "byol": 0.5}  # shift of the true class's logit
METRICS = [
    *("epoch", "step", "loss", "lr", "views_per_second", "data_wait"),
    *("spread", "effective_rank", "alignment", "uniformity"),
]


@dataclass
class FakeImages:
    """As much of `mednb.datasets.Images` as a report asks for."""

    table: pd.DataFrame
    pixels: np.ndarray
    masks: np.ndarray
    classes: list[str]


def images(n_patients: int = 60, size: int = 32, seed: int = 0) -> FakeImages:
    """Two speckled images of each patient; a dark ellipse in those with a lesion."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    label = (patient * 7) % 3
    fifth = patient % 5
    y, x = np.mgrid[:size, :size] / size
    cx, cy = rng.uniform(0.35, 0.65, (2, len(patient), 1, 1))
    a = rng.lognormal(-1.7, 0.35, (len(patient), 1, 1)).clip(0.1, 0.4)
    masks = ((x - cx) / a) ** 2 + ((y - cy) / (a * np.where(label == 1, 0.6, 1.0)[:, None, None])) ** 2 < 1
    masks &= (label > 0)[:, None, None]
    pixels = (rng.rayleigh(60, masks.shape) * (1 - 0.6 * masks)).clip(0, 255).astype(np.uint8)
    table = pd.DataFrame(
        {
            "image_id": [f"image-{i:04d}" for i in range(len(patient))],
            "patient": [f"patient-{i:03d}" for i in patient],
            "label": np.array(CLASSES)[label],
            "split": np.where(fifth == 0, "test", np.where(fifth == 1, "val", "train")),
        }
    )
    return FakeImages(table, pixels, masks, CLASSES)


def write_study(
    folder: str | Path,
    methods: tuple[str, ...] = ("none", "simclr", "byol"),
    seeds: tuple[int, ...] = (0, 1),
    fractions: tuple[float, ...] = (0.1, 0.25, 1.0),
    tasks: tuple[str, ...] = ("knn", "linear", "finetune"),
    stages: tuple[str, ...] = STAGES,
    effects: dict[str, float] | None = None,
    of: FakeImages | None = None,
    **values,
) -> Path:
    """Write a run folder for each stage, method and seed; `values` replace those in its run.json."""
    folder, of, effects = Path(folder), of or images(), EFFECTS if effects is None else effects
    for method in methods:
        for seed in seeds:
            for stage in stages:
                out = folder / f"{stage}-{method}-s{seed}"
                run = _run(out, stage, folder.name, method, seed, of, values)
                strength = effects.get(method, 0.3)
                rng = np.random.default_rng([seed, *method.encode(), len(stage)])
                WRITERS[stage](out, run, of, strength, rng, fractions, tasks)
    return folder


def _run(out: Path, stage: str, study: str, method: str, seed: int, of: FakeImages, values: dict) -> dict:
    out.mkdir(parents=True, exist_ok=True)
    (out / "parameters.json").write_text(json.dumps({"method": method, "seed": seed}))
    (out / "notebook.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    splits = of.table.groupby("split")["patient"]
    data = {"fingerprint": "f" * 16, "split_hash": "5" * 16} | {f"n_{split}": n for split, n in splits.size().items()}
    data |= {f"n_{split}_patients": n for split, n in splits.nunique().items()}
    said = {"stage": stage, "study": study, "run": out.name, "dataset": "phantoms", "method": method}
    said |= {"pretrained_on": "" if method == "none" else "phantoms"}
    said |= {"pairs": "same_image", "views": "ultrasound", "encoder": "resnet18", "size": of.pixels.shape[1]}
    said |= {"batch_size": 64, "epochs": 20, "images_seen": 0 if method == "none" else 20 * 64 * 18}
    said |= {"seed": seed, "fold": 0, "limit": None, "data": data, "classes": of.classes, "seconds": 61.5}
    said |= {"device": "cpu"}
    return results.write_run(out, **said | values)


def _pretrain(out, run, of, strength, rng, fractions, tasks):
    rows = []
    for epoch in range(0 if run["method"] == "none" else run["epochs"]):
        done = 1 - np.exp(-epoch / 6)
        loss = (5.2 if run["method"] == "simclr" else 0.4) - (2 + strength) * done
        noise = rng.normal(0, 0.02, 5)
        geometry = np.array([0.2, 4, 0.2, -0.5]) + done * np.array([0.7, 60, 0.3, -2.5]) + noise[1:] * [1, 10, 1, 1]
        rows.append([epoch, 18 * (epoch + 1), loss + noise[0], 1e-3, 900.0, 0.02, *geometry])
    pd.DataFrame(rows, columns=METRICS).to_csv(out / "metrics.csv", index=False)


def _embed(out, run, of, strength, rng, fractions, tasks):
    labels = np.array([of.classes.index(label) for label in of.table["label"]])
    h = rng.normal(size=(len(labels), 8)) + (0.5 + 2 * strength) * np.eye(8)[labels]
    embedded = pd.DataFrame(h.astype(np.float32), columns=[f"h{i:03d}" for i in range(8)])
    pd.concat([of.table, embedded], axis=1).to_parquet(out / "embeddings.parquet")
    of.table.assign(x=3 * h[:, 0] + h[:, 1], y=3 * h[:, 1] - h[:, 2]).to_parquet(out / "map.parquet")
    measured = {"alignment": 0.4, "uniformity": -2.5, "effective_rank": 40.0, "spread": 0.8}
    tested = of.table[of.table["split"] == "test"]
    rows = [
        results.row(run, "geometry", metric, value + rng.normal(0, 0.02), None, "test", *_size(tested))
        for metric, value in measured.items()
    ]
    results.write_rows(out, rows)


def _classify(out, run, of, strength, rng, fractions, tasks):
    test = of.table[of.table["split"] == "test"].reset_index(drop=True)
    labels = np.array([of.classes.index(label) for label in test["label"]])
    # What is hard about an image is hard for every encoder: this is what a paired comparison takes out.
    hard = np.random.default_rng(0).normal(0, 1.2, (len(test), len(of.classes)))
    frames, rows = [], []
    for task in tasks:
        for fraction in fractions:
            logits = hard + rng.normal(0, 0.5, hard.shape)
            logits[np.arange(len(test)), labels] += 0.9 + strength + 0.3 * np.log10(10 * fraction)
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            said = {"label": labels, "task": task, "label_fraction": fraction, "seed": run["seed"]}
            said |= {f"p{k}": p[:, k] for k in range(p.shape[1])}
            frames.append(test[["image_id", "patient"]].assign(**said))
            for metric in metrics.CLASSIFICATION:
                value = metric(labels, p, np.ones((1, len(test))))[0]
                for split in ("val", "test"):
                    rows.append(results.row(run, task, metric.__name__, value, fraction, split, *_size(test)))
    pd.concat(frames, ignore_index=True).to_parquet(out / "predictions.parquet")
    results.write_rows(out, rows)


def _segment(out, run, of, strength, rng, fractions, tasks):
    at = np.flatnonzero((of.table["split"] == "test") & of.masks.any(axis=(1, 2)))
    test = of.table.iloc[at].reset_index(drop=True)
    area = of.masks[at].mean(axis=(1, 2))
    frames, rows = [], []
    for fraction in fractions:
        logit = (
            0.4 + strength / 2 + 0.3 * np.log(area / 0.05) + 0.4 * np.log10(10 * fraction) + rng.normal(0, 0.4, len(at))
        )
        dice = 1 / (1 + np.exp(-logit))
        said = {"area": area, "dice": dice, "iou": dice / (2 - dice), "label_fraction": fraction, "seed": run["seed"]}
        frames.append(test[["image_id", "patient", "label"]].assign(**said))
        for metric in ("dice", "iou"):
            rows.append(results.row(run, "segment", metric, said[metric].mean(), fraction, "test", *_size(test)))
    pd.concat(frames, ignore_index=True).to_parquet(out / "cases.parquet")
    results.write_rows(out, rows)
    few = at[:6]
    moved = [np.roll(of.masks[i], rng.integers(-3, 4, 2), (0, 1)) for i in few]
    ids = of.table["image_id"].to_numpy(str)[few]
    np.savez(out / "examples.npz", image_id=ids, image=of.pixels[few], mask=of.masks[few], prediction=np.stack(moved))


def _size(table: pd.DataFrame) -> tuple[int, int]:
    return table["patient"].nunique(), len(table)


WRITERS = {"pretrain": _pretrain, "embed": _embed, "classify": _classify, "segment": _segment}


def cases(dice: np.ndarray, seeds: tuple[int, ...] = (0,), **columns) -> pd.DataFrame:
    """The gathered cases of one initialisation: dice is (seeds, patients), one image of each patient."""
    frames = [
        pd.DataFrame({"image_id": range(len(values)), "dice": values, "seed": seed})
        for seed, values in zip(seeds, np.atleast_2d(dice), strict=True)
    ]
    said = {"dataset": "d", "encoder": "e", "size": 32, "fold": 0, "initialisation": "none", "images_seen": 0}
    frame = pd.concat(frames, ignore_index=True).assign(**said | {"label_fraction": 0.1, "run": "r"} | columns)
    return frame.assign(patient=frame["image_id"].map("p{}".format), iou=frame["dice"])


def only(frame: pd.DataFrame, **wanted) -> pd.Series:
    """The one row that has the wanted values; Dice unless they say otherwise."""
    for name, value in ({"metric": "dice"} | wanted).items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]
