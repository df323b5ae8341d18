"""Supervised pretraining: Sun et al., Revisiting Unreasonable Effectiveness of Data in Deep Learning Era, ICCV 2017."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednb.datasets import Images
from mednb.methods.base import Method


class Supervised(Method):
    """A classifier of the pretraining set's own labels: what could be learnt if somebody had written them all down.

    Same views, same budget. When the later task has the same labels on the same images this is an upper bound and no
    rival; on another set it is the usual transfer. The classifier has more outputs than any set has classes; it soon
    learns which ones never occur. Images without a label are seen and teach nothing.
    """

    batch_size = 64
    wants = ("labels",)
    steady = True
    classes = 64  # at most

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)
        self.classifier = nn.Linear(encoder.width, self.classes)

    @classmethod
    def check(cls, images: Images, **_: object) -> None:
        there, n = images.labelled().table["label"].unique(), len(images.classes)
        if len(there) < 2:
            raise ValueError(f"supervised learns to tell classes apart, but all images here are {there[0]}")
        if n > cls.classes:
            raise ValueError(f"supervised tells at most {cls.classes} classes apart, but {images.name} has {n}")

    def loss(self, a: Tensor, b: Tensor, labels: list[Tensor]) -> Tensor:
        logits = torch.cat([self.classifier(self.encoder(x)) for x in (a, b)])  # (2N, K)
        labels = torch.cat(labels)  # (2N,), -1 of an image without one
        known = (labels >= 0).sum().clamp(min=1)
        return F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum") / known
