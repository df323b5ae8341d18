"""SimSiam: Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021."""

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from mednb.methods.base import InFloat32, Method


class SimSiam(Method):
    """BYOL without the momentum: each view predicts the other's projection, which gets no gradient.

    The paper's finding is that the stop-gradient, with a predictor, suffices against collapse. `stop_gradient=False`,
    or a predictor that does nothing, shows what happens otherwise. The loss is minus the cosine, between -1 and 1.
    """

    batch_size = 64  # no negatives, so that more steps are worth more
    steady = True
    optimiser, lr = "sgd", 1.6  # the paper's, which has 0.05 for 100 epochs of ImageNet; with AdamW it collapsed

    def __init__(self, encoder: nn.Module, width: int = 512, stop_gradient: bool = True):
        super().__init__(encoder)
        self.head = SimSiamProjectionHead(encoder.width, width, width)
        self.predictor = SimSiamPredictionHead(width, max(1, width // 4), width)  # h, a bottleneck
        self.similarity = InFloat32(NegativeCosineSimilarity())
        self.stop_gradient = stop_gradient

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        z_a, z_b = (self.head(self.encoder(x)) for x in (a, b))  # (N, d)
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)  # (N, d)
        if self.stop_gradient:
            z_a, z_b = z_a.detach(), z_b.detach()
        return (self.similarity(p_a, z_b) + self.similarity(p_b, z_a)) / 2
