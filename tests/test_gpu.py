"""On a GPU everything is as on the processor, but for the last digits, and no step waits for the device."""

import contextlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mednb import classify, embed, encoders, pretrain, segment, speed, views, watch
from mednb.datasets import load
from mednb.graphs import AS_THEY_COME, Recorded
from mednb.methods import METHODS
from mednb.views import key

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
PRETRAINING = [name for name, method in METHODS.items() if method.pretrains and name != "imagenet"]
STEADY = [name for name in PRETRAINING if METHODS[name].steady]
VALUES = {"pairs": "same_image", "views": "ultrasound", "encoder": "resnet18", "epochs": 2, "accumulate": 1}
VALUES |= {"devices": 1, "seed": 0, "decoder": False}


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=90).where(split="train")


@pytest.fixture
def in_32_bits(monkeypatch):
    monkeypatch.setattr(pretrain, "precision", lambda side=32: "32-true")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


# -------------------- views


@pytest.mark.parametrize("name", views.POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_those_of_the_processor(name, channels):
    pixels = torch.randint(0, 256, (6, channels, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    keys = key(0, 1, torch.arange(6))
    expected = views.policy(name)(pixels, keys)
    torch.testing.assert_close(views.policy(name)(pixels.cuda(), keys.cuda()).cpu(), expected, atol=1e-3, rtol=0)


def test_each_image_of_a_mix_has_the_views_of_its_modality(images):
    table = images.table.assign(modality=np.resize(["ultrasound", "ct", "mammography"], len(images)))
    pixels, keys = torch.from_numpy(np.array(images.pixels)), key(0, 0, torch.arange(len(images)))
    policy, rows = views.policy("by_modality", table), torch.arange(len(images)).flip(0)
    there = policy.to(torch.device("cuda")).of(rows.cuda())
    here = policy.of(rows)
    close = {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(there(pixels.cuda(), keys.cuda()).cpu(), here(pixels, keys), **close)
    torch.testing.assert_close(there.geometry(keys.cuda()).cpu(), here.geometry(keys), **close)


# -------------------- what is recorded


def test_what_is_recorded_goes_on_as_it_was_and_gives_copies():
    state, weight = torch.zeros(3, device="cuda"), nn.Parameter(torch.ones(3, device="cuda"))

    def function(x, more):
        state.add_(1)
        loss = (weight * x).sum() + more["y"].sum()
        loss.backward()
        return loss.detach(), [x + state, None]

    recorded, given = Recorded(function, [weight]), torch.Generator("cuda").manual_seed(0)
    found = []
    for n in range(2 * AS_THEY_COME + 4):
        weight.grad = None
        # Two shapes in turns.
        x, y = torch.rand(1 + n % 2, 3, device="cuda", generator=given), torch.rand(2, device="cuda", generator=given)
        loss, (moved, nothing) = recorded(x, {"y": y})
        found.append((x, moved, n + 1))
        assert nothing is None
        torch.testing.assert_close(loss, x.sum() + y.sum())
        torch.testing.assert_close(weight.grad, x.sum(0))
    assert len(recorded.tapes) == 2
    for x, moved, times in found:
        torch.testing.assert_close(moved, x + times)


def trained(images, tmp_path, name, **values):
    encoder = pretrain.fit(images, name, epochs=6, batch_size=14, out=tmp_path, **values)
    return torch.cat([p.detach().flatten() for p in encoder.parameters()])


@pytest.mark.parametrize("name", STEADY)
def test_a_recorded_training_is_the_training(images, tmp_path, monkeypatch, in_32_bits, name):
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(graph) or replay(graph))
    values = {"options": {"lr": 1e-4}}  # so that last digits stay last digits
    recorded = trained(images, tmp_path / "a", name, **values)
    assert len(replays) > 20
    monkeypatch.setattr(pretrain, "Recorded", lambda function, learns=(): function)
    as_it_comes = trained(images, tmp_path / "b", name, **values)
    start = torch.cat([p.flatten() for p in encoders.build("resnet18", images.stored_pixels.ndim - 2, 0).parameters()])
    moved = (as_it_comes - start).norm()
    assert moved > 0
    assert (recorded - as_it_comes).norm() < 0.2 * moved


@pytest.mark.parametrize("name", ["simclr", "moco"])
def test_a_long_training_is_compiled_and_is_the_training(images, tmp_path, monkeypatch, in_32_bits, name):
    values = {"options": {"lr": 1e-4}}
    as_it_comes = trained(images, tmp_path / "a", name, **values)
    compiled, compiler = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda what, **how: compiled.append(what) or compiler(what, **how))
    monkeypatch.setattr(watch, "LONG", 0.0)
    fused = trained(images, tmp_path / "b", name, **values)
    assert len(compiled) == 1 + (2 if name == "moco" else 1)  # a trial, and each encoder
    start = torch.cat([p.flatten() for p in encoders.build("resnet18", images.stored_pixels.ndim - 2, 0).parameters()])
    assert (fused - as_it_comes).norm() < 0.2 * (as_it_comes - start).norm()


def test_nothing_is_recorded_when_asked_not_to(images, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "Recorded", lambda *_: pytest.fail("something was recorded"))
    trained(images, tmp_path, "simclr", replay=False)


@contextlib.contextmanager
def waiting_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not detect all
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("policy", ["ultrasound", "by_modality"])
@pytest.mark.parametrize("name", STEADY)
def test_no_step_waits_for_the_device(images, monkeypatch, name, policy):
    modality = np.resize(["ultrasound", "mammography"], len(images))
    mixed = replace(images, table=images.table.assign(modality=modality))
    values = VALUES | {"method": name, "batch_size": 16, "images_seen": 2 * len(images), "views": policy}
    learner = pretrain.Pretraining(mixed, values).cuda()
    learner.pixels = pretrain.Pixels(mixed, learner.device)
    learner.labels, learner.policy = learner.labels.cuda(), learner.policy.to(learner.device)
    learner.make_views = learner.views_of
    monkeypatch.setattr(learner, "manual_backward", lambda loss: loss.backward())
    batches = learner.deal(0)
    for n, positions in enumerate(batches[:3]):
        with waiting_is_an_error() if n else contextlib.nullcontext():
            given, wanted = learner.views(positions)
            learner.gradients_and_seen(given, wanted)


# -------------------- all of it


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_method_trains_and_its_encoder_comes_home(images, tmp_path, name):
    encoder = pretrain.fit(images, name, epochs=2, batch_size=16, val=images, out=tmp_path)
    weights = torch.cat([p.flatten() for p in encoder.parameters()])
    assert weights.device.type == "cpu"
    assert weights.isfinite().all()
    assert torch.equal(
        weights, torch.cat([p.flatten() for p in encoders.load(tmp_path / "encoder.safetensors").parameters()])
    )


def test_pixels_may_stay_in_the_memory_map(images, tmp_path, monkeypatch, in_32_bits):
    here = trained(images, tmp_path / "a", "simclr")
    monkeypatch.setattr(pretrain, "free_memory", lambda device: 0)
    torch.testing.assert_close(trained(images, tmp_path / "b", "simclr"), here, atol=5e-2, rtol=0)


def test_embeddings_are_those_of_the_processor(images, in_32_bits):
    encoder = encoders.build("resnet18", seed=0).eval()
    with torch.inference_mode():
        here = encoder(views.plain(torch.from_numpy(np.array(images.pixels)))).numpy()
    np.testing.assert_allclose(embed.extract(encoder, images.pixels), here, atol=1e-3)
    assert next(encoder.parameters()).device.type == "cpu"
    encoder(torch.rand(2, 1, 32, 32)).sum().backward()
    torch.optim.SGD(encoder.parameters(), 0.1).step()


def test_learning_with_labels_runs_and_its_networks_come_home(images, tmp_path):
    val = load("phantoms", size=32, limit=90).where(split="val")
    encoder = pretrain.fit(images, "none", out=tmp_path)
    classifier = classify.finetune(encoder, images, val, [{"lr": 1e-3, "steps": 4}])
    assert classifier(val).shape == (len(val), len(val.classes))
    network, values = segment.fit(tmp_path / "encoder.safetensors", images, val, [{"lr": 1e-3, "steps": 4}])
    assert segment.logits(network, val.pixels).shape == val.pixels.shape
    assert next(network.parameters()).device.type == "cpu"
    assert np.isfinite(values["score"])


def test_the_machine_is_named_and_the_replayed_limit_is_measured(images):
    rows = speed.measure(speed.Setting(images, batch_size=8, workers=0, seconds=0.05), repetitions=1)
    assert set(rows["device"]) == {torch.cuda.get_device_name()}
    assert {speed.REPLAYED, speed.COMPILED} <= set(rows["pipeline"])
    assert (rows.query("what == 'training'")["gigabytes"] > 0).all()
