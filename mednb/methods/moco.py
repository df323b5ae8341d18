"""MoCo v2: Chen et al., Improved Baselines with Momentum Contrastive Learning, 2020; He et al., CVPR 2020."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from mednb.methods.base import Keys, Method


class MoCo(Method):
    """A query finds its key among the keys of earlier batches: many negatives at the price of a small batch.

    Keys come from a slowly moving copy of the network, without gradient, so that those in the queue, made by networks
    of the last steps, can still be compared. Both views ask, and both give keys (as in v3). The paper's queue of 65,536
    is a twentieth of ImageNet; this one passes through a medical set in a few epochs, and is longer than some, so that
    older keys of what a pair shows are left out. Chance level of the loss is log(1 + length of the queue).
    """

    batch_size = 64  # the negatives come from the queue; more steps are worth more
    wants = ("rows", "partners")
    steady = True

    def __init__(
        self, encoder: nn.Module, width: int = 128, temperature: float = 0.2, m: float = 0.99, queue: int = 1024
    ):
        super().__init__(encoder)
        self.head = MoCoProjectionHead(encoder.width, encoder.width, width)
        self.momentum = deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.queue = Keys(queue, width)
        self.temperature, self.m = temperature, m

    @torch.no_grad()
    def key(self, x: Tensor) -> Tensor:
        # In halves with statistics of their own: batch norm would tell the query which batch its key is from (He et
        # al. shuffle between devices for that).
        k = torch.cat([self.momentum(half) for half in halves(x)])
        return F.normalize(k.float(), dim=1)  # (N, d)

    def loss(self, a: Tensor, b: Tensor, rows: Tensor, partners: Tensor) -> Tensor:
        k_a, k_b = self.key(a), self.key(b)  # (N, d)
        q_a, q_b = (F.normalize(self.head(self.encoder(x)).float(), dim=1) for x in (a, b))  # (N, d)
        with torch.autocast(a.device.type, enabled=False):
            loss = sum(
                info_nce((q * k).sum(1), self.queue.similarities(q, rows, partners), self.temperature)
                for q, k in ((q_a, k_b), (q_b, k_a))
            )
        self.queue.push(k_b, partners)
        self.queue.push(k_a, rows)
        return loss / 2

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        update_momentum(nn.Sequential(self.encoder, self.head), self.momentum, m=self.m)


def halves(x: Tensor) -> tuple[Tensor, ...]:
    """A batch in two, unless too few would be left for a batch norm."""
    return x.tensor_split(2 if len(x) > 3 else 1)


def info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Similarities (N,) with what belongs together and (N, K) with what does not -> cross-entropy of finding it."""
    logits = torch.cat([positive[:, None], negative], dim=1) / temperature  # (N, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
