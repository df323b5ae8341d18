"""The synthetic patients are the same in ultrasound, mammography and CT, and every factor is known."""

import numpy as np
import pandas as pd
import pytest

from mednb import datasets
from mednb.datasets.phantoms import anatomy, ct, mammography, ultrasound

MODALITIES = {"phantoms": ultrasound, "phantoms_mammography": mammography, "phantoms_ct": ct}


@pytest.fixture(scope="module", params=MODALITIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def drawn(name):
    return MODALITIES[name].draw(300, size=64)


@pytest.fixture(scope="module")
def mammograms():
    return mammography.draw(480, size=64)


@pytest.fixture(scope="module")
def chests():
    return ct.draw(480, size=64)


def test_the_same_seed_draws_the_same_phantoms_and_another_seed_others(name, drawn):
    table, pixels, masks = MODALITIES[name].draw(40, size=64)
    pd.testing.assert_frame_equal(table, drawn[0][:40])
    assert (pixels == drawn[1][:40]).all() and (masks == drawn[2][:40]).all()
    assert (MODALITIES[name].draw(40, size=64, seed=1)[1] != pixels).mean() > 0.3  # a third of a mammogram is air


KNOWN = {  # mean grey values of the quarters of the first and of the sixth, pixels in the mask of each of the six
    "phantoms": ([95.71, 109.57, 79.59, 53.96, 57.84, 75.98, 33.34, 59.14], [48, 47, 52, 46, 173, 182]),
    "phantoms_mammography": ([80.01, 9.32, 86.64, 12.41, 83.76, 10.23, 82.27, 28.56], [0, 0, 14, 12, 0, 0]),
    "phantoms_ct": ([52.25, 52.2, 54.61, 54.48, 53.93, 62.63, 60.09, 60.85], [0, 0, 3, 4, 3, 0]),
}


def test_on_any_machine_a_seed_draws_what_it_drew_when_this_was_written(name):
    """But for the last bits of its arithmetic; when more differs, `anatomy.VERSION` must be raised."""
    quarters, lesions = KNOWN[name]
    _, pixels, masks = datasets.named(name).draw(6, size=32)
    found = pixels.reshape(6, 2, 16, 2, 16).mean((2, 4)).reshape(6, 4)[[0, 5]].ravel()
    assert found == pytest.approx(quarters, abs=0.2) and masks.sum((1, 2)) == pytest.approx(lesions, abs=1)


def test_another_size_shows_the_same_anatomy(name, drawn):
    table, pixels, _ = MODALITIES[name].draw(24, size=128)
    same = [column for column in table if column not in ("width", "height", "lesion_area", "lesions")]
    pd.testing.assert_frame_equal(table[same], drawn[0][same][:24])
    coarse = [p.reshape(24, 8, p.shape[1] // 8, 8, -1).mean((2, 4)).ravel() for p in (pixels, drawn[1][:24])]
    assert np.corrcoef(coarse)[0, 1] > 0.98


def test_masks_hold_the_lesion_that_the_label_says(drawn):
    table, _, masks = drawn
    assert (masks.any((1, 2)) == (table["label"] != "normal")).all()
    assert (table["lesion_area"] == masks.mean((1, 2))).all()
    known = table[["suspicion", "birads", "spiculation", "margin_mm"]]
    assert (known.isna().all(axis=1) == (table["label"] == "normal")).all()


def test_a_person_is_in_the_same_part_and_has_the_same_lesion_in_every_modality():
    tables = {name: module.draw(600, size=16)[0] for name, module in MODALITIES.items()}
    facts = ["official_fold", "age", "density"]
    people = {name: table.groupby("patient")[facts].first() for name, table in tables.items()}
    lesions = {name: table.groupby("patient")[["suspicion", "spiculation"]].first() for name, table in tables.items()}
    shared = people["phantoms"].index.intersection(people["phantoms_ct"].index)
    assert len(shared) > 50
    for name in ("phantoms_mammography", "phantoms_ct"):
        both = shared.intersection(people[name].index)[:-1]  # the last one's images may be cut off
        pd.testing.assert_frame_equal(people[name].loc[both], people["phantoms"].loc[both])
        pd.testing.assert_frame_equal(lesions[name].loc[both], lesions["phantoms"].loc[both])


def test_a_person_is_on_one_side_of_a_split_in_every_modality():
    for fold in (0, 3):
        images = datasets.load("phantoms+phantoms_mammography+phantoms_ct", size=16, fold=fold)
        assert images.table.groupby("patient")["split"].nunique().eq(1).all()
        assert images.table.groupby("patient")["modality"].nunique().eq(3).sum() == 250


def test_people_are_cut_into_fifths_that_hold_every_class_alike():
    people = pd.concat([anatomy.people(0, block) for block in range(20)])
    counts = pd.crosstab(people["label"], people["official_fold"])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 0.1 * counts.mean(axis=1)).all()
    assert people["patient"].is_unique


def test_signs_point_to_the_class_but_overlap():
    from sklearn.metrics import roc_auc_score

    people = pd.concat([anatomy.people(0, block) for block in range(20)])
    sick = people[people["label"] != "normal"]
    for found in ("spiculation", "lobulation", "margin_mm", "birads", "age"):
        assert 0.65 < roc_auc_score(sick["label"] == "malignant", sick[found]) < 0.99, found
    assert 0.4 < roc_auc_score(sick["label"] == "malignant", sick["lesion_mm"]) < 0.6


def test_both_breasts_are_seen_in_two_views_and_only_one_is_sick(mammograms):
    table = mammograms[0]
    assert table.groupby("patient").size().eq(4).all()
    assert set(zip(table["side"], table["view"], strict=True)) == {
        (s, v) for s in ("left", "right") for v in ("CC", "MLO")
    }
    by_side = table.groupby(["patient", "side"])["label"].nunique()
    assert by_side.eq(1).all()
    sick = table[table["label"] != "normal"].groupby("patient")["side"].nunique()
    assert sick.eq(1).all()


def test_a_right_breast_lies_on_the_other_side_of_the_picture(mammograms):
    table, pixels, _ = mammograms
    across = pixels.astype(float).mean(1)  # (N, W)
    middle = (across * np.arange(64)).sum(1) / across.sum(1)
    left = (table["side"] == "left").to_numpy()
    assert middle[left].max() < 32 < middle[~left].min()


def test_the_mass_lies_at_the_same_depth_in_both_views_and_where_the_table_says(mammograms):
    table, _, masks = mammograms
    mm = mammography.FIELD_MM / 64
    for row in np.flatnonzero(masks.sum((1, 2)) > 8)[:30]:
        z, x = (np.argwhere(masks[row]).mean(0) + 0.5) * mm
        about = table.iloc[row]
        x = x if about["side"] == "left" else mammography.FIELD_MM - x
        assert x == pytest.approx(about["x_mm"], abs=4) and z == pytest.approx(about["z_mm"], abs=4)
    sick = table[table["label"] != "normal"]
    assert sick.groupby("patient")["x_mm"].agg(np.ptp).max() < 1e-6


def test_masses_are_brighter_than_around_and_dense_breasts_are_brighter(mammograms):
    from scipy.ndimage import binary_dilation

    table, pixels, masks = mammograms
    brighter = []
    for row in np.flatnonzero(masks.sum((1, 2)) > 8):
        around = binary_dilation(masks[row], iterations=4) & ~binary_dilation(masks[row]) & (pixels[row] > 0)
        brighter.append(pixels[row][masks[row]].mean() > pixels[row][around].mean())
    assert np.mean(brighter) > 0.8
    grey = [image[image > 0].mean() for image in pixels]
    assert np.corrcoef(grey, table["density"])[0, 1] > 0.4


def test_the_noise_of_a_mammogram_is_that_of_counted_photons():
    """With N photons in a pixel the logarithm of the signal has a deviation of exp(signal / 2) / sqrt(N)."""
    values = {"blur_mm": 0.01, "photons": 4e3, "gamma": 1.0, "gain": 0.0}
    of = {name: np.full((4, 1, 1), value, np.float32) for name, value in values.items()}
    for attenuation in (0.8, 1.6):
        flat = np.full((4, 64, 64), attenuation, np.float32)
        pixels = mammography.film(flat, np.full_like(flat, 1e-6), of, np.random.default_rng(0))
        area = (mammography.FIELD_MM / 64) ** 2
        expected = np.exp(attenuation / 2) / np.sqrt(4e3 * area)
        assert pixels.std() / 255 * 2.1 == pytest.approx(expected, rel=0.15)


def test_slices_go_down_the_chest_and_three_of_a_sick_person_meet_the_nodule(chests):
    table = chests[0]
    for _, slices in table.groupby("patient"):
        assert slices["position"].is_monotonic_increasing and slices["position"].between(0, 1).all()
        assert (slices["label"] != "normal").sum() in (0, 3, 4)


def test_tissue_has_its_hounsfield_units():
    table, hounsfield, masks = next(ct.volumes(40, size=64))
    middle = table["position"].between(0.3, 0.7).to_numpy()
    assert np.median(hounsfield[:, :4]) == pytest.approx(-1000, abs=15)  # air around the patient
    inside = hounsfield[middle]
    lung = (inside > -950) & (inside < -700)
    soft = (inside > -150) & (inside < 200)
    assert 0.08 < lung.mean() < 0.4 and 0.1 < soft.mean() < 0.6
    assert np.median(hounsfield[masks]) > -100


def test_neighbouring_slices_are_more_alike_than_those_of_other_people(chests):
    table, pixels, _ = chests
    middle = np.flatnonzero(table["position"].between(0.35, 0.65))
    flat = pixels[middle][:, 12:52, 8:56].reshape(len(middle), -1).astype(float)
    correlation = np.corrcoef(flat)
    patient = table["patient"].to_numpy()[middle]
    same = (patient[:, None] == patient) & ~np.eye(len(middle), dtype=bool)
    assert np.median(correlation[same]) > np.median(correlation[patient[:, None] != patient])


def test_the_card_counts_the_default_draw(name):
    images = datasets.load(name, size=16)
    counts = images.table["label"].value_counts()
    assert {label: int(counts[label]) for label in images.classes} == images.card.counts
    assert images.table["patient"].nunique() == images.card.n_patients
    assert images.card.patients.startswith(f"{images.card.n_patients}, ")


def test_raw_pixels_say_little_about_the_class(name):
    """What says nothing about the class dominates the pixels: a linear classifier of them stays near chance."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline

    images = datasets.load(name, size=32, limit=1500)
    train, test = images.where(split="train"), images.where(split="test")
    probe = make_pipeline(
        PCA(100, random_state=0), LogisticRegression(C=1e-6, class_weight="balanced", max_iter=3000)
    ).fit(train.pixels.reshape(len(train), -1), train.labels)
    score = balanced_accuracy_score(test.labels, probe.predict(test.pixels.reshape(len(test), -1)))
    assert score < 0.5
