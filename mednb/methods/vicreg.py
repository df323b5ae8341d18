"""VICReg: Bardes et al., Variance-Invariance-Covariance Regularization, ICLR 2022."""

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor, nn

from mednb.methods.base import InFloat32, OfProjections


class VICReg(OfProjections):
    """Three terms, each with one task, on the projections of two views.

    Invariance: the views of an image are near (mean squared distance). Variance: over the batch, each dimension keeps a
    standard deviation of 1; this term alone forbids collapse to a point. Covariance: dimensions do not repeat each
    other. The paper's weights 25, 25 and 1; its expander of 8,192 dimensions is 1,024 here.
    """

    batch_size = 128  # a covariance over fewer images is mostly noise

    def __init__(self, encoder: nn.Module, width: int = 1024):
        super().__init__(encoder)
        self.head = VICRegProjectionHead(encoder.width, width, width)  # the expander
        self.vicreg = InFloat32(VICRegLoss(gather_distributed=True))

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return self.vicreg(z_a, z_b)  # (N, d), (N, d) -> one number
