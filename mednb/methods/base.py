"""What every method shares: an encoder, an optimiser's recipe, which views it wants, and one number to make small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.utils import dist
from torch import Tensor, nn

from mednb.datasets import Images

STRIDES = (4, 8, 16, 32)  # of the stages of a ResNet or a ConvNeXt; from each to the next the channels double
OPTIMISERS = ("adamw", "sgd", "lars")
RECIPE = ("lr", "weight_decay", "optimiser", "clip")  # what can be set of every method besides what it is built with


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
    What is kept in the end is `self.encoder` alone. Its attributes are the recipe, for small encoders,
    images of 32 to 128 pixels and some hundred to some thousand steps: SimSiam keeps its paper's optimiser, all others
    were given AdamW; heads, queues and batches are smaller than the papers'.
    """

    batch_size = 256  # images
    lr = 1e-3  # at batch 256; AdamW's grows with the square root of the batch, that of SGD and LARS with the batch
    weight_decay = 1e-4
    optimiser = "adamw"  # or "sgd" or "lars"
    clip: float | None = None  # the largest norm of the gradient
    pretrains = True
    looks_at_maps = False  # of its encoder, not only at one vector per view
    has_decoder = False  # one of its own, in `decoder`
    crops: tuple[Crops, ...] = (Crops(2),)
    """The views that `loss` is given, in this order. Even ones show the image, odd ones its partner."""
    wants: tuple[str, ...] = ()
    """What `loss` is given by name besides the views.

    - `labels`: for each view (N,) int64, the class of the image that it shows, -1 where it has no label.
    - `rows` (N,) int64: the images' rows in their table.
    - `partners` (N,) int64: the rows of their partners.
    - `keys` (N,) int64: one of each image in this epoch, for what a method draws itself (`views.keys.uniform`).
    - `grids`: for each view (N, h, w, 2), where each of its pixels comes from, x and y between -1 and 1 in the image.
    """
    steady = False
    """Whether `loss` does the same in every step, so that a GPU can replay it (`graphs.Recorded`).

    Then no Python number in it changes, it does not wait for the device, and what it keeps it writes in place.
    """
    progress = 0.0  # the share of the training that is done

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    @classmethod
    def made(cls, encoder: nn.Module, **options: object) -> Method:
        """The method around an encoder, with these options (see `methods.options`) in place of its own values."""
        method = cls(encoder, **{name: value for name, value in options.items() if name not in RECIPE})
        for name in options.keys() & RECIPE:
            setattr(method, name, options[name])
        return method

    @classmethod
    def check(cls, images: Images, **options: object) -> None:
        """ValueError, before anything is built or written, when the method with these options cannot learn from these
        images."""

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
    """A method whose loss sees only projections, and what it `wants`: `contrast(project(a), project(b), **wanted)`.

    It needs `self.head` and `contrast`. A batch that does not fit into memory can be projected part by part.
    """

    head: nn.Module

    def project(self, x: Tensor) -> Tensor:
        h = self.encoder(x)  # (N, D)
        return self.head(h)  # (N, d)

    def contrast(self, *z: Tensor, **wanted: Tensor) -> Tensor:
        """Projections (N, d) of each view -> one number."""
        raise TypeError(f"{type(self).__name__} has no contrast")

    def loss(self, *views: Tensor, **wanted: Tensor) -> Tensor:
        return self.contrast(*map(self.project, views), **wanted)


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
    """The last rows that were put in, the newest first; at first those of `start` (length, ...).

    It is part of the state, so that a resumed run goes on with it, and batches of any size pass through in order:
    lightly's memory bank leaves both to its user.
    """

    def __init__(self, start: Tensor):
        super().__init__()
        self.register_buffer("rows", start)

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Put the rows (N, ...) of all processes in front; as many fall out at the end."""
        self.rows.copy_(torch.cat([gathered(z.detach()).to(self.rows.dtype), self.rows])[: len(self.rows)])


class Keys(nn.Module):
    """A queue of unit vectors (length, width), each with the row of the image that it is of; random at first.

    A small set passes through a queue many times, so that it holds older keys of the image that asks. They are to be
    left out, and `others` says which are not: with that a queue may be as long as a set, or longer.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.keys = Queue(F.normalize(torch.randn(length, width), dim=1))
        self.of = Queue(-1 - torch.arange(length))  # of no image, each of another one

    def push(self, k: Tensor, rows: Tensor) -> None:
        """Unit vectors (N, width) of the images in `rows` (N,)."""
        self.keys.push(k)
        self.of.push(rows)

    def similarities(self, q: Tensor, *rows: Tensor) -> Tensor:
        """Unit vectors (N, width) -> (N, length); -inf where a key is of the image in any of `rows`, each (N,).

        In 32 bits: in 16, near neighbours are equally near.
        """
        left_out = (torch.stack(rows)[..., None] == self.of.rows).any(0)  # (N, length)
        keys = self.keys.rows.clone()  # others take their places before the gradients are asked for
        with torch.autocast(q.device.type, enabled=False):
            return (q.float() @ keys.T).masked_fill(left_out, -torch.inf)


class Prototypes(nn.Module):
    """Cosines of vectors (N, width) with `n` directions that are learnt: (N, n), in 32 bits.

    They begin with a length of about the root of `width`, so that AdamW turns them by a few degrees within some hundred
    steps: in short trainings it is the vectors that move.
    """

    def __init__(self, width: int, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, width))

    def forward(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Frozen prototypes get zeros as gradient rather than none, for which several processes would wait."""
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        with torch.autocast(z.device.type, enabled=False):
            return F.normalize(z.float(), dim=1) @ F.normalize(weight, dim=1).T


@contextmanager
def uncounted(network: nn.Module) -> Iterator[None]:
    """What passes a network inside has no part in the running averages of its batch norms.

    Small crops have maps of a pixel or two in the last stages. Averages over them would fit no whole image, and whole
    images are what the encoder is used for.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def with_map(encoder: nn.Module, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) -> embeddings (N, D), feature map (N, D_s, H / s, W / s) at stride s: 4, 8, 16 or 32."""
    maps = []
    stages = getattr(encoder, "stages", None) or [getattr(encoder, f"layer{i}") for i in (1, 2, 3, 4)]
    hook = stages[STRIDES.index(stride)].register_forward_hook(lambda stage, given, out: maps.append(out))
    try:
        return encoder(x), maps[0]
    finally:
        hook.remove()
