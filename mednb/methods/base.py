"""What every method shares: an encoder, an optimiser's recipe, and one number to make small."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InFloat32(nn.Module):
    """A loss taken in 32 bits, also when the networks run in 16: differences of similarities need the digits."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, *z: Tensor) -> Tensor:
        with torch.autocast(z[0].device.type, enabled=False):
            return self.loss(*(x.float() for x in z))


class Method(nn.Module):
    """A way to pretrain `encoder` without labels.

    A method adds its heads in `__init__` and says in `loss` what it wants of two views of the same thing. What is kept
    in the end is `self.encoder` alone.
    """

    batch_size = 256  # images
    lr = 1e-3  # AdamW's learning rate at batch 256; it grows with the square root of the batch
    weight_decay = 1e-4
    pretrains = True

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of views (N, C, H, W), row i of both showing the same thing -> one number."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def after_step(self, step: int, steps: int) -> None:
        """Called after each step of the optimiser, number `step` of `steps`: where a momentum network moves."""
