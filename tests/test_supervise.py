"""Learning with labels chooses its round by the score it is given, and moves masks with their images."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mednb import supervise
from mednb.views import labelled


class Mean(nn.Module):
    """A logistic regression on the mean brightness."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(1, 2)

    def forward(self, x):
        return self.line(x.mean((1, 2, 3))[:, None])


@pytest.fixture
def bright_and_dark():
    labels = np.arange(20) % 2
    return (40 + 150 * labels[:, None, None] + np.zeros((20, 8, 8))).astype(np.uint8), labels


def accuracy(pixels, labels):
    return lambda network: float(
        (network(torch.from_numpy(pixels)[:, None] / 64 - 2).argmax(1).numpy() == labels).mean()
    )


def test_a_network_learns_what_separates_the_classes(bright_and_dark):
    pixels, labels = bright_and_dark
    score = accuracy(pixels, labels)
    network, best = supervise.fit(Mean(), pixels, labels, F.cross_entropy, score, steps=100, batch_size=8, lr=0.1)
    assert score(network) == best == 1
    assert not network.training


def test_the_best_round_is_kept_not_the_last(bright_and_dark):
    pixels, labels = bright_and_dark
    seen, scores = [], iter([0.1, 0.9, 0.2, 0.3])

    def score(network):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(scores)

    network, best = supervise.fit(Mean(), pixels, labels, F.cross_entropy, score, steps=8, batch_size=4, rounds=4)
    assert len(seen) == 4
    assert best == 0.9
    assert all(torch.equal(value, seen[1][name]) for name, value in network.state_dict().items())
    assert not torch.equal(seen[1]["line.weight"], seen[3]["line.weight"])


def test_a_score_that_is_no_number_chooses_nothing(bright_and_dark):
    with pytest.raises(ValueError, match="the score on val is NaN: nothing can be chosen by it"):
        supervise.fit(Mean(), *bright_and_dark, F.cross_entropy, lambda network: np.nan, steps=4, batch_size=4)


@pytest.mark.parametrize("images", [3, 20, 100])
def test_few_images_get_as_many_steps_as_many(images):
    steps = []

    def loss(answer, labels):
        steps.append(len(labels))
        return F.cross_entropy(answer, labels)

    pixels, labels = np.zeros((images, 8, 8), np.uint8), np.zeros(images, np.int64)
    supervise.fit(Mean(), pixels, labels, loss, lambda network: 0.0, steps=6, batch_size=4, rounds=3)
    assert steps == [4] * 6


def test_masks_follow_their_images():
    pixels = np.zeros((4, 16, 16), np.uint8)
    pixels[:, 4:12, 4:12] = 255
    overlap = []

    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x * self.scale

    def loss(answer, masks):
        overlap.append(float(((answer[:, 0] > 0) == masks).float().mean()))
        return answer.mean()

    supervise.fit(Same(), pixels, pixels > 0, loss, lambda network: 0.0, steps=4, batch_size=4, rounds=2)
    assert min(overlap) > 0.95


def test_the_same_seed_trains_the_same_network(bright_and_dark):
    pixels, labels = bright_and_dark
    score = accuracy(pixels, labels)
    a, b = (
        supervise.fit(Mean(), pixels, labels, F.cross_entropy, score, steps=10, seed=3)[0].line.weight for _ in "ab"
    )
    assert torch.equal(a, b)


def test_training_stops_when_nothing_gets_better(bright_and_dark):
    pixels, labels = bright_and_dark
    asked, scores = [], iter([0.5, 0.6, 0.6, 0.5, 0.9])

    def score(network):
        asked.append(network)
        return next(scores)

    how = {"steps": 20, "batch_size": 4, "rounds": 10, "patience": 2}
    _, best = supervise.fit(Mean(), pixels, labels, F.cross_entropy, score, **how)
    assert len(asked) == 4
    assert best == 0.6


class Pretrained(nn.Sequential):
    """An encoder with batch norm, and a head."""

    def __init__(self):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(encoder, nn.Linear(4, 2))


def states(steps, **how):
    """The network after each of as many steps, and as it began."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8)).astype(np.uint8)
    seen = []

    def score(network):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return float(len(seen))

    how = {"steps": steps, "batch_size": 8, "lr": 0.1, "rounds": steps, **how}
    network, _ = supervise.fit(Pretrained(), pixels, np.arange(40) % 2, F.cross_entropy, score, **how)
    assert all(parameter.requires_grad for parameter in network.parameters())
    return [Pretrained().state_dict(), *seen]


def changed(a, b, part):
    return [name for name in a if name.startswith(part) and not torch.equal(a[name], b[name])]


def test_a_pretrained_part_is_frozen_for_the_first_tenth_with_its_batch_norm():
    begin, *after = states(20, pretrained="0")
    for state in after[:2]:
        assert changed(begin, state, "0") == []
        assert changed(begin, state, "1") == ["1.weight", "1.bias"]
    assert set(changed(begin, after[2], "0")) == {name for name in begin if name.startswith("0")}


def test_a_pretrained_part_then_learns_at_a_tenth_of_the_rate():
    moved = []
    for how in ({"pretrained": "0"}, {}):
        first, second = states(20, **how)[2:4] if how else states(20)[:2]
        moved.append(float((second["0.0.weight"] - first["0.0.weight"]).abs().max()))
    # Adam's first step is as long as the learning rate, which without a pretrained part has just begun to rise.
    assert moved[0] == pytest.approx(supervise.SLOWER * 0.1, rel=0.1)
    assert moved[1] == pytest.approx(0.1 / 2, rel=0.6)


def test_what_is_tried_is_every_rate_with_every_length_and_the_best_on_val_is_kept(bright_and_dark, monkeypatch):
    tried = supervise.grid([0.1, 0.2], 10, [0.5, 1.0])
    assert tried == [{"lr": lr, "steps": steps} for lr in (0.1, 0.2) for steps in (5, 10)]
    scores = {(0.1, 5): 0.3, (0.1, 10): 0.7, (0.2, 5): 0.7, (0.2, 10): 0.2}
    monkeypatch.setattr(supervise, "fit", lambda network, *_, lr, steps: ((network, lr, steps), scores[lr, steps]))
    network, chosen = supervise.choose(tried, lambda: "start", None, None, None, None)
    assert network == ("start", 0.1, 10)  # of equally good ones the first
    assert chosen == {"lr": 0.1, "steps": 10, "score": 0.7}
    with pytest.raises(ValueError, match="nothing to choose from"):
        supervise.choose([], lambda: "start", None, None, None, None)


def test_all_labels_are_drawn_once_and_the_most_come_first():
    assert supervise.few_labels([0.1, 1.0, 0.5], 2) == [(1.0, 0), (0.5, 0), (0.5, 1), (0.1, 0), (0.1, 1)]


def test_images_are_disturbed_as_their_modality_allows():
    import pandas as pd

    from mednb import views

    of = views.labelled(pd.DataFrame({"modality": ["ct", "ultrasound", "something new"]}))
    assert {name: policy.flip for name, policy in of.policies.items()} == {
        "ct": 0,
        "ultrasound": 0.5,
        "something new": 0,
    }
    pixels, masks = np.zeros((64, 16, 16), np.uint8), np.zeros((64, 16, 16), bool)
    masks[:, :, :4] = True  # on the left
    seen = []

    def loss(answer, targets):
        seen.append(targets.float().mean((0, 1)))
        return answer.mean()

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(1, 1)

        def forward(self, x):
            return self.line(x.mean((2, 3)))

    for modality, mirrored in (("ct", False), ("ultrasound", True)):
        seen.clear()
        how = {
            "steps": 4,
            "batch_size": 16,
            "rounds": 1,
            "views": views.labelled(pd.DataFrame({"modality": [modality] * 64})),
        }
        supervise.fit(Same(), pixels, masks, loss, lambda network: 0.0, **how)
        assert bool(torch.stack(seen)[:, -2:].any()) is mirrored


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(1, 2)
        self.views, self.modes = [], []

    def forward(self, x):
        self.views.append(x)
        self.modes.append(self.training)
        return self.line(x.mean((1, 2, 3))[:, None])


def watched(seed=0):
    """A network that remembers its views and modes, after a training on 20 images, and their numbers in order."""
    network, order = Line(), []
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8)).astype(np.uint8)

    def loss(answer, labels):
        order.append(labels)
        return F.cross_entropy(answer, labels % 2)

    def score(network):
        network(torch.zeros(1, 1, 8, 8))
        return 0.0

    supervise.fit(network, pixels, np.arange(20), loss, score, seed=seed, steps=4, batch_size=10, rounds=2)
    return network, torch.cat(order)


def test_a_network_is_judged_in_eval_mode_and_learns_in_training_mode():
    network, _ = watched()
    assert network.modes == [True, True, False, True, True, False]


def test_the_order_follows_the_seed_and_is_new_in_every_round():
    (_, order), (_, other) = watched(0), watched(1)
    assert not torch.equal(order, other)
    assert not torch.equal(order[:20], order[20:])
    assert sorted(order[:20].tolist()) == list(range(20))


def test_views_are_new_in_every_draw_batch_and_round_and_follow_the_seed():
    networks = [Line(), Line()]
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    for seed, network in enumerate(networks):
        how = {"steps": 4, "batch_size": 3, "rounds": 2, "seed": seed}
        supervise.fit(network, pixels, np.zeros(1, int), lambda answer, _: answer.sum(), lambda network: 0.0, **how)
    every = torch.cat([view for network in networks for view in network.views])
    assert len(every.unique(dim=0)) == len(every) == 2 * 4 * 3


def test_there_are_ten_rounds_where_nobody_says_how_many():
    scores = []

    def better_and_better(network):
        scores.append(len(scores))
        return scores[-1]

    pixels = np.zeros((4, 8, 8), np.uint8)
    supervise.fit(Line(), pixels, np.arange(4), lambda answer, _: answer.sum(), better_and_better, steps=100)
    assert len(scores) == 10


def test_each_image_of_a_mix_is_disturbed_by_its_own_modalitys_policy():
    """CT, bright on the left, is never mirrored; ultrasound may be, and is dark."""
    pixels = np.zeros((40, 16, 16), np.uint8)
    pixels[::2, :, :4] = 255
    network, policies = Line(), labelled(pd.DataFrame({"modality": ["ct", "ultrasound"] * 20}))
    how = {"steps": 20, "batch_size": 40, "rounds": 2, "views": policies}
    supervise.fit(network, pixels, np.zeros(40, int), lambda answer, _: answer.sum(), lambda network: 0.0, **how)
    views = torch.cat(network.views)
    assert views[..., :2].max() > 1 and views[..., -2:].max() < -1
