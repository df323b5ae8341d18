"""NNCLR: Dwibedi et al., With a Little Help from My Friends, ICCV 2021."""

import torch
import torch.nn.functional as F
from lightly.models.modules import NNCLRPredictionHead, NNCLRProjectionHead
from torch import Tensor, nn

from mednb.methods.base import Keys, Method
from mednb.methods.simclr import NTXent


class NNCLR(Method):
    """The positive of a view is not the other view but its nearest neighbour among earlier images: a friend.

    Two views of an image differ by what a policy can do; a friend differs by what nature can. The friends come from a
    support set, a queue of projections. In small sets an image would nearly always find itself there, so that only
    other images may be friends. As in lightly, friends repel friends and predictions repel predictions besides, where
    the paper has each friend tell its prediction from the other predictions alone.
    """

    batch_size = 128
    lr = 3e-3  # with 1e-3, or the paper's temperature of 0.1, it learnt less within some hundred steps
    wants = ("rows", "partners")
    steady = True

    def __init__(
        self, encoder: nn.Module, width: int = 256, hidden: int = 512, temperature: float = 0.2, support: int = 1024
    ):
        super().__init__(encoder)
        self.head = NNCLRProjectionHead(encoder.width, hidden, width)
        self.predictor = NNCLRPredictionHead(width, hidden, width)
        self.support = Keys(support, width)  # Q
        self.nt_xent = NTXent(temperature)

    @torch.no_grad()
    def friend(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """NN(z, Q): for each projection (N, d) the most similar one of another image (N, d), and its row (N,)."""
        nearest = self.support.similarities(F.normalize(z.float(), dim=1), rows).argmax(1)
        return self.support.keys.rows[nearest], self.support.of.rows[nearest]

    def loss(self, a: Tensor, b: Tensor, rows: Tensor, partners: Tensor) -> Tensor:
        z_a, z_b = (self.head(self.encoder(x)) for x in (a, b))  # (N, d)
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)  # (N, d)
        (friend_a, of_a), (friend_b, of_b) = self.friend(z_a, rows), self.friend(z_b, partners)
        loss = self.nt_xent(friend_a, p_b, of_a, partners) + self.nt_xent(friend_b, p_a, of_b, rows)
        self.support.push(F.normalize(z_a.float(), dim=1), rows)
        return loss / 2
