"""Two processes with half a batch each compute what one computes with all of it."""

import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_methods import ANY_ENCODER
from tiny_methods import build, views, wanted
from torch import multiprocessing, nn

from mednb import processes

N, STEPS = 16, 3
TWICE = ["simclr twice", "nnclr twice"]  # each image comes twice in the batch, once in each process


def gradients(name, rank=0, world=1):
    """Loss and gradient of some steps, averaged over the processes as Lightning does; the state moves in between."""
    method = build(name.removesuffix(" twice"))
    for key, module in list(method.named_modules()):
        if isinstance(module, nn.BatchNorm1d):  # across processes it needs a GPU
            method.set_submodule(key, nn.Identity())
    method.after_step(1, 2)  # all that joins in later has joined
    trained = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.01)
    own = slice(rank * N // world, (rank + 1) * N // world)
    found = []
    for step in range(STEPS):
        every = views(method.crops, n=N, step=step, noise=1.0)
        more = wanted(method, every)
        more = {k: v % (N // 2) for k, v in more.items()} if name in TWICE else more
        more = {k: [x[own] for x in v] if isinstance(v, list) else v[own] for k, v in more.items()}
        loss = method.loss(*(x[own] for x in every), **more)
        optimiser.zero_grad()
        loss.backward()
        numbers = torch.cat([loss.detach()[None], *(p.grad.flatten() for p in trained)])
        if world > 1:
            dist.all_reduce(numbers)
            numbers /= world
        for p, gradient in zip(trained, numbers[1:].split([p.numel() for p in trained]), strict=True):
            p.grad = gradient.view_as(p).clone()
        optimiser.step()
        method.after_step(step + 2, 10)
        found.append(numbers)
    return found


def process(rank, port, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {name: gradients(name, rank, 2) for name in ANY_ENCODER + TWICE}
    if rank == 0:
        torch.save(found, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    file = tmp_path_factory.mktemp("two") / "gradients.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(process, (port, file), nprocs=2)
    return torch.load(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_ENCODER + TWICE)
def test_two_processes_with_half_a_batch_are_one_with_all_of_it(by_two, name):
    for one, two in zip(gradients(name), by_two[name], strict=True):
        assert two[0].item() == pytest.approx(one[0].item(), rel=1e-5)
        assert (two - one).norm() < 1e-5 * one.norm()


def test_pixels_in_a_file_go_to_other_processes_by_its_name_and_a_part_of_them_as_that_part(tmp_path):
    np.save(tmp_path / "pixels.npy", np.arange(60, dtype=np.uint8).reshape(5, 3, 4))
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    for some in (pixels, pixels[2:4], pixels[::2], pixels[:, 1]):
        make, values = processes.reopened(some)
        there = make(*values)
        assert np.array_equal(there, some)
        assert (getattr(there, "mode", None) == "r") == (some is pixels)  # only a memory map has a mode
