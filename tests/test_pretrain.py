"""Pretraining leaves an encoder and its curves, repeats itself, and goes on where it stopped."""

import numpy as np
import pandas as pd
import pytest
import torch

from mednb import encoders, pretrain
from mednb.datasets import load

pytestmark = pytest.mark.usefixtures("tiny_encoder")


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=60).where(split="train")


def state(out):
    return encoders.weights(out / "encoder.safetensors")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_a_run_leaves_an_encoder_and_a_row_per_epoch(images, tmp_path, method):
    network = pretrain.fit(images, method, encoder="tiny", batch_size=8, epochs=3, out=tmp_path)
    assert not network.training
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics) == pretrain.METRICS
    steps = round(len(images) / 8)
    assert list(metrics["epoch"]) == [0, 1, 2]
    assert list(metrics["step"]) == [steps, 2 * steps, 3 * steps]
    assert np.isfinite(metrics.to_numpy()).all()
    assert metrics["data_wait"].between(0, 1).all()
    assert metrics["lr"].iloc[-1] < metrics["lr"].max()
    card = encoders.model_card(tmp_path / "encoder.safetensors")
    assert card["images_seen"] == 3 * len(images)
    assert card["method"] == method
    assert not list(tmp_path.glob("*.ckpt"))


def test_random_initialisation_leaves_the_encoder_that_was_drawn(images, tmp_path):
    pretrain.fit(images, "none", encoder="tiny", seed=5, out=tmp_path)
    drawn = encoders.build("tiny", seed=5).state_dict()
    assert same(state(tmp_path), drawn)
    assert pd.read_csv(tmp_path / "metrics.csv").empty
    assert encoders.model_card(tmp_path / "encoder.safetensors")["images_seen"] == 0


def test_every_method_starts_from_the_same_random_initialisation(images):
    values = {"encoder": "tiny", "seed": 4, "batch_size": 8, "epochs": 1, "pairs": "same_image", "views": "ultrasound"}
    starts = [pretrain.Pretraining(images, {**values, "method": m}).method.encoder for m in ("none", "simclr", "byol")]
    assert same(starts[0].state_dict(), starts[1].state_dict())
    assert same(starts[0].state_dict(), starts[2].state_dict())


def test_the_same_seed_gives_the_same_encoder_and_another_seed_another(images, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, seed=seed, out=tmp_path / name)
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert not same(state(tmp_path / "a"), state(tmp_path / "c"))


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(images, tmp_path, monkeypatch, method):
    def fit(out):
        return pretrain.fit(images, method, encoder="tiny", batch_size=8, epochs=4, out=out, checkpoint_minutes=0)

    fit(tmp_path / "whole")
    told = pretrain.Watch.on_train_epoch_start

    def power_cut(self, trainer, learner):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt
        told(self, trainer, learner)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.Watch, "on_train_epoch_start", power_cut)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.ckpt").exists()
    assert not (tmp_path / "cut" / "encoder.safetensors").exists()

    started = []
    monkeypatch.setattr(
        pretrain.Watch, "on_train_epoch_start", lambda *a: (started.append(a[1].current_epoch), told(*a))[1]
    )
    fit(tmp_path / "cut")
    assert started == [2, 3]
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    rows = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "cut")]
    timeless = [name for name in pretrain.METRICS if name not in ("views_per_second", "data_wait")]
    pd.testing.assert_frame_equal(rows[0][timeless], rows[1][timeless])


def test_a_checkpoint_of_other_values_is_not_gone_on_from(images, tmp_path, monkeypatch):
    watch = pretrain.Watch(tmp_path, {"epochs": 4}, 0)
    torch.save({"callbacks": {watch.state_key: {"values": '{"epochs": 9}'}}}, watch.checkpoint)
    assert watch.checkpoint_of_this_run() is None


def test_every_image_is_seen_once_in_an_epoch_in_an_order_of_its_own(images, monkeypatch):
    values = {"encoder": "tiny", "seed": 0, "batch_size": 7, "epochs": 1, "pairs": "same_image", "views": "ultrasound"}
    learner = pretrain.Pretraining(images, {**values, "method": "simclr"})
    orders = []
    for epoch in (0, 1):
        monkeypatch.setattr(pretrain.Pretraining, "current_epoch", epoch)
        batches = list(learner.train_dataloader())
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        orders.append(torch.cat(batches).tolist())
        assert sorted(orders[-1]) == list(range(len(images)))
    assert orders[0] != orders[1]


def test_a_batch_larger_than_the_set_is_refused_before_anything_is_written(images, tmp_path):
    with pytest.raises(ValueError, match=f"batch_size must be between 2 and the number of images, {len(images)}"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=500, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["method", "pairs", "views", "encoder"])
def test_an_unknown_name_is_refused_with_the_choices(images, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} 'nonsense' is unknown; choose one of"):
        pretrain.fit(images, **{name: "nonsense"}, batch_size=8, out=tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(images, tmp_path, monkeypatch):
    from mednb.methods.simclr import SimCLR

    monkeypatch.setattr(SimCLR, "loss", lambda self, a, b: self.project(a).sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of simclr is nan in epoch 0; try a smaller learning rate"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, out=tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()


def test_the_views_of_a_batch_are_those_of_its_images(images, monkeypatch):
    values = {"encoder": "tiny", "seed": 2, "batch_size": 8, "epochs": 1, "pairs": "same_image", "views": "ultrasound"}
    learner = pretrain.Pretraining(images, {**values, "method": "simclr"})
    learner.train_dataloader()
    given = []
    monkeypatch.setattr(learner.method, "loss", lambda a, b: given.append((a, b)) or learner.method.project(a).sum())
    rows = torch.tensor([5, 1, 9])
    learner.training_step(rows, 0)
    for view, x in enumerate(given[0]):
        expected = learner.policy(learner.pixels[rows], pretrain.key(2, 0, rows, view))
        torch.testing.assert_close(x, expected)
