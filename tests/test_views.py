"""Views depend on seed, epoch, image and view alone, and do to an image what torchvision would."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from scipy import stats

from mednb import views
from mednb.views import MEAN, POLICIES, STD, Policy, key, uniform

STILL = Policy(area=(1, 1), aspect=(1, 1), flip=0, rotation=0, gain=0, gamma=0, depth_gain=0, speckle=0, blur=0)


@pytest.fixture
def pixels():
    ramp = np.linspace(0, 200, 32)
    images = ramp[None, :, None] * 0.5 + ramp[None, None, :] * 0.5 + np.arange(6)[:, None, None] * 5
    return torch.from_numpy(images.astype(np.uint8))


def disturbed(policy, pixels, index=None, **where):
    index = torch.arange(len(pixels)) if index is None else index
    return policy(pixels, key(where.get("seed", 0), where.get("epoch", 0), index, where.get("view", 0)))


def test_a_policy_that_disturbs_nothing_gives_the_plain_image(pixels):
    torch.testing.assert_close(disturbed(STILL, pixels), views.plain(pixels))


def test_views_do_not_depend_on_the_batch_they_are_in(pixels):
    policy = POLICIES["ultrasound"]
    together = disturbed(policy, pixels)
    backwards = torch.arange(5, -1, -1)
    torch.testing.assert_close(disturbed(policy, pixels[backwards], backwards).flip(0), together)
    torch.testing.assert_close(disturbed(policy, pixels[2:3], torch.tensor([2])), together[2:3])


@pytest.mark.parametrize("what", ["seed", "epoch", "view"])
def test_another_seed_epoch_or_view_gives_other_views(pixels, what):
    policy = POLICIES["ultrasound"]
    assert not torch.allclose(disturbed(policy, pixels), disturbed(policy, pixels, **{what: 1}))


def test_random_numbers_are_uniform_and_independent():
    u = uniform(key(3, 1, torch.arange(4000)), 4).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([u, np.roll(u, 1, axis=0)], axis=1).T) - np.eye(8)
    assert np.abs(correlation).max() < 0.07


def test_the_generator_is_splitmix64():
    # The first number for state 0: the reference implementation's first output is 0xE220A8397B1DCDAF.
    first = uniform(torch.zeros(1, dtype=torch.int64), 1)
    assert float(first) == (0xE220A8397B1DCDAF >> 40) / 2**24


def test_a_certain_flip_is_a_mirror_image_and_never_upside_down(pixels):
    flipped = disturbed(dataclasses.replace(STILL, flip=1.0), pixels)
    torch.testing.assert_close(flipped, views.plain(pixels).flip(-1), atol=1e-5, rtol=0)


def test_a_rotation_is_torchvisions_inside_the_image(pixels):
    policy = dataclasses.replace(STILL, rotation=20.0)
    angle = (2 * uniform(key(0, 0, torch.arange(6)), 6)[:, 5] - 1) * 20
    for view, image, degrees in zip(disturbed(policy, pixels), views.plain(pixels), angle, strict=True):
        expected = reference.rotate(image, float(degrees), reference.InterpolationMode.BILINEAR)
        inner = (slice(None), slice(8, 24), slice(8, 24))
        torch.testing.assert_close(view[inner], expected[inner], atol=1e-3, rtol=0)


def test_a_crop_is_torchvisions_resized_crop():
    image = torch.arange(64, dtype=torch.uint8).repeat(64, 1)[None] * 3
    policy = dataclasses.replace(STILL, area=(0.25, 0.25))
    keys = key(0, 0, torch.arange(1))
    corner = (policy.geometry(keys)[0, :, 2] + 1) / 2 * 64 - 16  # x and y of the crop's corner in pixels
    left, top = (float(x) for x in corner)
    expected = reference.resized_crop(views.plain(image), round(top), round(left), 32, 32, [64, 64], antialias=False)
    found = policy(image, keys)
    assert (found - expected).abs().max() < 3 * 1.01 / 255 / STD  # the corner lies between two pixels


def test_a_crop_never_looks_beyond_the_image():
    grid = dataclasses.replace(POLICIES["ultrasound"], rotation=0).grid(key(0, 0, torch.arange(500)), 16)
    assert grid.abs().max() <= 1


def test_the_share_that_a_crop_keeps_is_within_its_bounds():
    policy = Policy(area=(0.2, 0.6), aspect=(1, 1), rotation=0)
    matrix = policy.geometry(key(0, 0, torch.arange(500)))[:, :, :2]
    share = torch.linalg.det(matrix).abs()
    assert 0.2 <= share.min() < 0.25
    assert 0.55 < share.max() <= 0.6


def test_gain_gamma_and_depth_gain_follow_their_formulas():
    grey = torch.full((1, 16, 16), 128, dtype=torch.uint8)
    keys = key(0, 0, torch.arange(1))
    u = 2 * uniform(keys, 12)[0] - 1
    level = 128 / 255
    bright = dataclasses.replace(STILL, gain=0.3)(grey, keys) * STD + MEAN
    assert float(bright.mean()) == pytest.approx(level * (1 + 0.3 * float(u[7])), abs=1e-4)
    curved = dataclasses.replace(STILL, gamma=0.3)(grey, keys) * STD + MEAN
    assert float(curved.mean()) == pytest.approx(level ** math.exp(0.3 * float(u[8])), abs=1e-4)
    deep = (dataclasses.replace(STILL, depth_gain=0.3)(grey, keys) * STD + MEAN)[0, 0]
    assert deep.std(dim=1).max() < 1e-6  # the same along each row
    assert float((deep[-1] / deep[0]).log().mean()) == pytest.approx(0.3 * float(u[6]) * 2 * 15 / 16, abs=1e-3)


def test_blur_is_torchvisions_gaussian():
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = views.blur(image, torch.tensor([1.2, 1.2]))
    expected = reference.gaussian_blur(image, [9, 9], [1.2, 1.2])
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=1e-5, rtol=0)


def test_images_that_are_not_to_be_blurred_stay_sharp():
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = views.blur(image, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(found[0], image[0])
    assert found[1].std() < 0.5 * image[1].std()


def test_speckle_is_rayleigh_with_mean_one():
    noise = views.speckle(key(0, 0, torch.arange(50)), 32)
    assert float(noise.mean()) == pytest.approx(1, abs=0.01)
    grains = torch.sqrt(-2 * torch.log1p(-uniform(key(0, 0, torch.arange(50)), 256))) / math.sqrt(math.pi / 2)
    assert stats.kstest(grains.flatten().numpy(), stats.rayleigh(scale=math.sqrt(2 / math.pi)).cdf).pvalue > 1e-3


def test_masks_follow_their_images():
    masks = torch.zeros(40, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 12:26] = True
    keys = key(0, 0, torch.arange(40))
    policy = dataclasses.replace(STILL, area=(0.3, 1.0), rotation=15.0, flip=0.5)
    moved = policy.masks(masks, keys)
    image = policy(masks.to(torch.uint8) * 255, keys)[:, 0] * STD + MEAN
    assert ((image > 0.5) == moved).float().mean() > 0.99


def test_views_stay_in_the_range_of_images(pixels):
    view = disturbed(POLICIES["ultrasound"], pixels)
    assert view.min() >= (0 - MEAN) / STD - 1e-6
    assert view.max() <= (1 - MEAN) / STD + 1e-6


def test_views_can_be_smaller_than_their_images(pixels):
    assert POLICIES["ultrasound"](pixels, key(0, 0, torch.arange(6)), size=24).shape == (6, 1, 24, 24)


def test_images_with_channels_keep_them(pixels):
    colour = torch.stack([pixels, pixels.flip(-1), pixels], dim=1)
    assert POLICIES["ultrasound"](colour, key(0, 0, torch.arange(6))).shape == (6, 3, 32, 32)


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(ValueError, match="views 'colour' is unknown; choose one of ultrasound"):
        views.policy("colour")
