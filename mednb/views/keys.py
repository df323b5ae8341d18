"""Random numbers that are a function of (seed, epoch, image, view), and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor


def key(seed: int, epoch: int, index: Tensor, view: int = 0) -> Tensor:
    """One 64-bit key per image from what determines its view. `index` (N,) are the images' numbers in their table."""
    keys = torch.zeros_like(index, dtype=torch.int64)
    for number in (seed, epoch, index, view):
        keys = _mix(keys + _GOLDEN + number)
    return keys


def uniform(keys: Tensor, n: int) -> Tensor:
    """(N,) keys -> (N, n) numbers in [0, 1): a counter-based generator, SplitMix64 (Steele et al. 2014).

    The first m of n numbers are those of `uniform(keys, m)`.
    """
    counter = torch.arange(1, n + 1, device=keys.device)
    return _shift(_mix(keys[:, None] + counter * _GOLDEN), 40).float() / 2**24


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed number: torch has no arithmetic on unsigned 64 bits


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


# What is drawn for each view, in this order; a name that is added at the end leaves all others as they were.
DRAWN = [
    *("area", "aspect", "x", "y", "flip", "rotation", "upside_down", "jitter", "gain", "depth_gain", "contrast"),
    *("level", "gamma", "saturation", "hue", "grey", "blurred", "blur", "speckle", "speckle_x", "speckle_y"),
    *("noise", "noise_x", "noise_y", "erased", "erase", "erase_aspect", "erase_x", "erase_y"),
]


def draw(keys: Tensor) -> dict[str, Tensor]:
    """For each name in `DRAWN` one number in [0, 1) for each view: (N,) keys -> (N, 1, 1, 1)."""
    return dict(zip(DRAWN, uniform(keys, len(DRAWN)).T[..., None, None, None], strict=True))


def swing(u: Tensor, width: float) -> Tensor:
    """[0, 1) -> [-width, width)."""
    return (2 * u - 1) * width
