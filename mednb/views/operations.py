"""What is done to images: each operation on a batch at once, every image by its own measure."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mednb.views.keys import swing

# What an encoder sees is centred and scaled by constants, not by a dataset's own: nothing to carry, nothing to leak.
MEAN, STD = 0.5, 0.25
WHITE = {torch.uint8: 2**8 - 1, torch.uint16: 2**16 - 1}


def plain(pixels: Tensor) -> Tensor:
    """Images as an encoder sees them: (N, H, W) or (N, C, H, W), uint8 or uint16 -> (N, C, H, W) float."""
    return normalised(with_channels(pixels).float().div_(white(pixels)))


def with_channels(pixels: Tensor) -> Tensor:
    """(N, H, W) -> (N, 1, H, W); what has channels keeps them."""
    return pixels[:, None] if pixels.dim() == 3 else pixels


def white(pixels: Tensor) -> int:
    """The grey value that stands for white; ValueError for pixels that are neither uint8 nor uint16."""
    if pixels.dtype not in WHITE:
        raise ValueError(f"pixels are {pixels.dtype}; views are made of {' or '.join(map(str, WHITE))}")
    return WHITE[pixels.dtype]


def normalised(x: Tensor) -> Tensor:
    """Grey values in [0, 1] -> what an encoder sees, in place."""
    return x.sub_(MEAN).div_(STD)


def places(geometry: Tensor, size: int) -> Tensor:
    """Where the pixels of views come from, as `F.affine_grid` says it, but faster: (N, 2, 3) -> (N, size, size, 2)."""
    at = centres(size, geometry.device)
    across, down, shift = (geometry[:, :, i, None, None] for i in range(3))  # (N, 2, 1, 1)
    # As two planes, which is what grid_sample reads fastest.
    return ((across * at + shift) + down * at[:, None]).permute(0, 2, 3, 1)


def centres(size: int, device: torch.device) -> Tensor:
    """The centres of `size` pixels between -1 and 1."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def resample(images: Tensor, geometry: Tensor, size: int, points: int = 1, mode: str = "bilinear") -> Tensor:
    """Crop, flips, scale and rotation in one resampling: (N, C, H, W), (N, 2, 3) -> (N, C, size, size).

    Beyond its border the image is mirrored: no black edge tells. A pixel is the mean of points x points places.
    """
    grid = places(geometry, size * points)
    x = F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(x, points) if points > 1 else x


def depth_factors(geometry: Tensor, strength: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """exp(strength * y) for y the depth in the image, where each pixel of a view came from.

    As depth is linear in the pixel's column and row, it is a product of (N, 1, 1, W) and (N, 1, H, 1).
    """
    at = centres(size, geometry.device)
    across, down, shift = (geometry[:, 1, i].view(-1, 1, 1, 1) for i in range(3))
    return torch.exp(strength * (across * at + shift)), torch.exp(strength * down * at[:, None])


LUMA = (0.2989, 0.587, 0.114)  # how much red, green and blue add to brightness: ITU-R 601, as torchvision has it


def luma(x: Tensor) -> Tensor:
    """Brightness (N, 1, H, W) of grey (N, 1, H, W) or colour images (N, 3, H, W)."""
    return x if x.shape[1] == 1 else (x * to_yiq(x.device)[0].view(3, 1, 1)).sum(1, keepdim=True)


@functools.cache
def to_yiq(device: torch.device) -> Tensor:
    """The matrix from red, green, blue to YIQ, (3, 3)."""
    return torch.tensor([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], device=device)


@functools.cache
def from_yiq(device: torch.device) -> Tensor:
    return torch.linalg.inv(to_yiq(torch.device("cpu"))).to(device)


def recolour(x: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Other colours, the same brightness: (N, 3, H, W), (N, 1, 1, 1) and (N, 1, 1, 1) -> (N, 3, H, W).

    In YIQ, the colours of analogue television, both are linear: the plane of I and Q is scaled and turned. So all of it
    is one 3 x 3 matrix. torchvision's saturation is the same; its hue turns in HSV, where brightness changes with it.
    """
    cos, sin = (saturation * f(2 * math.pi * hue) for f in (torch.cos, torch.sin))
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).view(-1, 3, 3)
    return (from_yiq(x.device) @ turn @ to_yiq(x.device) @ x.flatten(2)).view_as(x)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of (N, C, H, W) with a standard deviation of its own for each image, (N,) in pixels.

    The kernel reaches `radius` pixels far in all of them, so that an image does not depend on its batch.
    """
    n, c, height, width = images.shape
    if not n:
        return images
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)[:, None]
    x = F.pad(images.reshape(1, n * c, height, width), [radius] * 4, mode="reflect")
    x = F.conv2d(x, kernel[..., None], groups=n * c)
    return F.conv2d(x, kernel[:, :, None], groups=n * c).view(n, c, height, width)


@functools.cache
def field(kind: str, side: int, device: torch.device) -> Tensor:
    """A large picture of noise (side, side), periodic, the same on every machine: "white", normal; or "speckle".

    Speckle as it forms: scatterers of random phase, blurred by the pulse; the envelope of complex Gaussian noise has
    Rayleigh's distribution (Wagner et al. 1983). The half width of its grains is two pixels, its mean 1.
    """
    noise = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    if kind == "speckle":
        frequency = torch.fft.fftfreq(side)
        pulse = torch.exp(-2 * (math.pi * 0.85 * frequency) ** 2)
        noise = torch.fft.ifft2(torch.fft.fft2(torch.complex(*noise)) * pulse * pulse[:, None]).abs()[None]
        noise /= noise.mean()
    return noise[0].to(device)


def window(kind: str, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Noise for each view, cut out of `field` at (x, y) in [0, 1), (N, 1, 1, 1) each: (N, 1, size, size).

    Two windows may overlap, but not in place. To cut is many times faster than to draw.
    """
    noise = field(kind, max(1024, 4 * size), x.device)
    corner = [(at.flatten() * (len(noise) - size)).long() for at in (y, x)]
    return noise.unfold(0, size, 1).unfold(1, size, 1)[corner[0], corner[1]][:, None]


def rectangle(u: dict[str, Tensor], share: float, size: int) -> Tensor:
    """Where a rectangle of up to this share of a view lies, in half of the views: (N, 1, size, size) bool."""
    share, stretch = share * u["erase"], torch.exp(swing(u["erase_aspect"], math.log(2)))  # half to twice as wide
    inside = u["erased"] < 0.5
    for side, at, shape in ((share * stretch, u["erase_x"], (1, -1)), (share / stretch, u["erase_y"], (-1, 1))):
        length = (side.sqrt() * size).round().clamp(max=size)
        first = (at * (size - length + 1)).floor()
        pixel = torch.arange(size, device=at.device).view(shape)
        inside = inside & (pixel >= first) & (pixel < first + length)
    return inside
