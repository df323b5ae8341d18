"""SimCLR: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020."""

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.utils import dist
from torch import Tensor, nn

from mednb.methods.base import InFloat32, OfProjections, gathered


class SimCLR(OfProjections):
    """Two views of an image attract each other; the views of all other images in the batch repel.

    Each view must find its partner among the 2N - 1 other views of the batch, by cosine similarity over `temperature`
    (NT-Xent). A small temperature looks hard at the nearest negatives. Chance level of the loss is log(2N - 1).
    """

    wants = ("rows", "partners")
    steady = True

    def __init__(self, encoder: nn.Module, width: int = 128, temperature: float = 0.2):
        super().__init__(encoder)
        self.head = SimCLRProjectionHead(encoder.width, encoder.width, width)
        self.nt_xent = NTXent(temperature)

    def contrast(self, z_a: Tensor, z_b: Tensor, rows: Tensor | None = None, partners: Tensor | None = None) -> Tensor:
        return self.nt_xent(z_a, z_b, rows, partners)  # (N, d), (N, d) -> one number


class NTXent(nn.Module):
    """Cross-entropy of finding each vector's partner among those of all processes, in 32 bits.

    A mix may draw an image twice into one batch. Other views of the images that a pair shows are neither its positives
    nor its negatives: they are left out.
    """

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.among_all = InFloat32(NTXentLoss(temperature, gather_distributed=True))

    def forward(self, z_a: Tensor, z_b: Tensor, rows_a: Tensor | None = None, rows_b: Tensor | None = None) -> Tensor:
        """Row i of z_a and of z_b (N, d) are partners; rows (N,) name the images that they are of, None: all others."""
        n, m = len(z_a), len(z_a) * dist.world_size()
        place = torch.arange(2 * m, device=z_a.device)
        rows = place % m if rows_a is None else torch.cat([gathered(rows_a), gathered(rows_b)])  # (2M,)
        partner = place.roll(m)
        left_out = (rows[:, None] == rows) | (rows[partner][:, None] == rows)  # (2M, 2M)
        left_out.scatter_(1, partner[:, None], False)
        left_out.fill_diagonal_(True)
        # Each leaves out itself only, mostly: the usual NT-Xent. To ask would make a GPU wait.
        if not z_a.is_cuda and left_out.sum() == len(rows):
            return self.among_all(z_a, z_b)
        with torch.autocast(z_a.device.type, enabled=False):
            z = torch.cat([gathered(F.normalize(z.float(), dim=1)) for z in (z_a, z_b)])  # (2M, d)
            logits = (z @ z.T / self.temperature).masked_fill(left_out, -torch.inf)
            mine = torch.cat([place[dist.rank() * n :][:n], place[m + dist.rank() * n :][:n]])
            return F.cross_entropy(logits[mine], partner[mine])
