"""Intervals and comparisons say what is so, no more and no less: held against closed forms and simulated studies."""

import fake_runs
import numpy as np
import pandas as pd
import pytest
from fake_runs import cases, only

from mednb import results, statistics


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fake_runs.write_study(tmp_path_factory.mktemp("runs") / "planted", seeds=(0, 1, 2))


# -------------------- intervals


def test_one_seed_is_the_bootstrap_of_scipy():
    from scipy import stats

    dice = np.random.default_rng(0).beta(5, 2, 80)
    mine = only(statistics.intervals(statistics.bootstrap(None, cases(dice), replicates=8000)))
    theirs = stats.bootstrap((dice,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1))
    error = 4 * dice.std() / np.sqrt(80) / np.sqrt(8000) * 3  # an end lies in a thin tail: three times a mean's error
    assert mine["mean"] == pytest.approx(dice.mean())
    assert mine["low"] == pytest.approx(theirs.confidence_interval.low, abs=error)
    assert mine["high"] == pytest.approx(theirs.confidence_interval.high, abs=error)


def test_the_same_draws_give_the_same_interval(study):
    found = [statistics.intervals(statistics.bootstrap(results.gather(study, "predictions.parquet"))) for _ in range(2)]
    pd.testing.assert_frame_equal(*found)


def test_the_mean_is_the_number_in_the_rows(study):
    scores = statistics.intervals(statistics.bootstrap(results.gather(study, "predictions.parquet")))
    rows = results.collect(study)
    rows = rows[(rows["split"] == "test") & (rows["task"] == "linear")]
    means = rows.groupby(["method", "metric", "label_fraction"])["value"].mean()
    for row in scores[scores["task"] == "linear"].itertuples():
        assert row.mean == pytest.approx(means[row.initialisation, row.metric, row.label_fraction])
        assert row.low <= row.mean <= row.high
        assert (row.n_seeds, row.n_patients) == (3, 12)


def test_more_seeds_are_not_more_patients():
    dice = np.random.default_rng(0).beta(5, 2, 40)
    once = only(statistics.intervals(statistics.bootstrap(None, cases(dice))))
    thrice = only(statistics.intervals(statistics.bootstrap(None, cases([dice] * 3, seeds=(0, 1, 2)))))
    wider = (thrice["high"] - thrice["low"]) / (once["high"] - once["low"])
    assert 1 <= wider < 1.06  # Student's t and n - 1 patients: percentiles of a single seed know neither


def test_images_of_one_patient_are_drawn_together():
    dice = np.random.default_rng(0).beta(5, 2, 40)
    single = cases(dice)
    double = pd.concat([single, single.assign(image_id=single["image_id"] + 100)])
    a, b = (only(statistics.intervals(statistics.bootstrap(None, frame))) for frame in (single, double))
    assert (a["low"], a["high"]) == pytest.approx((b["low"], b["high"]))


def test_folds_add_their_patients():
    dice = np.random.default_rng(0).beta(5, 2, (2, 30))
    both = pd.concat([cases(dice[0]), cases(dice[1], fold=1, run="other")])
    row = only(statistics.intervals(statistics.bootstrap(None, both)))
    assert row["n_patients"] == 60
    assert row["n_seeds"] == 1
    assert row["mean"] == pytest.approx(dice.mean())


def test_two_runs_that_answer_the_same_question_are_refused():
    twice = pd.concat([cases([0.5, 0.6], run="a"), cases([0.5, 0.7], run="b")])
    with pytest.raises(ValueError, match="tested twice for the same question in a and b"):
        statistics.bootstrap(None, twice)


def test_an_interval_stays_within_what_a_score_can_be():
    wild = np.random.default_rng(0).normal([[0.9], [0.5]], 0.1, (2, 20)).clip(0, 1)
    row = only(statistics.intervals(statistics.bootstrap(None, cases(wild, seeds=(0, 1)))))
    assert 0 <= row["low"] < row["high"] <= 1


def test_nothing_measured_gives_no_intervals():
    drawn = statistics.bootstrap(pd.DataFrame(), None)
    assert statistics.intervals(drawn).empty
    assert statistics.differences(drawn).empty


def simulated(rng, effect, seeds=3, patients=40):
    """Cases of two initialisations with chance at every level: seeds, patients, and both together."""
    of_patient = rng.normal(0, 0.1, patients)
    for name, mean in {"none": 0.5, "simclr": 0.5 + effect}.items():
        of_seed, own = rng.normal(0, 0.03, (seeds, 1)), rng.normal(0, 0.04, patients)
        values = mean + of_seed + of_patient + own + rng.normal(0, 0.05, (seeds, patients))
        yield cases(values, seeds=range(seeds), initialisation=name, run=name)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.08])
def test_intervals_cover_the_truth_at_their_rate(effect):
    rng, hits, times = np.random.default_rng(7), np.zeros(2), 500
    for _ in range(times):
        found = statistics.bootstrap(None, pd.concat(simulated(rng, effect)), replicates=300)
        score = only(statistics.intervals(found), initialisation="none")
        change = only(statistics.differences(found))
        hits += [score["low"] <= 0.5 <= score["high"], change["low"] <= effect <= change["high"]]
    assert (hits / times > 0.95 - 3 * np.sqrt(0.95 * 0.05 / times)).all(), hits / times


# -------------------- differences


def test_a_difference_is_taken_on_the_same_patients():
    dice = np.random.default_rng(0).uniform(0.2, 0.7, (2, 30))
    better = cases(dice + 0.1, (0, 1), initialisation="simclr", run="simclr", images_seen=9)
    both = pd.concat([cases(dice, (0, 1)), better])
    found = statistics.bootstrap(None, both)
    row = only(statistics.differences(found))
    for end in ("difference", "low", "high", "seeds_low", "seeds_high"):
        assert row[end] == pytest.approx(0.1)
    score = only(statistics.intervals(found), initialisation="simclr")
    assert score["high"] - score["low"] > 0.05


def test_only_seeds_that_both_have_are_compared():
    dice = np.random.default_rng(0).uniform(0.2, 0.7, (3, 30))
    both = pd.concat([cases(dice[:2], (0, 1)), cases(dice[1:], (1, 2), initialisation="byol", run="byol")])
    row = only(statistics.differences(statistics.bootstrap(None, both)))
    assert row["n_seeds"] == 1
    assert row["difference"] == pytest.approx(0)
    apart = pd.concat([cases(dice[:1], (0,)), cases(dice[1:2], (1,), initialisation="byol", run="byol")])
    assert statistics.differences(statistics.bootstrap(None, apart)).empty


def test_planted_effects_are_found_and_absent_ones_are_not(tmp_path):
    effects = {"none": 0.0, "simclr": 2.0, "byol": 0.0}
    study = fake_runs.write_study(tmp_path / "s", seeds=range(5), effects=effects, of=fake_runs.images(200))
    found = statistics.differences(statistics.bootstrap(results.gather(study, "predictions.parquet"), replicates=300))
    main = found[found["metric"] == "auroc"]
    assert (main.loc[main["initialisation"] == "simclr", "low"] > 0).all()
    absent = main[main["initialisation"] == "byol"]
    assert ((absent["low"] <= 0) & (absent["high"] >= 0)).mean() > 0.7
