"""BYOL: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020."""

from copy import deepcopy

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from mednb.methods.base import InFloat32, Method


class BYOL(Method):
    """An online network predicts what a slowly moving copy of it, the target, says of the other view. No negatives.

    The target gets no gradient: it is a moving average of the online network with momentum `tau`, which rises to 1 over
    the training. Without the predictor, or with a gradient through the target (`stop_gradient=False`), a constant would
    be a perfect answer. Where there are only some hundred steps, a target that moves faster was better: the study
    `methods` takes a `tau` of 0.9 and batches of 16. The loss is 2 - 2 cos, between 0 and 4, averaged over both
    directions.
    """

    batch_size = 64  # it needs no negatives, but many steps: the target must move far from where it was drawn
    steady = True

    def __init__(
        self, encoder: nn.Module, width: int = 256, hidden: int = 1024, tau: float = 0.99, stop_gradient: bool = True
    ):
        super().__init__(encoder)
        self.head = BYOLProjectionHead(encoder.width, hidden, width)
        self.predictor = BYOLPredictionHead(width, hidden, width)
        self.target = deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(not stop_gradient)
        self.similarity = InFloat32(NegativeCosineSimilarity())
        self.tau, self.stop_gradient = tau, stop_gradient

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        p_a, p_b = (self.predictor(self.head(self.encoder(x))) for x in (a, b))  # (N, d)
        with torch.set_grad_enabled(not self.stop_gradient):
            z_a, z_b = self.target(a), self.target(b)  # (N, d)
        return 2 + self.similarity(p_a, z_b) + self.similarity(p_b, z_a)

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        tau = cosine_schedule(step, steps, start_value=self.tau, end_value=1.0)
        update_momentum(nn.Sequential(self.encoder, self.head), self.target, m=tau)
