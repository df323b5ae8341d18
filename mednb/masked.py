"""A network that knows no hidden pixels: what SparK makes of convolutions, pools and batch norms (Tian et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at(visible: Tensor, x: Tensor) -> Tensor:
    """The mask of cells (N, 1, f, f) at the resolution of a map x (N, C, h, w): (N, 1, h, w) bool."""
    resized = F.interpolate if x.shape[-1] >= visible.shape[-1] else F.adaptive_max_pool2d
    return resized(visible.float(), x.shape[-2:]).bool()


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, visible: Tensor) -> Tensor:
    """Batch norm whose statistics are those of the visible positions; 0 at the others.

    They are as many images of one pixel: of one image (1, C, M, 1) with these strides, torch's gradient on the
    processor is wrong. To ask where they are would make a GPU wait: there all are counted, hidden ones with weight 0.
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
        # Layer norm looks at one position at a time, so it is enough to hide what it has made of hidden ones before a
        # convolution mixes them with others. Before the first stage there is no layer of downsampling.
        maps = [x.new_empty(len(x), 0, x.shape[2] // 2, x.shape[3] // 2)]
        x = seen(encoder.stem(x))
        for stage in encoder.stages:
            for layer in (*stage.downsample.children(), *stage.blocks):
                x = seen(layer(x))
            maps.append(x)
        return maps

    maps = [encoder.relu(batch_norm(encoder.bn1, encoder.conv1(x), visible))]
    x = seen(encoder.maxpool(maps[0]))
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            kept, short = x, block.downsample
            depth = 3 if hasattr(block, "conv3") else 2  # a bottleneck has three
            for n in range(1, depth + 1):
                x = batch_norm(getattr(block, f"bn{n}"), getattr(block, f"conv{n}")(x), visible)
                x = encoder.relu(x) if n < depth else x
            x = encoder.relu(x + (kept if short is None else batch_norm(short[1], short[0](kept), visible)))
        maps.append(x)
    return maps
