"""SparK: Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, ICLR 2023."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednb import encoders, unet
from mednb.datasets import Images
from mednb.masked import at, batch_norm, masked_features
from mednb.methods.base import Crops, Method
from mednb.views.keys import uniform


class SparK(Method):
    """Most of the image is hidden, the encoder sees the rest, and a U-Net decoder has to paint what is missing.

    A convolution knows no missing pixels, so every stage multiplies with the mask again: nothing leaks in, and the
    pattern of the mask does not fade out. Batch norm counts visible positions only. Before the decoder, each map's
    hidden positions are filled with a learned token. The loss is the squared error on hidden cells only, each
    normalised by its own mean and standard deviation; predicting zeros costs 1.

    `cell` is the side of a cell in pixels: 32, the encoder's stride, as in the paper; smaller images take a quarter of
    their side, since 64 pixels have only four cells of 32, and sides that this does not divide the next smaller number
    that does. A position of a map that is coarser than the cells is visible when any of its cells is. `hidden` is the
    share of cells that is hidden. From the authors' code differ: projections are 1 x 1, the decoder is a U-Net that
    concatenates maps where theirs adds them, and the recipe is AdamW's, not LAMB's.
    """

    batch_size = 64
    has_decoder = True
    steady = True
    wants = ("keys",)
    crops = (Crops(1, 1.0, (0.67, 1.0), plain=True),)  # no jitter of brightness: it hurts, as the authors found

    def __init__(self, encoder: nn.Module, hidden: float = 0.6, cell: int | None = None):
        super().__init__(encoder)
        self.hidden, self.cell = hidden, cell
        widths = unet.widths(encoder)[1:]  # of the maps at strides 2 to 32
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) if width else nn.Identity() for width in widths])
        tokens = (nn.init.trunc_normal_(torch.zeros(1, width, 1, 1), std=0.02) for width in widths)
        self.tokens = nn.ParameterList(map(nn.Parameter, tokens))
        self.projections = nn.ModuleList([nn.Conv2d(width, width, 1) if width else nn.Identity() for width in widths])
        self.decoder = unet.decoder(encoder)
        self.paint = nn.Conv2d(unet.WIDTHS[-1], encoders.first_layer(encoder).in_channels, 1)

    @classmethod
    def check(cls, images: Images, cell: int | None = None, **_: object) -> None:
        cell_of(images.size, cell)

    def loss(self, x: Tensor, keys: Tensor) -> Tensor:
        cell = cell_of(x.shape[-1], self.cell)
        visible = self.mask(keys, x.shape[-1] // cell)  # (N, 1, f, f)
        painted = self.paint(self.decoder([x, *self.filled(self.encode(x, visible), visible)]))  # (N, C, H, W)
        target, painted = cells(x.float(), cell), cells(painted.float(), cell)  # (N, f * f, C * cell * cell)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = ~visible.flatten(1)  # (N, f * f)
        return ((painted - target).square().mean(-1) * hidden).sum() / hidden.sum()

    def mask(self, keys: Tensor, f: int) -> Tensor:
        """Which of f x f cells are visible: keys (N,) -> (N, 1, f, f) bool, equally many in each image, one or more,
        never all.

        A mask is its image's own in an epoch: other images of the batch, devices or a resumed run change nothing.
        """
        order = uniform(keys, f * f).argsort(1).argsort(1)
        visible = max(1, min(f * f - 1, round(f * f * (1 - self.hidden))))
        return (order < visible).view(-1, 1, f, f)

    def encode(self, x: Tensor, visible: Tensor) -> list[Tensor]:
        """The encoder's maps at strides 2 to 32 when only the visible cells (N, 1, f, f) of x exist; 0 elsewhere."""
        return masked_features(self.encoder, x * at(visible, x), visible)

    def filled(self, maps: list[Tensor], visible: Tensor) -> list[Tensor]:
        """The maps with a learned token at every hidden position."""
        return [
            project(torch.where(at(visible, x), batch_norm(norm, x, visible), token.to(x.dtype))) if x.shape[1] else x
            for x, norm, token, project in zip(maps, self.norms, self.tokens, self.projections, strict=True)
        ]


def cell_of(side: int, wanted: int | None = None) -> int:
    """The side of the cells that images of this side are cut into, with nothing left over.

    A mask that lies askew to the cells would show parts of what is to be painted. Cells of less than half the wanted
    side hide little: a blur paints them.
    """
    wanted = wanted or min(32, side // 4)
    fit = [n for n in range(min(wanted, side // 2), max(1, wanted // 2 - 1), -1) if side % n == 0]
    if not fit:
        others = ", ".join(str(n) for n in range(2, side // 2 + 1) if side % n == 0)
        told = f"no cells of {max(2, wanted // 2)} to {wanted} pixels fill images of {side}: take a multiple of 32"
        raise ValueError(told + (f", or set cell to one of {others}" if others else ""))
    return fit[0]


def cells(x: Tensor, cell: int) -> Tensor:
    """Images (N, C, H, W) cut into cells: (N, H / cell * W / cell, C * cell * cell)."""
    return F.unfold(x, cell, stride=cell).transpose(1, 2)
