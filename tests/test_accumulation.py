"""A batch computed in parts has the gradients of the batch computed at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mednb import encoders, pretrain
from mednb.datasets import load
from mednb.methods import METHODS

WITH_PARTS = [name for name, method in METHODS.items() if hasattr(method, "contrast")]


class WithoutBatchNorm(nn.Module):
    """Images do not mix before the loss."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, stride=4, padding=3)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.conv1(x).relu().mean((2, 3)))


@pytest.fixture(autouse=True)
def without_batch_norm(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "tiny", WithoutBatchNorm)


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=60).where(split="train")


class Alone(pretrain.Pretraining):
    """Without a trainer that counts its steps."""

    global_step = 0

    def manual_backward(self, loss):
        loss.backward()


def learner_of(images, method, accumulate):
    values = {"method": method, "encoder": "tiny", "seed": 0, "batch_size": 17, "epochs": 1, "devices": 1}
    values |= {
        "views": "ultrasound",
        "pairs": "same_image",
        "images_seen": len(images),
        "accumulate": accumulate,
        "decoder": False,
    }
    learner = Alone(images, values)
    learner.setup("fit")
    learner.method.head.eval()  # its batch norm would mix images
    return learner


def gradients(images, method, accumulate):
    learner = learner_of(images, method, accumulate)
    views, wanted = learner.views(learner.deal(0)[0])
    loss = learner.gradients(learner.method, views, wanted)
    heard = learner.heard(views[:2])
    return float(loss), {name: p.grad for name, p in learner.method.named_parameters() if p.grad is not None}, heard


def test_the_methods_whose_loss_is_one_of_projections_can_be_taken_in_parts():
    assert {"simclr", "barlowtwins", "vicreg"} <= set(WITH_PARTS)


@pytest.fixture(scope="module")
def mixed(images):
    """A few images come many times, and so more than once in a batch."""
    weight = np.where(np.arange(len(images)) < 4, 9.0, 1.0)
    return replace(images, table=images.table.assign(weight=weight / weight.mean()))


@pytest.mark.parametrize("method", WITH_PARTS)
@pytest.mark.parametrize("accumulate", [2, 5])
@pytest.mark.parametrize("of", ["images", "mixed"])
def test_cached_gradients_are_those_of_the_big_batch(request, method, accumulate, of):
    images = request.getfixturevalue(of)
    loss, whole, heard = gradients(images, method, 1)
    loss_in_parts, parts, heard_in_parts = gradients(images, method, accumulate)
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)
    assert parts.keys() == whole.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5 * largest)
    for one, other in zip(heard, heard_in_parts, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_of_a_mix_holds_an_image_twice(mixed):
    learner = learner_of(mixed, "simclr", 1)
    _, wanted = learner.views(learner.deal(0)[0])
    assert len(wanted["rows"].unique()) < len(wanted["rows"])


def test_the_losses_of_the_parts_alone_would_give_other_gradients(images):
    """The test above can fail: what is usually called gradient accumulation does not compare across parts."""
    _, whole, _ = gradients(images, "simclr", 1)
    learner = learner_of(images, "simclr", 1)
    views, _ = learner.views(learner.deal(0)[0])
    for parts in zip(*(view.tensor_split(2) for view in views), strict=True):
        (learner.method.loss(*parts) / 2).backward()
    gradient = learner.method.encoder.conv1.weight.grad
    assert (gradient - whole["encoder.conv1.weight"]).norm() > 0.05 * gradient.norm()


def test_a_training_in_parts_ends_where_a_training_at_once_ends(images, tmp_path, monkeypatch):
    from lightly.models.modules import SimCLRProjectionHead

    monkeypatch.setattr(
        "mednb.methods.simclr.SimCLRProjectionHead", lambda *widths: SimCLRProjectionHead(*widths, batch_norm=False)
    )
    ends = [
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=17, epochs=2, out=tmp_path / str(k), accumulate=k)
        for k in (1, 3)
    ]
    for one, other in zip(*(end.parameters() for end in ends), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-5)
