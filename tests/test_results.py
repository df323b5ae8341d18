"""Rows come back as they were written; intervals and differences say what is so, no more and no less."""

import json
import time
from types import SimpleNamespace

import fake_runs
import numpy as np
import pandas as pd
import pytest

from mednb import results

RUN = {"stage": "classify", "study": "s", "run": "r", "dataset": "phantoms", "method": "none", "pairs": "same_image"}
RUN |= {"views": "ultrasound", "encoder": "resnet18", "size": 32, "batch_size": 8, "epochs": 1, "images_seen": 0}
RUN |= {"seed": 0, "fold": 0}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fake_runs.write_study(tmp_path_factory.mktemp("runs") / "planted", seeds=(0, 1, 2))


def cases(dice, seeds=(0,), **columns):
    """Cases of one initialisation: dice is (seeds, patients), one image of each patient."""
    dice = np.atleast_2d(dice)
    frames = [
        pd.DataFrame({"image_id": range(len(values)), "dice": values, "seed": seed})
        for seed, values in zip(seeds, dice, strict=True)
    ]
    said = {"dataset": "d", "encoder": "e", "size": 32, "fold": 0, "initialisation": "none", "images_seen": 0}
    frame = pd.concat(frames, ignore_index=True).assign(**said | {"label_fraction": 0.1, "run": "r"} | columns)
    return frame.assign(patient=frame["image_id"].map("p{}".format), iou=frame["dice"])


def only(frame, **wanted):
    for name, value in ({"metric": "dice"} | wanted).items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# -------------------- rows


def test_a_run_says_its_versions_without_importing_the_libraries(tmp_path):
    said = results.write_run(tmp_path, **RUN, images=np.int64(3), rate=np.float32(0.5), path=tmp_path)
    assert said == results.read_run(tmp_path)
    assert {"python", "mednb", "torch", "lightly", "numpy"} <= set(said["versions"])
    assert said["images"] == 3
    assert said["rate"] == 0.5
    assert said["path"] == str(tmp_path)
    assert len(said["code"]) == 16


def test_a_run_without_its_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"run.json would lack stage, run: a run says stage, study and run"):
        results.write_run(tmp_path, study="s")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run.json is missing"):
        results.read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is not JSON"):
        results.read_run(tmp_path)


def test_rows_come_back_to_the_last_digit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, np.float32(0.7), float("nan")]
    rows = [results.row(RUN, "knn", "auroc", value, None, "test", 5, 9) for value in values]
    written = results.write_rows(tmp_path, rows)
    pd.testing.assert_frame_equal(results.read_rows(tmp_path / "results.csv"), written)
    assert list(written.columns) == list(results.COLUMNS)
    assert written["value"].iloc[0] == 0.1 + 0.2
    assert written["method"].iloc[0] == "none"
    assert written["label_fraction"].isna().all()


def test_a_study_without_rows_has_a_header(tmp_path):
    results.write_rows(tmp_path, [])
    assert (tmp_path / "results.csv").read_text() == ",".join(results.COLUMNS) + "\n"
    assert results.read_rows(tmp_path / "results.csv").empty


def test_a_row_that_lacks_or_adds_a_column_is_refused(tmp_path):
    row = results.row(RUN, "knn", "auroc", 0.5, 0.1, "test", 5, 9)
    with pytest.raises(ValueError, match="does not say its seed"):
        results.row({name: RUN[name] for name in RUN if name != "seed"}, "knn", "auroc", 0.5, 0.1, "test", 5, 9)
    with pytest.raises(ValueError, match=r"lacks fold and has unknown fould"):
        results.write_rows(tmp_path, [{("fould" if name == "fold" else name): row[name] for name in row}])
    with pytest.raises(ValueError, match="has no seed"):
        results.write_rows(tmp_path, [row, row | {"seed": None}])
    with pytest.raises(ValueError, match="wrong kind"):
        results.write_rows(tmp_path, [row | {"value": "high"}])
    assert not list(tmp_path.iterdir())


def test_collected_rows_are_the_same_bytes_whatever_the_folders_are_called(tmp_path, study):
    rows = results.collect(study)
    results.write_rows(tmp_path / "once", rows)
    for i, folder in enumerate(sorted(study.iterdir(), reverse=True)):
        copy = tmp_path / "shuffled" / f"{i:02d}"
        copy.mkdir(parents=True)
        for name in ("run.json", "results.csv"):
            if (folder / name).is_file():
                (copy / name).write_bytes((folder / name).read_bytes())
    results.write_rows(tmp_path / "again", results.collect(tmp_path / "shuffled"))
    assert (tmp_path / "once/results.csv").read_bytes() == (tmp_path / "again/results.csv").read_bytes()


def test_the_report_is_not_among_the_runs_it_reports(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", seeds=(0,), stages=("classify",))
    before = len(results.collect(study))
    results.write_rows(study / "report", results.collect(study))
    assert len(results.collect(study)) == before
    results.write_run(study / "report", stage="report", study="s", run="report")
    assert len(results.collect(study)) == before


def test_an_empty_study_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        results.collect(tmp_path)


def test_gathered_rows_say_whose_they_are(study):
    found = results.gather(study, "predictions.parquet")
    assert set(found["initialisation"]) == {"none", "simclr", "byol"}
    assert set(found["seed"]) == {0, 1, 2}
    assert results.gather(study, "nothing.parquet").empty


def images_split(name="phantoms", split_hash="here", members=None):
    """As much of `Images` as run.json asks for."""
    table = pd.DataFrame({"split": ["train", "test"], "patient": ["a", "b"], "fold": 1})
    said = {"size": 32, "classes": ["x"], "fingerprint": "f", "table": table, "card": SimpleNamespace(licence="MIT")}
    return SimpleNamespace(name=name, split_hash=split_hash, members=members, **said)


def test_an_encoder_that_saw_the_test_patients_is_refused(tmp_path):
    results.write_run(tmp_path, **RUN | {"stage": "pretrain"} | results.about(images_split(), 3))
    taken = results.origin(tmp_path, images_split())
    assert taken["method"] == "none"
    assert taken["images_seen"] == 0
    assert results.read_run(tmp_path)["data"]["n_test"] == 1
    assert results.origin(tmp_path, images_split("another dataset", "there"))["method"] == "none"
    with pytest.raises(ValueError, match="another split of phantoms"):
        results.origin(tmp_path, images_split(split_hash="there"))


def test_an_encoder_of_a_mix_is_refused_where_any_of_its_datasets_was_split_otherwise(tmp_path):
    mix = images_split("busi+busbra", "mixed", {"busi": "b0", "busbra": "r0"})
    results.write_run(tmp_path, **RUN | {"stage": "pretrain"} | results.about(mix, 3))
    for tested in (images_split("busi", "b0"), images_split("busi+phantoms", "m", {"busi": "b0", "phantoms": "p"})):
        assert results.origin(tmp_path, tested)["method"] == "none"
    with pytest.raises(ValueError, match="another split of busi "):
        results.origin(tmp_path, images_split("busi", "b1"))
    with pytest.raises(ValueError, match="another split of busbra "):
        results.origin(tmp_path, images_split("busi+busbra", "m", {"busi": "b0", "busbra": "r1"}))


def test_initialisations_are_told_apart_by_what_varies(tmp_path):
    for pairs in ("same_image", "same_case"):
        fake_runs.write_study(tmp_path / pairs, methods=("simclr", "byol"), seeds=(0,), stages=("classify",))
    fake_runs.write_study(tmp_path / "all", methods=("none", "byol"), seeds=(0,), stages=("classify",))
    for pairs in ("same_image", "same_case"):
        folder = tmp_path / pairs / "classify-simclr-s0"
        said = json.loads((folder / "run.json").read_text()) | {"pairs": pairs, "run": f"simclr-{pairs}"}
        (folder / "run.json").write_text(json.dumps(said))
        folder.rename(tmp_path / "all" / f"simclr-{pairs}")
    named = results.finished(tmp_path / "all")["initialisation"]
    assert results.in_order(named) == ["none", "byol", "simclr same_case", "simclr same_image"]


# -------------------- remarks


def test_a_clean_study_has_no_remarks(study):
    assert results.remarks(study) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"code": "0" * 16}, "do not share one version of mednb's code"),
        ({"versions": {"torch": "1.0"}}, "do not share one version of torch"),
        ({"data": {"fingerprint": "other", "split_hash": "5" * 16}}, "one set of images of phantoms at size 32"),
        ({"data": {"fingerprint": "f" * 16, "split_hash": "other"}}, "one split of phantoms, fold 0"),
        ({"images_seen": 7}, "budgets are unequal: byol 7, 23,040; simclr 23,040 images seen"),
    ],
)
def test_what_is_mixed_is_said(tmp_path, change, said):
    study = fake_runs.write_study(tmp_path / "s", stages=("pretrain",))
    path = study / "pretrain-byol-s0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert any(said in remark for remark in results.remarks(study))


def test_what_is_missing_is_said(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", methods=("simclr",), seeds=(0,), stages=("classify",))
    (study / "classify-simclr-s1").mkdir()
    (study / "classify-simclr-s1" / "parameters.json").write_text("{}")
    said = " ".join(results.remarks(study))
    assert "one seed" in said
    assert "Random initialisation (method none) is not in the study" in said
    assert "classify-simclr-s1 did not finish" in said


def test_seeds_that_only_some_have_are_said(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", methods=("none",), seeds=(0, 1), stages=("classify",))
    fake_runs.write_study(study, methods=("simclr",), seeds=(1, 2), stages=("classify",))
    assert "do not have the same seeds: none 0, 1; simclr 1, 2." in " ".join(results.remarks(study))


def test_runs_of_an_earlier_plan_are_left_out(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", stages=("classify",), methods=("none", "simclr"), seeds=(0, 1))
    names = [path.name for path in study.iterdir() if path.name.endswith("s0")]
    (study / "plan.json").write_text(json.dumps({"runs": [{"name": name} for name in names]}))
    assert set(results.collect(study)["seed"]) == {0}
    said = " ".join(results.remarks(study))
    assert "earlier plan: classify-none-s1, classify-simclr-s1." in said
    assert "did not finish" not in said


# -------------------- metrics, many draws at once


def drawn(classes, images=60, draws=7, ties=True):
    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.arange(images) % classes)
    p = rng.dirichlet(np.ones(classes), images)
    p = (p * 8).round() + 1e-3 if ties else p
    p /= p.sum(axis=1, keepdims=True)
    return labels, p, rng.integers(0, 4, (draws, images)).astype(float)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [True, False])
def test_auroc_is_that_of_scikit_learn(classes, ties):
    from sklearn.metrics import roc_auc_score

    labels, p, weights = drawn(classes, ties=ties)
    for mine, weight in zip(results.auroc(labels, p, weights), weights, strict=True):
        score = p[:, 1] if classes == 2 else p
        theirs = roc_auc_score(labels, score, sample_weight=weight, multi_class="ovr", average="macro")
        if classes > 2 or not ties:  # rounding breaks p0 = 1 - p1, and with it the symmetry of two classes
            assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_balanced_accuracy_is_that_of_scikit_learn(classes):
    from sklearn.metrics import balanced_accuracy_score

    labels, p, weights = drawn(classes)
    for mine, weight in zip(results.balanced_accuracy(labels, p, weights), weights, strict=True):
        theirs = balanced_accuracy_score(labels, p.argmax(axis=1), sample_weight=weight)
        assert mine == pytest.approx(theirs, abs=1e-12)


def test_a_class_that_was_not_drawn_is_left_out():
    labels, p = np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2]]
    weights = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert results.balanced_accuracy(labels, p, weights).tolist() == [0.75, 1.0]
    area = results.auroc(labels, p, weights)
    assert area[0] == pytest.approx(0.75)  # both classes that are left: one of two pairs is a tie
    assert np.isnan(area[1])  # one class alone has no curve


def test_a_thousand_draws_take_a_tenth_of_a_second():
    labels, p, weights = drawn(3, images=150, draws=1000, ties=False)

    def seconds():
        start = time.perf_counter()
        results.auroc(labels, p, weights)
        results.balanced_accuracy(labels, p, weights)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1


# -------------------- intervals


def test_one_seed_is_the_bootstrap_of_scipy():
    from scipy import stats

    dice = np.random.default_rng(0).beta(5, 2, 80)
    mine = only(results.intervals(results.bootstrap(None, cases(dice), replicates=8000)))
    theirs = stats.bootstrap((dice,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1))
    error = 4 * dice.std() / np.sqrt(80) / np.sqrt(8000) * 3  # an end lies in a thin tail: three times a mean's error
    assert mine["mean"] == pytest.approx(dice.mean())
    assert mine["low"] == pytest.approx(theirs.confidence_interval.low, abs=error)
    assert mine["high"] == pytest.approx(theirs.confidence_interval.high, abs=error)


def test_the_same_draws_give_the_same_interval(study):
    found = [results.intervals(results.bootstrap(results.gather(study, "predictions.parquet"))) for _ in range(2)]
    pd.testing.assert_frame_equal(*found)


def test_the_mean_is_the_number_in_the_rows(study):
    scores = results.intervals(results.bootstrap(results.gather(study, "predictions.parquet")))
    rows = results.collect(study)
    rows = rows[(rows["split"] == "test") & (rows["task"] == "linear")]
    means = rows.groupby(["method", "metric", "label_fraction"])["value"].mean()
    for row in scores[scores["task"] == "linear"].itertuples():
        assert row.mean == pytest.approx(means[row.initialisation, row.metric, row.label_fraction])
        assert row.low <= row.mean <= row.high
        assert (row.n_seeds, row.n_patients) == (3, 12)


def test_more_seeds_are_not_more_patients():
    dice = np.random.default_rng(0).beta(5, 2, 40)
    once = only(results.intervals(results.bootstrap(None, cases(dice))))
    thrice = only(results.intervals(results.bootstrap(None, cases([dice] * 3, seeds=(0, 1, 2)))))
    assert (thrice["low"], thrice["high"]) == pytest.approx((once["low"], once["high"]))


def test_images_of_one_patient_are_drawn_together():
    dice = np.random.default_rng(0).beta(5, 2, 40)
    single = cases(dice)
    double = pd.concat([single, single.assign(image_id=single["image_id"] + 100)])
    a, b = (only(results.intervals(results.bootstrap(None, frame))) for frame in (single, double))
    assert (a["low"], a["high"]) == pytest.approx((b["low"], b["high"]))


def test_folds_add_their_patients():
    dice = np.random.default_rng(0).beta(5, 2, (2, 30))
    both = pd.concat([cases(dice[0]), cases(dice[1], fold=1, run="other")])
    row = only(results.intervals(results.bootstrap(None, both)))
    assert row["n_patients"] == 60
    assert row["n_seeds"] == 1
    assert row["mean"] == pytest.approx(dice.mean())


def test_two_runs_that_answer_the_same_question_are_refused():
    twice = pd.concat([cases([0.5, 0.6], run="a"), cases([0.5, 0.7], run="b")])
    with pytest.raises(ValueError, match="tested twice for the same question in a and b"):
        results.bootstrap(None, twice)


def test_an_interval_stays_within_what_a_score_can_be():
    wild = np.random.default_rng(0).normal([[0.9], [0.5]], 0.1, (2, 20)).clip(0, 1)
    row = only(results.intervals(results.bootstrap(None, cases(wild, seeds=(0, 1)))))
    assert 0 <= row["low"] < row["high"] <= 1


def test_nothing_measured_gives_no_intervals():
    drawn = results.bootstrap(pd.DataFrame(), None)
    assert results.intervals(drawn).empty
    assert results.differences(drawn).empty


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
        found = results.bootstrap(None, pd.concat(simulated(rng, effect)), replicates=300)
        score = only(results.intervals(found), initialisation="none")
        change = only(results.differences(found))
        hits += [score["low"] <= 0.5 <= score["high"], change["low"] <= effect <= change["high"]]
    assert (hits / times > 0.95 - 3 * np.sqrt(0.95 * 0.05 / times)).all(), hits / times


# -------------------- differences


def test_a_difference_is_taken_on_the_same_patients():
    dice = np.random.default_rng(0).uniform(0.2, 0.7, (2, 30))
    better = cases(dice + 0.1, (0, 1), initialisation="simclr", run="simclr", images_seen=9)
    both = pd.concat([cases(dice, (0, 1)), better])
    found = results.bootstrap(None, both)
    row = only(results.differences(found))
    for end in ("difference", "low", "high", "seeds_low", "seeds_high"):
        assert row[end] == pytest.approx(0.1)
    score = only(results.intervals(found), initialisation="simclr")
    assert score["high"] - score["low"] > 0.05


def test_only_seeds_that_both_have_are_compared():
    dice = np.random.default_rng(0).uniform(0.2, 0.7, (3, 30))
    both = pd.concat([cases(dice[:2], (0, 1)), cases(dice[1:], (1, 2), initialisation="byol", run="byol")])
    row = only(results.differences(results.bootstrap(None, both)))
    assert row["n_seeds"] == 1
    assert row["difference"] == pytest.approx(0)
    apart = pd.concat([cases(dice[:1], (0,)), cases(dice[1:2], (1,), initialisation="byol", run="byol")])
    assert results.differences(results.bootstrap(None, apart)).empty


def test_planted_effects_are_found_and_absent_ones_are_not(tmp_path):
    effects = {"none": 0.0, "simclr": 2.0, "byol": 0.0}
    study = fake_runs.write_study(tmp_path / "s", seeds=range(5), effects=effects, of=fake_runs.images(200))
    found = results.differences(results.bootstrap(results.gather(study, "predictions.parquet"), replicates=300))
    main = found[found["metric"] == "auroc"]
    assert (main.loc[main["initialisation"] == "simclr", "low"] > 0).all()
    absent = main[main["initialisation"] == "byol"]
    assert ((absent["low"] <= 0) & (absent["high"] >= 0)).mean() > 0.7


# -------------------- tables


def test_the_table_begins_with_random_initialisation_and_states_the_budget(tmp_path, study):
    drawn = results.bootstrap(results.gather(study, "predictions.parquet"), results.gather(study, "cases.parquet"))
    scores = results.intervals(drawn)
    shown = results.write_tables(tmp_path, scores, results.differences(drawn))
    assert shown["initialisation"].tolist() == ["none", "byol", "simclr"]
    assert shown["images_seen"].tolist() == [0, 23040, 23040]
    cell = only(scores, metric="auroc", task="linear", label_fraction=0.1, initialisation="none")
    wanted = f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
    assert shown["linear auroc, 10 %"].iloc[0] == wanted
    markdown = (tmp_path / "table.md").read_text().splitlines()
    assert len(markdown) == 5
    assert len({line.count("|") for line in markdown}) == 1
    assert r"10 \%" in (tmp_path / "table.tex").read_text()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"intervals.csv", "differences.csv", "table.csv", "table.md", "table.tex"}


def test_a_table_shows_the_settings_that_vary():
    both = pd.concat([cases([0.5, 0.6]), cases([0.5, 0.7], dataset="other", run="b")])
    shown = results.table(results.intervals(results.bootstrap(None, both, replicates=20)))
    assert shown["dataset"].tolist() == ["d", "other"]
    assert "encoder" not in shown


def test_a_missing_cell_is_a_dash():
    both = pd.concat([cases([0.5, 0.6]), cases([0.5, 0.7], label_fraction=1.0, initialisation="byol", run="b")])
    shown = results.table(results.intervals(results.bootstrap(None, both, replicates=20)))
    assert shown["segment dice, 100 %"].iloc[0] == "–"


def test_percents_are_written_as_people_do():
    assert [results.percent(share) for share in (0.01, 0.025, 0.1, 1.0)] == ["1 %", "2.5 %", "10 %", "100 %"]
