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


def test_correlations_are_those_of_numpy_in_any_tiles(scenes, monkeypatch):
    images = thumbnails(scenes)
    expected = np.corrcoef(duplicates.normalised(images))
    alike = duplicates.pairs(images, threshold=-1)
    assert len(alike) == 12 * 11 / 2 and (alike["first"] < alike["second"]).all()
    assert np.allclose(expected[alike["first"], alike["second"]], alike["correlation"], atol=1e-4)
    monkeypatch.setattr(duplicates, "TILE", 5)
    pd.testing.assert_frame_equal(duplicates.pairs(images, threshold=-1), alike)


def brute_force(thumbnails, threshold):
    """The same pairs by comparing all with all."""
    correlations = np.corrcoef(duplicates.normalised(thumbnails))
    return set(zip(*np.nonzero(np.triu(correlations > threshold, k=1)), strict=True))


@pytest.fixture(scope="module")
def film():
    """600 frames that drift over a long picture: alike to neighbours, unlike from afar, at every correlation."""
    rng = np.random.default_rng(5)
    long = scene(rng, 480)
    steps = rng.integers(0, 240, (600, 2))
    frames = np.stack([duplicates.thumbnail(long[y : y + 240, x : x + 240]) for y, x in steps])
    return np.clip(frames + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_hash_misses_no_pair_that_comparing_all_finds(film, threshold):
    alike = duplicates.pairs(film, threshold)
    found = set(zip(alike["first"], alike["second"], strict=True))
    expected = brute_force(film, threshold)
    assert len(expected) > 100
    near = {
        pair
        for pair in expected ^ found
        if abs(np.corrcoef(duplicates.normalised(film[list(pair)]))[0, 1] - threshold) < 1e-3
    }
    assert expected ^ found == near  # but for half precision at the threshold itself


def test_many_pairs_and_few_pairs_are_counted_the_same(film, monkeypatch):
    whole = duplicates.pairs(film, 0.5)
    monkeypatch.setattr(duplicates, "TILE", 64)  # some tiles now hold hardly a pair
    pd.testing.assert_frame_equal(duplicates.pairs(film, 0.5), whole, atol=1e-3)
    assert (duplicates.groups(film, 0.5) == duplicates.linked(600, whole["first"], whole["second"])).all()


def test_pairs_within_are_those_of_the_whole_that_have_the_same_value(film):
    of, ends = np.arange(600) % 3, ["first", "second"]
    whole, within = (duplicates.pairs(film, 0.6, among)[ends] for among in (None, of))
    same = whole[of[whole["first"]] == of[whole["second"]]]
    assert set(within.itertuples(index=False, name=None)) == set(same.itertuples(index=False, name=None))
    assert 0 < len(within) < len(whole)


def test_pairs_between_two_sets_are_those_across_them_in_both_joined(film):
    a, b = film[:200], film[200:450]
    across = duplicates.between(a, b, 0.6)
    both = duplicates.pairs(film[:450], 0.6)
    both = both[(both["first"] < 200) & (both["second"] >= 200)]
    assert set(zip(across["first"], across["second"] + 200, strict=True)) == set(
        zip(both["first"], both["second"], strict=True)
    )
    assert across["correlation"].is_monotonic_decreasing


def test_what_is_curated_away_has_a_stand_in_and_what_is_kept_differs(film):
    keep = duplicates.curated(film, threshold=0.8)
    correlations = np.corrcoef(duplicates.normalised(film))
    kept = correlations[np.ix_(keep, keep)] - np.eye(keep.sum())
    assert kept.max() < 0.801
    assert correlations[np.ix_(~keep, keep)].max(1).min() > 0.799
    assert keep[0] and 0 < keep.sum() < 600


def test_curation_keeps_the_ends_of_a_chain():
    rng = np.random.default_rng(2)
    long = scene(rng, 400)
    frames = thumbnails([long[:200, start : start + 200] for start in range(0, 60, 6)])
    assert len(set(duplicates.groups(frames))) == 1
    assert duplicates.curated(frames, threshold=0.5).sum() > 1


def test_what_is_prepared_once_says_the_same(film):
    looks, within = duplicates.prepared(film), duplicates.groups(film, 0.6)
    pd.testing.assert_frame_equal(duplicates.pairs(looks, 0.6), duplicates.pairs(film, 0.6))
    assert (duplicates.groups(looks, 0.6) == within).all()
    assert (duplicates.curated(looks, within) == duplicates.curated(film, within)).all()


def test_sixteen_bits_and_colour_make_the_same_thumbnail(scenes):
    grey = duplicates.thumbnail(scenes[0])
    assert (duplicates.thumbnail(scenes[0].astype(np.uint16) * 257) == grey).all()
    assert (duplicates.thumbnail(np.stack([scenes[0]] * 3)) == grey).all()


def test_no_images_have_no_pairs_and_no_groups():
    nothing = np.zeros((0, 48, 48), np.uint8)
    assert len(duplicates.groups(nothing)) == 0
    assert len(duplicates.pairs(nothing)) == 0 and len(duplicates.between(nothing, nothing)) == 0
    assert len(duplicates.curated(nothing)) == 0


@pytest.mark.data
@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("folder", ["BUSI", "mini-MIAS", "HC18", "covid19_ultrasound", "IQ-OTHNCCD", "BUS-BRA"])
def test_the_hash_misses_no_pair_of_real_images(data_root, folder, threshold):
    from PIL import Image

    if not (data_root / folder).is_dir():
        pytest.skip(f"{data_root} holds no {folder}")
    files = sorted(
        file for file in (data_root / folder).rglob("*.*") if file.suffix.lower() in (".png", ".jpg", ".jpeg")
    )
    files = [file for file in files if "mask" not in file.name.lower() and "Annotation" not in file.name]
    images = thumbnails([np.asarray(Image.open(file).convert("L")) for file in files])
    alike = duplicates.pairs(images, threshold - 1e-3)
    expected = brute_force(images, threshold)
    assert expected <= set(zip(alike["first"], alike["second"], strict=True))


def test_pictures_without_any_texture_are_no_duplicates_of_each_other():
    blank = np.stack([np.zeros((48, 48), np.uint8), np.full((48, 48), 200, np.uint8)])
    assert (duplicates.groups(blank) == [0, 1]).all()
