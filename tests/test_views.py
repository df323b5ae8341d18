"""Views depend on seed, epoch, image and view alone, and do to an image what torchvision would."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as reference
from scipy import ndimage, stats

from mednb import views
from mednb.methods.base import Crops
from mednb.views import MEAN, POLICIES, STD, Policy, key, operations, uniform
from mednb.views.keys import DRAWN, draw

CPU = torch.device("cpu")


@pytest.fixture
def pixels():
    ramp = np.linspace(0, 200, 32)
    images = ramp[None, :, None] * 0.5 + ramp[None, None, :] * 0.5 + np.arange(6)[:, None, None] * 5
    return torch.from_numpy(images.astype(np.uint8))


def drawn(keys, *names):
    """The numbers that were drawn for these views, each (N,)."""
    u = draw(keys)
    return [u[name].flatten() for name in names]


def noisy(n=4, size=32, channels=1):
    return torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def keys_of(n, **where):
    return key(where.get("seed", 0), where.get("epoch", 0), torch.arange(n), where.get("view", 0))


def disturbed(policy, pixels, index=None, **where):
    index = torch.arange(len(pixels)) if index is None else index
    return policy(pixels, key(where.get("seed", 0), where.get("epoch", 0), index, where.get("view", 0)))


def seen(policy, pixels, keys):
    """A view with grey values between 0 and 1."""
    return policy(pixels, keys) * STD + MEAN


# -------------------- random numbers


@pytest.mark.parametrize("name", POLICIES)
def test_views_do_not_depend_on_the_batch_they_are_in(name):
    pixels, policy = noisy(channels=3 if name == "photo" else 1), POLICIES[name]
    together = disturbed(policy, pixels)
    backwards = torch.arange(3, -1, -1)
    same = {"atol": 1e-5, "rtol": 0}  # convolutions of more images add up in another order
    torch.testing.assert_close(disturbed(policy, pixels[backwards], backwards).flip(0), together, **same)
    for i in range(4):
        alone = disturbed(policy, pixels[i : i + 1], torch.tensor([i]))
        torch.testing.assert_close(alone, together[i : i + 1], **same)


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


def test_each_thing_that_is_drawn_has_a_number_of_its_own():
    assert len(set(DRAWN)) == len(DRAWN)
    assert torch.unique(torch.stack(drawn(keys_of(1), *DRAWN))).numel() == len(DRAWN)


# -------------------- pixels


def test_a_policy_that_disturbs_nothing_gives_the_plain_image(pixels):
    torch.testing.assert_close(disturbed(Policy(), pixels), views.plain(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", POLICIES)
def test_sixteen_bits_give_what_eight_give(name):
    eight = noisy()
    sixteen = (eight.to(torch.int32) * 257).to(torch.uint16)  # 255 * 257 = 65,535: the same grey values
    torch.testing.assert_close(disturbed(POLICIES[name], sixteen), disturbed(POLICIES[name], eight), atol=2e-5, rtol=0)
    torch.testing.assert_close(views.plain(sixteen), views.plain(eight))


def test_sixteen_bits_tell_apart_what_eight_do_not():
    faint = torch.tensor([1000, 1100], dtype=torch.int32).to(torch.uint16).view(2, 1, 1).expand(2, 8, 8).clone()
    low, high = seen(Policy(), faint, keys_of(2)).mean((1, 2, 3))
    assert float(high - low) == pytest.approx(100 / 65535, rel=1e-3)


def test_pixels_that_are_neither_8_nor_16_bits_are_refused():
    with pytest.raises(ValueError, match=r"pixels are torch\.float32; views are made of torch\.uint8 or torch\.uint16"):
        Policy()(torch.rand(2, 8, 8), keys_of(2))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("grey", [0, 77, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_even_images_give_finite_views_between_black_and_white(name, grey, channels):
    view = disturbed(POLICIES[name], torch.full((5, channels, 16, 16), grey, dtype=torch.uint8))
    assert view.shape == (5, channels, 16, 16)
    assert view.isfinite().all()
    assert view.min() >= (0 - MEAN) / STD
    assert view.max() <= (1 - MEAN) / STD


@pytest.mark.parametrize("name", POLICIES)
def test_one_channel_stays_one_channel(name, pixels):
    assert disturbed(POLICIES[name], pixels).shape == (6, 1, 32, 32)
    assert torch.equal(disturbed(POLICIES[name], pixels[:, None]), disturbed(POLICIES[name], pixels))


@pytest.mark.parametrize("name", POLICIES)
def test_the_images_themselves_are_left_alone(name):
    pixels = noisy(channels=3)
    before = pixels.clone()
    disturbed(POLICIES[name], pixels)
    assert torch.equal(pixels, before)


# -------------------- geometry


def test_the_grid_is_the_affine_grid_of_the_geometry():
    policy, keys = POLICIES["photo"], keys_of(5)
    expected = F.affine_grid(policy.geometry(keys), [5, 1, 24, 24], align_corners=False)
    torch.testing.assert_close(policy.grid(keys, 24), expected, atol=1e-6, rtol=0)


def test_a_certain_flip_is_torchvisions(pixels):
    plain = views.plain(pixels)
    mirrored, upside_down = (disturbed(Policy(**{way: 1.0}), pixels) for way in ("flip", "upside_down"))
    torch.testing.assert_close(mirrored, reference.horizontal_flip(plain), atol=1e-4, rtol=0)
    torch.testing.assert_close(upside_down, reference.vertical_flip(plain), atol=1e-4, rtol=0)


def test_a_rotation_is_torchvisions_inside_the_image(pixels):
    policy = Policy(rotation=20.0)
    angle = (2 * drawn(keys_of(6), "rotation")[0] - 1) * 20
    for view, image, degrees in zip(disturbed(policy, pixels), views.plain(pixels), angle, strict=True):
        expected = reference.rotate(image, float(degrees), reference.InterpolationMode.BILINEAR)
        inner = (slice(None), slice(8, 24), slice(8, 24))
        torch.testing.assert_close(view[inner], expected[inner], atol=1e-3, rtol=0)


def cut(policy, keys, size):
    """Left, top, width and height in pixels of the crop of the first view, when nothing is turned."""
    (width, _, x), (_, height, y) = policy.geometry(keys)[0].tolist()
    return (x + 1 - width) * size / 2, (y + 1 - height) * size / 2, width * size, height * size


def test_a_crop_is_torchvisions_resized_crop():
    image = torch.arange(64, dtype=torch.uint8).repeat(64, 1)[None] * 3
    policy = Policy(area=(0.25, 0.25))
    left, top, width, height = cut(policy, keys_of(1), 64)
    assert (width, height) == pytest.approx((32, 32))
    expected = reference.resized_crop(views.plain(image), round(top), round(left), 32, 32, [64, 64], antialias=True)
    found = policy(image, keys_of(1))
    assert (found - expected).abs().max() < 3 * 1.01 / 255 / STD  # the corner lies between two pixels


def test_a_crop_of_whole_pixels_is_torchvisions_resized_crop_of_any_image():
    image, geometry = noisy(1, 32)[:, :1].float(), torch.tensor([[[0.5, 0, 0.25], [0, 0.75, -0.125]]])
    expected = reference.resized_crop(image, 2, 12, 24, 16, [40, 40], antialias=True)  # top, left, height, width
    inner = (..., slice(2, -2), slice(2, -2))  # at its border our crop looks on, into the image
    torch.testing.assert_close(operations.resample(image, geometry, 40)[inner], expected[inner], atol=0.01, rtol=0)


@pytest.mark.parametrize("scale", [1.5, 2, 3])
def test_an_image_that_is_shrunk_is_not_aliased(scale):
    speckle = (operations.field("speckle", 1024, CPU)[:96, :96] * 85).clamp(0, 255).to(torch.uint8)[None]
    size = round(96 / scale)
    expected = reference.resize(views.plain(speckle), [size, size], antialias=True)
    at_one_point = operations.resample(speckle[:, None] / 255, Policy().geometry(keys_of(1)), size, points=1)
    found = Policy()(speckle, keys_of(1), size), operations.normalised(at_one_point)
    error, aliased = (float((view - expected).pow(2).mean().sqrt() / expected.std()) for view in found)
    assert error < 0.4  # torchvision averages under a triangle, we in a box
    assert error < aliased / 1.8


def test_one_point_is_enough_where_a_crop_is_enlarged():
    assert POLICIES["ultrasound"].points(1.0) == 1
    assert POLICIES["ultrasound"].of_crops(Crops(4, 0.5, (0.05, 0.3))).points(2.0) == 1
    assert POLICIES["ultrasound"].points(2.0) == 3
    assert Policy().points(1.5) == 2


def test_a_crop_never_looks_beyond_the_image():
    grid = dataclasses.replace(POLICIES["photo"], rotation=0).grid(keys_of(500), 16)
    assert grid.abs().max() <= 1


def test_the_share_that_a_crop_keeps_is_within_its_bounds():
    policy = Policy(area=(0.2, 0.6))
    share = torch.linalg.det(policy.geometry(keys_of(500))[:, :, :2]).abs()
    assert 0.2 <= share.min() < 0.25
    assert 0.55 < share.max() <= 0.6


def test_masks_follow_their_images():
    masks = torch.zeros(40, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 12:26] = True
    policy = Policy(area=(0.3, 1.0), rotation=15.0, flip=0.5, upside_down=0.5)
    moved = policy.masks(masks, keys_of(40))
    image = seen(policy, masks.to(torch.uint8) * 255, keys_of(40))[:, 0]
    assert ((image > 0.5) == moved).float().mean() > 0.99


def test_views_can_be_smaller_than_their_images(pixels):
    assert POLICIES["ultrasound"](pixels, keys_of(6), size=24).shape == (6, 1, 24, 24)


def test_a_view_overlaps_itself_wholly_and_its_mirror_image_too():
    a = dataclasses.replace(POLICIES["ultrasound"], flip=0.0).geometry(keys_of(20))
    mirrored = a * torch.tensor([-1.0, 1, 1])
    for b in (a, mirrored):
        torch.testing.assert_close(views.overlap(a, b), torch.ones(20), atol=1e-4, rtol=0)


def test_overlap_is_the_shared_area_over_the_area_of_both():
    whole = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    left, right, top = (
        torch.tensor([[[w, 0, x], [0, h, y]]])
        for w, h, x, y in ((0.5, 1, -0.5, 0), (0.5, 1, 0.5, 0), (1, 0.5, 0, -0.5))
    )
    for a, b, share in ((whole, left, 1 / 2), (left, whole, 1 / 2), (left, right, 0), (left, top, 1 / 3)):
        assert float(views.overlap(a, b)) == pytest.approx(share, abs=1e-6)


def test_overlap_does_not_ask_which_view_is_first():
    policy = POLICIES["photo"]
    a, b = policy.geometry(keys_of(200)), policy.geometry(keys_of(200, view=1))
    torch.testing.assert_close(views.overlap(a, b, 64), views.overlap(b, a, 64), atol=0.03, rtol=0)


# -------------------- brightness and colour


def test_brightness_and_contrast_are_torchvisions():
    image, keys = noisy(1, 16) // 3 + 80, keys_of(1)  # the middle greys: torchvision clips after each step
    gain, contrast = ((2 * u - 1) * 0.2 + 1 for u in drawn(keys, "gain", "contrast"))
    expected = reference.adjust_brightness(image / 255, float(gain))
    torch.testing.assert_close(seen(Policy(gain=0.2), image, keys), expected, atol=1e-5, rtol=0)
    expected = reference.adjust_contrast(expected, float(contrast))
    torch.testing.assert_close(seen(Policy(gain=0.2, contrast=0.2), image, keys), expected, atol=1e-5, rtol=0)


def test_gamma_is_torchvisions():
    image, keys = noisy(1, 16), keys_of(1)
    exponent = torch.exp((2 * drawn(keys, "gamma")[0] - 1) * 0.5)
    expected = reference.adjust_gamma(image / 255, float(exponent))
    # Black is lifted to 1e-4, so that its logarithm is a number.
    torch.testing.assert_close(seen(Policy(gamma=0.5), image, keys), expected, atol=1e-2, rtol=0)
    bright = image > 0
    torch.testing.assert_close(seen(Policy(gamma=0.5), image, keys)[bright], expected[bright], atol=1e-5, rtol=0)


def test_contrast_and_saturation_of_colours_are_torchvisions():
    image = noisy(2, 16, channels=3) // 3 + 80
    keys = keys_of(2)
    contrast, saturation = ((2 * u - 1) * 0.4 + 1 for u in drawn(keys, "contrast", "saturation"))
    for i in range(2):
        expected = reference.adjust_contrast(image[i] / 255, float(contrast[i]))
        torch.testing.assert_close(seen(Policy(contrast=0.4), image, keys)[i], expected, atol=1e-4, rtol=0)
        expected = reference.adjust_saturation(image[i] / 255, float(saturation[i]))
        torch.testing.assert_close(seen(Policy(saturation=0.4), image, keys)[i], expected, atol=1e-3, rtol=0)


def test_lost_colour_is_torchvisions_grey():
    image = noisy(2, 16, channels=3)
    expected = reference.rgb_to_grayscale(image / 255, num_output_channels=3)
    torch.testing.assert_close(seen(Policy(grey=1.0), image, keys_of(2)), expected, atol=1e-3, rtol=0)


def test_a_turned_hue_keeps_brightness_and_a_whole_turn_changes_nothing():
    x = noisy(2, 16, channels=3) / 255
    one, hue = torch.ones(2, 1, 1, 1), torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)
    turned = operations.recolour(x, one, hue)
    assert (turned - x).abs().mean() > 0.05
    torch.testing.assert_close(operations.luma(turned), operations.luma(x), atol=1e-4, rtol=0)
    torch.testing.assert_close(operations.recolour(x, one, one), x, atol=1e-4, rtol=0)


def test_level_and_depth_gain_follow_their_formulas():
    grey, keys = torch.full((1, 16, 16), 128, dtype=torch.uint8), keys_of(1)
    level, depth = (2 * float(u) - 1 for u in drawn(keys, "level", "depth_gain"))
    shifted = seen(Policy(level=0.2), grey, keys)
    assert float(shifted.mean()) == pytest.approx(128 / 255 + 0.2 * level, abs=1e-5)
    deep = seen(Policy(depth_gain=0.3), grey, keys)[0, 0]
    assert deep.std(dim=1).max() < 1e-6  # the same along each row
    assert float((deep[-1] / deep[0]).log().mean()) == pytest.approx(0.3 * depth * 2 * 15 / 16, abs=1e-5)


def test_depth_is_that_of_the_image_not_of_the_view():
    policy = Policy(area=(0.3, 0.6), rotation=40.0, flip=0.5, depth_gain=0.4)
    grey, keys = torch.full((4, 16, 16), 100, dtype=torch.uint8), keys_of(4)
    strength = (2 * drawn(keys, "depth_gain")[0] - 1) * 0.4
    expected = 100 / 255 * torch.exp(strength[:, None, None] * policy.grid(keys, 16)[..., 1])
    torch.testing.assert_close(seen(policy, grey, keys)[:, 0], expected, atol=1e-5, rtol=0)


def test_jitter_leaves_its_share_of_views_as_bright_as_they_were():
    grey = torch.full((400, 8, 8), 100, dtype=torch.uint8)
    policy = Policy(jitter=0.7, gain=0.3, contrast=0.3, level=0.1, gamma=0.3)
    same = ((seen(policy, grey, keys_of(400)) * 255 - 100).abs() < 1e-2).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(0.3, abs=0.08)


# -------------------- blur, noise, what is hidden


def test_blur_is_torchvisions_gaussian():
    image = noisy(3) / 255
    sigma = torch.tensor([0.4, 1.2, 2.0])
    found = operations.blur(image, sigma, radius=6)
    for i in range(3):
        expected = reference.gaussian_blur(image[i], [13, 13], [float(sigma[i])] * 2)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)


def test_images_that_are_not_to_be_blurred_stay_sharp():
    image = noisy(2, 16) / 255
    found = operations.blur(image, torch.tensor([0.0, 2.0]), radius=6)
    torch.testing.assert_close(found[0], image[0])
    assert found[1].std() < 0.5 * image[1].std()


def test_half_of_the_views_are_blurred():
    image = noisy(1).expand(300, 1, 32, 32)
    sharp = (seen(Policy(blur=0.2), image, keys_of(300)) - image / 255).abs().amax((1, 2, 3)) < 1e-5
    assert float(sharp.float().mean()) == pytest.approx(0.5, abs=0.1)


def test_speckle_is_rayleigh_with_mean_one_and_grains_of_two_pixels():
    field = operations.field("speckle", 1024, CPU)
    assert float(field.mean()) == pytest.approx(1, abs=1e-5)
    apart = field[::16, ::16].flatten().numpy()  # far enough to be independent
    assert stats.kstest(apart, stats.rayleigh(scale=math.sqrt(2 / math.pi)).cdf).pvalue > 1e-3
    power = (field**2 - (field**2).mean()).numpy()
    next_to = [np.mean(power * np.roll(power, d, axis=1)) / np.mean(power**2) for d in (1, 4)]
    assert next_to == pytest.approx([0.5, 0], abs=0.03)  # half as alike one pixel away: two pixels from half to half


def test_white_noise_is_normal_and_each_view_has_its_own():
    keys = keys_of(200)
    noise = operations.window("white", *(draw(keys)[name] for name in ("noise_x", "noise_y")), 32)
    assert stats.kstest(noise[:, 0, ::8, ::8].flatten().numpy(), "norm").pvalue > 1e-3
    likeness = torch.corrcoef(noise.flatten(1)) - torch.eye(200)
    assert likeness.abs().max() < 5.5 / 32  # of independent noise: standard deviation 1 / 32


def test_noise_has_the_strength_that_was_drawn():
    grey, keys = torch.full((3, 64, 64), 64, dtype=torch.uint8), keys_of(3)
    u = drawn(keys, "noise")[0]
    for policy, strength in ((Policy(noise=0.1), 0.1), (Policy(quantum=0.2), 0.2 * math.sqrt(64 / 255))):
        torch.testing.assert_close(seen(policy, grey, keys).std((1, 2, 3)), strength * u, atol=0, rtol=0.05)
    speckle = seen(Policy(speckle=0.2), grey, keys).std((1, 2, 3)) * 255 / 64
    expected = 0.2 * drawn(keys, "speckle")[0] * math.sqrt(4 / math.pi - 1)
    torch.testing.assert_close(speckle, expected, atol=0, rtol=0.1)


def test_erasing_is_torchvisions_of_one_rectangle():
    images = noisy(60)
    found, plain = disturbed(Policy(erase=0.2), images), views.plain(images)
    hidden = 0
    for view, image in zip(found, plain, strict=True):
        changed = (view[0] - image[0]).abs() > 1e-5
        if changed.any():
            rows, columns = (torch.nonzero(changed.any(axis)).flatten() for axis in (1, 0))
            top, left, height, width = (
                *(int(at[0]) for at in (rows, columns)),
                *(int(at[-1] - at[0]) + 1 for at in (rows, columns)),
            )
            grey = torch.full((1, height, width), 0.0)  # MEAN, as an encoder sees it
            expected = reference.erase(image, top, left, height, width, grey)
            torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)
            assert height * width <= 0.2 * 32 * 32 + 32
            hidden += 1
    assert 15 < hidden < 45  # half


# -------------------- policies


def test_ultrasound_and_mammography_never_stand_upside_down():
    for name in ("ultrasound", "mammography"):
        assert (POLICIES[name].geometry(keys_of(500))[:, 1, 1] > 0).all()


@pytest.mark.parametrize("name", ["ct", "x-ray"])
def test_what_shows_the_heart_is_never_mirrored(name):
    assert (torch.linalg.det(POLICIES[name].geometry(keys_of(500))[:, :, :2]) > 0).all()


@pytest.mark.parametrize("name", ["ultrasound", "mammography", "photo"])
def test_where_sides_are_alike_half_of_the_views_are_mirrored(name):
    mirrored = torch.linalg.det(POLICIES[name].geometry(keys_of(500))[:, :, :2]) < 0
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.1)


def test_a_ct_keeps_the_order_and_the_spacing_of_its_grey_values():
    # A window is linear: no gamma, no solarisation, nothing that depends on the place.
    values = torch.arange(80, 176, 3, dtype=torch.uint8).repeat(32, 1)[None].expand(50, 32, 32)
    still = dataclasses.replace(POLICIES["ct"], area=(1, 1), aspect=(1, 1), rotation=0, noise=0, blur=0)
    steps = seen(still, values, keys_of(50)).diff(dim=-1)
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps[..., :1, :1].expand_as(steps), atol=1e-5, rtol=0)


def test_grey_images_get_the_original_recipe_as_far_as_they_can():
    original = POLICIES["simclr_original"]
    without = dataclasses.replace(original, saturation=0.0, hue=0.0, grey=0.0)
    assert torch.equal(disturbed(original, noisy()), disturbed(without, noisy()))
    assert not torch.equal(disturbed(original, noisy(channels=3)), disturbed(without, noisy(channels=3)))


def test_a_small_mass_is_in_both_mammographic_views_more_often_than_by_the_original_recipe():
    masks = torch.zeros(500, 64, 64, dtype=torch.bool)
    masks[:, 40:46, 20:26] = True  # a hundredth of the image
    kept = {}
    for name in ("mammography", "simclr_original"):
        whole = [POLICIES[name].masks(masks, keys_of(500, view=view)).flatten(1).any(1) for view in (0, 1)]
        kept[name] = float((whole[0] & whole[1]).float().mean())
    assert kept["mammography"] > 0.95
    assert kept["simclr_original"] < 0.8


def test_views_for_labels_are_mild_copies_of_their_policy():
    mild = POLICIES["photo"].labelled()
    assert (mild.area, mild.flip, mild.rotation, mild.gain) == ((0.6, 1.0), 0.5, 180.0, 0.15)
    assert (mild.blur, mild.noise, mild.speckle, mild.erase, mild.grey) == (0, 0, 0, 0, 0)


def test_undisturbed_views_are_crops_of_the_pixels_as_they_are(pixels):
    policy, keys = POLICIES["ultrasound"], keys_of(6)
    assert torch.equal(policy.undisturbed().geometry(keys), policy.geometry(keys))
    expected = operations.resample(pixels[:, None] / 255, policy.geometry(keys), 32)
    torch.testing.assert_close(seen(policy.undisturbed(), pixels, keys), expected, atol=1e-5, rtol=0)


def test_crops_bring_their_own_area_and_may_leave_the_pixels_undisturbed():
    policy = POLICIES["ultrasound"]
    small = policy.of_crops(Crops(4, 0.5, (0.05, 0.3)))
    assert small == dataclasses.replace(policy, area=(0.05, 0.3))
    assert policy.of_crops(Crops(2)) == policy
    assert policy.of_crops(Crops(1, 1.0, (0.67, 1.0), plain=True)) == dataclasses.replace(
        policy.undisturbed(), area=(0.67, 1.0)
    )


def test_by_modality_each_image_gets_its_own_policy():
    modalities = ["ultrasound", "ct", "mammography", "ct", "dermatoscopy", "ultrasound"]
    both, images, keys = views.policy("by_modality", pd.DataFrame({"modality": modalities})), noisy(6), keys_of(6)
    rows = torch.tensor([3, 0, 5, 4, 2, 1, 3])
    batch = both.of(rows)
    found, grid = batch(images[rows], keys[rows]), batch.grid(keys[rows], 8)
    masks = batch.masks(images[rows, 0] > 100, keys[rows])
    for i, row in enumerate(rows):
        own = POLICIES[{"dermatoscopy": "photo"}.get(modalities[row], modalities[row])]
        one = slice(row, row + 1)
        assert torch.equal(found[i : i + 1], own(images[one], keys[one]))
        assert torch.equal(grid[i : i + 1], own.grid(keys[one], 8))
        assert torch.equal(masks[i : i + 1], own.masks(images[one, 0] > 100, keys[one]))


def test_by_modality_crops_are_each_policys_own():
    table = pd.DataFrame({"modality": ["ct", "ultrasound"]})
    of_crops = views.policy("by_modality", table).of_crops(Crops(4, 0.5, (0.05, 0.3)))
    small = {name: dataclasses.replace(POLICIES[name], area=(0.05, 0.3)) for name in ("ct", "ultrasound")}
    assert of_crops.policies == small
    assert of_crops(noisy(2), keys_of(2), 16).shape == (2, 1, 16, 16)


def test_one_policy_for_all_is_the_policy_of_any_rows():
    assert POLICIES["ct"].of(torch.tensor([4, 2])) is POLICIES["ct"]


def test_by_modality_says_what_it_misses():
    with pytest.raises(ValueError, match="views 'by_modality' need the images' table"):
        views.policy("by_modality")
    with pytest.raises(
        ValueError, match="modality 'unknown' has no policy; choose views for all images, one of ultrasound"
    ):
        views.policy("by_modality", pd.DataFrame({"modality": ["ct", "unknown"]}))
    with pytest.raises(ValueError, match="b has no modality, by which views are made"):
        views.policy("by_modality", pd.DataFrame({"image_id": ["a", "b"], "modality": ["ct", None]}))
    with pytest.raises(ValueError, match=r"2 keys for 3 images: call of\(rows\) first"):
        views.policy("by_modality", pd.DataFrame({"modality": ["ct"] * 3}))(noisy(2), keys_of(2))


def test_strengths_are_told_of_each_policy_in_use():
    assert views.strengths("ct")["ct"]["contrast"] == POLICIES["ct"].contrast
    both = views.strengths("by_modality", pd.DataFrame({"modality": ["oct", "ct", "oct"]}))
    assert list(both) == ["ct", "oct"]
    assert list(both.loc["flip"]) == [0.0, 0.5]


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(ValueError, match=r"views 'colour' is unknown; choose one of ultrasound, .*, by_modality"):
        views.policy("colour")


def test_examples_are_two_different_views_as_pictures(pixels):
    first, second = views.examples(pixels.numpy(), "ultrasound")
    assert first.shape == second.shape == (6, 32, 32)
    coloured = torch.stack([pixels, pixels // 2, 0 * pixels], 1).numpy()
    assert views.examples(coloured, "photo")[0].shape == (6, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1
    assert not np.allclose(first, second)


def test_a_crop_has_the_shape_and_the_place_that_were_drawn():
    keys = keys_of(200)
    geometry = Policy(area=(0.2, 0.3), aspect=(0.5, 1.5)).geometry(keys)
    (width, height), (x, y) = geometry[:, [0, 1], [0, 1]].T, geometry[:, :, 2].T
    aspect, across, down = drawn(keys, "aspect", "x", "y")
    torch.testing.assert_close(width / height, 0.5 * 3**aspect)
    torch.testing.assert_close(x, (1 - width) * (2 * across - 1))
    torch.testing.assert_close(y, (1 - height) * (2 * down - 1))


def test_views_that_are_not_jittered_keep_their_colours():
    image = noisy(40, 16, channels=3)
    found = seen(Policy(jitter=0.0, gain=0.3, saturation=0.4, hue=0.1), image, keys_of(40))
    torch.testing.assert_close(found, image / 255, atol=1e-4, rtol=0)


def test_a_blur_is_as_wide_as_was_drawn_in_widths_of_the_view():
    image, keys = noisy(20), keys_of(20)
    blurred, strength = drawn(keys, "blurred", "blur")
    plain = Policy()(image, keys, 16)
    expected = operations.blur(plain, 0.1 * 16 * strength * (blurred < 0.5), radius=12)
    torch.testing.assert_close(Policy(blur=0.1)(image, keys, 16), expected, atol=0.03, rtol=0)


def test_speckle_leaves_the_mean_brightness():
    grey = torch.full((20, 64, 64), 64, dtype=torch.uint8)
    mean = seen(Policy(speckle=0.5), grey, keys_of(20)).mean((1, 2, 3))
    torch.testing.assert_close(mean, torch.full((20,), 64 / 255), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", POLICIES)
def test_views_for_labels_are_half_as_bright_and_colourful(name):
    policy, mild = POLICIES[name], POLICIES[name].labelled()
    for each in ("gain", "depth_gain", "contrast", "level", "gamma", "saturation", "hue"):
        assert getattr(mild, each) == getattr(policy, each) / 2


def test_a_hidden_rectangle_has_the_area_and_the_shape_that_were_drawn():
    keys = keys_of(300)
    hidden = operations.rectangle(draw(keys), 0.2, 400)[:, 0]
    height, width = hidden.any(2).sum(1), hidden.any(1).sum(1)
    erase, aspect = drawn(keys, "erase", "erase_aspect")
    there = height > 20
    torch.testing.assert_close((height * width / 400**2)[there], (0.2 * erase)[there], atol=0.005, rtol=0)
    torch.testing.assert_close((width / height)[there], 4 ** aspect[there] / 2, rtol=0.1, atol=0)


def test_hue_and_saturation_change_in_either_order():
    x, one = noisy(2, 16, channels=3) / 255, torch.ones(2, 1, 1, 1)
    at_once = operations.recolour(x, 0.5 * one, 0.1 * one)
    torch.testing.assert_close(operations.recolour(operations.recolour(x, 0.5 * one, 0 * one), one, 0.1 * one), at_once)


def test_examples_follow_their_seed():
    pixels = noisy(2)[:, 0].numpy()
    a, b = (views.examples(pixels, "ultrasound", seed)[0] for seed in (0, 1))
    assert not np.allclose(a, b)


def test_optical_coherence_tomography_is_disturbed_as_ultrasound_is():
    policies = views.policy(
        "by_modality", pd.DataFrame({"modality": ["oct", "fundus"], "image_id": ["a", "b"]})
    ).policies
    assert policies == {"oct": POLICIES["ultrasound"], "fundus": POLICIES["photo"]}


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535)])
@pytest.mark.parametrize(("side", "size"), [(33, 33), (33, 16), (17, 24)])
def test_a_view_of_any_side_is_scipys_of_the_image_mirrored_at_its_border(dtype, white, side, size):
    policy, keys = Policy(area=(0.3, 1.0), aspect=(0.5, 2.0), rotation=45.0, flip=0.5, upside_down=0.5), keys_of(5)
    image = torch.randint(0, white + 1, (5, 3, side, side), generator=torch.Generator().manual_seed(0))
    points = policy.points(side / size)
    places = ((policy.grid(keys, size * points) + 1) * side - 1) / 2  # (5, size * points, size * points, 2) in pixels
    expected = [
        [ndimage.map_coordinates(channel / white, [xy[..., 1], xy[..., 0]], order=1, mode="reflect") for channel in one]
        for one, xy in zip(image.numpy(), places.numpy(), strict=True)
    ]
    expected = F.avg_pool2d(torch.from_numpy(np.array(expected)), points).float()
    found = policy(image.to(dtype), keys, size) * STD + MEAN
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_narrow_crop_of_an_image_that_is_shrunk_is_averaged_along_its_longer_side():
    wide, high = (Policy(area=(0.25, 0.25), aspect=aspect) for aspect in ((1, 4), (1 / 4, 1)))
    assert wide.points(2.0) == high.points(2.0) == 3  # the longer side is all of the image's


def test_a_hidden_rectangle_lies_anywhere():
    hidden = operations.rectangle(draw(keys_of(1000)), 0.2, 32)[:, 0].float().mean(0)
    assert min(each.sum() for each in (hidden[0], hidden[-1], hidden[:, 0], hidden[:, -1])) > 0
    for half in (hidden[:16], hidden[:, :16]):
        assert float(half.sum() / hidden.sum()) == pytest.approx(0.5, abs=0.1)


def test_views_for_labels_are_mild_in_every_modality():
    found = views.labelled(pd.DataFrame({"modality": ["ct", "ultrasound", "something new"]})).policies
    of = {"ct": "ct", "ultrasound": "ultrasound", "something new": "x-ray"}
    assert found == {modality: POLICIES[name].labelled() for modality, name in of.items()}
    assert POLICIES["ultrasound"].labelled() == views.LABELLED


def test_views_for_labels_keep_the_crops_of_a_policy_that_are_larger_still():
    assert Policy(area=(0.8, 1.0)).labelled().area == (0.8, 1.0)
