"""SparK: Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, ICLR 2023."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednb import encoders, unet
from mednb.datasets import Images
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
        """Which of f x f cells are visible: keys (N,) -> (N, 1, f, f) bool, equally many in each image, at least one.

        A mask is its image's own in an epoch: other images of the batch, devices or a resumed run change nothing.
        """
        order = uniform(keys, f * f).argsort(1).argsort(1)
        return (order < max(1, round(f * f * (1 - self.hidden)))).view(-1, 1, f, f)

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
        raise ValueError(f"no cells of {wanted // 2} to {wanted} pixels fill images of {side}: take a multiple of 32")
    return fit[0]


def cells(x: Tensor, cell: int) -> Tensor:
    """Images (N, C, H, W) cut into cells: (N, H / cell * W / cell, C * cell * cell)."""
    return F.unfold(x, cell, stride=cell).transpose(1, 2)


def at(visible: Tensor, x: Tensor) -> Tensor:
    """The mask of cells (N, 1, f, f) at the resolution of a map x (N, C, h, w): (N, 1, h, w) bool."""
    resized = F.interpolate if x.shape[-1] >= visible.shape[-1] else F.adaptive_max_pool2d
    return resized(visible.float(), x.shape[-2:]).bool()


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, visible: Tensor) -> Tensor:
    """Batch norm whose statistics are those of the visible positions; 0 at the others.

    They are as many images of one pixel: of one image (1, C, M, 1) with these strides, torch's gradient on the
    processor is wrong. To ask where they are would make a GPU wait, which has time for the others.
    """
    if x.is_cuda and not isinstance(norm, nn.SyncBatchNorm):
        return weighted_batch_norm(norm, x, at(visible, x))
    where = at(visible, x)[:, 0]  # (N, h, w)
    rows = x.movedim(1, -1)[where]  # (M, C)
    out = torch.zeros_like(x, memory_format=torch.channels_last).movedim(1, -1)
    out[where] = norm(rows[:, :, None, None])[:, :, 0, 0].to(out.dtype)
    return out.movedim(-1, 1)


def weighted_batch_norm(norm: nn.BatchNorm2d, x: Tensor, where: Tensor) -> Tensor:
    """The same, written out, for where (N, 1, h, w) bool."""
    of_channels = (1, -1, 1, 1)
    x32, mean, var = x.float(), norm.running_mean.view(of_channels), norm.running_var.view(of_channels)
    if norm.training:
        count = where.sum()
        mean = (x32 * where).sum((0, 2, 3), keepdim=True) / count
        var = ((x32 - mean).square() * where).sum((0, 2, 3), keepdim=True) / count
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean.flatten(), norm.momentum)
            norm.running_var.lerp_(var.flatten() * count / (count - 1), norm.momentum)
    out = (x32 - mean) * (var + norm.eps).rsqrt() * norm.weight.view(of_channels) + norm.bias.view(of_channels)
    return (out * where).to(x.dtype)


def masked_features(encoder: nn.Module, x: Tensor, visible: Tensor) -> list[Tensor]:
    """`encoders.features`, written out with the mask: a ResNet of torchvision or a ConvNeXt of timm."""

    def seen(x: Tensor) -> Tensor:
        return x * at(visible, x)

    if hasattr(encoder, "stages"):
        # Layer norm looks at one position at a time, so it is enough to hide what a block has made of hidden ones.
        maps = [x.new_empty(len(x), 0, x.shape[2] // 2, x.shape[3] // 2)]
        x = seen(encoder.stem(x))
        for stage in encoder.stages:
            x = seen(stage.downsample(x))
            for block in stage.blocks:
                x = seen(block(x))
            maps.append(x)
        return maps

    maps = [encoder.relu(batch_norm(encoder.bn1, seen(encoder.conv1(x)), visible))]
    x = seen(encoder.maxpool(maps[0]))
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            kept, short = x, block.downsample
            depth = 3 if hasattr(block, "conv3") else 2  # a bottleneck has three
            for n in range(1, depth + 1):
                x = batch_norm(getattr(block, f"bn{n}"), seen(getattr(block, f"conv{n}")(x)), visible)
                x = encoder.relu(x) if n < depth else x
            x = encoder.relu(x + (kept if short is None else batch_norm(short[1], seen(short[0](kept)), visible)))
        maps.append(x)
    return maps
