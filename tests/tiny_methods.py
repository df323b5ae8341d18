"""An encoder that trains in no time, views for it, and what a method may want besides."""

import torch
import torch.nn.functional as F
from torch import nn

from mednb.methods import METHODS


class Tiny(nn.Module):
    """An encoder with the stages of a ResNet: strides 4 to 32, channels that double, D = 32."""

    width, name = 32, "resnet18"

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 4, stride=4)
        self.layer1 = nn.Identity()
        self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(nn.ReLU(), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)) for c in (4, 8, 16)
        )

    def forward(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x))))).mean((2, 3))


SMALL = {"vicreg": {"width": 64}, "vicregl": {"width": 64, "dense_width": 32}, "barlowtwins": {"width": 64}}


def build(name, **options):
    """A method on a tiny encoder, with heads that suit it."""
    torch.manual_seed(0)
    return METHODS[name](Tiny(), **SMALL.get(name, {}) | options)


def views(crops=METHODS["simclr"].crops, n=12, side=32, noise=0.1, step=0):
    """Views (n, 1, side, side) of always the same n images; in each step they differ by other noise."""
    images = F.interpolate(torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), side)
    generator = torch.Generator().manual_seed(step)
    every = []
    for crop in crops:
        for _ in range(crop.n):
            x = F.interpolate(images, round(crop.size * side))
            every.append(x + noise * torch.randn(x.shape, generator=generator))
    return every


def wanted(method, every):
    """What a method wants besides these views: each image of its own row, three classes, views that lie askew."""
    n = len(every[0])
    grids = [F.affine_grid(torch.eye(2, 3).repeat(n, 1, 1) * 0.7, x.shape, align_corners=False) for x in every]
    things = {"rows": torch.arange(n), "partners": torch.arange(n), "keys": torch.arange(n), "grids": grids}
    things["labels"] = [torch.arange(n) % 3 for _ in every]
    return {name: things[name] for name in method.wants}


def loss(method, **how):
    """The loss of a method on views as it declares them."""
    every = views(method.crops, **how)
    return method.loss(*every, **wanted(method, every))


def agreement(method, n=32, noise=2.0):
    """Mean cosine of the embeddings of two new views of an image, less that of two images: 1 at best, 0 at chance."""
    with torch.no_grad():
        a, b = (F.normalize(h - h.mean(0), dim=1) for h in map(method.encoder, views(n=n, noise=noise, step=-1)))
    return float((a @ b.T).diagonal().mean() - (a @ b.T).mean())


def train(method, steps, lr=1e-2, **how):
    """Train on views that are other in each step; the losses."""
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        every = views(method.crops, step=step, **how)
        value = method.loss(*every, **wanted(method, every))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        method.after_step(step + 1, steps)
        losses.append(value.item())
    return losses
