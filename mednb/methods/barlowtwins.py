"""Barlow Twins: Zbontar et al., Self-Supervised Learning via Redundancy Reduction, ICML 2021."""

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor, nn

from mednb.methods.base import InFloat32, OfProjections, gathered


class BarlowTwins(OfProjections):
    """Each dimension of the projection shall agree between two views, and no two dimensions shall say the same.

    The cross-correlation matrix of the views over the batch is pulled towards the identity; what is off its diagonal
    weighs `redundancy`. No negatives, no momentum: a constant has no correlation. The paper's 8,192 dimensions behind a
    ResNet-50's 2,048 are 1,024 here.
    """

    batch_size = 128  # a correlation over fewer images is mostly noise
    steady = True

    def __init__(self, encoder: nn.Module, width: int = 1024, redundancy: float = 5e-3):
        super().__init__(encoder)
        self.head = BarlowTwinsProjectionHead(encoder.width, width, width)
        self.correlation = InFloat32(BarlowTwinsLoss(lambda_param=redundancy))

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return self.correlation(gathered(z_a), gathered(z_b))  # (N, d), (N, d) -> one number
