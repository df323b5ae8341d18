"""Probes choose on val, answer with probabilities, and cannot be given test to choose on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F

from mednb import classify, embed, encoders, supervise
from mednb.datasets import load, splits
from mednb.views import labelled

CLASSES = ["a", "b", "c"]
PROBES = [classify.knn, classify.linear]


def embeddings(split, h, labels):
    """A frame as `embed.frame` makes it: every image is a patient of its own."""
    ids = [f"{split}-{i}" for i in range(len(labels))]
    names = np.array(CLASSES)[labels]
    return embed.frame(pd.DataFrame({"image_id": ids, "patient": ids, "split": split, "label": names}), h)


@pytest.fixture
def three_groups():
    """Embeddings of three well separated classes in each split."""
    rng = np.random.default_rng(0)
    y = {split: np.arange(n) % 3 for split, n in (("train", 30), ("val", 21), ("test", 24))}
    h = {split: np.eye(3)[labels] * 4 + rng.normal(size=(len(labels), 3)) * 0.3 for split, labels in y.items()}
    return {split: embeddings(split, h[split], y[split]) for split in y}


def test_auroc_is_scikit_learns_macro_average():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), 60).round(2)
    p /= p.sum(1, keepdims=True)
    expected = np.mean([sklearn.metrics.roc_auc_score(labels == k, p[:, k]) for k in range(3)])
    assert classify.auroc(labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_separates_what_is_separable(probe, three_groups):
    classifier = probe(three_groups["train"], three_groups["val"], CLASSES)
    for split in ("val", "test"):
        p = classifier(three_groups[split])
        np.testing.assert_allclose(p.sum(1), 1)
        assert (np.array(CLASSES)[p.argmax(1)] == three_groups[split]["label"]).all()
    assert classifier.chosen["score"] == 1


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_without_labels_is_never_the_answer(probe, three_groups):
    train = three_groups["train"]
    classifier = probe(train[train["label"] != "b"], three_groups["val"], CLASSES)
    assert (classifier(three_groups["test"])[:, 1] == 0).all()


@pytest.mark.parametrize("probe", PROBES)
def test_one_class_alone_is_refused(probe, three_groups):
    train = three_groups["train"]
    with pytest.raises(ValueError, match="the labelled images are all b: a classifier needs two classes"):
        probe(train[train["label"] == "b"], three_groups["val"], CLASSES)


@pytest.mark.parametrize("probe", PROBES)
def test_a_val_of_one_class_chooses_nothing(probe, three_groups):
    """Its area under the curve is NaN, than which nothing is better: the first value won in silence."""
    val = three_groups["val"]
    with pytest.raises(ValueError, match="val holds only c: nothing can be chosen by it; take more images"):
        probe(three_groups["train"], val[val["label"] == "c"], CLASSES)
    with pytest.raises(ValueError, match="val holds no image: nothing"):
        probe(three_groups["train"], val[:0], CLASSES)


def test_the_linear_probe_chooses_its_penalty_on_val(three_groups, monkeypatch):
    asked = []
    monkeypatch.setattr(classify, "auroc", lambda labels, p: asked.append(labels) or -abs(len(asked) - 3))
    classifier = classify.linear(three_groups["train"], three_groups["val"], CLASSES)
    assert len(asked) == len(classify.PENALTIES)
    assert all(np.array_equal(labels, np.arange(21) % 3) for labels in asked)
    assert classifier.chosen == {"C": classify.PENALTIES[2], "score": 0}


def test_the_penalty_does_not_depend_on_the_scale_of_the_embedding(three_groups):
    scaled = {}
    for split, frame in three_groups.items():
        scaled[split] = embed.frame(frame.drop(columns=["h000", "h001", "h002"]), embed.vectors(frame) * 1000 + 5)
    a, b = (classify.linear(each["train"], each["val"], CLASSES)(each["test"]) for each in (three_groups, scaled))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_nearest_neighbours_vote_by_similarity():
    train = embeddings("train", np.array([[1, 0], [0, 1.0]]), np.array([0, 1]))
    val = embeddings("val", np.array([[1, 0.1], [0.1, 1]]), np.array([0, 1]))
    test = embeddings("test", np.array([[1.0, 0.2]]), np.array([0]))
    assert classify.knn(train, val, CLASSES)(test).argmax() == 0


# -------------------- wrong use


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_that_would_choose_on_test_stops(probe, three_groups):
    with pytest.raises(ValueError, match=r"must be chosen on val, but 24 of the 24 images .* test-0 is of test"):
        probe(three_groups["train"], three_groups["test"], CLASSES)
    with pytest.raises(ValueError, match=r"must learn from train, but 24 of the 54 images .* test-0 is of test"):
        probe(pd.concat([three_groups["train"], three_groups["test"]]), three_groups["val"], CLASSES)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("column, what", [("patient", "Patients"), ("group", "Groups of near-duplicates")])
def test_a_probe_that_would_choose_on_those_it_learnt_from_stops(probe, three_groups, column, what):
    train, val = (three_groups[split].assign(group=three_groups[split]["patient"]) for split in ("train", "val"))
    val.loc[5, column] = train[column][2]
    with pytest.raises(ValueError, match=rf"{what} on both sides of a split: train-2 \(train and val\)"):
        probe(train, val, CLASSES)


@pytest.mark.parametrize("probe", PROBES)
def test_test_images_that_were_called_val_are_found_when_test_is_answered(probe, three_groups):
    cheating = pd.concat([three_groups["val"], three_groups["test"][:3].assign(split="val")], ignore_index=True)
    classifier = probe(three_groups["train"], cheating, CLASSES)
    with pytest.raises(ValueError, match=r"Patients on both sides of a split: test-0 \(val and test\)"):
        classifier(three_groups["test"])


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=80)


def test_fine_tuning_says_before_it_begins_that_val_is_of_one_class(images, tiny_encoder, monkeypatch):
    monkeypatch.setattr(supervise, "fit", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match="val holds only benign: nothing can be chosen by it"):
        classify.finetune(tiny_encoder, images.where(split="train"), images.where(split="val", label="benign"))


def test_fine_tuning_that_would_choose_on_test_stops_before_it_begins(images, tiny_encoder, monkeypatch):
    monkeypatch.setattr(supervise, "fit", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=r"must be chosen on val, but .* is of test"):
        classify.finetune(tiny_encoder, images.where(split="train"), images.where(split="test"))


# -------------------- all together


@pytest.fixture
def found(images, tiny_encoder):
    return classify.label_efficiency(images, tiny_encoder, fractions=[0.3, 1.0], seed=1, steps=10, draws=2)


def test_images_without_a_label_are_neither_learnt_from_nor_asked(images, tiny_encoder):
    beside = replace(images.card, classes=("normal", "unlabelled", "benign", "malignant"))
    unknown = np.arange(len(images)) % 4 == 0
    label = images.table["label"].mask(unknown, "unlabelled")
    some = replace(images, table=images.table.assign(label=label), card=beside)
    how = {"tasks": ["knn", "finetune"], "fractions": [1.0], "steps": 5}
    _, found, _ = classify.label_efficiency(some, tiny_encoder, **how)
    _, expected, _ = classify.label_efficiency(images.take(~unknown), tiny_encoder, **how)
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(classify.leak(some, tiny_encoder), classify.leak(images.take(~unknown), tiny_encoder))
    nobody = replace(some, table=images.table.assign(label="unlabelled"))
    assert classify.leak(nobody).empty
    with pytest.raises(ValueError, match="no image of phantoms has a label"):
        classify.label_efficiency(nobody, tiny_encoder)


def test_every_task_fraction_draw_split_and_metric_has_one_score(found):
    scores, _, _ = found
    assert not scores.duplicated(["task", "label_fraction", "draw", "split", "metric"]).any()
    assert len(scores) == 3 * (2 + 1) * 2 * len(classify.metrics.CLASSIFICATION)  # all labels are drawn once
    assert scores["value"].dropna().between(0, 1).all()


def test_scores_are_those_of_the_predictions(images, found):
    scores, predictions, _ = found
    asked = ["task", "label_fraction", "draw"]
    on_test = scores.query("split == 'test' and metric == 'auroc'").set_index(asked)["value"]
    for key, p in predictions.groupby(asked):
        expected = classify.auroc(p["label"].to_numpy(), p[["p0", "p1", "p2"]].to_numpy())
        assert on_test[key] == pytest.approx(expected)
        assert set(p["image_id"]) == set(images.where(split="test").table["image_id"])
    assert predictions["source"].eq("phantoms").all()
    lesion = predictions["image_id"].map(images.table.set_index("image_id")["lesion_area"]) * 32**2
    np.testing.assert_allclose(predictions["lesion_area"], lesion)


def test_draws_differ_and_are_the_same_for_every_encoder(images, monkeypatch):
    drawn = []

    def probe(train, val, classes):
        drawn.append(tuple(train["image_id"]))
        return classify.Classifier(lambda of: np.full((len(of), 3), 1 / 3), {}, splits.known(train))

    monkeypatch.setattr(classify, "knn", probe)
    for seed in (0, 1):
        encoder = encoders.build(seed=seed)
        classify.label_efficiency(images, encoder, ["knn"], [0.3], seed=5, draws=3)
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


def test_the_learning_rate_is_chosen_once_with_the_most_labels(images, tiny_encoder, monkeypatch):
    tried = []

    def fit(network, pixels, *_, lr, steps, **__):
        tried.append((len(pixels), lr, steps))
        return network, {0.1: 0.4, 0.2: 0.8}[lr] - steps / 1000

    monkeypatch.setattr(supervise, "fit", fit)
    how = {"tasks": ["finetune"], "fractions": [0.3, 1.0], "steps": 20, "rates": [0.1, 0.2], "lengths": [0.5, 1]}
    _, _, chosen = classify.label_efficiency(images, tiny_encoder, **how)
    most = len(images.where(split="train"))
    assert tried[:4] == [(most, lr, steps) for lr in (0.1, 0.2) for steps in (10, 20)]
    assert [each[1:] for each in tried[4:]] == [(0.2, 10)]
    assert tried[4][0] < most
    assert [(each["lr"], each["steps"]) for each in chosen] == [(0.2, 10)] * 2


def test_fine_tuning_leaves_the_encoder_as_it_was(images, tiny_encoder):
    before = {name: value.clone() for name, value in tiny_encoder.state_dict().items()}
    train, val, test = (images.where(split=split) for split in splits.NAMES)
    p = classify.finetune(tiny_encoder, train, val, supervise.grid([1e-3], 10))(test)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in tiny_encoder.state_dict().items())


@pytest.mark.parametrize(
    ("nothing", "said"),
    [({"tasks": []}, "tasks: there is none; choose among knn"), ({"fractions": []}, "fractions: the")],
)
def test_no_task_and_no_fraction_are_no_question(images, tiny_encoder, nothing, said):
    with pytest.raises(ValueError, match=said):
        classify.label_efficiency(images, tiny_encoder, **{"tasks": ["knn"]} | nothing)


def test_an_unknown_task_is_refused_with_the_choices(images, tiny_encoder):
    with pytest.raises(ValueError, match="tasks: lineal is unknown; choose among knn, linear, finetune"):
        classify.label_efficiency(images, tiny_encoder, tasks=["lineal"])


# -------------------- what a leak is worth


def test_a_leak_shows_where_images_come_twice_and_not_where_all_are_strangers(images):
    class Noise(torch.nn.Module):
        """An embedding that knows the image and nothing of its class."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.mix = torch.nn.Linear(32 * 32, 64)

        def forward(self, x):
            return torch.frac(1e4 * self.mix(x.flatten(1)).detach())

    strangers = images.take(images.table.drop_duplicates("patient").index)
    strangers = replace(strangers, table=strangers.table.assign(group=strangers.table["patient"]))
    twice = strangers.take(np.repeat(np.arange(len(strangers)), 2))
    ids = twice.table["image_id"] + np.tile([" once", " twice"], len(strangers))
    twice = replace(twice, table=twice.table.assign(image_id=ids))
    of_strangers, of_pairs = (
        classify.leak(each, Noise()).set_index("split")[["auroc", "low", "high"]] for each in (strangers, twice)
    )
    assert of_strangers.loc["shuffled - together", "low"] <= 0 <= of_strangers.loc["shuffled - together", "high"]
    assert of_pairs.loc["shuffled - together", "low"] > 0.1
    assert of_pairs.loc["kept together", "low"] < 0.5 < of_pairs.loc["kept together", "high"]
    change = of_pairs["auroc"]["shuffled"] - of_pairs["auroc"]["kept together"]
    assert of_pairs["auroc"]["shuffled - together"] == pytest.approx(change)


def test_there_is_no_leak_to_tell_of_without_two_classes(images):
    benign = images.where(label="benign")
    assert classify.leak(benign).empty
    few = np.flatnonzero(images.table["label"] == "malignant")[:1]  # in one val of five
    assert classify.leak(images.take([*np.flatnonzero(images.table["label"] == "benign"), *few])).empty


@pytest.mark.data
@pytest.mark.slow
def test_shuffling_busi_gives_skill_that_nobody_has(data_root):
    found = classify.leak(load("busi", data_root, size=64)).set_index("split")
    assert found.loc["shuffled - together", "low"] > 0


def test_a_vote_weighs_the_exponential_of_its_cosine(monkeypatch):
    """Wu et al. 2018; lengths of vectors say nothing."""
    monkeypatch.setattr(classify, "NEIGHBOURS", (3,))
    angles = np.radians([10.0, 40, 50])
    train = embeddings("train", np.stack([np.cos(angles), np.sin(angles)], 1) * [[1], [5], [9]], np.array([0, 1, 1]))
    val = embeddings("val", np.array([[1, 0.1], [0.1, 1]]), np.array([0, 1]))
    votes = np.exp(np.cos(angles) / 0.07)
    expected = [votes[0] / votes.sum(), votes[1:].sum() / votes.sum(), 0]
    answer = classify.knn(train, val, CLASSES)(embeddings("test", np.array([[2.0, 0]]), np.array([0])))
    np.testing.assert_allclose(answer[0], expected, rtol=1e-4)


def test_classes_weigh_the_same_in_the_linear_probe_however_rare():
    y = np.array([0] * 90 + [1] * 10)
    train, val = (embeddings(split, np.zeros((100, 2)), y) for split in ("train", "val"))
    p = classify.linear(train, val, CLASSES[:2])(embeddings("test", np.zeros((1, 2)), np.array([0])))
    np.testing.assert_allclose(p, 0.5, atol=1e-3)


def finetuned(encoder, parts, monkeypatch, seed=3):
    """The classifier of a fine-tuning that learns nothing, and what it handed to the loop."""
    given = {}

    def choose(tried, start, pixels, labels, loss, score, **how):
        given.update(how, start=start, loss=loss, score=score)
        return start(), {}

    monkeypatch.setattr(supervise, "choose", choose)
    return classify.finetune(encoder, parts["train"], parts["val"], seed=seed), given


@pytest.fixture
def parts(images):
    return {split: images.where(split=split) for split in splits.NAMES}


def test_fine_tuning_takes_care_of_the_encoder_and_views_that_suit_the_modality(parts, tiny_encoder, monkeypatch):
    _, given = finetuned(tiny_encoder, parts, monkeypatch)
    assert given["pretrained"] == "0"
    assert given["views"].policies == labelled(parts["train"].table).policies


def test_fine_tuning_follows_its_seed(parts, tiny_encoder, monkeypatch):
    each = [finetuned(tiny_encoder, parts, monkeypatch, seed)[1] for seed in (3, 4)]
    assert [given["seed"] for given in each] == [3, 4]
    assert not torch.equal(*(given["start"]()[1].weight for given in each))


def test_every_class_weighs_the_same_in_fine_tuning_however_rare(parts, tiny_encoder, monkeypatch):
    _, given = finetuned(tiny_encoder, parts, monkeypatch)
    labels = torch.from_numpy(parts["train"].labels)
    logits = torch.randn(len(labels), 3)
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = torch.stack([each[labels == k].mean() for k in range(3)]).mean()
    torch.testing.assert_close(given["loss"](logits, labels), expected)


def test_fine_tuning_is_judged_by_val_alone(parts, tiny_encoder, monkeypatch):
    classifier, given = finetuned(tiny_encoder, parts, monkeypatch)
    network = given["start"]()
    p = F.softmax(torch.from_numpy(embed.extract(network, parts["val"].pixels)), 1).numpy()
    assert given["score"](network) == classify.auroc(parts["val"].labels, p)
    cheating = parts["test"].table.assign(patient=parts["val"].table["patient"].iloc[0])
    with pytest.raises(ValueError, match="both sides of a split"):
        classifier(replace(parts["test"], table=cheating))


def test_test_is_announced_once_and_before_it_is_answered(images, tiny_encoder, monkeypatch):
    told, kind = [], classify.Classifier
    asked = lambda answer, *more: kind(lambda of: told.append("asked") or answer(of), *more)  # noqa: E731
    monkeypatch.setattr(classify, "Classifier", asked)
    classify.label_efficiency(
        images, tiny_encoder, ["knn", "linear"], [0.5, 1.0], before_test=lambda: told.append("before")
    )
    assert told[0] == "before" and told.count("before") == 1 and told.count("asked") > 4


def test_the_labels_that_are_drawn_follow_the_seed(images, tiny_encoder, monkeypatch):
    found = []

    def knn(train, *_):
        found.append(tuple(train["image_id"]))
        return classify.Classifier(lambda of: np.full((len(of), 3), 1 / 3), {}, splits.known(train))

    monkeypatch.setattr(classify, "knn", knn)
    for seed in (0, 1):
        scores, *_ = classify.label_efficiency(images, tiny_encoder, ["knn"], [0.3], seed=seed)
    assert found[0] != found[1]
    for split, n in scores.groupby("split")["n_patients"].first().items():
        assert n == images.where(split=split).table["patient"].nunique()


def test_the_interval_of_a_leak_is_95_percent_of_draws_of_whole_groups(images, monkeypatch):
    asked, told, auroc, quantile = [], [], classify.metrics.auroc, np.nanquantile

    def spy(labels, p, weights):
        asked.append(weights)
        return auroc(labels, p, weights)

    monkeypatch.setattr(classify.metrics, "auroc", spy)
    monkeypatch.setattr(np, "nanquantile", lambda x, q: told.append(q) or quantile(x, q))
    classify.leak(images, replicates=20)
    of = pd.factorize(splits.grouped(images.table))[0]
    draws = [weights for weights in asked if len(weights) > 1]
    assert draws and all((w[:, of == k] == w[:, of == k][:, :1]).all() for w in draws for k in range(of.max() + 1))
    assert told and all(q == [0.025, 0.975] for q in told)
