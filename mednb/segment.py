"""Segmentation with few masks: the encoder inside a U-Net, trained to outline the lesion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from mednb import embed, encoders, metrics, supervise, unet, views
from mednb.datasets import Images, splits
from mednb.datasets.outlines import outlines

INITIALISE = ("encoder", "encoder-decoder")
RATES = (5e-4, 2e-3)
LENGTHS = (0.5, 1.0)  # shares of the steps
SIDE_BY_SIDE = 4  # images in one Dice


def build(path: str | Path, seed: int = 0, initialise: str = "encoder") -> nn.Module:
    """A U-Net whose encoder is the one saved at `path`; its decoder is drawn from `seed`.

    initialise: "encoder", or "encoder-decoder": then the decoder is the one that was pretrained with the encoder, in
    `decoder.safetensors` beside it (figueiras2024 compares the two).
    """
    if initialise not in INITIALISE:
        raise ValueError(f"initialise is {initialise!r}; choose one of {', '.join(INITIALISE)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = unet.build(path)
    if initialise == "encoder-decoder":
        beside = Path(path).with_name("decoder.safetensors")
        if not beside.is_file():
            raise FileNotFoundError(f"there is no {beside}: pretrain with decoder=True, or with a method that has one")
        made.decoder.load_state_dict(encoders.weights(beside))
    return made


def loss(answer: Tensor, masks: Tensor) -> Tensor:
    """Dice loss plus cross-entropy of logits (N, 1, H, W) against masks (N, H, W) bool.

    Dice is taken of four images at a time, concatenated to one, with lesions of like size beside each other. In one
    Dice of the whole batch a small lesion weighs next to nothing beside large ones (Kofler et al., blob loss, 2023);
    alone, a view that has lost its lesion would have no Dice at all.
    """
    answer, truth = answer.float(), masks[:, None].float()
    by_size = truth.sum((1, 2, 3)).argsort().split(SIDE_BY_SIDE)
    dice = smp.losses.DiceLoss(mode="binary")
    overlaps = [dice(answer[rows], truth[rows]) for rows in by_size]
    return torch.stack(overlaps).mean() + F.binary_cross_entropy_with_logits(answer, truth)


def overlap(prediction: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Dice and IoU of each image, columns `dice` and `iou`, for bool arrays (N, H, W); 1 where both are empty."""
    counts = smp.metrics.get_stats(
        torch.from_numpy(prediction[:, None].astype(np.int64)),
        torch.from_numpy(masks[:, None].astype(np.int64)),
        "binary",
    )
    scores = {"dice": smp.metrics.f1_score(*counts), "iou": smp.metrics.iou_score(*counts)}
    return pd.DataFrame({name: score[:, 0].double().numpy() for name, score in scores.items()})


def hausdorff95(prediction: np.ndarray, mask: np.ndarray) -> float:
    """How far two outlines (H, W) bool are apart, in pixels: 95 % of either lie nearer to the other one.

    The larger of the two directed percentiles (Huttenlocher et al. 1993; Maier-Hein et al., Metrics Reloaded, 2024). 0
    when both are empty; the picture's diagonal when one is, so that saying nothing never helps.
    """
    if not (prediction.any() and mask.any()):
        return 0.0 if prediction.any() == mask.any() else float(np.hypot(*mask.shape))
    both = ndimage.find_objects((prediction | mask).astype(np.uint8))[0]
    edges = [each[both] & ~ndimage.binary_erosion(each[both]) for each in (prediction, mask)]
    away = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return float(max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95)))


def detection(prediction: np.ndarray, mask: np.ndarray) -> tuple[float, int]:
    """The share of a picture's lesions that are found, and how many predicted regions touch no lesion.

    prediction, mask: (H, W) bool. A lesion, and a region, is what hangs together, corners included; it is found when
    any of its pixels is predicted. NaN where there is no lesion.
    """
    corners = np.ones((3, 3))
    (lesions, n), (regions, m) = (ndimage.label(each, corners) for each in (mask, prediction))
    found = np.count_nonzero(np.unique(lesions[prediction])) / n if n else np.nan
    return found, m - np.count_nonzero(np.unique(regions[mask]))


def lesions(images: Images) -> Images:
    """Those of the images that have a lesion; ValueError when they have no masks."""
    if images.masks is None:
        raise ValueError(f"{images.name} has no masks: choose a dataset that has, for segmentation")
    return images.take(np.flatnonzero(images.masks.any(axis=(1, 2))))


def fit(
    path: str | Path,
    train: Images,
    val: Images,
    tried: Iterable[Mapping] | None = None,
    seed: int = 0,
    initialise: str = "encoder",
) -> tuple[nn.Module, dict]:
    """A trained U-Net, and what was chosen for it on val: the best round and the best values of `supervise.grid`.

    path, initialise: as in `build`. Raises ValueError unless train and val are of these splits (`assert_apart`).
    """
    splits.assert_apart(train.table, val.table)

    def score(network: nn.Module) -> float:
        return overlap(logits(network, val.pixels) > 0, val.masks)["dice"].mean()

    tried = supervise.grid(RATES, 300, LENGTHS) if tried is None else tried
    how = {"batch_size": 16, "seed": seed, "views": views.labelled(train.table)}
    learning = (train.pixels, train.masks, loss, score)
    return supervise.choose(tried, lambda: build(path, seed, initialise), *learning, **how)


def logits(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """(N, H, W) float for images (N, H, W) uint8: above 0 where a lesion is more likely than not."""
    return embed.extract(network, pixels)[:, 0]


def measure(answers: np.ndarray, images: Images, truth: Sequence[np.ndarray]) -> pd.DataFrame:
    """Columns `metrics.SEGMENTATION` for each image, its answer brought to the size of its outline: the picture's own.

    answers: logits (N, H, W). truth: N masks, (height, width) bool each, see `outlines`. `hd95` is in pixels of the
    picture in its file; of an outline that is not, these are told by how much its area has shrunk.
    """
    rows = []
    for answer, outline, scale in zip(answers, truth, pixel_sides(images, truth), strict=True):
        whole = F.interpolate(torch.from_numpy(answer)[None, None], outline.shape, mode="bilinear")[0, 0].numpy() > 0
        found, false_alarms = detection(whole, outline)
        both = overlap(whole[None], outline[None]).iloc[0]
        hd95 = hausdorff95(whole, outline) * scale
        rows.append([both["dice"], both["iou"], hd95, found, false_alarms])
    return pd.DataFrame(rows, columns=list(metrics.SEGMENTATION))


def pixel_sides(images: Images, truth: Sequence[np.ndarray]) -> np.ndarray:
    """(N,): how many pixels of the picture in its file one pixel of the outline is wide."""
    area = images.strata()["lesion_area"].to_numpy()
    shown = np.array([np.count_nonzero(outline) for outline in truth])
    known = np.isfinite(area) & (area > 0) & (shown > 0)
    return np.sqrt(np.divide(area, shown, out=np.ones(len(area)), where=known))


def label_efficiency(
    images: Images,
    path: str | Path,
    fractions: Iterable[float] = (0.1, 1.0),
    seed: int = 0,
    steps: int = 300,
    initialise: str = "encoder",
    draws: int = 1,
    rates: Iterable[float] = RATES,
    lengths: Iterable[float] = LENGTHS,
    root: str | Path | None = None,
    before_test: Callable[[], object] = lambda: None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict], dict[str, np.ndarray]]:
    """How well lesions are outlined with ever more masks, for the encoder saved at `path`; see `build`.

    Only images with a lesion take part. Learning rate and length are chosen on val once, with the largest fraction,
    and kept. What is measured is measured in the size of the files, which lie below `root` (see `outlines`).
    `before_test` is called when the first answers on test are due, and not when something was wrong before.

    Returns scores (task, label_fraction, draw, stratum, split, metric, value, n_patients, n_images) on val and test;
    the cases of test (image_id, patient, label, what `Images.strata` gives, area, label_fraction, draw, seed and
    `metrics.SEGMENTATION`; area is the lesion's share of the image); what was chosen for each label_fraction and draw;
    and examples with all masks used: image_id (M,), image (M, H, W), mask and prediction (M, H, W) bool. Raises
    ValueError when the images have no masks.
    """
    images = lesions(images)
    parts = {split: images.where(split=split) for split in splits.NAMES}
    train, val, test = parts.values()
    full = {split: outlines(parts[split], root) for split in ("val", "test")}
    tried, scores, cases, chosen, predicted = supervise.grid(rates, steps, lengths), [], [], [], None
    tested = pd.concat([test.table[["image_id", "patient", "label"]], test.strata()], axis=1)
    tested = tested.assign(area=test.masks.mean(axis=(1, 2)), seed=seed)
    for fraction, draw in supervise.few_labels(fractions, draws):
        network, values = fit(path, train.few(fraction, seed, draw), val, tried, seed, initialise)
        tried = [{name: values[name] for name in ("lr", "steps")}]
        if not chosen:
            before_test()
        asked = {"label_fraction": fraction, "draw": draw}
        chosen.append({"task": "segment", **asked, **values})
        answers = {split: logits(network, parts[split].pixels) for split in full}
        predicted = answers["test"] > 0 if predicted is None else predicted
        for split, answer in answers.items():
            each = measure(answer, parts[split], full[split])
            about = {"task": "segment", **asked, "stratum": "", "split": split}
            about |= {"n_patients": parts[split].table["patient"].nunique(), "n_images": len(each)}
            scores += [{**about, "metric": name, "value": each[name].mean()} for name in each]
        cases.append(pd.concat([tested.assign(**asked), each], axis=1))
    shown = np.unique(np.linspace(0, len(test) - 1, 6).astype(int))
    examples = {"image_id": test.table["image_id"].to_numpy(str)[shown], "image": test.pixels[shown]}
    examples |= {"mask": test.masks[shown], "prediction": predicted[shown]}
    return pd.DataFrame(scores), pd.concat(cases, ignore_index=True), chosen, examples
