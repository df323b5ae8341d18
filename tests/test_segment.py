"""The encoder inside a U-Net: loaded whole, trained on images with a lesion, measured by Dice and IoU."""

import numpy as np
import pytest
import torch

from mednb import encoders, segment
from mednb.datasets import load


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    encoders.save_encoder(encoders.build(seed=1), path, {"encoder": "resnet18"})
    return path


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=80)


def test_the_unet_holds_the_encoder_and_draws_its_decoder_from_the_seed(path):
    a, b, c = (segment.build(path, seed).state_dict() for seed in (0, 0, 1))
    weights = encoders.weights(path)
    assert all(torch.equal(a[f"encoder.{name}"], value) for name, value in weights.items())
    assert all(torch.equal(a[name], b[name]) for name in a)
    decoder = [name for name in a if name.startswith("decoder") and name.endswith("weight") and a[name].dim() == 4]
    assert decoder
    assert all(not torch.equal(a[name], c[name]) for name in decoder)


def test_dice_and_iou_of_known_overlaps():
    truth = np.zeros((3, 8, 8), bool)
    truth[:, :4] = True  # 32 pixels
    answer = np.stack([truth[0], ~truth[0], np.zeros((8, 8), bool)])
    answer[2, 2:6] = True  # 32 pixels, 16 of them right
    found = segment.overlap(answer, truth)
    np.testing.assert_allclose(found["dice"], [1, 0, 0.5])
    np.testing.assert_allclose(found["iou"], [1, 0, 1 / 3])


def test_the_loss_is_nothing_for_a_perfect_answer_and_large_for_its_opposite():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    logits = torch.where(masks, 20.0, -20.0)[:, None]
    assert segment.loss(logits, masks).item() == pytest.approx(0, abs=1e-3)
    assert segment.loss(-logits, masks).item() > 10


def test_only_images_with_a_lesion_take_part(images, path):
    scores, cases, examples = segment.label_efficiency(images, path, fractions=[1.0, 0.3], steps=10)
    test = images.where(split="test")
    with_lesion = test.masks.any(axis=(1, 2))
    assert 0 < with_lesion.sum() < len(test)
    assert set(cases["image_id"]) == set(test.table["image_id"][with_lesion])
    assert len(scores) == 2 * 2 * 2
    means = cases.groupby("label_fraction")["dice"].mean()
    for fraction in (0.3, 1.0):
        row = scores.query("label_fraction == @fraction and split == 'test' and metric == 'dice'")
        assert row["value"].item() == pytest.approx(means[fraction])
    np.testing.assert_allclose(cases.query("label_fraction == 1.0")["area"], test.masks[with_lesion].mean(axis=(1, 2)))
    assert examples["image"].shape == examples["mask"].shape == examples["prediction"].shape
    assert len(examples["image_id"]) == len(examples["image"])
    assert examples["mask"].any(axis=(1, 2)).all()


def test_a_dataset_without_masks_is_refused(images, path):
    import dataclasses

    with pytest.raises(ValueError, match="phantoms has no masks"):
        segment.label_efficiency(dataclasses.replace(images, stored_masks=None), path)
