"""Segmentation with few masks: the encoder inside a U-Net, trained to outline the lesion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednb import embed, encoders, supervise, unet, views
from mednb.datasets import Images

INITIALISE = ("encoder", "encoder-decoder")


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
    """Dice loss plus cross-entropy of logits (N, 1, H, W) against masks (N, H, W) bool."""
    answer, truth = answer.float(), masks[:, None].float()
    return smp.losses.DiceLoss(mode="binary")(answer, truth) + F.binary_cross_entropy_with_logits(answer, truth)


def overlap(prediction: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Dice and IoU of each image, columns `dice` and `iou`, for bool arrays (N, H, W)."""
    counts = smp.metrics.get_stats(
        torch.from_numpy(prediction[:, None].astype(np.int64)),
        torch.from_numpy(masks[:, None].astype(np.int64)),
        "binary",
    )
    scores = {"dice": smp.metrics.f1_score(*counts), "iou": smp.metrics.iou_score(*counts)}
    return pd.DataFrame({name: score[:, 0].double().numpy() for name, score in scores.items()})


def predict(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Masks (N, H, W) bool of images (N, H, W) uint8: where the network's probability exceeds one half."""
    return embed.extract(network, pixels)[:, 0] > 0


def label_efficiency(
    images: Images,
    path: str | Path,
    fractions: Iterable[float] = (0.1, 1.0),
    seed: int = 0,
    steps: int = 300,
    initialise: str = "encoder",
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """How well lesions are outlined with ever more masks, for the encoder saved at `path`; see `build`.

    Only images with a lesion take part. Returns scores (task, label_fraction, split, metric, value, n_patients,
    n_images) on val and test, the cases of test (image_id, patient, label, area, dice, iou, label_fraction, seed; area
    is the lesion's share of the image), and examples with all masks used: image_id (M,), image (M, H, W), mask and
    prediction (M, H, W) bool. Raises ValueError when the images have no masks.
    """
    if images.masks is None:
        raise ValueError(f"{images.name} has no masks: choose a dataset that has, for segmentation")
    images = images.take(np.flatnonzero(images.masks.any(axis=(1, 2))))
    train, val, test = (images.where(split=split) for split in ("train", "val", "test"))

    def score(of: nn.Module) -> float:
        return overlap(predict(of, val.pixels), val.masks)["dice"].mean()

    scores, cases = [], []
    for fraction in sorted(fractions):
        few = train.few(fraction, seed)
        start = build(path, seed, initialise)
        how = {"steps": steps, "batch_size": 16, "seed": seed, "views": views.labelled(few.table)}
        fitted = supervise.fit(start, few.pixels, few.masks, loss, score, **how)
        for split, part in (("val", val), ("test", test)):
            prediction = predict(fitted, part.pixels)
            each = overlap(prediction, part.masks)
            about = {"task": "segment", "label_fraction": fraction, "split": split}
            about |= {"n_patients": part.table["patient"].nunique(), "n_images": len(part)}
            scores += [{**about, "metric": name, "value": each[name].mean()} for name in each]
        area = test.masks.mean(axis=(1, 2))
        about = test.table[["image_id", "patient", "label"]].assign(area=area, label_fraction=fraction, seed=seed)
        cases.append(pd.concat([about, each], axis=1))
    shown = np.unique(np.linspace(0, len(test) - 1, 6).astype(int))
    examples = {"image_id": test.table["image_id"].to_numpy(str)[shown], "image": test.pixels[shown]}
    examples |= {"mask": test.masks[shown], "prediction": prediction[shown]}
    return pd.DataFrame(scores), pd.concat(cases, ignore_index=True), examples
