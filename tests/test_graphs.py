"""What a GPU replays never waits for it: shown without one, by tensors that have shapes and no numbers."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mednb import encoders, pretrain
from mednb.datasets import load
from mednb.methods import METHODS
from mednb.views import POLICIES, ByModality, key, operations


@pytest.fixture(autouse=True)
def nothing_is_kept():
    kept = operations.field, operations.to_yiq, operations.from_yiq
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


class OnOneDevice(TorchDispatchMode):
    """RuntimeError when an operation has tensors of two devices: the one waits for the other."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        devices = {each.device.type for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)}
        if operation is torch.ops.aten.index_put_.default and args[2].dim() == 0:
            devices.add("cpu")  # the zero of `x[rows, columns] = 0`
        if len(devices) > 1:
            raise RuntimeError(f"{operation} between {' and '.join(sorted(devices))}")
        return out


def on_a_gpu_that_is_not_there(method):
    """All of its tensors, as they would be on a GPU: shapes without numbers. Inside a FakeTensorMode."""

    def moved(x):
        return torch.empty(x.shape, dtype=x.dtype, device="cuda")

    for module in method.modules():
        of = module._parameters
        of.update({name: nn.Parameter(moved(x), x.requires_grad) for name, x in of.items() if x is not None})
        module._buffers.update({name: moved(x) for name, x in module._buffers.items() if x is not None})
    return method


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.steady])
def test_a_loss_that_a_gpu_replays_never_asks_what_is_on_it(name):
    method = METHODS[name](encoders.build("resnet18"))
    # A tensor without numbers cannot be asked for one.
    with FakeTensorMode():
        on_a_gpu_that_is_not_there(method)
        views_of = [
            torch.empty(6, 1, round(64 * each.size), round(64 * each.size), device="cuda")
            for each in method.crops
            for _ in range(each.n)
        ]
        rows = torch.empty(6, dtype=torch.int64, device="cuda")
        wanted = {"rows": rows, "partners": rows, "keys": rows, "labels": [rows, rows]}
        with OnOneDevice():
            assert method.loss(*views_of, **{name: wanted[name] for name in method.wants}).shape == ()


@pytest.mark.parametrize("name", [*POLICIES, "by_modality"])
def test_views_on_a_gpu_never_ask_what_is_on_it(name):
    with FakeTensorMode():
        pixels = torch.empty(40, 3 if name == "photo" else 1, 64, 64, device="cuda").to(torch.uint8)
        rows, epoch = (torch.empty(shape, dtype=torch.int64, device="cuda") for shape in ((6,), ()))
        both = ByModality({"a": POLICIES["ultrasound"], "b": POLICIES["ct"]}, torch.empty(40, device="cuda").long())
        policy = both if name == "by_modality" else POLICIES[name]
        for mode in (nullcontext(), OnOneDevice()):  # at first, what is kept is made
            with mode:
                assert policy.of(rows)(pixels[rows], key(0, epoch, rows, 1)).shape == (6, *pixels.shape[1:])


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_an_optimiser_on_a_gpu_never_asks_what_is_on_it(name):
    values = {"method": "simclr", "pairs": "same_image", "views": "ultrasound", "encoder": "resnet18", "epochs": 1}
    values |= {"images_seen": 60, "batch_size": 30, "accumulate": 1, "devices": 1, "decoder": False, "seed": 0}
    learner = pretrain.Pretraining(load("phantoms", size=32, limit=60), values)
    learner.method.optimiser = name
    with FakeTensorMode():
        on_a_gpu_that_is_not_there(learner.method)
        (optimiser,), _ = learner.configure_optimizers()
        for parameter in learner.method.parameters():
            parameter.grad = torch.empty_like(parameter)
        for _ in range(2):
            with OnOneDevice():
                optimiser.step()
