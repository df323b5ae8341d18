"""Phantoms of ultrasound: drawn from a seed, true to their table, and not too easy."""

import numpy as np
import pandas as pd
import pytest

from mednb import datasets
from mednb.datasets.phantoms import anatomy
from mednb.datasets.phantoms import ultrasound as phantoms


@pytest.fixture(scope="module")
def drawn():
    return phantoms.draw(400, size=64)


def test_the_same_seed_draws_the_same_phantoms(drawn):
    table, pixels, masks = phantoms.draw(400, size=64)
    pd.testing.assert_frame_equal(table, drawn[0])
    assert (pixels == drawn[1]).all() and (masks == drawn[2]).all()
    assert (phantoms.draw(400, size=64, seed=1)[1] != pixels).mean() > 0.9


def test_the_first_phantoms_are_the_same_however_many_follow(drawn):
    table, pixels, masks = phantoms.draw(50, size=64)
    pd.testing.assert_frame_equal(table, drawn[0][:50])
    assert (pixels == drawn[1][:50]).all() and (masks == drawn[2][:50]).all()


def test_another_size_shows_the_same_anatomy(drawn):
    table, pixels, masks = phantoms.draw(60, size=128)
    same = [column for column in table if column not in ("width", "height", "lesion_area", "lesions")]
    pd.testing.assert_frame_equal(table[same], drawn[0][same][:60])
    halved = masks.reshape(60, 64, 2, 64, 2).mean((2, 4)) >= 0.5
    assert (halved == drawn[2][:60]).mean() > 0.99
    coarse = [p.reshape(60, 8, p.shape[1] // 8, 8, -1).mean((2, 4)).ravel() for p in (pixels, drawn[1][:60])]
    assert np.corrcoef(coarse)[0, 1] > 0.98


def test_classes_have_their_shares_and_patients_two_to_four_images(drawn):
    table = drawn[0]
    people = table.groupby("patient")
    assert len(table[["patient", "label"]].drop_duplicates()) == len(people)
    assert set(people.size()[:-1]) == {2, 3, 4}  # the last one may be cut off
    share = people["label"].first().value_counts(normalize=True)
    for label, expected in zip(("normal", "benign", "malignant"), (0.2, 0.45, 0.35), strict=True):
        assert share[label] == pytest.approx(expected, abs=0.05)


def test_masks_hold_the_lesion_and_normal_has_none(drawn):
    table, _, masks = drawn
    normal = (table["label"] == "normal").to_numpy()
    assert not masks[normal].any() and masks[~normal].any((1, 2)).all()
    assert (table["lesion_area"] == masks.mean((1, 2))).all()
    assert table["lesion_area"][~normal].between(0.01, 0.5).all()
    assert table.loc[normal, ["aspect", "margin_mm", "echo_db", "x_mm"]].isna().all(axis=None)
    assert table.loc[~normal, ["aspect", "margin_mm", "echo_db", "x_mm"]].notna().all(axis=None)


def test_a_mask_is_where_the_table_says(drawn):
    table, _, masks = drawn
    for row in np.flatnonzero(table["label"] == "benign")[:40]:
        z, x = np.argwhere(masks[row]).mean(0) + 0.5
        about = table.iloc[row]
        mm = about["field_mm"] / 64
        if abs(about["x_mm"]) + 2 * about["lesion_mm"] < about["field_mm"] / 2:  # all of it is in the picture
            assert x * mm - about["field_mm"] / 2 == pytest.approx(about["x_mm"], abs=1.5)
            assert z * mm == pytest.approx(about["z_mm"], abs=1.5)
            area = np.pi * about["lesion_mm"] ** 2 / about["field_mm"] ** 2
            assert masks[row].mean() == pytest.approx(area, rel=0.35)


def test_lesions_are_darker_than_what_is_around_them(drawn):
    from scipy.ndimage import binary_dilation

    table, pixels, masks = drawn
    darker = []
    for row in np.flatnonzero(table["label"] != "normal"):
        around = binary_dilation(masks[row], iterations=5) & ~binary_dilation(masks[row], iterations=1)
        darker.append(pixels[row][masks[row]].mean() < pixels[row][around].mean())
    assert np.mean(darker) > 0.85


def test_signs_point_to_the_class_but_overlap(drawn):
    from sklearn.metrics import roc_auc_score

    table = drawn[0][drawn[0]["label"] != "normal"]
    malignant = table["label"] == "malignant"
    for sign in ("aspect", "lobulation", "spiculation", "margin_mm", "uneven_db", "halo_db"):
        assert 0.75 < roc_auc_score(malignant, table[sign]) < 0.99, sign
    for sign in ("echo_db", "posterior_db"):
        assert 0.02 < roc_auc_score(malignant, table[sign]) < 0.45, sign
    for nuisance in ("gain_db", "depth_gain_db", "fat_mm", "range_db", "lesion_mm", "field_mm"):
        assert 0.3 < roc_auc_score(malignant, table[nuisance]) < 0.7, nuisance


def test_frames_of_a_patient_are_alike_but_not_the_same(drawn):
    table, pixels, _ = drawn
    flat = pixels.reshape(len(pixels), -1).astype(float)
    correlation = np.corrcoef(flat)
    same = (table["patient"].to_numpy()[:, None] == table["patient"].to_numpy()) & ~np.eye(len(table), dtype=bool)
    assert np.median(correlation[same]) > np.median(correlation[~same]) + 0.15
    assert correlation[same].max() < 0.99


def test_frames_follow_the_probe_and_all_frames_of_a_patient_are_of_one_video(drawn):
    table = drawn[0]
    assert (table["video"] == table["patient"]).all()
    for _, frames in table.groupby("patient"):
        assert frames["frame"].tolist() == list(range(len(frames)))
        assert frames["slide_mm"].is_monotonic_increasing and frames["position"].between(0, 1).all()


def test_speckle_is_multiplicative_and_of_the_known_contrast():
    """Fully developed speckle has a standard deviation of 5.57 dB, however strong the echo is (Wagner 1983)."""
    values = {"beam_mm": 0.6, "pulse_mm": 0.4, "field_mm": 40, "speckle": 1, "range_db": 120, "gamma": 1}
    of = {name: np.full((4, 1, 1), value, np.float32) for name, value in values.items()}
    for echo in (30, 50):  # far above the noise of the electronics
        flat = np.full((4, 128, 128), echo, np.float32)
        pixels = phantoms.scan(flat, np.zeros_like(flat), of, np.random.default_rng(0))
        db = pixels / 255 * 120 - 22
        assert db.std() == pytest.approx(5.57, abs=0.4)
        assert 10 * np.log10((10 ** (db / 10)).mean()) == pytest.approx(echo, abs=0.5)


def test_a_random_field_has_mean_0_variance_1_and_slides_with_the_probe():
    wave = anatomy.waves(np.random.default_rng(0), 200, 3, 2)
    ruler = np.tile(np.arange(64, dtype=np.float32), (200, 1))
    values = anatomy.field(wave, ruler, ruler)
    assert values.shape == (200, 64, 64)
    assert values.mean() == pytest.approx(0, abs=0.05) and values.std() == pytest.approx(1, abs=0.05)
    assert np.allclose(anatomy.field(wave, ruler + 1, ruler)[:, :, :-1], values[:, :, 1:], atol=1e-3)


def test_the_store_holds_as_many_as_the_limit_says():
    images = datasets.load("phantoms", size=32, limit=77)
    assert len(images) == 77
    pd.testing.assert_frame_equal(
        images.table.drop(columns=["split", "fold"])[["image_id", "label", "aspect"]],
        phantoms.draw(77, size=32)[0][["image_id", "label", "aspect"]],
    )
