"""A policy: how much the views of one image may differ, and how a batch of views is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mednb.methods.base import Crops
from mednb.views.keys import draw, swing
from mednb.views.operations import (
    MEAN,
    blur,
    depth_factors,
    luma,
    normalised,
    places,
    recolour,
    rectangle,
    resample,
    white,
    window,
    with_channels,
)


@dataclass(frozen=True)
class Policy:
    """How much the views of one image may differ. As it stands, not at all; strengths are drawn uniformly up to these.

    What is seen:
    """

    area: tuple[float, float] = (1.0, 1.0)
    """Share of the image that a crop keeps. Never more than all, so a lesion's detail is enlarged, not lost."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Width over height of the crop."""
    flip: float = 0.0
    """Probability that left and right change places."""
    upside_down: float = 0.0
    """Probability that top and bottom change places."""
    rotation: float = 0.0
    """Degrees to either side."""

    # How bright it is. Grey values lie between 0 and 1.
    jitter: float = 1.0
    """Probability that gain, contrast, level, gamma and colour change at all."""
    gain: float = 0.0
    """Brightness is multiplied by 1 +- this."""
    depth_gain: float = 0.0
    """Brightness at the bottom of the image is multiplied by exp(+-this), at its top divided by it."""
    contrast: float = 0.0
    """The difference from the view's mean is multiplied by 1 +- this."""
    level: float = 0.0
    """To brightness +- this is added."""
    gamma: float = 0.0
    """Exponent exp(+-this)."""
    saturation: float = 0.0
    """Colour images: the difference from grey is multiplied by 1 +- this."""
    hue: float = 0.0
    """Colour images: hues are turned by +- this share of the circle."""
    grey: float = 0.0
    """Colour images: probability that all colour is lost."""

    # How sharp and how clean it is.
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in widths of the view. Half of the views are blurred."""
    speckle: float = 0.0
    """Strength of speckle, a factor of mean 1 with grains two pixels wide; 1 is fully developed (Rayleigh)."""
    noise: float = 0.0
    """Largest standard deviation of white noise."""
    quantum: float = 0.0
    """The same of white noise whose variance is proportional to brightness: at 1 it has this standard deviation."""
    erase: float = 0.0
    """Largest share of the view that a grey rectangle hides. In half of the views."""

    def __call__(self, pixels: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        """One view of each image: (N, H, W) or (N, C, H, W) uint8 or uint16, (N,) keys -> (N, C, size, size) float."""
        images = with_channels(pixels)
        size = size or images.shape[-1]
        geometry, u = self.geometry(keys), draw(keys)
        x = resample(images.float(), geometry, size, self.points(images.shape[-1] / size))
        # From here on in place: a pass over the pixels is what costs.
        jitter = (u["jitter"] < self.jitter).float()
        x *= (1 + jitter * swing(u["gain"], self.gain)) / white(pixels)
        if self.depth_gain:
            for factor in depth_factors(geometry, swing(u["depth_gain"], self.depth_gain), size):
                x *= factor
        if x.shape[1] == 3 and (self.saturation or self.hue or self.grey):
            saturation = 1 + jitter * swing(u["saturation"], self.saturation)
            x = recolour(x, saturation * (u["grey"] >= self.grey), jitter * swing(u["hue"], self.hue))
        if self.contrast or self.level:
            contrast = 1 + jitter * swing(u["contrast"], self.contrast)
            level = (1 - contrast) * luma(x).mean((2, 3), keepdim=True) + jitter * swing(u["level"], self.level)
            x.mul_(contrast).add_(level)
        if self.gamma:
            # A power by logarithms, which is faster than pow.
            x.clamp_(1e-4, 1).log_().mul_(torch.exp(jitter * swing(u["gamma"], self.gamma))).exp_()
        if self.blur:
            # To ask which half is blurred would make a GPU wait; there all are, some of them by nothing.
            sigma = (self.blur * size * u["blur"] * (u["blurred"] < 0.5)).flatten()
            some = slice(None) if x.is_cuda else sigma.nonzero()[:, 0]
            x[some] = blur(x[some], sigma[some], math.ceil(3 * self.blur * size))
        if self.speckle:
            strength = self.speckle * u["speckle"]
            x *= window("speckle", u["speckle_x"], u["speckle_y"], size).mul_(strength).add_(1 - strength)
        if self.noise or self.quantum:
            noise = window("white", u["noise_x"], u["noise_y"], size) * u["noise"]
            x += noise * (self.noise + self.quantum * x.clamp(0, 1).sqrt_() if self.quantum else self.noise)
        if self.erase:
            x.masked_fill_(rectangle(u, self.erase, size), MEAN)
        return normalised(x.clamp_(0, 1))

    def masks(self, masks: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        """The same views of the images' masks: (N, H, W) bool -> (N, size, size) bool."""
        size = size or masks.shape[-1]
        return resample(masks[:, None].float(), self.geometry(keys), size, mode="nearest")[:, 0] > 0.5

    def grid(self, keys: Tensor, size: int) -> Tensor:
        """Where each pixel of each view comes from: (N, size, size, 2), x and y between -1 and 1 in the image."""
        return places(self.geometry(keys), size)

    def geometry(self, keys: Tensor) -> Tensor:
        """(N,) keys -> (N, 2, 3): crop, flips and rotation of each view as one affine map, from view to image.

        Both have x and y between -1 and 1. A crop that would be wider or higher than the image is as wide or high.
        """
        u = {name: number.flatten() for name, number in draw(keys).items()}
        share = self.area[0] + (self.area[1] - self.area[0]) * u["area"]
        low, high = (math.log(a) / 2 for a in self.aspect)
        stretch = torch.exp(low + (high - low) * u["aspect"])
        width, height = ((share.sqrt() * s).clamp(max=1) for s in (stretch, 1 / stretch))
        x, y = (1 - width) * (2 * u["x"] - 1), (1 - height) * (2 * u["y"] - 1)
        width = torch.where(u["flip"] < self.flip, -width, width)
        height = torch.where(u["upside_down"] < self.upside_down, -height, height)
        angle = swing(u["rotation"], math.radians(self.rotation))
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([width * cos, -height * sin, x, width * sin, height * cos, y], 1).view(-1, 2, 3)

    def points(self, scale: float) -> int:
        """How many points on a side are averaged for a pixel of a view whose side is the image's divided by `scale`.

        Bilinear resampling looks at two pixels on a side, however far it steps: of an image that is shrunk, what is
        finer than a pixel of the view would appear in it as something coarser. Speckle shrunk to two thirds has 20 %
        more contrast than it should. One point suffices as long as the largest crop is hardly shrunk.
        """
        step = scale * min(1.0, math.sqrt(self.area[1] * max(self.aspect[1], 1 / self.aspect[0])))
        return 1 if step <= 1.3 else math.floor(step) + 1

    def undisturbed(self) -> Policy:
        """The same crops, flips and rotations, of pixels as they are."""
        return Policy(**{name: getattr(self, name) for name in GEOMETRY})

    def labelled(self) -> Policy:
        """For learning with labels and masks: a view must still show what its label says.

        So crops are large, what changes brightness is halved, and nothing is blurred, noisy, hidden or without colour.
        """
        mild = {name: getattr(self, name) / 2 for name in ("gain", "depth_gain", "contrast", "level", "gamma")}
        mild |= {"saturation": self.saturation / 2, "hue": self.hue / 2, "area": (max(0.6, self.area[0]), 1.0)}
        return replace(self.undisturbed(), **mild)

    def of_crops(self, crops: Crops) -> Policy:
        """The policy of these crops: its area may be theirs, and their pixels may stay undisturbed."""
        changes = {} if crops.area is None else {"area": crops.area}
        return replace(self.undisturbed() if crops.plain else self, **changes)

    def of(self, rows: Tensor) -> Policy:
        """The policy of the images in these rows (N,) of their table: this one, whichever they are."""
        return self

    def to(self, device: torch.device) -> Policy:
        """The policy on the device where the rows will be: this one, whichever it is."""
        return self


GEOMETRY = [field.name for field in fields(Policy)][:5]


@dataclass(frozen=True)
class ByModality:
    """Each image by its own modality's policy, so that no modality of a mix is disturbed by another's rules.

    It is called as a `Policy` is, after `of` has said which images of the table the batch holds.
    """

    policies: dict[str, Policy]
    which: Tensor
    """(N,) int64: for each image the position of its modality in `policies`."""

    def of(self, rows: Tensor) -> ByModality:
        """The policies of the images in these rows (N,) of the table."""
        return replace(self, which=self.which[rows])

    def to(self, device: torch.device) -> ByModality:
        """The policies on the device where the rows will be."""
        return replace(self, which=self.which.to(device))

    def each(self, change: Callable[[Policy], Policy]) -> ByModality:
        return replace(self, policies={modality: change(policy) for modality, policy in self.policies.items()})

    def undisturbed(self) -> ByModality:
        return self.each(Policy.undisturbed)

    def labelled(self) -> ByModality:
        return self.each(Policy.labelled)

    def of_crops(self, crops: Crops) -> ByModality:
        return self.each(lambda policy: policy.of_crops(crops))

    def __call__(self, pixels: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        return self.together(lambda policy, rows: policy(pixels[rows], keys[rows], size), keys)

    def masks(self, masks: Tensor, keys: Tensor, size: int | None = None) -> Tensor:
        return self.together(lambda policy, rows: policy.masks(masks[rows], keys[rows], size), keys)

    def grid(self, keys: Tensor, size: int) -> Tensor:
        return places(self.geometry(keys), size)

    def geometry(self, keys: Tensor) -> Tensor:
        return self.together(lambda policy, rows: policy.geometry(keys[rows]), keys)

    def together(self, what: Callable[[Policy, Tensor], Tensor], keys: Tensor) -> Tensor:
        """What each policy gives for its own images, in the order of the batch."""
        if len(keys) != len(self.which):
            raise ValueError(f"there are {len(keys)} keys for {len(self.which)} images: call of(rows) first")
        if keys.is_cuda:
            # To ask whose an image is would make a GPU wait: there each policy sees all of them.
            out, *others = (what(policy, slice(None)) for policy in self.policies.values())
            for i, other in enumerate(others, 1):
                out = torch.where((self.which == i).view(-1, *[1] * (out.dim() - 1)), other, out)
            return out
        rows = [(self.which == i).nonzero()[:, 0].to(keys.device) for i in range(len(self.policies))]
        parts = [what(policy, own) for policy, own in zip(self.policies.values(), rows, strict=True) if len(own)]
        return torch.cat(parts)[torch.cat(rows).argsort()]


def overlap(a: Tensor, b: Tensor, points: int = 32) -> Tensor:
    """How much two views of one image have in common, from their geometries (N, 2, 3): (N,) between 0 and 1.

    The area that both see over the area that at least one sees, measured at points x points places of the first; what
    lies beyond the image is not told apart. Two random crops of the whole recipe overlap less than one thinks.
    """
    seen = places(a, points).flatten(1, 2)  # (N, points^2, 2)
    in_b = torch.linalg.solve(b[:, :, :2], (seen - b[:, None, :, 2]).transpose(1, 2))
    sizes = [torch.linalg.det(each[:, :, :2]).abs() for each in (a, b)]
    both = (in_b.abs() <= 1).all(1).float().mean(1) * sizes[0]
    return both / (sizes[0] + sizes[1] - both)
