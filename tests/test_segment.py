"""The encoder inside a U-Net: loaded whole, trained on images with a lesion, measured in the size of the file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import directed_hausdorff

from mednb import encoders, metrics, segment, supervise, unet
from mednb.datasets import load
from mednb.study.notebook import cells
from mednb.views import labelled


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    encoders.save_encoder(encoders.build(seed=1), path, {"encoder": "resnet18"})
    return path


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=80)


def box(rows, columns, shape=(40, 40)):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_the_unet_holds_the_encoder_and_draws_its_decoder_from_the_seed(path):
    a, b, c = (segment.build(path, seed).state_dict() for seed in (0, 0, 1))
    weights = encoders.weights(path)
    assert all(torch.equal(a[f"encoder.{name}"], value) for name, value in weights.items())
    assert all(torch.equal(a[name], b[name]) for name in a)
    decoder = [name for name in a if name.startswith("decoder") and name.endswith("weight") and a[name].dim() == 4]
    assert decoder
    assert all(not torch.equal(a[name], c[name]) for name in decoder)


# -------------------- the loss


def test_the_loss_is_nothing_for_a_perfect_answer_and_large_for_its_opposite():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    logits = torch.where(masks, 20.0, -20.0)[:, None]
    assert segment.loss(logits, masks).item() == pytest.approx(0, abs=1e-3)
    assert segment.loss(-logits, masks).item() > 10


def test_a_small_lesion_that_is_missed_costs_as_much_as_a_large_one():
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    masks[:4, :2, :2] = True
    masks[4:, :16, :16] = True
    order = torch.tensor([0, 5, 1, 4, 7, 2, 6, 3])  # which lesions share a Dice does not depend on the order
    missed = []
    for rows in (slice(4), slice(4, 8)):
        logits = torch.where(masks, 20.0, -20.0)
        logits[rows] = -20.0
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks.float())
        missed.append((segment.loss(logits[order][:, None], masks[order]) - entropy).item())
    assert missed == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_view_without_its_lesion_has_a_loss_that_can_be_learnt_from():
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[1:, 2:5, 2:5] = True
    answer = torch.zeros(4, 1, 8, 8, requires_grad=True)
    segment.loss(answer, masks).backward()
    assert torch.isfinite(answer.grad).all()
    assert (answer.grad[0] > 0).all()  # less lesion, everywhere


# -------------------- what is measured


def test_dice_and_iou_of_known_overlaps():
    truth = np.zeros((3, 8, 8), bool)
    truth[:, :4] = True  # 32 pixels
    answer = np.stack([truth[0], ~truth[0], np.zeros((8, 8), bool)])
    answer[2, 2:6] = True  # 32 pixels, 16 of them right
    found = segment.overlap(answer, truth)
    np.testing.assert_allclose(found["dice"], [1, 0, 0.5])
    np.testing.assert_allclose(found["iou"], [1, 0, 1 / 3])


def test_the_distance_of_outlines_is_the_shift_of_a_square():
    square = box((10, 20), (10, 20))
    assert segment.hausdorff95(square, square) == 0
    for shift in (1, 3, 7):
        assert segment.hausdorff95(box((10, 20), (10 + shift, 20 + shift)), square) == shift
    assert segment.hausdorff95(box((5, 25), (5, 25)), square) == pytest.approx(np.hypot(5, 5), abs=1.2)


def test_95_percent_leave_a_speck_aside_and_the_largest_distance_is_scipys():
    square, speck = box((10, 30), (10, 30)), box((10, 30), (10, 30)) | box((0, 1), (39, 40))
    assert segment.hausdorff95(speck, square) == 0
    points = [np.argwhere(each) for each in (box((3, 9), (20, 29)), box((10, 30), (10, 12)))]
    largest = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert 0.8 * largest < segment.hausdorff95(box((3, 9), (20, 29)), box((10, 30), (10, 12))) <= largest


def test_the_distance_does_not_depend_on_who_is_the_truth():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 40)) < 0.1
    assert segment.hausdorff95(a, b) == segment.hausdorff95(b, a) > 0


def test_empty_answers_and_empty_masks_have_values():
    nothing, square = np.zeros((30, 40), bool), box((10, 20), (10, 20), (30, 40))
    assert segment.hausdorff95(nothing, nothing) == 0
    assert segment.hausdorff95(nothing, square) == segment.hausdorff95(square, nothing) == 50
    assert segment.overlap(nothing[None], nothing[None]).iloc[0].tolist() == [1, 1]
    assert segment.detection(nothing, square) == (0, 0)
    found, false_alarms = segment.detection(square, nothing)
    assert np.isnan(found)
    assert false_alarms == 1


def test_lesions_are_counted_one_by_one():
    three = box((0, 5), (0, 5)) | box((10, 15), (10, 15)) | box((30, 35), (0, 5))
    answer = box((4, 12), (4, 12)) | box((20, 22), (20, 22)) | box((38, 40), (38, 40))
    assert segment.detection(answer, three) == (pytest.approx(2 / 3), 2)  # one region touches two lesions
    corner = box((0, 5), (0, 5)) | box((5, 8), (5, 8))
    assert segment.detection(box((6, 7), (6, 7)), corner) == (1, 0)  # what meets at a corner is one lesion


def test_an_answer_is_brought_to_the_size_of_the_outline(images):
    some = images.take(np.flatnonzero(images.masks.any(axis=(1, 2)))[:4])
    answers = np.where(some.masks, 5.0, -5.0).astype(np.float32)
    full = [np.kron(mask, np.ones((6, 9))) > 0 for mask in some.masks]
    found = segment.measure(answers, some, full)
    assert list(found) == list(metrics.SEGMENTATION)
    assert (found["dice"] > 0.93).all()
    assert (found["hd95"] <= 9).all()
    assert (found["found"] == 1).all()
    assert (found["false_alarms"] == 0).all()
    exact = segment.measure(answers, some, list(some.masks))
    assert (exact["dice"] == 1).all()


def test_where_the_outline_is_not_in_the_size_of_the_file_distances_are_still_in_its_pixels(images):
    some = images.take(np.flatnonzero(images.masks.any(axis=(1, 2)))[:4])
    larger = dataclasses.replace(some, table=some.table.assign(width=320, height=320))  # ten times what is stored
    answers = np.where(np.roll(some.masks, 1, axis=2), 5.0, -5.0).astype(np.float32)
    one, ten = (segment.measure(answers, each, list(some.masks))["hd95"] for each in (some, larger))
    assert one.between(0.9, 1.5).all()
    np.testing.assert_allclose(ten, 10 * one, rtol=0.05)


# -------------------- all together


def test_only_images_with_a_lesion_take_part(images, path):
    how = {"fractions": [1.0, 0.3], "steps": 10, "rates": [1e-3], "lengths": [1.0], "draws": 2}
    scores, cases, chosen, examples = segment.label_efficiency(images, path, **how)
    test = images.where(split="test")
    with_lesion = test.masks.any(axis=(1, 2))
    assert 0 < with_lesion.sum() < len(test)
    assert set(cases["image_id"]) == set(test.table["image_id"][with_lesion])
    assert len(scores) == (1 + 2) * 2 * len(metrics.SEGMENTATION)
    means = cases.groupby(["label_fraction", "draw"])["dice"].mean()
    on_test = scores.query("split == 'test' and metric == 'dice'").set_index(["label_fraction", "draw"])["value"]
    assert on_test.sort_index().to_dict() == pytest.approx(means.to_dict())
    np.testing.assert_allclose(cases.query("label_fraction == 1.0")["area"], test.masks[with_lesion].mean(axis=(1, 2)))
    assert {"source", "lesion_area", *metrics.SEGMENTATION} <= set(cases)
    assert [(each["label_fraction"], each["draw"]) for each in chosen] == [(1.0, 0), (0.3, 0), (0.3, 1)]
    assert examples["image"].shape == examples["mask"].shape == examples["prediction"].shape
    assert len(examples["image_id"]) == len(examples["image"])
    assert examples["mask"].any(axis=(1, 2)).all()


def test_a_unet_that_would_choose_on_test_stops_before_it_begins(images, path, monkeypatch):
    monkeypatch.setattr(supervise, "fit", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=r"must be chosen on val, but .* is of test"):
        segment.fit(path, images.where(split="train"), images.where(split="test"))


def test_a_dataset_without_masks_is_refused(images, path):
    with pytest.raises(ValueError, match="phantoms has no masks"):
        segment.label_efficiency(dataclasses.replace(images, stored_masks=None), path)


def test_the_notebook_says_that_a_dataset_has_no_masks(images, monkeypatch):
    monkeypatch.setattr("mednb.datasets.load", lambda *_: dataclasses.replace(images, stored_masks=None))
    monkeypatch.setattr("mednb.results.origin", lambda *_: {})
    values, first, *_ = cells(Path(__file__).parents[1] / "notebooks/06_segment.ipynb")
    space = {}
    exec(values["source"], space)
    with pytest.raises(ValueError, match="phantoms has no masks: choose a dataset that has"):
        exec(first["source"], space)


def test_a_unet_is_handed_what_it_promises(images, monkeypatch):
    given, built = {}, []

    def choose(tried, start, pixels, masks, loss, score, **how):
        given.update(how, score=score)
        return start(), {}

    monkeypatch.setattr(supervise, "choose", choose)
    monkeypatch.setattr(segment, "build", lambda *how: built.append(how))
    train, val = (segment.lesions(images.where(split=split)) for split in ("train", "val"))
    segment.fit("path", train, val, seed=3, initialise="encoder-decoder")
    assert built == [("path", 3, "encoder-decoder")] and given["seed"] == 3
    assert given["views"].policies == labelled(train.table).policies
    answer = np.random.default_rng(0).normal(size=(len(val), 32, 32)).astype(np.float32)
    monkeypatch.setattr(segment, "logits", lambda network, pixels: answer[: len(pixels)])
    assert given["score"](None) == segment.overlap(answer > 0, val.masks)["dice"].mean()


def test_a_network_that_looks_at_vectors_sees_the_mean_of_the_decoders_map():
    encoder = encoders.build("resnet18", seed=0)
    both = unet.DecoderAsEncoder(encoder, unet.decoder(encoder)).eval()
    x = torch.randn(2, 1, 32, 32)
    expected = both.decoder([x, *encoders.features(encoder, x)]).mean((2, 3))
    torch.testing.assert_close(both(x), expected)


def test_the_masks_that_are_drawn_follow_the_seed(images, path, monkeypatch):
    drawn = []

    def fit(path, train, *_, **__):
        drawn.append(tuple(train.table["image_id"]))
        raise InterruptedError

    monkeypatch.setattr(segment, "fit", fit)
    for seed in (0, 1):
        with pytest.raises(InterruptedError):
            segment.label_efficiency(images, path, [0.3], seed=seed)
    assert drawn[0] != drawn[1]
