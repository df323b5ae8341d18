"""Intervals and comparisons say what is so, no more and no less: held against closed forms and simulated studies."""

import gc

import fake_runs
import numpy as np
import pandas as pd
import pytest
from fake_runs import cases, only

from mednb import metrics, results, statistics


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fake_runs.write_study(tmp_path_factory.mktemp("runs") / "planted", seeds=(0, 1, 2))


# -------------------- intervals


def test_one_seed_is_the_bootstrap_of_scipy_as_wide_as_student_has_it():
    from scipy import stats

    dice = np.random.default_rng(0).beta(5, 2, 80)
    mine = only(statistics.intervals(statistics.bootstrap(None, cases(dice), replicates=8000)))
    theirs = stats.bootstrap((dice,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1))
    error = 4 * dice.std() / np.sqrt(80) / np.sqrt(8000) * 3  # an end lies in a thin tail: three times a mean's error
    wider = stats.t.ppf(0.975, 79) / stats.norm.ppf(0.975) * np.sqrt(80 / 79)
    assert mine["mean"] == pytest.approx(dice.mean())
    for end in ("low", "high"):
        reach = getattr(theirs.confidence_interval, end) - dice.mean()
        assert mine[end] == pytest.approx(dice.mean() + wider * reach, abs=error)


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
    assert wider == pytest.approx(1, abs=0.01)


def test_images_of_one_patient_are_drawn_together():
    dice = np.random.default_rng(0).beta(5, 2, 40)
    single = cases(dice)
    double = pd.concat([single, single.assign(image_id=single["image_id"] + 100)])
    a, b = (only(statistics.intervals(statistics.bootstrap(None, frame))) for frame in (single, double))
    assert (a["low"], a["high"]) == pytest.approx((b["low"], b["high"]))


def test_folds_add_their_patients():
    dice = np.random.default_rng(0).beta(5, 2, (2, 30))
    others = cases(dice[1], fold=1, run="other")
    both = pd.concat([cases(dice[0]), others.assign(patient="q" + others["patient"])])
    row = only(statistics.intervals(statistics.bootstrap(None, both)))
    assert row["n_patients"] == 60
    assert row["n_seeds"] == 1
    assert row["mean"] == pytest.approx(dice.mean())


def test_folds_that_are_tested_on_the_same_patients_count_them_once():
    """Where the authors of a dataset fixed who is tested, every fold has these, and seeds on other folds too."""
    dice = np.random.default_rng(0).beta(5, 2, (3, 30))
    fixed = cases(dice, seeds=(0, 1, 2))
    turning = pd.concat([cases(dice[seed], (seed,), fold=seed, run=f"r{seed}") for seed in range(3)])
    one, other = (only(statistics.intervals(statistics.bootstrap(None, of))) for of in (fixed, turning))
    numbers = ["mean", "low", "high", "n_seeds", "n_patients"]
    assert one[numbers].tolist() == other[numbers].tolist()
    assert one["n_patients"] == 30


def test_two_runs_that_answer_the_same_question_are_refused():
    twice = pd.concat([cases([0.5, 0.6], run="a"), cases([0.5, 0.7], run="b")])
    with pytest.raises(ValueError, match="tested twice for the same question in a and b"):
        statistics.bootstrap(None, twice)


def test_an_interval_stays_within_what_a_score_can_be():
    wild = np.random.default_rng(0).normal([[0.9], [0.5]], 0.1, (2, 20)).clip(0, 1)
    row = only(statistics.intervals(statistics.bootstrap(None, cases(wild, seeds=(0, 1)))))
    assert 0 <= row["low"] < row["high"] <= 1


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_patient_has_a_mean_and_no_interval(seeds):
    """Drawn anew it is always the same patient, who seemed to leave nothing to chance: p was 1e-16."""
    both = [
        cases(np.full((seeds, 1), 0.6) + 0.01 * np.arange(seeds)[:, None], range(seeds), label_fraction=f)
        for f in (0.1, 1.0)
    ]
    both += [of.assign(dice=of["dice"] + 0.1, initialisation="simclr", run="s") for of in both]
    drawn = statistics.bootstrap(None, pd.concat(both), replicates=50)
    row = only(statistics.intervals(drawn), label_fraction=0.1, initialisation="none")
    assert row["mean"] == pytest.approx(0.6 + 0.005 * (seeds - 1))
    assert row[["low", "high"]].isna().all() and row["n_patients"] == 1
    found = statistics.differences(drawn).query("metric == 'dice'")
    assert found["difference"].tolist() == pytest.approx([0.1, 0.1])
    assert found[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert statistics.labels_worth(drawn)["said"].tolist() == ["more than 100 %"] * 2


def test_folds_of_one_patient_each_are_patients_only_together_with_their_seeds():
    turning = [cases([0.5 + 0.1 * fold], (0,), fold=fold, run=f"r{fold}") for fold in range(2)]
    turning = [of.assign(patient=of["patient"] + str(fold)) for fold, of in enumerate(turning)]
    row = only(statistics.intervals(statistics.bootstrap(None, pd.concat(turning), replicates=20)))
    assert (row["n_patients"], row["mean"]) == (2, pytest.approx(0.55))
    assert row[["low", "high"]].isna().all()


def test_one_patient_among_others_that_are_compared_with_it_gives_no_interval():
    dice = np.random.default_rng(0).beta(5, 2, 30)
    of = cases(dice).assign(scanner=["A"] + ["B"] * 29)
    drawn = statistics.bootstrap(None, of, replicates=20)
    terms = [(sign, {"stratum": f"scanner: {name}"}) for sign, name in ((1, "A"), (-1, "B"))]
    found = statistics.contrast(drawn, terms)
    assert found["n_patients"] == 30 and np.isnan([found[name] for name in ("low", "high", "p")]).all()


def test_without_a_draw_that_can_be_measured_nothing_is_no_chance():
    drawn = drawn_of(**dict(zip(("none", "simclr"), np.random.default_rng(3).beta(5, 2, (2, 1, 40)), strict=True)))
    drawn.scores[:, 1:] = np.nan
    assert np.isnan([statistics.contrast(drawn, PAIR)[name] for name in ("low", "high", "p")]).all()


def test_nothing_measured_gives_no_intervals():
    drawn = statistics.bootstrap(pd.DataFrame(), None)
    assert statistics.intervals(drawn).empty
    assert statistics.differences(drawn).empty


def test_a_seed_that_was_drawn_more_often_has_no_more_weight():
    """Draws of the labelled images belong to their seed: their mean is taken first."""
    dice = np.random.default_rng(0).beta(5, 2, (4, 30))
    drawn = [
        cases(dice[i], (seed,), draw=draw, run="r") for i, (seed, draw) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)])
    ]
    row = only(statistics.intervals(statistics.bootstrap(None, pd.concat(drawn))))
    assert row["mean"] == pytest.approx((dice[:3].mean() + dice[3].mean()) / 2)
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx(sorted([dice[:3].mean(), dice[3].mean()]))


def test_one_draw_of_the_patients_serves_all_tasks_of_a_dataset():
    right = (np.arange(30) % 3 > 0).astype(float)
    answers = cases(right).drop(columns=["dice", "iou"]).assign(task="knn", label=0, p0=right, p1=1 - right)
    drawn = statistics.bootstrap(answers, cases(right), replicates=20)
    recall, dice = (drawn.scores[drawn.units["metric"] == metric] for metric in ("balanced_accuracy", "dice"))
    np.testing.assert_allclose(recall, dice)
    assert dice.std() > 0


# -------------------- strata


def test_lesions_are_told_apart_by_thirds_of_their_area():
    area = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    both = pd.concat([cases(area, seeds=(0,)), cases(area[::-1].copy(), seeds=(1,))])
    both = both.assign(area=np.tile(area, 2))
    found = statistics.intervals(statistics.bootstrap(None, both, replicates=10), strata=True)
    means = found[found["metric"] == "dice"].set_index("stratum")["mean"]
    assert means.to_dict() == pytest.approx({"": 0.35, "size: small": 0.35, "size: medium": 0.35, "size: large": 0.35})
    ends = found[found["metric"] == "dice"].set_index("stratum")
    assert (ends.loc["size: small", "seeds_low"], ends.loc["size: small", "seeds_high"]) == pytest.approx((0.15, 0.55))
    assert (ends.drop("")["n_patients"] == 2).all()


def test_an_image_without_a_lesion_has_no_size():
    sized = cases([0.1, 0.2, 0.3, 0.9]).assign(area=[0.1, 0.2, 0.3, 0.0])
    found = statistics.intervals(statistics.bootstrap(None, sized, replicates=10), strata=True)
    counts = found[found["metric"] == "dice"].set_index("stratum")["n_patients"]
    assert counts.to_dict() == {"": 4, "size: small": 1, "size: medium": 1, "size: large": 1}


def test_the_score_of_a_class_is_its_recall(study):
    found = statistics.intervals(statistics.bootstrap(results.gather(study, "predictions.parquet")), strata=True)
    linear = found[(found["task"] == "linear") & (found["metric"] == "balanced_accuracy")]
    recalls = linear[linear["stratum"].str.startswith("class: ")]
    assert set(recalls["stratum"]) == {f"class: {name}" for name in fake_runs.CLASSES}
    keys = ["initialisation", "label_fraction"]
    whole = linear[linear["stratum"] == ""].set_index(keys)["mean"]
    pd.testing.assert_series_equal(recalls.groupby(keys)["mean"].mean(), whole, check_like=True)
    assert not (found["stratum"].str.startswith("class: ") & (found["metric"] == "auroc")).any()  # one class: no curve


def test_strata_are_left_out_where_all_images_are_alike_and_unknown_kinds_are_refused():
    one_source = cases([0.1, 0.2]).assign(source="busi", scanner=["a", None])
    drawn = statistics.bootstrap(None, one_source, replicates=5)
    assert set(drawn.units["stratum"]) == {"", "scanner: a"}
    assert set(statistics.intervals(drawn)["stratum"]) == {""}
    with pytest.raises(ValueError, match="strata: 'age' is unknown; choose among size, source, scanner, class"):
        statistics.bootstrap(None, one_source, strata=["age"])


# -------------------- contrasts


def drawn_of(**dice):
    """The bootstrap of several initialisations: dice by name, (seeds, patients)."""
    each = [cases(value, range(len(value)), initialisation=name, method=name, run=name) for name, value in dice.items()]
    return statistics.bootstrap(None, pd.concat(each))


PAIR = [(1, {"method": "simclr", "task": "segment"}), (-1, {"method": "none", "task": "segment"})]


def test_a_contrast_of_one_seed_is_as_sure_as_the_bootstrap_of_scipy():
    from scipy import stats

    dice = np.random.default_rng(0).beta(5, 2, (2, 50)) * 0.5 + np.random.default_rng(1).beta(5, 2, 50) * 0.5
    found = statistics.contrast(drawn_of(none=dice[:1], simclr=dice[1:]), PAIR)
    theirs = stats.bootstrap(
        tuple(dice), lambda a, b, axis: (b - a).mean(axis), paired=True, n_resamples=1000, rng=np.random.default_rng(1)
    )
    assert found["effect"] == pytest.approx(dice[1].mean() - dice[0].mean())
    error = (found["high"] - found["low"]) / 2 / stats.t.ppf(0.975, 49)
    assert error * np.sqrt(49 / 50) == pytest.approx(theirs.standard_error, rel=4 / np.sqrt(1000))  # twice the MC error
    assert (found["n_seeds"], found["n_patients"]) == (1, 50)


def test_small_and_large_lesions_are_of_different_people_and_all_of_these_count():
    from scipy import stats

    dice = np.random.default_rng(0).beta(5, 2, 30)
    drawn = statistics.bootstrap(None, cases(dice).assign(area=np.arange(1, 31)))
    found = statistics.contrast(drawn, [(1, {"stratum": "size: large"}), (-1, {"stratum": "size: small"})])
    assert found["n_patients"] == 20
    assert statistics.contrast(drawn, [(1, {}), (-1, {"stratum": "size: small"})])["n_patients"] == 30
    large, small = (
        drawn.scores[drawn.units.query(f"metric == 'dice' and stratum == 'size: {size}'").index[0]]
        for size in ("large", "small")
    )
    error = np.nanstd((large - small)[1:]) * np.sqrt(20 / 19)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(found["effect"]) / error, 19))


def test_a_contrast_says_which_share_of_the_patients_it_was_tested_on():
    dice = np.random.default_rng(0).beta(5, 2, (3, 30))
    turning = [cases(dice[seed], (seed,), fold=seed, run=f"r{seed}") for seed in range(3)]
    own = pd.concat([of.assign(patient=f"{seed}" + of["patient"]) for seed, of in enumerate(turning)])
    of_one_fold = cases(dice, seeds=(0, 1, 2))
    for frame, share in ((own, 0.6), (pd.concat(turning), 1.0), (of_one_fold, 0.2)):  # the second: fixed by the authors
        found = statistics.contrast(statistics.bootstrap(None, frame, replicates=20), [(1, {"metric": "dice"})])
        assert found["share"] == pytest.approx(share)


def test_a_contrast_without_chance_of_patients_is_the_t_test_of_its_seeds():
    from scipy import stats

    of_seed = np.random.default_rng(0).normal([[0.5], [0.53]], 0.02, (2, 5))
    found = statistics.contrast(
        drawn_of(none=np.tile(of_seed[0][:, None], 20), simclr=np.tile(of_seed[1][:, None], 20)), PAIR
    )
    theirs = stats.ttest_rel(of_seed[1], of_seed[0])
    assert found["p"] == pytest.approx(theirs.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(theirs.confidence_interval()))


def test_p_is_the_level_at_which_the_interval_ends_at_zero():
    drawn = drawn_of(**dict(zip(("none", "simclr"), np.random.default_rng(3).beta(5, 2, (2, 3, 40)), strict=True)))
    p = statistics.contrast(drawn, PAIR)["p"]
    at_p = statistics.contrast(drawn, PAIR, level=1 - p)
    assert min(abs(at_p["low"]), abs(at_p["high"])) == pytest.approx(0, abs=1e-9)


def test_a_term_is_the_mean_of_its_questions_in_the_seeds_that_have_all():
    dice = np.random.default_rng(0).uniform(0.2, 0.8, (3, 2, 10))
    rows = [
        cases(dice[seed, i], (seed,), initialisation=name, method=name, run=name, label_fraction=fraction)
        for seed in range(3)
        for i, fraction in enumerate((0.1, 1.0))
        for name in ("none", "simclr")
        if (seed, i, name) != (2, 1, "simclr")  # this one did not finish
    ]
    drawn = statistics.bootstrap(None, pd.concat(rows), replicates=10)
    found = statistics.contrast(drawn, [(2, {"method": "simclr"})])
    assert found["effect"] == pytest.approx(2 * dice[:2].mean())
    assert found["n_seeds"] == 2
    one = statistics.contrast(drawn, [(1, {"method": "simclr", "label_fraction": 0.1})])
    assert (one["effect"], one["n_seeds"]) == (pytest.approx(dice[:, 0].mean()), 3)
    both = statistics.contrast(drawn, [(1, {"method": ["none", "simclr"]}), (-1, {"method": "none"})])
    assert both["effect"] == pytest.approx(0)


def test_a_contrast_is_of_the_main_metric_of_all_images_unless_it_says_otherwise():
    sized = cases([0.2, 0.4, 0.6]).assign(area=[0.1, 0.2, 0.3], iou=[0.1, 0.2, 0.3])
    drawn = statistics.bootstrap(None, sized, replicates=10)
    assert statistics.contrast(drawn, [(1, {})])["effect"] == pytest.approx(0.4)
    assert statistics.contrast(drawn, [(1, {"metric": "iou"})])["effect"] == pytest.approx(0.2)
    small = [(1, {"stratum": "size: small"}), (-1, {"stratum": "size: large"})]
    assert statistics.contrast(drawn, small)["effect"] == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"methode": "none"}, "have no 'methode'; choose among dataset"),
        ({"method": "moco"}, r"\(method moco\): no score has the method 'moco'; there are none, simclr"),
        ({"method": ["none", "moco"]}, r"\(method none or moco\): no score has the method 'moco'"),
        ({"task": "knn"}, "no score has the task 'knn'; there are segment"),
        ({"method": "simclr", "label_fraction": 1.0}, "no score has all of these together"),
    ],
)
def test_a_term_that_means_nothing_is_told_what_there_is(where, said):
    rows = [cases([0.5, 0.6], method="none"), cases([0.5, 0.6], method="simclr", initialisation="simclr")]
    rows += [cases([0.5, 0.6], method="none", label_fraction=1.0)]
    drawn = statistics.bootstrap(None, pd.concat(rows), replicates=5)
    with pytest.raises(ValueError, match=said):
        statistics.contrast(drawn, [(1, where)])


def test_a_mean_over_listed_values_is_refused_where_one_of_them_lacks():
    """The mean over three methods on one side and over two on the other would compare methods, not sides."""
    there = [{"method": method, "pretrained_on": images} for method, images in ["ax", "ay", "bx"]]
    rows = [cases([0.5] * 20, initialisation="".join(said.values()), run=str(said), **said) for said in there]
    drawn = statistics.bootstrap(None, pd.concat(rows), replicates=20)
    both = {"task": "segment", "method": ["a", "b"]}
    with pytest.raises(ValueError, match=r"pretrained_on y.*no score has b together with the rest"):
        statistics.contrast(drawn, [(1, both | {"pretrained_on": "y"}), (-1, both | {"pretrained_on": "x"})])


def test_terms_without_a_common_seed_are_refused():
    rows = [cases([0.5, 0.6], method="none"), cases([0.5, 0.6], (1,), method="simclr", initialisation="simclr")]
    drawn = statistics.bootstrap(None, pd.concat(rows), replicates=5)
    with pytest.raises(ValueError, match=r"no seed has all that is compared: \(method simclr, task segment\) and"):
        statistics.contrast(drawn, PAIR)


# -------------------- simulated studies


def many(times, units):
    """The units of so many studies of one design: each is a dataset of its own."""
    names = np.repeat([f"study {i:03d}" for i in range(times)], len(units))
    return pd.concat([units] * times, ignore_index=True).assign(dataset=names)


def of_means(rng, values, replicates=200):
    """(studies, units, patients) of Dice as scores: the mean, then that of drawn patients, the same for all units."""
    patients = values.shape[-1]
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=(len(values), replicates))
    weights = np.concatenate([np.ones((len(values), 1, patients)), drawn], axis=1) / patients
    return (values @ weights.swapaxes(1, 2)).reshape(-1, 1 + replicates)


def all_patients(units):
    """What `Bootstrap.patients` is where all units of a test set hold all of its patients."""
    return [np.arange(n) for n in units["n_patients"]]


def simulated(times, effects, seeds=3, patients=60, chance=(0.01, 0.06, 0.1), replicates=200, folds=False):
    """The bootstrap of many studies of Dice: effects by name, over a score that each patient has for all of them.

    chance: standard deviation of what is one seed's, of what an initialisation has on one patient, and of the rest.
    folds: each seed is tested on patients of its own (`fold: $seed`), and not all of them on the same.
    """
    rng = np.random.default_rng([seeds, patients])
    units = drawn_of(**{name: np.full((seeds, patients), 0.5) for name in effects}).units.query("metric == 'dice'")
    units = units.assign(fold=units["seed"] if folds else 0)
    which, fold = units["initialisation"].map(list(effects).index).to_numpy(), units["fold"].to_numpy()
    sets = fold.max() + 1
    values = (
        0.5 + np.array(list(effects.values()))[which][:, None] + rng.normal(0, 0.2, (times, sets, patients))[:, fold]
    )
    values = values + rng.normal(0, chance[0], (times, len(units), 1))
    values = values + rng.normal(0, chance[1], (times, len(effects), sets, patients))[:, which, fold]
    values = values + rng.normal(0, chance[2], (times, len(units), patients))
    scores = np.empty((times, len(units), 1 + replicates))
    for each in range(sets):
        scores[:, fold == each] = of_means(rng, values[:, fold == each], replicates).reshape(times, -1, 1 + replicates)
    units = many(times, units)
    return statistics.Bootstrap(units, scores.reshape(len(units), -1), all_patients(units))


def within(rate, times, errors=3):
    """The ends of what a rate of so many studies may be, so many Monte Carlo errors to both sides."""
    error = np.sqrt(rate * (1 - rate) / times)
    return rate - errors * error, rate + errors * error


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "patients"), [(5, 60), (3, 40), (1, 60), (1, 12)])
@pytest.mark.parametrize("effect", [0.0, 0.05])
def test_intervals_cover_the_truth_at_their_rate(effect, seeds, patients):
    times = 600
    chance = (0.01, 0.06, 0.1) if seeds > 1 else (0, 0.06, 0.1)  # one seed says nothing of the chance of seeds
    drawn = simulated(times, {"none": 0, "simclr": effect}, seeds, patients, chance, replicates=1000)
    scores, changes = statistics.intervals(drawn), statistics.differences(drawn)
    for found, truth in ((scores[scores["initialisation"] == "none"], 0.5), (changes, effect)):
        assert len(found) == times
        covered = (found["low"].le(truth) & found["high"].ge(truth)).mean()
        low, high = within(0.95, times)
        assert low <= covered <= high, covered


@pytest.mark.slow
@pytest.mark.parametrize("chance", [(0.01, 0.06, 0.1), (0.05, 0.06, 0.1), (0, 0.06, 0.1)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_the_truth_where_each_seed_is_tested_on_other_patients(seeds, chance):
    """`fold: $seed`, as in the studies of real images."""
    times = 600
    drawn = simulated(times, {"none": 0, "simclr": 0.05}, seeds, 60, chance, folds=True)
    scores, changes = statistics.intervals(drawn), statistics.differences(drawn)
    assert set(changes["n_patients"]) == {60 * seeds}
    for found, truth in ((scores[scores["initialisation"] == "none"], 0.5), (changes, 0.05)):
        covered = (found["low"].le(truth) & found["high"].ge(truth)).mean()
        assert within(0.95, times)[0] <= covered <= 0.99, covered


@pytest.mark.slow
def test_intervals_of_the_area_under_a_curve_cover_its_truth_at_their_rate():
    from scipy import stats

    rng, times, patients = np.random.default_rng(5), 500, 80
    labels = np.arange(patients) % 2
    shift = {"none": 1.0, "simclr": 1.6}
    truth = np.subtract(*(stats.norm.cdf(shift[name] / np.sqrt(2)) for name in ("simclr", "none")))
    design = drawn_of(none=np.full((3, patients), 0.5), simclr=np.full((3, patients), 0.5))
    units = many(times, design.units.query("metric == 'dice'"))
    scores = []
    for _, study in units.groupby("dataset"):
        hard = rng.normal(0, np.sqrt(0.5), patients)
        weights = np.vstack([np.ones(patients), rng.multinomial(patients, np.full(patients, 1 / patients), size=200)])
        for name in study["initialisation"]:
            p = stats.norm.cdf(shift[name] * labels + hard + rng.normal(0, np.sqrt(0.5), patients))
            scores.append(metrics.auroc(labels, np.stack([1 - p, p], axis=1), weights))
    found = statistics.differences(statistics.Bootstrap(units, np.array(scores), all_patients(units)))
    rate = (found["low"].le(truth) & found["high"].ge(truth)).mean()
    low, high = within(0.95, times)
    assert low <= rate <= high, rate


def test_the_interval_of_a_calibration_error_lies_around_it_although_draws_lie_above():
    """Of fewer people, as a draw has, bins are off by more by chance alone."""
    rng, patients = np.random.default_rng(0), 120
    weights = np.vstack([np.ones(patients), rng.multinomial(patients, np.full(patients, 1 / patients), size=400)])
    units = drawn_of(simclr=np.full((1, patients), 0.5)).units.query("metric == 'dice'").assign(metric="ece")
    for _ in range(20):
        p = rng.uniform(0.5, 1, patients)
        labels = (rng.random(patients) < p).astype(int)  # as often right as it says
        scores = metrics.ece(labels, np.stack([1 - p, p], axis=1), weights)
        found = only(statistics.intervals(statistics.Bootstrap(units, scores[None], all_patients(units))), metric="ece")
        assert scores[1:].mean() > scores[0] + 0.005
        assert found["low"] < found["mean"] < found["high"]
        assert found["high"] - found["mean"] == pytest.approx(found["mean"] - found["low"], rel=0.6)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "folds"), [(3, False), (5, True)])
def test_without_an_effect_a_family_errs_in_one_of_twenty_studies_at_most(monkeypatch, seeds, folds):
    monkeypatch.setattr(gc, "collect", int)  # statsmodels collects garbage each time, which takes longer than the rest
    drawn = simulated(500, dict.fromkeys(["none", *"abcdefgh"], 0.0), seeds, folds=folds)
    found = statistics.differences(drawn)
    found = statistics.holm(found.assign(family=found["dataset"]))
    wrong = found.groupby("dataset")[["p", "p_holm"]].min().lt(0.05).mean()
    assert wrong["p_holm"] <= within(0.05, 500)[1], wrong
    assert wrong["p"] > within(0.05, 500)[1], wrong  # without Holm it would err more often


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


def test_holm_multiplies_the_smallest_p_by_their_number():
    table = pd.DataFrame({"family": ["a", "a", "a", "b", "a"], "p": [0.01, 0.04, 0.03, 0.04, np.nan]})
    found = statistics.holm(table)["p_holm"]
    assert found[:4].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.04])
    assert np.isnan(found[4])


def test_the_main_metrics_of_a_study_are_one_family_and_any_other_metric_is_its_own(study):
    frames = (results.gather(study, name) for name in ("predictions.parquet", "cases.parquet"))
    found = statistics.differences(statistics.bootstrap(*frames, replicates=50), strata=True)
    for row in found.itertuples():
        main = row.metric == results.MAIN_METRIC[row.task] and not row.stratum
        own = f"{row.metric}, {row.stratum}" if row.stratum else row.metric
        assert row.family == ("main metrics" if main else own)
    main = found[found["family"] == "main metrics"]
    assert set(main["metric"]) == {"auroc", "dice"}
    assert len(main) == 2 * (3 * 3 + 3)
    assert main["p_holm"].min() == pytest.approx(min(1, main["p"].min() * len(main)))


# -------------------- critical differences


def test_the_critical_difference_is_that_of_demsar():
    rng = np.random.default_rng(0)
    blocks = pd.concat(
        cases(np.full((14, 2), rng.uniform(size=(14, 1))), range(14), initialisation=name, run=name) for name in "abcd"
    )
    found = statistics.critical_difference(statistics.bootstrap(None, blocks, replicates=1))
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # his table 5a
    assert found.blocks == 14
    assert found.mean.sum() == pytest.approx(10)


def test_ranks_put_the_best_first_and_join_what_does_not_differ():
    """Over twelve seeds: a is always first, b and c take turns, d is always last."""
    turns = np.tile([[0.6, 0.5], [0.5, 0.6]], (6, 1))
    dice = {"d": np.full(12, 0.1), "b": turns[:, 0], "c": turns[:, 1], "a": np.full(12, 0.9)}
    found = statistics.critical_difference(
        drawn_of(**{name: np.tile(value[:, None], 2) for name, value in dice.items()})
    )
    assert found.mean.to_dict() == {"a": 1, "b": 2.5, "c": 2.5, "d": 4}
    assert found.alike == [["b", "c"]] if found.critical_difference < 1.5 else [["a", "b", "c"], ["b", "c", "d"]]


def test_many_tasks_on_the_same_encoders_and_patients_do_not_make_ranks_surer():
    dice = {name: np.random.default_rng(i).uniform(size=(4, 5)) for i, name in enumerate("abc")}
    rows = [cases(value, range(4), initialisation=name, run=name) for name, value in dice.items()]
    more = [frame.assign(dataset=f"d{i}") for frame in rows for i in range(6)]
    one, many = (
        statistics.critical_difference(statistics.bootstrap(None, pd.concat(of), replicates=1)) for of in (rows, more)
    )
    assert (one.blocks, one.critical_difference) == (many.blocks, many.critical_difference)
    assert one.mean.to_dict() == pytest.approx(many.mean.to_dict())


def test_who_learnt_from_all_labels_is_not_ranked():
    dice = dict(
        zip(("none", "simclr", "byol", "supervised"), np.random.default_rng(0).uniform(size=(4, 3, 5)), strict=True)
    )
    assert set(statistics.critical_difference(drawn_of(**dice)).mean.index) == {"none", "simclr", "byol"}


def test_blocks_that_lack_an_initialisation_have_no_ranks():
    dice = np.random.default_rng(0).uniform(size=(3, 4))
    rows = [cases(dice[:2] + shift, (0, 1), initialisation=name, run=name) for shift, name in enumerate("abc")]
    rows += [cases(dice[2:], (2,), initialisation="a", run="a")]
    assert statistics.critical_difference(statistics.bootstrap(None, pd.concat(rows), replicates=1)).blocks == 2
    with pytest.raises(
        ValueError, match="needs three initialisations and two seeds that have all of them, not 2 and 2"
    ):
        statistics.critical_difference(statistics.bootstrap(None, pd.concat(rows[:2]), replicates=1))


# -------------------- what pretraining is worth


def curves(none, simclr, seeds=2, fractions=(0.01, 0.1, 1.0), chance=0.0, metric="dice"):
    """Scores that rise with the logarithm of the labels, and differ between patients by the same for both."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.05, 30)
    rows = [
        cases(np.array([mean(f) + hard + rng.normal(0, chance) for _ in range(seeds)]), range(seeds), label_fraction=f)
        .assign(initialisation=name, run=name)
        .rename(columns={"dice": metric})
        for f in fractions
        for name, mean in (("none", none), ("simclr", simclr))
    ]
    return statistics.bootstrap(None, pd.concat(rows), replicates=200)


def rising(f):
    return 0.5 + 0.1 * np.log10(f)


def test_pretraining_that_doubles_the_labels_is_worth_twice_as_many():
    found = statistics.labels_worth(curves(rising, lambda f: rising(2 * f)))
    assert found["label_fraction"].tolist() == [0.01, 0.1, 1.0]
    assert found["worth"].tolist() == pytest.approx([0.02, 0.2, np.inf])
    assert found["low"].tolist() == pytest.approx(found["high"].tolist())  # the same patients are in both curves
    assert found["said"].tolist()[1:] == ["20 % [20 %, 20 %]", "more than 100 % [more than 100 %, more than 100 %]"]


def test_pretraining_that_harms_is_worth_nothing_and_no_curve_is_continued():
    found = statistics.labels_worth(curves(rising, lambda f: rising(f / 2)))
    assert found["worth"].tolist() == pytest.approx([0.01, 0.05, 0.5])
    assert found["said"].iloc[0] == "at most 1 % [at most 1 %, at most 1 %]"


def test_a_curve_that_falls_is_made_flat_before_it_is_read():
    bent = {0.01: 0.3, 0.1: 0.5, 0.2: 0.3, 1.0: 0.6}
    found = statistics.labels_worth(curves(bent.get, lambda f: 0.35, fractions=tuple(bent)))
    assert found["worth"].iloc[0] == pytest.approx(0.1**1.5)  # 0.5 and 0.3 become 0.4: half of the way from 1 to 10 %


def test_less_is_more_for_an_error():
    found = statistics.labels_worth(
        curves(lambda f: 10 - rising(f), lambda f: 10 - rising(2 * f), metric="hd95"), metrics={"segment": "hd95"}
    )
    assert found["worth"].tolist() == pytest.approx([0.02, 0.2, np.inf])


def test_more_chance_makes_the_worth_less_sure():
    ends = [
        statistics.labels_worth(curves(rising, lambda f: rising(2 * f), 5, chance=chance)) for chance in (0.001, 0.01)
    ]
    sure, unsure = (np.log(each["high"] / each["low"]).iloc[1] for each in ends)
    assert 0 < sure < unsure


@pytest.mark.slow
def test_intervals_of_what_pretraining_is_worth_cover_it_at_their_rate():
    rng, times = np.random.default_rng(11), 500
    units = curves(rising, rising, seeds=5).units.query("metric == 'dice'")
    doubled = np.where(units["initialisation"] == "simclr", 2, 1)
    values = rising(doubled * units["label_fraction"]).to_numpy()[:, None] + rng.normal(0, 0.1, (times, 1, 30))
    values = values + rng.normal(0, 0.01, (times, len(units), 1)) + rng.normal(0, 0.05, (times, len(units), 30))
    units = many(times, units)
    found = statistics.labels_worth(statistics.Bootstrap(units, of_means(rng, values), all_patients(units)))
    found = found[found["label_fraction"] == 0.1]
    rate = (found["low"].le(0.2) & found["high"].ge(0.2)).mean()
    assert rate >= within(0.95, times)[0], rate


def test_a_curve_of_one_label_fraction_is_worth_no_answer():
    assert statistics.labels_worth(curves(rising, rising, fractions=(0.1,))).empty
