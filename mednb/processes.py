"""Several processes that learn as one: each takes its part of every batch, and the gradients are the whole batch's.

Of methods that treat what one process has as a whole (moco and densecl normalise its keys in halves) only nearly so.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from lightly.utils import dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def launched() -> bool:
    """Whether this process is already one of several, started by `call` or by torchrun."""
    return "LOCAL_RANK" in os.environ


def call(function: Callable, processes: int, /, **values) -> None:
    """Call `function(**values)` in so many new processes of this machine, and wait for all of them.

    They are new interpreters, not forks, so that this works in a notebook too, where Lightning's own launcher refuses.
    A script must guard its own calls with `if __name__ == "__main__":`, as always when Python starts processes.
    """
    ForkingPickler.register(np.memmap, reopened)
    torch.multiprocessing.spawn(one, (processes, LightningEnvironment().main_port, function, values), processes)


def one(rank: int, processes: int, port: int, function: Callable, values: dict) -> None:
    """What each of the processes does."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))  # they share the processor
    function(**values)


def reopened(pixels: np.memmap) -> tuple:
    """How a memory map goes to another process: by its file's name where it is all of the file, else as a copy."""
    if isinstance(pixels.base, mmap.mmap):
        return np.memmap, (pixels.filename, pixels.dtype, "r", pixels.offset, pixels.shape)
    return np.array, (np.array(pixels),)


class Together(DDPStrategy):
    """Lightning's strategy for several processes, without torch's wrapper around the model.

    The wrapper joins gradients in the middle of a backward pass. Here they are joined by `average` once a step, when
    they are complete, however many passes it took to make them.
    """

    def __init__(self):
        super().__init__(cluster_environment=LightningEnvironment())

    def configure_ddp(self) -> None:
        if self.root_device.type == "cpu":
            join_batch_norms(self.lightning_module)


@torch.no_grad()
def average(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(joined)
    parts = (joined / dist.world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def join_batch_norms(network: nn.Module) -> None:
    """Let every batch norm take its statistics over all processes: torch's own way to do so runs on GPUs only."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = JoinedBatchNorm  # it keeps its parameters, its name and its hooks


class JoinedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, which may differ in length."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.world_size() == 1:
            return super().forward(x)
        others = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        values = x.float()
        n = total(values.new_tensor([x.numel() / x.shape[1]]))
        mean = total(values.sum(others)) / n
        centred = values - mean.view(shape)
        var = total(centred.square().sum(others)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
        out = centred * (var + self.eps).rsqrt().view(shape)
        out = out * self.weight.view(shape) + self.bias.view(shape) if self.affine else out
        return out.to(x.dtype)


def total(x: Tensor) -> Tensor:
    """The sum of `x` over the processes, with its gradient."""
    return torch.stack(dist.gather(x)).sum(0)
