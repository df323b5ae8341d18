"""DenseCL: Wang et al., Dense Contrastive Learning for Self-Supervised Visual Pre-Training, CVPR 2021."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DenseCLProjectionHead
from lightly.models.utils import select_most_similar, update_momentum
from torch import Tensor, nn

from mednb.methods.base import STRIDES, Keys, Method, with_map
from mednb.methods.moco import halves, info_nce


class DenseCL(Method):
    """MoCo for every place in the image: what a segmentation needs is not in one vector per image.

    Beside MoCo's loss on the pooled embedding stands the same loss for each cell of a feature map. A cell's positive is
    the cell of the other view whose backbone features are most similar, its negatives are other images' cells, averaged
    over each image. The map is the one at stride 16: at 64 to 128 pixels it has 4 x 4 to 8 x 8 cells, as many as the
    paper's (7 x 7, at stride 32 of 224 pixels).
    """

    batch_size = 64
    wants = ("rows", "partners")
    looks_at_maps = True
    steady = True

    def __init__(
        self,
        encoder: nn.Module,
        width: int = 128,
        temperature: float = 0.2,
        m: float = 0.99,
        queue: int = 1024,
        stride: int = 16,
        dense: float = 0.5,
    ):
        super().__init__(encoder)
        channels = encoder.width * stride // STRIDES[-1]
        self.heads = nn.ModuleList(DenseCLProjectionHead(of, of, width) for of in (encoder.width, channels))
        self.momentum = deepcopy(nn.ModuleList([self.encoder, *self.heads])).requires_grad_(False)
        self.queue, self.dense_queue = Keys(queue, width), Keys(queue, width)
        self.temperature, self.m, self.stride, self.dense = temperature, m, stride, dense

    def look(self, x: Tensor, encoder: nn.Module, head: nn.Module, dense_head: nn.Module) -> tuple[Tensor, ...]:
        """Images -> a unit vector each (N, d), features of S cells (N, S, D_s), the cells' unit vectors (N, S, d)."""
        h, cells = with_map(encoder, x, self.stride)
        cells = cells.flatten(2).transpose(1, 2)
        return F.normalize(head(h).float(), dim=-1), cells.float(), F.normalize(dense_head(cells).float(), dim=-1)

    @torch.no_grad()
    def key(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.cat, zip(*(self.look(half, *self.momentum) for half in halves(x)), strict=True)))

    def loss(self, a: Tensor, b: Tensor, rows: Tensor, partners: Tensor) -> Tensor:
        keys = self.key(a), self.key(b)
        queries = [self.look(x, self.encoder, *self.heads) for x in (a, b)]
        with torch.autocast(a.device.type, enabled=False):
            losses = [self.both(q, k, rows, partners) for q, k in zip(queries, keys[::-1], strict=True)]
        for (k, _, dense_k), of in zip(keys, (rows, partners), strict=True):
            self.queue.push(k, of)
            self.dense_queue.push(F.normalize(dense_k.mean(1), dim=1), of)
        return sum(losses) / 2

    def both(self, query: tuple[Tensor, ...], key: tuple[Tensor, ...], *rows: Tensor) -> Tensor:
        """The loss of a view's vector and cells; keys of the images in `rows`, each (N,), are left out."""
        (q, f, r), (k, g, t) = query, key  # vectors, cells' features and cells' vectors of two views
        vectors = info_nce((q * k).sum(1), self.queue.similarities(q, *rows), self.temperature)
        t = select_most_similar(f, g, t)  # (N, S, d), each cell's positive
        of_cells = (each.repeat_interleave(r.shape[1]) for each in rows)
        negative = self.dense_queue.similarities(r.flatten(0, 1), *of_cells)  # (N S, K)
        cells = info_nce((r * t).sum(2).flatten(), negative, self.temperature)
        return (1 - self.dense) * vectors + self.dense * cells

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        update_momentum(nn.ModuleList([self.encoder, *self.heads]), self.momentum, m=self.m)
