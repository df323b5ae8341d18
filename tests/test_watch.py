"""The watch tells what a training does, says so when it collapses, and is silent when it does not."""

import math
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from mednb import embed, encoders, pretrain, watch
from mednb.datasets import load
from mednb.methods import METHODS
from mednb.methods.base import Crops, Method
from mednb.methods.byol import BYOL
from mednb.methods.simsiam import SimSiam
from mednb.methods.swav import SwAV

START = {"spread": 0.5, "effective_rank": 15.0, "projection_spread": 0.8, "projection_uniformity": -2.4}
START |= {"prediction_spread": 0.8, "alignment": 0.4, "uniformity": -0.7}
ROW = {"epoch": 9, **START}


class Small(nn.Module):
    """An encoder that can learn to look away."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False)
        first = nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1, bias=False)
        second = nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.layers = nn.Sequential(*first, *second, nn.BatchNorm2d(64), nn.ReLU())
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.layers(self.conv1(x)).mean((2, 3)))


class NoPredictor(BYOL):
    def __init__(self, encoder):
        super().__init__(encoder)
        self.predictor = nn.Identity()


class ThroughTheTarget(BYOL):
    """No target: the network predicts itself, and the gradient takes both ways."""

    def loss(self, a, b):
        z_a, z_b = (self.head(self.encoder(x)) for x in (a, b))
        return 2 + self.similarity(self.predictor(z_a), z_b) + self.similarity(self.predictor(z_b), z_a)


class NoStopGradient(SimSiam):
    def __init__(self, encoder):
        super().__init__(encoder, stop_gradient=False)


class Unbalanced(SwAV):
    def codes(self, z, queue):
        return torch.softmax(self.prototypes(z).detach() / 0.05, dim=1)


class GradientIntoTheTarget(BYOL):
    def __init__(self, encoder):
        super().__init__(encoder, stop_gradient=False)


class SimSiamWithoutPredictor(SimSiam):
    def __init__(self, encoder):
        super().__init__(encoder)
        self.predictor = nn.Identity()


class DeafPredictor(BYOL):
    """It says the same of every image."""

    def __init__(self, encoder):
        super().__init__(encoder)
        nn.init.zeros_(self.predictor.layers[-1].weight).requires_grad_(False)


BROKEN = {"byol": (NoPredictor, ThroughTheTarget, GradientIntoTheTarget)}
BROKEN["simsiam"] = (NoStopGradient, SimSiamWithoutPredictor)


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=150)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "small", Small)


def train(images, method, out, monkeypatch, epochs=12, faster=10, **values):
    """One short training, `faster` so that a collapse does not take long; returns the model card."""
    if not isinstance(method, str):
        monkeypatch.setitem(METHODS, "broken", method)
        method = "broken"
    monkeypatch.setattr(METHODS[method], "lr", faster * METHODS[method].lr)
    pretrain.fit(images, method, encoder="small", batch_size=30, epochs=epochs, out=out, **values)
    return encoders.model_card(out / "encoder.safetensors")


@pytest.mark.parametrize("method", ["byol", "simsiam", "simclr", "moco", "vicreg", "swav"])
def test_a_healthy_training_is_not_called_a_collapse(images, tmp_path, monkeypatch, small, method):
    card = train(images.where(split="train"), method, tmp_path, monkeypatch)
    assert card["verdict"].startswith("no collapse (spread ")


@pytest.mark.parametrize("method", [broken for kinds in BROKEN.values() for broken in kinds])
def test_without_predictor_or_stop_gradient_the_collapse_is_told(images, tmp_path, monkeypatch, small, method):
    card = train(images.where(split="train"), method, tmp_path, monkeypatch)
    kind = "predictor" if method is GradientIntoTheTarget else "constant"
    assert card["verdict"].startswith(f"{kind} collapse since epoch ")
    assert "that one side gets no gradient" in card["verdict"]


def test_a_predictor_that_says_the_same_of_every_image_is_told(images, tmp_path, monkeypatch, small):
    card = train(images.where(split="train"), DeafPredictor, tmp_path, monkeypatch, epochs=3)
    assert card["verdict"].startswith("predictor collapse since epoch ")
    assert "prediction spread " in card["verdict"]


def test_assignments_that_are_not_balanced_are_told(images, tmp_path, monkeypatch, small):
    card = train(images.where(split="train"), Unbalanced, tmp_path, monkeypatch, epochs=6)
    assert card["verdict"].startswith(("prototype collapse since epoch ", "constant collapse since epoch "))
    assert "prototypes in use " in card["verdict"]


def test_a_collapsed_training_may_end_itself(images, tmp_path, monkeypatch, small):
    images = images.where(split="train")
    card = train(images, NoPredictor, tmp_path, monkeypatch, epochs=40, stop_on_collapse=True)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert 3 <= len(metrics) < 30
    assert card["images_seen"] == len(metrics) * len(images)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_decides_whether_a_training_has_collapsed(images, tmp_path, monkeypatch, small, first):
    """Else one process would stop, and the others wait for it."""
    from pytorch_lightning.strategies import SingleDeviceStrategy

    monkeypatch.setattr(pretrain, "ROUND", 0.0)
    monkeypatch.setattr(watch.Watch, "collapsed", lambda self: "collapsed" if not first else "")
    said = {"collapsed": "", "": "collapsed"}  # what the first process says, where this one says the opposite
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda self, own, src=0: said.get(own, own))
    pretrain.fit(
        images, "simclr", encoder="small", batch_size=len(images), epochs=3, out=tmp_path, stop_on_collapse=True
    )
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == (1 if first else 3)


# -------------------- verdicts of rows


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"spread": 0.1}, "constant embedding"),
        ({"prediction_spread": 0.05}, "predictor"),
        ({"prediction_spread": 0.5}, None),
        ({"prediction_spread": math.nan}, None),
        ({"projection_spread": 0.1}, "constant"),
        ({"projection_uniformity": -0.1}, "constant"),
        ({"projection_spread": math.nan, "projection_uniformity": math.nan}, None),
        ({"effective_rank": 2.0}, "low-rank"),
        ({"prototypes_in_use": 60.0}, None),
        ({"prototypes_in_use": 1.5}, "prototype"),
        ({"classes_of_one": 40.0, "classes_of_all": 600.0}, None),
        ({"classes_of_one": 1000.0, "classes_of_all": 1010.0}, "teacher"),
        ({"classes_of_one": 1.0, "classes_of_all": 1.1}, "teacher"),
    ],
)
def test_each_kind_of_collapse_has_its_sign(change, kind):
    row = ROW | change
    assert watch.collapse(row, START) == kind
    said = watch.verdict([ROW | {"epoch": 8}, row], START)
    assert said.startswith(f"{kind} collapse since epoch 10: " if kind else "no collapse (")
    assert "nan" not in said
    assert all(f"{name.replace('_', ' ')} " in said for name in change if not math.isnan(row[name]))


def test_a_collapse_is_told_since_it_last_began():
    good, bad = ROW | {"epoch": 0}, {"effective_rank": 2.0}
    rows = [good, good | bad | {"epoch": 1}, good | {"epoch": 2}, *(good | bad | {"epoch": n} for n in (3, 4))]
    assert watch.verdict(rows, START).startswith("low-rank collapse since epoch 4: ")


def test_an_encoder_of_low_rank_from_the_start_has_not_collapsed():
    flat = {"spread": 0.02, "effective_rank": 1.5, "projection_spread": 0.05, "projection_uniformity": -0.02}
    assert watch.collapse(ROW | flat, START | flat) is None
    assert watch.collapse(ROW | flat, START) is not None


def test_without_training_there_is_nothing_to_judge():
    assert watch.verdict([], {}) == "nothing was trained"


def test_numbers_in_a_verdict_are_written_out():
    assert [watch.two(value) for value in (0.0531, -2.449, 15.0, 163.2)] == ["0.053", "-2.4", "15", "160"]


# -------------------- what is seen, and told


def test_neighbours_on_val_are_asked_ten_times(images, tmp_path, small):
    train, val = images.where(split="train"), images.where(split="val")
    for epochs, asked in ((20, 10), (3, 3)):
        pretrain.fit(
            train, "simclr", encoder="small", batch_size=30, epochs=epochs, out=tmp_path / str(epochs), val=val
        )
        knn = pd.read_csv(tmp_path / str(epochs) / "metrics.csv")["knn"]
        assert knn.notna().sum() == asked
        assert knn.iloc[-1:].notna().all()
        assert knn.dropna().between(0, 1).all()


def test_watching_val_does_not_change_what_is_learnt(images, tmp_path, small):
    train, val = images.where(split="train"), images.where(split="val")
    ends = [
        pretrain.fit(train, "byol", encoder="small", batch_size=30, epochs=2, out=tmp_path / name, val=asked)
        for name, asked in (("with", val), ("without", None))
    ]
    assert all(torch.equal(*pair) for pair in zip(*(end.state_dict().values() for end in ends), strict=True))


def test_neighbours_know_classes_that_lie_apart(images):
    class Told(nn.Module):
        """Embeds an image as its grey: black, middle, white."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            grey = x.mean((1, 2, 3)) * self.scale
            return torch.stack([grey.cos(), grey.sin()], dim=1)

    pixels = np.broadcast_to((images.labels * 100).astype(np.uint8)[:, None, None], (len(images), 4, 4))
    told = replace(images, stored_pixels=pixels, rows=None)
    assert watch.neighbours_auroc(Told(), told.take(np.arange(60)), told.take(np.arange(60, len(told)))) == 1
    assert math.isnan(watch.neighbours_auroc(Told(), told, told.take(np.flatnonzero(told.labels == 1))))
    unlabelled = told.table["label"].replace("benign", "unlabelled")  # of one grey with no class
    some = replace(told, table=told.table.assign(label=unlabelled))
    assert watch.neighbours_auroc(Told(), some, some) == 1
    assert math.isnan(watch.neighbours_auroc(Told(), some, some.take(np.flatnonzero(told.labels < 2))))


def test_neighbours_vote_by_the_exponential_of_their_similarity(images, monkeypatch):
    """Wu et al., Unsupervised feature learning via non-parametric instance discrimination (CVPR 2018)."""
    parts = images.where(split="train"), images.where(split="val")
    rng = np.random.default_rng(0)
    h = [rng.normal(size=(len(part), 3)) + part.labels[:, None] for part in parts]
    given = iter(h)
    monkeypatch.setattr(embed, "extract", lambda encoder, pixels: next(given))
    found = watch.neighbours_auroc(nn.Identity(), *parts, k=7)
    known, asked = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in h)
    votes = np.exp(asked @ known.T / 0.07)
    votes[votes < np.sort(votes)[:, [-7]]] = 0
    p = votes @ np.eye(3)[parts[0].labels]
    expected = roc_auc_score(parts[1].labels, p / p.sum(1, keepdims=True), multi_class="ovr")
    assert found == pytest.approx(expected)


def test_val_of_other_classes_is_refused(images, tmp_path, small):
    other = replace(images, card=replace(images.card, classes=("a", "b")))
    with pytest.raises(ValueError, match="val has the classes a, b, images have normal, benign, malignant"):
        pretrain.fit(images, "simclr", encoder="small", val=other, out=tmp_path)


def test_a_method_that_does_not_call_the_encoder_is_looked_at_all_the_same(images, tmp_path, monkeypatch, small):
    class Beside(Method):
        crops = (Crops(1),)

        def loss(self, x):
            return self.encoder.layers(self.encoder.conv1(x)).square().mean()

    train(images.where(split="train"), Beside, tmp_path, monkeypatch, epochs=2)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics[["spread", "effective_rank", "alignment", "uniformity"]].notna().all(axis=None)
    assert metrics["projection_spread"].isna().all()


def test_what_a_method_makes_is_what_the_watch_sees(images, small):
    values = {"method": "simclr", "encoder": "small", "seed": 0, "batch_size": 30, "pairs": "same_image", "epochs": 1}
    values |= {"views": "ultrasound", "accumulate": 1, "devices": 1, "decoder": False, "images_seen": len(images)}
    learner = pretrain.Pretraining(images, values)
    learner.setup("fit")
    views, _ = learner.views(learner.deal(0)[0])
    z = [learner.method.project(view) for view in views]
    seen = learner.heard(views)
    learner.method.encoder.train()
    torch.testing.assert_close(seen.b, learner.method.encoder(views[1]))
    torch.testing.assert_close(seen.z, z[0])
    before = {name: value.clone() for name, value in learner.method.state_dict().items() if name != "_extra_state"}
    own = learner.look()[0]
    torch.testing.assert_close(own.a, seen.a)
    torch.testing.assert_close(own.z, seen.z)
    assert all(torch.equal(value, learner.method.state_dict()[name]) for name, value in before.items())


def test_a_run_says_before_it_starts_how_long_it_will_take(images, tmp_path, capsys, small):
    pretrain.fit(images, "simclr", encoder="small", batch_size=30, epochs=2, out=tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    steps = 2 * round(len(images) / 30)
    assert first.startswith("about ")
    assert f" for {steps} steps of " in first
    assert first.endswith(" GB")


def test_spread_and_rank_of_projections_are_those_of_embed():
    x, z, p = (torch.randn(40, 6) + shift for shift in (0, 1, 2))
    seen = [watch.Seen(x[part], x[part], z[part], p[part]) for part in (slice(20), slice(20, 40))]
    found = watch.geometry(seen)
    assert found["spread"] == pytest.approx(embed.spread(x))
    assert found["projection_spread"] == pytest.approx(embed.spread(z))
    assert found["projection_uniformity"] == pytest.approx(embed.uniformity(z))
    assert found["prediction_spread"] == pytest.approx(embed.spread(p))
    assert found["alignment"] == 0


def test_views_per_second_count_all_views_of_an_epoch_and_waiting_is_a_share_of_its_time(tmp_path):
    seen, h = watch.Watch(tmp_path, {"images_seen": 120}, 5), torch.randn(2, 8, 4)
    seen.seconds, seen.waited, seen.losses = 2.0, 0.5, [1.0, 3.0]
    method = SimpleNamespace(crops=(Crops(2), Crops(4, 0.5)), signs=dict)
    learner = SimpleNamespace(embedded=deque([watch.Seen(*h, None)]), method=method, epochs=3)
    seen.end_epoch(SimpleNamespace(global_step=7, optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])]), learner)
    row = seen.rows[0]
    assert (row["views_per_second"], row["data_wait"], row["loss"]) == (6 * 40 / 2, 0.25, 2.0)


def test_a_row_has_the_mean_loss_of_its_epoch_and_knn_asks_train_about_val(tmp_path, monkeypatch, small):
    losses, asked, learn = [], [], pretrain.Pretraining.gradients_and_seen
    images = load("phantoms", size=32, limit=80)
    parts = images.where(split="train"), images.where(split="val")

    def spy(self, *of):
        out = learn(self, *of)
        losses.append(float(out[0]))
        return out

    monkeypatch.setattr(pretrain.Pretraining, "gradients_and_seen", spy)
    monkeypatch.setattr(watch, "neighbours_auroc", lambda encoder, *of: asked.append(of) or 0.5)
    pretrain.fit(parts[0], "simclr", encoder="small", batch_size=8, epochs=2, out=tmp_path, val=parts[1])
    told = pd.read_csv(tmp_path / "metrics.csv")["loss"]
    np.testing.assert_allclose(told, np.reshape(losses, (2, -1)).mean(1), rtol=1e-5)
    assert asked
    for of in asked:
        for part, whole in zip(of, parts, strict=True):
            assert set(part.table["image_id"]) == set(whole.table["image_id"])


def test_few_images_are_always_the_same_ones(images):
    assert watch.few(images, 5).table.equals(watch.few(images, 5).table)


def test_a_collapse_during_the_warm_up_ends_nothing(tmp_path):
    seen = watch.Watch(tmp_path, {}, 5)
    seen.start, seen.learner = START, SimpleNamespace(steps=100)
    seen.rows = [ROW | {"spread": 0.01, "step": step} for step in (4, 8, 10)]
    assert not seen.collapsed()
    seen.rows = [row | {"step": row["step"] + 10} for row in seen.rows]
    assert seen.collapsed()
    seen.rows[-2] |= {"spread": ROW["spread"]}
    assert not seen.collapsed()  # it has to say so three times in a row
