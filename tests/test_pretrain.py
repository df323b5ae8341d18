"""Pretraining leaves an encoder and its curves, repeats itself, and goes on where it stopped."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mednb import encoders, pretrain, segment, views, watch
from mednb.datasets import load
from mednb.graphs import Recorded
from mednb.methods import METHODS
from mednb.methods.base import Crops, OfProjections
from mednb.methods.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("tiny_encoder")
VALUES = {"method": "simclr", "encoder": "tiny", "seed": 0, "batch_size": 8, "pairs": "same_image"}
VALUES |= {"views": "ultrasound", "accumulate": 1, "devices": 1, "decoder": False}
KINDS = ("moco", "byol", "swav")  # with a queue, with a momentum network, with prototypes


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=60).where(split="train")


def state(out):
    return encoders.weights(out / "encoder.safetensors")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def learner(images, epochs=1, **values):
    given = {"epochs": epochs, "images_seen": epochs * len(images)}
    made = pretrain.Pretraining(images, VALUES | given | values)
    made.setup("fit")
    return made


def test_random_initialisation_was_pretrained_on_nothing(images, tmp_path):
    pretrain.fit(images, "none", encoder="tiny", out=tmp_path)
    assert encoders.model_card(tmp_path / "encoder.safetensors")["pretrained_on"] == ""


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_a_run_leaves_an_encoder_and_a_row_per_epoch(images, tmp_path, method):
    network = pretrain.fit(images, method, encoder="tiny", batch_size=8, epochs=3, out=tmp_path)
    assert not network.training
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics) == watch.METRICS
    steps = round(len(images) / 8)
    assert list(metrics["epoch"]) == [0, 1, 2]
    assert list(metrics["step"]) == [steps, 2 * steps, 3 * steps]
    absent = ["knn"] if method == "byol" else ["knn", "prediction_spread"]
    assert np.isfinite(metrics.drop(columns=absent).to_numpy()).all()
    assert metrics["data_wait"].between(0, 1).all()
    assert metrics["lr"].iloc[-1] < metrics["lr"].max()
    card = encoders.model_card(tmp_path / "encoder.safetensors")
    assert card["images_seen"] == 3 * len(images)
    assert card["method"] == method
    assert card["pretrained_on"] == images.name
    assert card["verdict"]
    assert {"code", "device"} < set(card)
    assert "torch" in card["versions"]
    assert not list(tmp_path.glob("*.ckpt"))


def test_random_initialisation_leaves_the_encoder_that_was_drawn(images, tmp_path):
    pretrain.fit(images, "none", encoder="tiny", seed=5, out=tmp_path)
    drawn = encoders.build("tiny", seed=5).state_dict()
    assert same(state(tmp_path), drawn)
    assert pd.read_csv(tmp_path / "metrics.csv").empty
    assert encoders.model_card(tmp_path / "encoder.safetensors")["images_seen"] == 0


def test_every_method_starts_from_the_same_random_initialisation(images):
    starts = [learner(images, method=m, seed=4).method.encoder for m in ("none", "simclr", "byol", "swav")]
    assert all(same(starts[0].state_dict(), other.state_dict()) for other in starts[1:])


def test_the_same_seed_gives_the_same_encoder_and_another_seed_another(images, tmp_path):
    before = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, seed=seed, out=tmp_path / name)
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert not same(state(tmp_path / "a"), state(tmp_path / "c"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "decoder"), [("spark", False), ("simclr", True)])
def test_a_decoder_that_learnt_too_is_kept_beside_the_encoder(images, tmp_path, method, decoder):
    pretrain.fit(images, method, batch_size=len(images), epochs=1, out=tmp_path, decoder=decoder)
    unet = segment.build(tmp_path / "encoder.safetensors", initialise="encoder-decoder")
    kept = encoders.weights(tmp_path / "decoder.safetensors")
    assert same(kept, unet.decoder.state_dict())
    assert encoders.model_card(tmp_path / "decoder.safetensors")["method"] == method


@pytest.mark.parametrize("ends", [None, OSError])
def test_an_encoder_that_was_trained_hears_no_more(images, tmp_path, monkeypatch, ends):
    made, init = [], pretrain.Pretraining.__init__
    monkeypatch.setattr(pretrain.Pretraining, "__init__", lambda self, *a: init(self, *a) or made.append(self))
    if ends:
        power_cuts(monkeypatch, after=1)
    with pytest.raises(ends) if ends else nullcontext():
        network = pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path)
        assert not network._forward_hooks
        assert not deepcopy(network)._forward_hooks
    assert not any(module._forward_hooks for module in made[0].method.modules())


def long_one(images, monkeypatch, method="byol", encoder="tiny"):
    """A learner whose steps are to be replayed, as on a GPU."""
    made = learner(images, method=method, encoder=encoder)
    made.learn = object.__new__(Recorded)
    made.deal(0)
    plugin = SimpleNamespace(train_step_context=nullcontext)
    monkeypatch.setattr(pretrain.Pretraining, "trainer", SimpleNamespace(precision_plugin=plugin))
    return made


def test_the_encoders_of_a_long_training_are_compiled_while_they_train(images, monkeypatch):
    called = []
    monkeypatch.setattr(torch, "compile", lambda plain, dynamic: lambda x: called.append(len(x)) or plain(x))
    made, x = long_one(images, monkeypatch), torch.rand(3, 1, 32, 32)
    expected = [deepcopy(network)(x) for network in made.networks()]
    made.fuse()
    called.clear()
    made.calls.clear()
    assert len(made.networks()) == 2  # byol's target is one of them
    for network, as_it_was in zip(made.networks(), expected, strict=True):
        torch.testing.assert_close(network.train()(x), as_it_was)
        assert called.pop() == 3
        network.eval()(x)
        assert not called
    assert [name for name, *_ in made.calls].count("encoder") == 2  # still overheard
    made.stop_hearing()
    made.method.encoder.train()(x)
    assert not called


class Unrecorded(Recorded):
    """What a GPU would record, called as it comes."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *given):
        return self.function(*given)


def test_a_training_that_is_compiled_is_the_training(images, tmp_path, monkeypatch):
    values = {"method": "byol", "encoder": "tiny", "batch_size": 8, "epochs": 2}
    monkeypatch.setattr(pretrain, "precision", lambda side: "32-true")
    plain = pretrain.fit(images, out=tmp_path / "plain", **values)
    setup, compiled, compiler = pretrain.Pretraining.setup, [], torch.compile

    def as_on_a_gpu(self, stage):
        setup(self, stage)
        self.learn = Unrecorded(self.learn)

    monkeypatch.setattr(pretrain.Pretraining, "setup", as_on_a_gpu)
    # Traced as for a GPU, but without the minutes of a C++ compiler.
    traced = partial(compiler, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda what, **how: compiled.append(what) or traced(what, **how))
    monkeypatch.setattr(watch, "LONG", 0.0)
    fused = pretrain.fit(images, out=tmp_path / "fused", **values)
    assert len(compiled) == 3  # a trial, the encoder, its moving average
    assert "forward" not in vars(fused)
    start = encoders.build("tiny", seed=0)
    a, b, c = (torch.cat([p.detach().flatten() for p in network.parameters()]) for network in (plain, fused, start))
    assert (a - b).norm() < 1e-3 * (a - c).norm()


@pytest.mark.parametrize("method", ["densecl", "spark"])
def test_methods_that_look_into_their_encoder_have_it_as_it_comes(images, monkeypatch, method):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it was compiled"))
    long_one(images, monkeypatch, method, "resnet18").fuse()


def test_where_nothing_can_be_compiled_a_warning_says_so_and_training_goes_on(images, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("Failed to find C compiler.\nPlease install one.")

    monkeypatch.setattr(torch, "compile", no_compiler)
    made = long_one(images, monkeypatch)
    with pytest.warns(UserWarning, match="goes on without it: Failed to find C compiler.$"):
        made.fuse()
    assert all("forward" not in vars(network) for network in made.networks())


@pytest.fixture(scope="module")
def coloured(images):
    stored = np.stack([np.array(images.pixels)] * 3, axis=1)
    return replace(images, stored_pixels=stored, rows=None).take(np.arange(8))


@pytest.mark.parametrize(
    ("method", "decoder"), [("simclr", False), ("none", False), ("spark", False), ("simclr", True)]
)
def test_colour_images_get_an_encoder_of_three_channels(coloured, tmp_path, method, decoder):
    encoder = "resnet18" if decoder or method == "spark" else "tiny"
    network = pretrain.fit(coloured, method, encoder=encoder, epochs=1, decoder=decoder, out=tmp_path)
    assert encoders.first_layer(network).in_channels == 3
    assert encoders.model_card(tmp_path / "encoder.safetensors")["channels"] == 3
    assert encoders.first_layer(encoders.load(tmp_path / "encoder.safetensors")).in_channels == 3


# -------------------- interrupted


def power_cuts(monkeypatch, after):
    """Let a training end like a machine without power after its round number `after`."""
    rounds, told = [], watch.Watch.on_train_epoch_start

    def start(self, trainer, learner):
        rounds.append(learner.global_step)
        if len(rounds) == after:
            raise OSError("no power")
        told(self, trainer, learner)

    monkeypatch.setattr(watch.Watch, "on_train_epoch_start", start)
    return rounds


@pytest.mark.parametrize("method", ["simclr", *KINDS, pytest.param("spark", marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(images, tmp_path, monkeypatch, method):
    # Rounds of one step, so that an epoch of six steps is cut in its middle.
    monkeypatch.setattr(pretrain, "ROUND", 0.0)
    encoder = "tiny" if method != "spark" else "resnet18"
    epochs = 3 if method != "spark" else 1

    def fit(out):
        batch_size = len(images) // 6
        return pretrain.fit(
            images, method, encoder=encoder, batch_size=batch_size, epochs=epochs, out=out, checkpoint_minutes=0
        )

    fit(tmp_path / "whole")
    with monkeypatch.context() as patch:
        power_cuts(patch, after=4 if method == "spark" else 10)
        with pytest.raises(OSError, match="no power"):
            fit(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.ckpt").exists()
    assert not (tmp_path / "cut" / "encoder.safetensors").exists()

    with monkeypatch.context() as patch:
        rounds = power_cuts(patch, after=100)
        fit(tmp_path / "cut")
    assert rounds[0] == (3 if method == "spark" else 9)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    rows = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "cut")]
    timeless = [name for name in rows[0] if name not in ("views_per_second", "data_wait")]
    pd.testing.assert_frame_equal(rows[0][timeless], rows[1][timeless])
    cards = [encoders.model_card(tmp_path / name / "encoder.safetensors") for name in ("whole", "cut")]
    assert cards[0]["verdict"] == cards[1]["verdict"] and cards[0]["images_seen"] == cards[1]["images_seen"]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import torch, conftest
from mednb import encoders, pretrain
from mednb.datasets import load
torch.set_num_threads(1)
encoders.ENCODERS["tiny"] = conftest.tiny()
if len(sys.argv) > 2:
    pretrain.ROUND = 0.0
images = load("phantoms", size=32, limit=60).where(split="train")
pretrain.fit(images, {method!r}, encoder="tiny", batch_size=8, epochs=40, out=sys.argv[1], checkpoint_minutes=0)
"""


def start(method, out, *more):
    code = KILLED.format(tests=str(Path(__file__).parent), method=method)
    return subprocess.Popen([sys.executable, "-c", code, str(out), *more], stdout=subprocess.DEVNULL)


def until(process, happens, seconds=120):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path, method):
    whole = start(method, tmp_path / "whole")
    for moment in (0.0, 0.37, 0.61):
        cut = start(method, tmp_path / "cut", "rounds of one step")
        until(cut, (tmp_path / "cut" / "checkpoint.ckpt").exists)
        time.sleep(moment)
        cut.kill()
        cut.wait()
        assert not (tmp_path / "cut" / "encoder.safetensors").exists()
    assert start(method, tmp_path / "cut").wait() == 0
    assert whole.wait() == 0
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_keeps_what_it_has_done(tmp_path, number):
    run = start("simclr", tmp_path, "rounds of one step")
    until(run, (tmp_path / "checkpoint.ckpt").exists)
    os.kill(run.pid, number)
    assert run.wait(60) != 0
    kept = torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)
    assert kept["global_step"] > 0
    assert not (tmp_path / "encoder.safetensors").exists()


def test_what_was_seen_is_kept_on_the_processor_and_goes_on_where_the_training_is(tmp_path):
    class OnTheDevice:
        def cpu(self):
            return torch.ones(2, 3)

    of_this = watch.Watch(tmp_path, {}, 0)
    of_this.learner = SimpleNamespace(embedded=deque([None, watch.Seen(OnTheDevice(), OnTheDevice(), None)]))
    kept = of_this.state_dict()
    assert kept["embedded"][0] is None
    assert kept["embedded"][1][2] is None
    assert kept["embedded"][1][0].device.type == "cpu"
    of_this.learner = SimpleNamespace(embedded=deque(), device=torch.device("meta"))
    of_this.load_state_dict(kept)
    first, second = of_this.learner.embedded
    assert first is None
    assert (second.a.device.type, second.b.device.type, second.z) == ("meta", "meta", None)


def test_a_checkpoint_of_other_values_is_not_gone_on_from(tmp_path, capsys):
    of_this = watch.Watch(tmp_path, {}, 0, run='{"epochs": 4}')
    for kept in ({"run": '{"epochs": 9}'}, {"values": '{"epochs": 4}'}):
        torch.save({"callbacks": {of_this.state_key: kept}}, of_this.checkpoint)
        assert of_this.checkpoint_of_this_run() is None
        assert "checkpoint.ckpt is of another training: this one starts anew" in capsys.readouterr().out
    torch.save({"callbacks": {of_this.state_key: {"run": '{"epochs": 4}'}}}, of_this.checkpoint)
    assert of_this.checkpoint_of_this_run() == str(of_this.checkpoint)


def test_a_training_is_told_from_others_by_its_images_their_weights_and_the_methods_own_values(images, monkeypatch):
    values = {"method": "simclr", "images_seen": 50}
    half = len(images) // 2
    said = [
        pretrain.identity(values, images.take(slice(half))),
        pretrain.identity(values, images.take(slice(half, 2 * half))),
        pretrain.identity(values, replace(images, table=images.table.assign(weight=2.0))),
        pretrain.identity(values, images),
        pretrain.identity(values | {"options": {"temperature": 0.3}}, images),
    ]
    assert len(set(said)) == 5
    assert pretrain.identity(values | {"options": {"temperature": 0.2}}, images) == said[3]
    monkeypatch.setattr(SimCLR, "lr", 5e-4)
    assert pretrain.identity(values, images) not in said


DAMAGE = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "another file": lambda whole: b"hello" * 100,
    "a byte changed": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_a_sentence_and_is_never_gone_on_from(tmp_path, damage):
    of_this = watch.Watch(tmp_path, {}, 0)
    torch.save({"callbacks": {of_this.state_key: {"run": ""}}, "state": torch.zeros(1000)}, of_this.checkpoint)
    assert of_this.checkpoint_of_this_run() is not None
    of_this.checkpoint.write_bytes(DAMAGE[damage](of_this.checkpoint.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.ckpt is damaged \(.+\): delete it to start anew"):
        of_this.checkpoint_of_this_run()


def test_a_checkpoint_needs_no_room_but_that_of_its_folder(images, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, checkpoint_minutes=0, out=tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == ["encoder.safetensors", "metrics.csv"]


def test_an_encoder_never_lies_beside_another_runs_decoder(images, tmp_path):
    values = {"encoder": "resnet18", "batch_size": 8, "images_seen": 8, "out": tmp_path}
    pretrain.fit(images, "simclr", decoder=True, **values)
    assert (tmp_path / "decoder.safetensors").exists()
    pretrain.fit(images, "simclr", **values)
    assert not (tmp_path / "decoder.safetensors").exists()


def test_ctrl_c_before_the_first_round_is_one_in_a_notebook_too(images, tmp_path, monkeypatch):
    def interrupt(learner):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "estimate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path)


# -------------------- which images, which views


def test_every_image_is_seen_once_in_an_epoch_in_an_order_of_its_own(images):
    made = learner(images, epochs=2, batch_size=7)
    orders = []
    for epoch in (0, 1):
        batches = made.deal(epoch)
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        orders.append(made.order[torch.cat(batches)].tolist())
        assert sorted(orders[-1]) == list(range(len(images)))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].pretrains])
@pytest.mark.parametrize("seen", [20, 50, 77])
def test_every_method_sees_as_many_images_as_the_budget_says_to_the_image(images, method, seen):
    epochs = -(-seen // len(images))
    made = learner(images, epochs, images_seen=seen, method=method, encoder="resnet18", batch_size=9)
    shown = [len(batch) for epoch in range(epochs) for batch in made.deal(epoch)]
    assert sum(shown) == seen
    assert len(shown) == made.steps
    assert min(shown) >= 2


def test_a_budget_in_images_ends_where_it_says(images, tmp_path):
    pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, images_seen=50, out=tmp_path)
    card = encoders.model_card(tmp_path / "encoder.safetensors")
    assert card["images_seen"] == 50
    assert card["epochs"] == len(pd.read_csv(tmp_path / "metrics.csv")) == -(-50 // len(images))


def test_a_mix_is_sampled_by_its_weights_and_an_image_drawn_twice_has_other_views(images):
    weight = np.where(np.arange(len(images)) < 10, 3.0, 1.0)
    table = images.table.assign(weight=weight / weight.mean())
    mixed = learner(replace(images, table=table), epochs=20)
    drawn = []
    for epoch in range(20):
        mixed.deal(epoch)
        drawn.append(mixed.order.numpy().copy())
    count = np.bincount(np.concatenate(drawn), minlength=len(images)) / 20
    np.testing.assert_allclose(count, table["weight"], atol=0.3)
    twice = torch.isin(mixed.order, mixed.order[mixed.times == 1]).nonzero()[:, 0]
    twice = twice[mixed.order[twice] == mixed.order[twice[0]]]
    assert len(twice) > 1
    a, _ = mixed.views(twice)[0]
    assert not torch.equal(a[0], a[1])


def test_the_views_of_a_batch_are_those_of_its_images(images):
    made = learner(images, seed=2)
    positions = made.deal(0)[0]
    rows = made.order[positions]
    given, wanted = made.views(positions)
    assert set(wanted) == {"rows", "partners"}
    for view, x in enumerate(given):
        expected = made.policy(torch.from_numpy(np.array(images.pixels))[rows], views.key(2, 0, rows, view))
        torch.testing.assert_close(x, expected)


def test_a_method_gets_the_crops_and_the_words_that_it_wants(images):
    made = learner(images)
    made.method.crops = (Crops(2), Crops(3, 0.5, (0.05, 0.3)))
    made.method.wants = ("labels", "grids", "rows", "partners", "keys")
    made.partner = lambda table, seed, epoch: np.roll(np.arange(len(table)), 1)
    positions = made.deal(0)[1]
    given, wanted = made.views(positions)
    n = len(positions)
    assert [tuple(x.shape) for x in given] == [(n, 1, 32, 32)] * 2 + [(n, 1, 16, 16)] * 3
    assert [tuple(grid.shape) for grid in wanted["grids"]] == [(n, x.shape[-1], x.shape[-1], 2) for x in given]
    rows = made.order[positions]
    assert torch.equal(wanted["rows"], rows)
    assert torch.equal(wanted["partners"], made.partners[rows])
    of = rows, made.partners[rows]
    assert [each.tolist() for each in wanted["labels"]] == [images.labels[of[n % 2]].tolist() for n in range(5)]
    assert torch.equal(wanted["keys"], views.key(0, 0, rows, -1))
    # Even views show the image, odd ones the partner.
    small = made.policy.of_crops(made.method.crops[1])
    partner = torch.from_numpy(np.array(images.pixels))[made.partners[rows]]
    torch.testing.assert_close(given[3], small(partner, views.key(0, 0, rows, 3), 16))


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_on_the_device_and_from_the_memory_map_are_the_same(images, monkeypatch, bits):
    stored = np.array(images.stored_pixels).astype(np.uint16) * 257 if bits == 16 else images.stored_pixels
    images = replace(images, stored_pixels=stored)
    here = pretrain.Pixels(images, torch.device("cpu"))
    monkeypatch.setattr(pretrain, "free_memory", lambda device: 2 * images.pixels.nbytes - 1)
    there = pretrain.Pixels(images, torch.device("cpu"))
    assert here.here is not None
    assert there.here is None
    rows = torch.tensor([7, 0, 7, 3])
    assert torch.equal(here[rows], there[rows])
    np.testing.assert_array_equal(there[rows].numpy(), images.pixels[rows.numpy()])


def test_where_the_pixels_lie_does_not_change_the_encoder(images, tmp_path, monkeypatch):
    for name in ("device", "map"):
        pretrain.fit(images, "byol", encoder="tiny", batch_size=8, epochs=2, out=tmp_path / name)
        monkeypatch.setattr(pretrain, "free_memory", lambda device: 0)
    assert same(state(tmp_path / "device"), state(tmp_path / "map"))


@pytest.mark.data
@pytest.mark.parametrize("method", [name for name in METHODS if name != "imagenet"])
def test_every_method_runs_on_real_images(data_root, tmp_path, method):
    real = load("busi", data_root, size=32, limit=150).where(split="train").take(np.arange(64))
    pretrain.fit(real, method, batch_size=16, epochs=1, out=tmp_path)
    card = encoders.model_card(tmp_path / "encoder.safetensors")
    assert card["images_seen"] == (64 if METHODS[method].pretrains else 0)
    assert card["dataset"] == "busi"
    assert all(torch.isfinite(value).all() for value in state(tmp_path).values())


# -------------------- optimisers


def test_learning_rates_follow_the_batch_and_vectors_do_not_decay(images, monkeypatch):
    for name, factor in (("adamw", 4**-0.5), ("sgd", 1 / 4), ("lars", 1 / 4)):
        made = learner(images, batch_size=64 // 4 * 4 if len(images) >= 64 else len(images))
        made.method.optimiser, made.method.lr, made.batch_size = name, 0.4, 64
        monkeypatch.setattr(type(made), "trainer", type("T", (), {"precision": "32-true"})(), raising=False)
        (optimiser,), _ = made.configure_optimizers()
        assert optimiser.param_groups[0]["initial_lr"] == pytest.approx(0.4 * factor)
        decays = {id(p): group["weight_decay"] > 0 for group in optimiser.param_groups for p in group["params"]}
        assert len(decays) == len(list(made.method.parameters()))
        assert all(decays[id(p)] == (p.dim() > 1) for p in made.method.parameters())


def test_lars_scales_its_steps_also_where_nothing_decays(images, monkeypatch):
    moved = []
    for decay in (0.0, 1e-9):
        made = learner(images)
        made.method.optimiser, made.method.weight_decay = "lars", decay
        monkeypatch.setattr(type(made), "trainer", type("T", (), {"precision": "32-true"})(), raising=False)
        (optimiser,), _ = made.configure_optimizers()
        weight = next(p for p in optimiser.param_groups[0]["params"])
        before, weight.grad = weight.detach().clone(), torch.ones_like(weight)
        optimiser.param_groups[0]["lr"] = 1.0
        optimiser.step()
        moved.append((weight - before).norm().item())
    assert moved[0] == pytest.approx(moved[1], rel=1e-3) and moved[0] > 0


def test_views_below_32_pixels_are_computed_in_32_bits_on_the_processor(images, monkeypatch):
    """In bfloat16 the gradient of a ResNet's last stage was now and then no number there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    asked = [pretrain.precision(learner(images, method="swav", options=o).side) for o in ({}, {"small_crops": 2})]
    assert asked == ["bf16-mixed", "32-true"]


def test_an_unknown_optimiser_is_refused_with_the_choices(images, tmp_path, monkeypatch):
    monkeypatch.setattr(METHODS["simclr"], "optimiser", "adam")
    with pytest.raises(ValueError, match="optimiser 'adam' is unknown; choose one of adamw, sgd, lars"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path)


def test_a_method_may_ask_for_small_gradients(images, tmp_path, monkeypatch):
    norms, parts = [], set()
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(METHODS["simclr"], "clip", 1e-3, raising=False)
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda p, most: parts.add(len(p := list(p))) or norms.append((clip(p, most), most)),
    )
    pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path)
    assert len(norms) == round(len(images) / 8)
    assert {most for _, most in norms} == {1e-3}
    assert parts == {len(list(learner(images).method.parameters()))}  # heads, too


@pytest.mark.parametrize("decoder", [False, True])
def test_options_are_the_methods_own_values_and_stand_in_the_card(images, tmp_path, decoder):
    recipe = {"lr": 0.01, "clip": 1, "weight_decay": 0.02, "optimiser": "lars"}
    options = {"temperature": 0.5, "width": 16, **recipe}
    made = learner(images, encoder="resnet18", options=options, decoder=decoder).method
    both = [made.on_encoder, made.on_decoder] if decoder else [made]
    assert all(each.nt_xent.temperature == 0.5 for each in both)
    assert {name: getattr(made, name) for name in recipe} == recipe
    if not decoder:
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path, options=options)
        assert encoders.model_card(tmp_path / "encoder.safetensors")["options"] == options
    assert METHODS["simclr"].lr == 1e-3


def test_no_options_are_no_options(images, tmp_path):
    for name, given in (("none", None), ("empty", {}), ("default", {"lr": 1e-3})):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=1, out=tmp_path / name, options=given)
    assert same(state(tmp_path / "none"), state(tmp_path / "empty"))
    assert same(state(tmp_path / "none"), state(tmp_path / "default"))
    assert "options" not in encoders.model_card(tmp_path / "empty" / "encoder.safetensors")


# -------------------- refused


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("simclr", {"queue": 9}, "simclr has no option 'queue'"),
        ("spark", {"cell": 40}, "fill images of 32"),
        ("densecl", {"stride": 5}, "stride is 5, and should be one of 4, 8, 16, 32"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(images, tmp_path, method, options, why):
    with pytest.raises(ValueError, match=why):
        pretrain.fit(images, method, batch_size=8, out=tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_set_is_refused_before_anything_is_written(images, tmp_path):
    with pytest.raises(ValueError, match=f"batch_size must be between 2 and the number of images, {len(images)}"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=500, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_epochs_that_are_too_short_to_be_cut_into_parts_are_refused(images, tmp_path):
    some = images.take(slice(10))
    with pytest.raises(ValueError, match="12, that is 2 epochs of 6 images, too few for 4 parts on each of 1 devices"):
        pretrain.fit(some, "simclr", encoder="tiny", batch_size=10, images_seen=12, accumulate=4, out=tmp_path)
    pretrain.fit(some, "simclr", encoder="tiny", batch_size=10, images_seen=12, accumulate=3, out=tmp_path)


@pytest.mark.parametrize("name", ["method", "pairs", "views", "encoder"])
def test_an_unknown_name_is_refused_with_the_choices(images, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} 'nonsense' is unknown; choose one of"):
        pretrain.fit(images, **{name: "nonsense"}, batch_size=8, out=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"images_seen": 5}, "images_seen is 5, which is less than one batch of 8"),
        ({"accumulate": 5}, "batch_size 8 is too small for 5 parts on each of 1 devices"),
        ({"accumulate": 2, "method": "byol"}, "the loss of BYOL needs more than the projections"),
        ({"accumulate": 2, "decoder": True}, "the loss of EncoderDecoder needs more than the projections"),
        ({"epochs": -1}, "epochs is -1; it is 0 or more"),
        ({"images_seen": -3}, "images_seen is -3; it is 0 or more"),
        ({"accumulate": 0}, "accumulate is 0; it is 1 or more"),
        ({"devices": 1.5}, "devices is 1.5; it is a whole number"),
        ({"seed": 2**70}, "seed is 1180591620717411303424; it is 0 or more, and below 2\\^63"),
        ({"seed": None}, "seed is None; it is a whole number"),
        ({"devices": 5}, "batch_size 8 is too small for 1 parts on each of 5 devices"),
    ],
)
def test_a_budget_that_cannot_be_cut_is_refused(images, tmp_path, wrong, why):
    with pytest.raises(ValueError, match=why):
        pretrain.fit(images, **{"encoder": "tiny", "batch_size": 8, "out": tmp_path} | wrong)


def test_supervised_without_two_classes_or_with_more_than_it_has_outputs_is_refused(images, tmp_path):
    one = images.take(np.flatnonzero(images.labels == 1))
    many = replace(images, card=replace(images.card, classes=(*images.classes, *map(str, range(62)))))
    for wrong, why in ((one, "all images here are benign"), (many, "at most 64 classes apart, but phantoms has 65")):
        with pytest.raises(ValueError, match=why):
            pretrain.fit(wrong, "supervised", encoder="tiny", batch_size=4, out=tmp_path / "run")
    METHODS["supervised"].check(replace(many, card=replace(many.card, classes=many.card.classes[:64])))
    assert not (tmp_path / "run").exists()


def test_spark_refuses_a_size_without_cells_before_it_starts(images, tmp_path):
    with pytest.raises(ValueError, match="fill images of 148: take a multiple of 32"):
        pretrain.fit(replace(images, size=148), "spark", batch_size=4, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "options", "side"), [("simclr", {}, 16), ("swav", {"small_crops": 2}, 32)])
def test_a_convnext_refuses_views_that_it_makes_nothing_of(images, tmp_path, method, options, side):
    values = {"encoder": "convnext_tiny", "batch_size": 8, "options": options, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"convnext_tiny needs images of 32 pixels or more, .* have 16"):
        pretrain.fit(replace(images, size=side), method, **values)
    assert not (tmp_path / "run").exists()


def test_val_with_other_channels_is_refused(images, tmp_path):
    colour = replace(images, stored_pixels=np.repeat(images.stored_pixels[:, None], 3, axis=1))
    with pytest.raises(ValueError, match="val has images of 3 channels, and images of 1"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, val=colour, out=tmp_path / "run")


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_trained(images, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "train", lambda *_: pytest.fail("it trains"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run cannot be written to"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, out=tmp_path / "file" / "run")


def test_numbers_may_be_numpys(images, tmp_path):
    numbers = {"seed": np.int64(3), "epochs": np.int32(1), "batch_size": np.int64(8)}
    pretrain.fit(images, "simclr", encoder="tiny", checkpoint_minutes=0, out=tmp_path / "numpy", **numbers)
    numbers = {name: int(number) for name, number in numbers.items()}
    pretrain.fit(images, "simclr", encoder="tiny", checkpoint_minutes=0, out=tmp_path / "own", **numbers)
    assert same(state(tmp_path / "numpy"), state(tmp_path / "own"))
    assert encoders.model_card(tmp_path / "numpy" / "encoder.safetensors")["seed"] == 3


def test_an_encoder_that_is_not_finite_after_the_last_step_is_not_kept(images, tmp_path):
    with pytest.raises(
        FloatingPointError, match="not finite in the encoder that simclr trained; try a smaller learning"
    ):
        pretrain.fit(
            images, "simclr", encoder="tiny", batch_size=len(images), epochs=1, out=tmp_path, options={"lr": 3e38}
        )
    assert not (tmp_path / "encoder.safetensors").exists()


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(images, tmp_path, monkeypatch):
    monkeypatch.setattr(OfProjections, "loss", lambda self, a, b, **_: self.project(a).sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of simclr is nan in epoch 1; try a smaller learning rate"):
        pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, out=tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()


def test_the_order_of_the_images_follows_the_seed(images):
    orders = []
    for seed in (0, 1):
        made = learner(images, seed=seed)
        made.deal(0)
        orders.append(made.order.tolist())
    assert orders[0] != orders[1]


def test_every_epoch_and_every_draw_of_an_image_has_views_and_keys_of_its_own(images):
    often = np.where(np.arange(len(images)) < 2, len(images) / 4, 0.5)  # the first two, many times in an epoch
    made = learner(replace(images, table=images.table.assign(weight=often)), epochs=2)
    made.method.wants = ("keys",)
    found, keys = [], []
    for epoch in (0, 1):
        made.deal(epoch)
        given, wanted = made.views(torch.arange(len(made.order))[made.order == 0])
        found += given
        keys.append(wanted["keys"])
    every = torch.cat(found)
    assert len(every) > 8 and len(every.unique(dim=0)) == len(every)
    assert len(torch.cat(keys).unique()) == len(every) // 2


def test_what_is_not_the_encoder_is_drawn_from_the_seed_too(images):
    heads = [next(learner(images, seed=seed).method.head.parameters()) for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def recipe(made, monkeypatch):
    monkeypatch.setattr(type(made), "trainer", SimpleNamespace(precision="32-true"), raising=False)
    (optimiser,), (schedule,) = made.configure_optimizers()
    return optimiser, schedule


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_a_thousandth(images, monkeypatch):
    made = learner(images, epochs=20, batch_size=len(images) // 10)
    optimiser, schedule = recipe(made, monkeypatch)
    rates = []
    for _ in range(made.steps):
        optimiser.step()
        rates.append(optimiser.param_groups[0]["lr"])
        schedule.step()
    assert abs(int(np.argmax(rates)) - made.steps // 10) <= 1
    assert rates[-1] / max(rates) == pytest.approx(1e-3, rel=0.5)


def test_sgd_has_momentum_and_the_methods_weight_decay_and_tokens_of_one_place_do_not_decay(images, monkeypatch):
    made = learner(images)
    made.method.optimiser, made.method.weight_decay = "sgd", 0.03
    made.method.token = torch.nn.Parameter(torch.zeros(1, 8, 1, 1))
    matrices, vectors = recipe(made, monkeypatch)[0].param_groups
    assert matrices["momentum"] == vectors["momentum"] == 0.9
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.03, 0)
    assert any(p is made.method.token for p in vectors["params"])


def test_a_batch_is_the_methods_own_where_none_is_said(images, tmp_path, monkeypatch):
    for name, size in (("simclr", 7), ("byol", 9)):
        monkeypatch.setattr(METHODS[name], "batch_size", size)
        pretrain.fit(images, name, encoder="tiny", epochs=0, out=tmp_path)
        assert encoders.model_card(tmp_path / "encoder.safetensors")["batch_size"] == size


def test_a_training_is_told_from_others_by_its_labels_and_modalities(images):
    table = images.table
    others = table.assign(label=table["label"].to_numpy()[::-1]), table.assign(modality="ct")
    said = {pretrain.identity({"method": "supervised"}, replace(images, table=each)) for each in (table, *others)}
    assert len(said) == 3


def test_every_step_begins_without_gradients_and_tells_the_method_where_it_is(images, tmp_path, monkeypatch):
    told, before = [], []
    monkeypatch.setattr(METHODS["simclr"], "after_step", lambda self, *at: told.append(at))
    learn = pretrain.Pretraining.gradients_and_seen

    def spy(self, *of):
        before.append(all(p.grad is None or not p.grad.any() for p in self.method.parameters()))
        return learn(self, *of)

    monkeypatch.setattr(pretrain.Pretraining, "gradients_and_seen", spy)
    pretrain.fit(images, "simclr", encoder="tiny", batch_size=8, epochs=2, out=tmp_path)
    steps = 2 * round(len(images) / 8)
    assert told == [(n, steps) for n in range(1, steps + 1)]
    assert all(before)


def test_random_numbers_of_a_step_follow_from_seed_and_step(images, monkeypatch):
    drawn = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        made = learner(images, seed=seed)
        monkeypatch.setattr(type(made), "global_step", step)
        made.draw_anew()
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 3 and drawn[0] == drawn[3]
