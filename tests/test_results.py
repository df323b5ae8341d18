"""Rows come back as they were written, and a study's rows are all of its runs'."""

import json
from types import SimpleNamespace

import fake_runs
import numpy as np
import pandas as pd
import pytest
from fake_runs import cases, only

from mednb import report, results, statistics

RUN = {"stage": "classify", "study": "s", "run": "r", "dataset": "phantoms", "method": "none", "pairs": "same_image"}
RUN |= {"views": "ultrasound", "encoder": "resnet18", "size": 32, "batch_size": 8, "epochs": 1, "images_seen": 0}
RUN |= {"seed": 0, "fold": 0, "pretrained_on": ""}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fake_runs.write_study(tmp_path_factory.mktemp("runs") / "planted", seeds=(0, 1, 2))


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
    with pytest.raises(ValueError, match=r"run.json is damaged \(.*delete it"):
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


def test_a_run_takes_the_encoder_unless_it_says_what_else(tmp_path):
    asked = (RUN, "segment", "dice", 0.5, 0.1, "test", 5, 9)
    rows = [results.row(*asked), results.row(RUN | {"initialise": "encoder-decoder"}, *asked[1:], 2, "size: small")]
    written = results.write_rows(tmp_path, rows)
    assert written["initialise"].tolist() == ["encoder", "encoder-decoder"]
    assert written["draw"].tolist() == [0, 2]
    assert written["stratum"].tolist() == ["", "size: small"]
    pd.testing.assert_frame_equal(results.read_rows(tmp_path / "results.csv"), written)


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


def test_gathered_curves_say_whether_a_decoder_learnt_too(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", ("simclr",), (0,), stages=("pretrain",), decoder=True)
    assert results.gather(study, "metrics.csv")["decoder"].all()


def test_gathered_rows_say_whose_they_are(study):
    found = results.gather(study, "predictions.parquet")
    assert set(found["initialisation"]) == {"none", "simclr", "byol"}
    assert set(found["seed"]) == {0, 1, 2}
    assert found["class"].tolist() == [fake_runs.CLASSES[label] for label in found["label"]]
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
    assert taken["pretrained_on"] == ""
    assert taken["images_seen"] == 0
    assert results.read_run(tmp_path)["data"]["n_test"] == 1
    assert results.origin(tmp_path, images_split("another dataset", "there"))["method"] == "none"
    with pytest.raises(ValueError, match="another split of phantoms"):
        results.origin(tmp_path, images_split(split_hash="there"))


@pytest.mark.parametrize(("seen", "tested"), [("breastmnist", "busi"), ("busi", "breastmnist")])
def test_an_encoder_is_not_tested_on_the_dataset_that_its_own_was_taken_from(tmp_path, seen, tested):
    results.write_run(tmp_path, **RUN | {"stage": "pretrain"} | results.about(images_split(seen, "s"), 3))
    with pytest.raises(ValueError, match=f"learnt from {seen}, whose images and those of {tested} are partly the same"):
        results.origin(tmp_path, images_split(tested, "t"))


def test_an_encoder_of_a_mix_is_refused_where_any_of_its_datasets_was_split_otherwise(tmp_path):
    mix = images_split("busi+busbra", "mixed", {"busi": "b0", "busbra": "r0"})
    results.write_run(tmp_path, **RUN | {"stage": "pretrain"} | results.about(mix, 3))
    for tested in (images_split("busi", "b0"), images_split("busi+phantoms", "m", {"busi": "b0", "phantoms": "p"})):
        assert results.origin(tmp_path, tested)["method"] == "none"
    with pytest.raises(ValueError, match="another split of busi "):
        results.origin(tmp_path, images_split("busi", "b1"))
    with pytest.raises(ValueError, match="another split of busbra "):
        results.origin(tmp_path, images_split("busi+busbra", "m", {"busi": "b0", "busbra": "r1"}))


def test_folders_of_your_own_are_told_apart_but_copies_of_one_by_the_fold(tmp_path):
    seen = images_split("folder", "a0", {"folder aaaa": "a0"})
    results.write_run(tmp_path, **RUN | {"stage": "pretrain"} | results.about(seen, 3))
    other = images_split("folder", "b0", {"folder bbbb": "b0"})
    assert results.origin(tmp_path, other)["method"] == "none"
    with pytest.raises(ValueError, match="another split of folder"):
        results.origin(tmp_path, images_split("folder", "a1", {"folder aaaa": "a1"}))
    other.table["fold"] = 2
    with pytest.raises(ValueError, match=r"another split of folder .*keep to one fold"):
        results.origin(tmp_path, other)


def initialisations(folder, **of_runs):
    """How the runs of a study are called, by the values in which each differs from the others."""
    for i, (run, values) in enumerate(of_runs.items()):
        said = RUN | {"run": run, "method": "simclr", "pretrained_on": "busi", "seed": i} | values
        results.write_run(folder / run, **said)
    return results.finished(folder).set_index("run")["initialisation"].to_dict()


def test_initialisations_are_told_apart_by_what_varies(tmp_path):
    none = {"method": "none", "pretrained_on": ""}
    found = initialisations(tmp_path / "pairs", a={}, b={"pairs": "same_case"}, c=none, d={"method": "byol"})
    assert found == {"a": "simclr same_image", "b": "simclr same_case", "c": "none", "d": "byol"}
    assert results.in_order(found.values()) == ["none", "byol", "simclr same_case", "simclr same_image"]
    found = initialisations(tmp_path / "sets", a={}, b={"pretrained_on": "busi+busbra"}, c=none, d={"method": "byol"})
    assert found == {"a": "simclr on busi", "b": "simclr on busi+busbra", "c": "none", "d": "byol"}
    whole = {"initialise": "encoder-decoder"}
    found = initialisations(
        tmp_path / "parts", a={}, b=whole, c=whole | {"pretrained_on": "hc18"}, d={"pairs": "same_case"}
    )
    assert found["c"] == "simclr same_image on hc18, encoder-decoder"
    assert found["d"] == "simclr same_case on busi"


def test_options_of_a_method_are_named_where_they_vary(tmp_path):
    cold, warm = {"options": {"temperature": 0.1}}, {"options": {"temperature": 0.5, "lr": 0.01}}
    none = {"method": "none", "pretrained_on": ""}
    found = initialisations(tmp_path / "s", a={}, b=cold, c=warm, d=none | cold, e={"method": "byol"} | warm)
    wanted = ["simclr", "simclr, temperature 0.1", "simclr, lr 0.01, temperature 0.5", "none", "byol"]
    assert list(found.values()) == wanted
    assert [results.method_of(name) for name in wanted] == ["simclr"] * 3 + ["none", "byol"]
    found = initialisations(tmp_path / "t", a=cold, b=cold | {"pretrained_on": "hc18"})
    assert set(found.values()) == {"simclr on busi", "simclr on hc18"}


def test_more_epochs_of_a_smaller_set_are_no_other_initialisation(tmp_path):
    """With a budget in images the epochs follow from the set; what is tested is where the encoder learnt."""
    found = initialisations(tmp_path / "s", a={"epochs": 40}, b={"pretrained_on": "busbra", "epochs": 20})
    assert set(found.values()) == {"simclr on busi", "simclr on busbra"}
    found = initialisations(tmp_path / "f", a={"epochs": 9, "batch_size": 192}, b={"fold": 1, "epochs": 10})
    assert set(found.values()) == {"simclr"}
    found = initialisations(tmp_path / "t", a={"epochs": 40}, b={"epochs": 20})
    assert set(found.values()) == {"simclr epochs 40", "simclr epochs 20"}


def test_what_learnt_and_was_tested_on_each_dataset_has_one_name(tmp_path):
    found = initialisations(tmp_path / "s", a={"dataset": "busi"}, b={"dataset": "busbra", "pretrained_on": "busbra"})
    assert set(found.values()) == {"simclr"}


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


@pytest.mark.parametrize(("picked", "end"), [(0.005, "largest"), (0.001, "smallest"), (0.002, "")])
def test_a_grid_that_ends_too_soon_is_said(tmp_path, picked, end):
    chosen = [{"task": "finetune", "label_fraction": f, "draw": 0, "lr": picked, "steps": 60} for f in (1.0, 0.1)]
    grid = {"rates": [0.001, 0.002, 0.005], "chosen": [{"task": "knn", "k": 5}, *chosen]}
    study = fake_runs.write_study(tmp_path / "s", stages=("classify",), seeds=(0, 1), **grid)
    said = [remark for remark in results.remarks(study) if "learning rate" in remark]
    one = f"On phantoms, finetune chose the {end} learning rate that was tried ({picked:g}) in 6 of 6 runs: a "
    assert said == ([one + end.replace("est", "er") + " one might do better."] if end else [])


def test_what_is_missing_is_said(tmp_path):
    study = fake_runs.write_study(tmp_path / "s", methods=("simclr",), seeds=(0,), stages=("classify",))
    (study / "classify-simclr-s1").mkdir()
    (study / "classify-simclr-s1" / "parameters.json").write_text("{}")
    said = " ".join(results.remarks(study))
    assert "one seed" in said
    assert "Random initialisation (method none) is not in the study" in said
    assert "classify-simclr-s1 did not finish" in said
    for seed in range(2, 7):
        (study / f"classify-simclr-s{seed}").mkdir()
        (study / f"classify-simclr-s{seed}" / "parameters.json").write_text("{}")
    several = "6 runs did not finish and are left out, among them classify-simclr-s1, classify-simclr-s2, "
    assert any(said.startswith(several) for said in results.remarks(study))


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


# -------------------- tables


def test_the_table_begins_with_random_initialisation_and_states_the_budget(tmp_path, study):
    drawn = statistics.bootstrap(results.gather(study, "predictions.parquet"), results.gather(study, "cases.parquet"))
    scores = statistics.intervals(drawn)
    shown = results.write_tables(tmp_path, scores, statistics.differences(drawn))
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
    assert names == {"intervals.csv", "strata.csv", "differences.csv", "table.csv", "table.md", "table.tex"}


def test_a_budget_that_varies_with_the_folds_is_a_range(tmp_path):
    """The table said what the first fold saw."""
    of = [cases([0.5, 0.6], (seed,), fold=seed, images_seen=46_700 + 100 * seed, run=f"r{seed}") for seed in range(3)]
    scores = statistics.intervals(statistics.bootstrap(None, pd.concat(of), replicates=20))
    shown = results.write_tables(tmp_path, scores, pd.DataFrame())
    assert shown["images_seen"].tolist() == ["46,700 to 46,900"]
    tidy = pd.read_csv(tmp_path / "intervals.csv")
    assert set(tidy["images_seen"]) == {46_700} and set(tidy["images_seen_most"]) == {46_900}
    (table,) = report.tables(scores, statistics.differences(statistics.bootstrap()), [("segment", "dice")], {})
    assert table["lines"][0]["images_seen"] == "46,700 to 46,900"
    assert results.table(scores.drop(columns="images_seen_most"))["images_seen"].tolist() == [46_700]


def test_strata_are_a_file_of_their_own(tmp_path):
    drawn = statistics.bootstrap(None, cases([0.5, 0.6, 0.7]).assign(area=[0.1, 0.2, 0.3]), replicates=20)
    results.write_tables(tmp_path, statistics.intervals(drawn, strata=True), statistics.differences(drawn))
    assert pd.read_csv(tmp_path / "intervals.csv")["stratum"].isna().all()
    assert set(pd.read_csv(tmp_path / "strata.csv")["stratum"]) == {f"size: {name}" for name in statistics.SIZES}


def test_a_number_whose_test_was_read_before_is_marked_in_every_table(tmp_path):
    both = pd.concat([cases([0.5, 0.6]), cases([0.5, 0.7], initialisation="byol", run="b")])
    scores = statistics.intervals(statistics.bootstrap(None, both, replicates=20))
    for again, marked in ((False, False), (scores["initialisation"] == "byol", True)):
        shown = results.write_tables(tmp_path, scores.assign(again=again), pd.DataFrame())
        assert shown["segment dice, 10 %"].str.endswith(" †").tolist() == [False, marked]
        for name in ("table.md", "table.tex"):
            assert (results.AGAIN in (tmp_path / name).read_text(encoding="utf-8")) == marked
        assert ("†" in (tmp_path / "table.csv").read_text(encoding="utf-8")) == marked


def test_a_table_shows_the_settings_that_vary():
    both = pd.concat([cases([0.5, 0.6]), cases([0.5, 0.7], dataset="other", run="b")])
    shown = results.table(statistics.intervals(statistics.bootstrap(None, both, replicates=20)))
    assert shown["dataset"].tolist() == ["d", "other"]
    assert "encoder" not in shown


def test_a_missing_cell_is_a_dash():
    both = pd.concat([cases([0.5, 0.6]), cases([0.5, 0.7], label_fraction=1.0, initialisation="byol", run="b")])
    shown = results.table(statistics.intervals(statistics.bootstrap(None, both, replicates=20)))
    assert shown["segment dice, 100 %"].iloc[0] == "–"


def test_a_mean_of_one_patient_stands_in_the_table_without_an_interval():
    shown = results.table(statistics.intervals(statistics.bootstrap(None, cases([0.5]), replicates=20)))
    assert shown["segment dice, 10 %"].tolist() == ["0.50 (no interval: too few patients)"]


def test_strata_are_no_rows_of_the_table():
    sized = cases([0.5, 0.6, 0.7]).assign(area=[0.1, 0.2, 0.3])
    drawn = statistics.bootstrap(None, sized, replicates=20)
    pd.testing.assert_frame_equal(
        *(results.table(statistics.intervals(drawn, strata=every)) for every in (True, False))
    )


def test_percents_are_written_as_people_do():
    assert [results.percent(share) for share in (0.01, 0.025, 0.1, 1.0)] == ["1 %", "2.5 %", "10 %", "100 %"]
