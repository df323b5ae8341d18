"""Views: how a batch of images is disturbed, at once, on the device where it lies.

Every random number is a function of (seed, epoch, image, view), so that a view does not depend on the batch it is in,
on the order of the batches, or on whether a run was interrupted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# What an encoder sees is centred and scaled by constants, not by a dataset's own: nothing to carry, nothing to leak.
MEAN, STD = 0.5, 0.25


def plain(pixels: Tensor) -> Tensor:
    """The images themselves as an encoder sees them: (N, H, W) or (N, C, H, W) uint8 -> (N, C, H, W) float."""
    images = pixels[:, None] if pixels.dim() == 3 else pixels
    return (images.float() / 255 - MEAN) / STD


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


@dataclass(frozen=True)
class Policy:
    """How much the views of one image may differ. A range is drawn from uniformly; 0 switches a disturbance off."""

    area: tuple[float, float] = (0.2, 1.0)
    """Share of the image that a crop keeps. Never more than all, so a lesion's detail is enlarged, not lost."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop."""
    flip: float = 0.5
    """Probability of a left-right flip. Never up-down: skin on top, shadow below is what a scan looks like."""
    rotation: float = 10.0
    """Degrees to either side: how a probe is tilted."""
    gain: float = 0.4
    """Brightness is multiplied by 1 +- this: the scanner's overall gain."""
    gamma: float = 0.4
    """Exponent exp(+-this): the scanner's dynamic range (log compression)."""
    depth_gain: float = 0.4
    """Brightness at the top against the bottom, exp(+-this): time gain compensation."""
    speckle: float = 0.3
    """Strength of multiplicative Rayleigh noise: another frame of the same tissue has other speckle."""
    blur: float = 0.02
    """Largest standard deviation of a Gaussian blur, in widths of the image: frequency and focus. Half of the views."""

    def __call__(self, pixels: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        """One view of each image: (N, H, W) or (N, C, H, W) uint8 and (N,) keys -> (N, C, size, size) float."""
        images = pixels[:, None] if pixels.dim() == 3 else pixels
        size = size or images.shape[-1]
        u = uniform(keys, 12)
        grid = self.grid(keys, size)
        x = resample(images.float() / 255, grid)
        if self.depth_gain:
            # The grid knows which depth of the image each pixel of the view came from.
            x = x * torch.exp(_range(u[:, 6], self.depth_gain) * grid[:, None, :, :, 1])
        if self.gain:
            x = x * (1 + _range(u[:, 7], self.gain))
        if self.gamma:
            x = x.clamp(1e-4, 1) ** torch.exp(_range(u[:, 8], self.gamma))
        if self.blur:
            x = blur(x, self.blur * size * u[:, 9] * (u[:, 10] < 0.5))
        if self.speckle:
            x = x * (1 + self.speckle * u[:, 11].view(-1, 1, 1, 1) * (speckle(keys, size) - 1))
        return (x.clamp(0, 1) - MEAN) / STD

    def masks(self, masks: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        """The same views of the images' masks: (N, H, W) bool -> (N, size, size) bool."""
        return resample(masks[:, None].float(), self.grid(keys, size or masks.shape[-1]), "nearest")[:, 0] > 0.5

    def grid(self, keys: Tensor, size: int) -> Tensor:
        """Where each pixel of each view comes from: (N, size, size, 2), x and y between -1 and 1 in the image."""
        return F.affine_grid(self.geometry(keys), [len(keys), 1, size, size], align_corners=False)

    def geometry(self, keys: Tensor) -> Tensor:
        """(N,) keys -> (N, 2, 3): crop, flip and rotation of each view as one affine map, as `affine_grid` takes it."""
        u = uniform(keys, 6)
        share = self.area[0] + (self.area[1] - self.area[0]) * u[:, 0]
        low, high = (math.log(a) / 2 for a in self.aspect)
        stretch = torch.exp(low + (high - low) * u[:, 1])
        width, height = ((share.sqrt() * s).clamp(max=1) for s in (stretch, 1 / stretch))
        x, y = (1 - width) * (2 * u[:, 2] - 1), (1 - height) * (2 * u[:, 3] - 1)
        width = torch.where(u[:, 4] < self.flip, -width, width)
        angle = (2 * u[:, 5] - 1) * math.radians(self.rotation)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([width * cos, -height * sin, x, width * sin, height * cos, y], 1).view(-1, 2, 3)


def resample(images: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Crop, flip and rotation in one resampling. Beyond its border the image is mirrored: no black edge tells."""
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (N, C, H, W) with a standard deviation of its own for each image, (N,) in pixels."""
    n, c, height, width = images.shape
    radius = max(1, math.ceil(2.5 * float(sigma.max())))
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)[:, None]
    x = F.pad(images.reshape(1, n * c, height, width), [radius] * 4, mode="replicate")
    x = F.conv2d(x, kernel[..., None], groups=n * c)
    return F.conv2d(x, kernel[:, :, None], groups=n * c).view(n, c, height, width)


def speckle(keys: Tensor, size: int) -> Tensor:
    """Rayleigh speckle of mean 1, (N, 1, size, size), whose grains are two pixels wide."""
    half = (size + 1) // 2
    u = uniform(keys ^ _GOLDEN, half * half).view(-1, 1, half, half)
    rayleigh = torch.sqrt(-2 * torch.log1p(-u)) / math.sqrt(math.pi / 2)
    return F.interpolate(rayleigh, size=(size, size), mode="bilinear", align_corners=False)


def _range(u: Tensor, width: float) -> Tensor:
    """Uniform numbers (N,) in [0, 1) -> (N, 1, 1, 1) in [-width, width), one for each image."""
    return ((2 * u - 1) * width).view(-1, 1, 1, 1)


# Pretraining's policies, one for a modality.
POLICIES = {"ultrasound": Policy()}


def policy(name: str) -> Policy:
    """The policy of that name."""
    if name not in POLICIES:
        raise ValueError(f"views '{name}' is unknown; choose one of {', '.join(POLICIES)}")
    return POLICIES[name]


def examples(pixels: np.ndarray, views: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two views of each image (N, H, W) uint8 as pictures to look at: two arrays (N, H, W) between 0 and 1."""
    images = torch.from_numpy(np.array(pixels))
    index = torch.arange(len(images))
    a, b = (policy(views)(images, key(seed, 0, index, view))[:, 0] * STD + MEAN for view in (0, 1))
    return a.numpy(), b.numpy()


# For learning with labels and masks: a view must still show what its label says, so crops are large, nothing blurred.
LABELLED = Policy(area=(0.6, 1.0), gain=0.2, gamma=0.2, depth_gain=0.2, speckle=0.0, blur=0.0)
