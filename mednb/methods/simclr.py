"""SimCLR: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020."""

from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from mednb.methods.base import InFloat32, OfProjections


class SimCLR(OfProjections):
    """Two views of an image attract each other; the views of all other images in the batch repel.

    Each view must find its partner among the 2N - 1 other views of the batch, by cosine similarity over `temperature`
    (NT-Xent). A small temperature looks hard at the nearest negatives. Chance level of the loss is log(2N - 1).
    """

    def __init__(self, encoder: nn.Module, width: int = 128, temperature: float = 0.2):
        super().__init__(encoder)
        self.head = SimCLRProjectionHead(encoder.width, encoder.width, width)
        self.nt_xent = InFloat32(NTXentLoss(temperature, gather_distributed=True))

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return self.nt_xent(z_a, z_b)  # (N, d), (N, d) -> one number
