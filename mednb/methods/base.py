"""What every method shares: an encoder, an optimiser's recipe, which views it wants, and one number to make small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.utils import dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Crops:
    """`n` views of each image, of side `size` times the image's; `area` takes the place of the policy's own.

    `plain` views are cropped, turned and flipped, but their pixels are not disturbed.
    """

    n: int
    size: float = 1.0
    area: tuple[float, float] | None = None
    plain: bool = False


class Method(nn.Module):
    """A way to pretrain `encoder` without labels.

    A method adds its heads in `__init__` and says in `loss` what it wants of two views, or more, of the same thing.
    What is kept in the end is `self.encoder` alone. Its attributes are the recipe: the paper's, scaled to small
    encoders, images of 32 to 128 pixels and some hundred to some thousand steps.
    """

    batch_size = 256  # images
    lr = 1e-3  # at batch 256; AdamW's grows with the square root of the batch, that of SGD and LARS with the batch
    weight_decay = 1e-4
    optimiser = "adamw"  # or "sgd" or "lars"
    pretrains = True
    crops: tuple[Crops, ...] = (Crops(2),)
    """The views that `loss` is given, in this order. Even ones show the image, odd ones its partner."""
    wants: tuple[str, ...] = ()
    """What `loss` is given by name besides the views.

    - `labels` (N,) int64: the classes of the images.
    - `rows` (N,) int64: the images' rows in their table.
    - `grids`: for each view (N, h, w, 2), where each of its pixels comes from, x and y between -1 and 1 in the image.
    """
    progress = 0.0  # the share of the training that is done

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def loss(self, *views: Tensor, **wanted: Tensor) -> Tensor:
        """Batches of views (N, C, H, W), row i of all showing the same thing -> one number."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def after_step(self, step: int, steps: int) -> None:
        """Called after each step of the optimiser, number `step` of `steps`: where a momentum network moves."""
        self.progress = step / steps

    def signs(self) -> dict[str, float]:
        """A method's own signs of health, as names and numbers, besides those of the embeddings."""
        return {}

    # What is not a tensor is kept in checkpoints too.
    def get_extra_state(self) -> float:
        return self.progress

    def set_extra_state(self, progress: float) -> None:
        self.progress = progress


class OfProjections(Method):
    """A method whose loss sees only projections: `contrast(project(a), project(b))`.

    It needs `self.head` and `contrast`. A batch that does not fit into memory can be projected part by part.
    """

    head: nn.Module

    def project(self, x: Tensor) -> Tensor:
        h = self.encoder(x)  # (N, D)
        return self.head(h)  # (N, d)

    def contrast(self, *z: Tensor) -> Tensor:
        """Projections (N, d) of each view -> one number."""
        raise TypeError(f"{type(self).__name__} has no contrast")

    def loss(self, *views: Tensor) -> Tensor:
        return self.contrast(*map(self.project, views))


class InFloat32(nn.Module):
    """A loss taken in 32 bits, also when the networks run in 16: differences of similarities need the digits."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, *z: Tensor | list, **options: object) -> Tensor:
        with torch.autocast(first(z).device.type, enabled=False):
            return self.loss(*map(in_float32, z), **options).squeeze()


def in_float32(z: Tensor | list | tuple | None) -> Tensor | list | None:
    """Tensors, lists of tensors, lists of lists: each in 32 bits."""
    if isinstance(z, list | tuple):
        return [in_float32(each) for each in z]
    return z if z is None else z.float()


def first(z: Tensor | list | tuple) -> Tensor:
    """The first tensor in lists of lists."""
    return z if isinstance(z, Tensor) else first(z[0])


def gathered(z: Tensor) -> Tensor:
    """The rows (N, d) of all processes, (W N, d), with their gradients; without other processes just `z`."""
    return torch.cat(dist.gather(z)) if dist.world_size() > 1 else z


class Queue(nn.Module):
    """The last `length` rows of width `width` that were put in, the newest first; at first random unit vectors.

    It is part of the state, so that a resumed run goes on with it, and batches of any size pass through in order:
    lightly's memory bank leaves both to its user.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("rows", nn.functional.normalize(torch.randn(length, width), dim=1))

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Put the rows (N, width) of all processes in front; the oldest fall out at the end."""
        self.rows = torch.cat([gathered(z.detach()).to(self.rows.dtype), self.rows])[: len(self.rows)]
