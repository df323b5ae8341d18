import numpy as np
import pandas as pd
import pytest

from mednb.datasets import duplicates


def scene(rng, side=200):
    """A smooth random picture, (side, side) uint8: near pixels are alike, as in tissue."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.normal(size=(side, side)), side / 40)
    return (128 + 40 * field / field.std()).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [scene(rng) for _ in range(12)]


def thumbnails(images):
    return np.stack([duplicates.thumbnail(image) for image in images])


def test_different_pictures_are_groups_of_one(scenes):
    assert (duplicates.groups(thumbnails(scenes)) == np.arange(12)).all()


def test_gain_contrast_speckle_and_callipers_do_not_hide_a_duplicate(scenes):
    rng = np.random.default_rng(1)
    first = scenes[0].astype(float)
    others = [0.5 * first, 255 * (first / 255) ** 1.5, first * rng.rayleigh(0.8, first.shape), first.copy()]
    others[3][40:160, 98:102] = 255
    group = duplicates.groups(thumbnails([*scenes, *(other.clip(0, 255).astype(np.uint8) for other in others)]))
    assert (group[12:] == 0).all()


def test_a_small_shift_is_still_a_duplicate(scenes):
    moved = np.roll(scenes[3], 4, axis=1)
    assert duplicates.groups(thumbnails([*scenes, moved]))[-1] == 3


def test_what_hangs_together_is_one_group():
    rng = np.random.default_rng(2)
    long = scene(rng, 400)
    frames = [long[:200, start : start + 200] for start in range(0, 60, 6)]  # each like the next, first unlike last
    alike = duplicates.pairs(thumbnails(frames))
    assert not ((alike["first"] == 0) & (alike["second"] == 9)).any()
    assert (duplicates.groups(thumbnails(frames)) == 0).all()


def test_correlations_are_those_of_numpy_in_any_chunks(scenes):
    images = thumbnails(scenes)
    expected = np.corrcoef(duplicates.normalised(images))
    alike = duplicates.pairs(images, threshold=-1)
    assert len(alike) == 12 * 11 / 2
    assert np.allclose(expected[alike["first"], alike["second"]], alike["correlation"], atol=1e-5)
    pd.testing.assert_frame_equal(duplicates.pairs(images, threshold=0, chunk=5), duplicates.pairs(images, threshold=0))


def test_pictures_without_any_texture_are_no_duplicates_of_each_other():
    blank = np.stack([np.zeros((48, 48), np.uint8), np.full((48, 48), 200, np.uint8)])
    assert (duplicates.groups(blank) == [0, 1]).all()
