"""Two processes that share every batch learn what one process learns from the whole batch."""

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mednb import encoders, pretrain, processes
from mednb.datasets import load
from mednb.methods import METHODS

# Not moco and densecl: they normalise keys in halves of what a process has, so that two processes have four quarters.
EQUAL = ("simclr", "byol", "simsiam", "barlowtwins", "vicreg", "nnclr", "swav", "dino", "supervised")
WITH_MAPS = ("spark", "vicregl", "simclr with a decoder")  # these need the stages of a true encoder

pytestmark = pytest.mark.slow


def fit(case, out, devices):
    """Two steps of plain SGD in 32 bits: AdamW would make a step of the last digit of a gradient that is zero."""
    method, _, decoder = case.partition(" with ")
    encoders.ENCODERS["tiny"] = conftest.tiny()
    METHODS[method].optimiser, METHODS[method].lr = "sgd", 0.3
    if case in ("barlowtwins", *WITH_MAPS):
        METHODS[method].lr = 0.003
    if case == "dino":
        METHODS[method].lr = 3.0  # its head begins with small weights, so that the encoder's gradients are small
    pretrain.precision = lambda side: "32-true"
    images = load("phantoms", size=32, limit=60).where(split="train").take(np.arange(32))
    values = {"encoder": encoder_of(case), "batch_size": 16, "epochs": 1, "val": images, "checkpoint_minutes": 0}
    pretrain.fit(images, method, out=out, devices=devices, decoder=bool(decoder), **values)


def encoder_of(case):
    return "resnet18" if case in WITH_MAPS else "tiny"


def each(folder):
    """What both processes do."""
    for case in EQUAL + WITH_MAPS:
        fit(case, folder / case, devices=2)
    rank = torch.distributed.get_rank()
    torch.save(normalised(slice(None, 5) if rank == 0 else slice(5, None), joined=True), folder / f"norm{rank}.pt")


def normalised(rows, joined):
    """What a batch norm makes of these rows of a batch of eight, and which gradient they get."""
    x = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))[rows] * 3 + 50
    weight = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))[rows]
    norm = nn.BatchNorm2d(4)
    if joined:
        processes.join_batch_norms(norm)
    out = norm(x.requires_grad_())
    (out**3 * weight).sum().backward()
    return {"out": out.detach(), "gradient": x.grad, **norm.state_dict()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have trained with every method."""
    folder = tmp_path_factory.mktemp("two")
    processes.call(each, 2, folder=folder)
    return folder


@pytest.mark.parametrize("case", EQUAL + WITH_MAPS)
def test_two_processes_learn_what_one_learns(two, tmp_path, monkeypatch, case):
    method = case.partition(" with ")[0]
    for owner, name in ((pretrain, "precision"), (METHODS[method], "optimiser"), (METHODS[method], "lr")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is put back
    monkeypatch.setitem(encoders.ENCODERS, "tiny", conftest.tiny())
    fit(case, tmp_path, devices=1)
    alone, together = (encoders.weights(folder / "encoder.safetensors") for folder in (tmp_path, two / case))
    start = encoders.build(encoder_of(case), seed=0).state_dict()
    for name in ("conv1.weight", "bn1.weight", "bn1.bias"):
        moved, apart = ((each[name] - alone[name]).norm() for each in (start, together))
        assert apart < 0.02 * moved  # many batch norms over few positions make the last digits larger
    if case in EQUAL:
        assert (alone["conv1.weight"] - start["conv1.weight"]).abs().max() > 1e-3
        torch.testing.assert_close(together["conv1.weight"], alone["conv1.weight"], rtol=0, atol=1e-5)
    torch.testing.assert_close(together["bn1.running_mean"], alone["bn1.running_mean"], rtol=1e-3, atol=1e-4)


def test_the_first_process_alone_writes(two):
    for method in EQUAL:
        assert {path.name for path in (two / method).iterdir()} == {"encoder.safetensors", "metrics.csv"}
        metrics = pd.read_csv(two / method / "metrics.csv")
        assert list(metrics["step"]) == [2]
        assert metrics["knn"].notna().all()
        card = encoders.model_card(two / method / "encoder.safetensors")
        assert (card["images_seen"], card["devices"]) == (32, 2)


def test_a_joined_batch_norm_is_that_of_the_whole_batch(two):
    whole = normalised(slice(None), joined=False)
    parts = [torch.load(two / f"norm{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in ("out", "gradient"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], rtol=1e-4, atol=1e-4)
    for part in parts:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(part[name], whole[name])


def test_a_call_with_two_devices_starts_its_own_processes(tmp_path):
    images = load("phantoms", size=32, limit=60).where(split="train").take(np.arange(8))
    network = pretrain.fit(images, "simclr", batch_size=8, epochs=1, devices=2, out=tmp_path)
    saved = encoders.weights(tmp_path / "encoder.safetensors")
    assert not network.training
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
