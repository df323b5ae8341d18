"""A study file becomes a plan, and the plan is brought up to date: in order, and again only where it has to be."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import tiny
from filelock import FileLock

from mednb.study import graph, progress
from mednb.study.notebook import RunFailed
from mednb.study.plan import read

GRID = {"dataset": "phantoms", "method": ["none", "simclr"], "seed": [0, 1], "fold": "$seed"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a study of stubs into a folder of its own, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    stubs = tiny.stages(tmp_path)

    def write(stages=("pretrain", "embed", "classify", "segment", "report"), grid=GRID, values=(), **more) -> Path:
        chosen = {stage: stubs[stage] | dict(values).get(stage, {}) for stage in stages}
        return tiny.study(tmp_path / "tiny.yml", grid=grid, stages=chosen, **more)

    return write


def wrong(file: Path, **options) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        read(file, **options)
    return str(caught.value)


# -------------------- the plan


def test_every_point_of_the_grid_is_pretrained_and_then_used(written):
    plan = read(written())
    assert len(plan.runs) == 4 * 4 + 1
    assert list(plan.runs)[:2] == ["pretrain-phantoms-none-s0", "embed-phantoms-none-s0"]
    embed = plan.runs["embed-phantoms-simclr-s1"]
    assert embed.after == ("pretrain-phantoms-simclr-s1",)
    assert embed.parameters["pretrained"] == "runs/tiny/pretrain-phantoms-simclr-s1"
    assert embed.parameters["out"] == "runs/tiny/embed-phantoms-simclr-s1"
    assert embed.parameters["fold"] == 1  # $seed
    assert embed.parameters["epochs"] == 3  # the notebook's own
    assert set(plan.runs["report"].after) == set(plan.runs) - {"report"}


def test_a_stage_has_values_of_its_own_and_a_name_says_what_varies(written):
    grid = GRID | {"seed": 0, "pretrain.epochs": [10, 20]}
    plan = read(written(("pretrain", "embed"), grid, {"embed": {"epochs": 5}}))
    run = plan.runs["embed-phantoms-none-s0-epochs20"]
    assert run.parameters["epochs"] == 5
    assert plan.runs[run.after[0]].parameters["epochs"] == 20


def test_points_that_differ_only_later_share_their_pretraining(written):
    grid = {"method": "none", "embed.epochs": [1, 2]}
    assert list(read(written(("pretrain", "embed"), grid)).runs) == [
        "pretrain-phantoms-none-s0",
        "embed-phantoms-none-s0-epochs1",
        "embed-phantoms-none-s0-epochs2",
    ]


def test_what_a_stage_is_given_wins_over_what_all_are_given_wherever_it_stands(written):
    for grid in ({"pretrain.epochs": 7, "epochs": 5}, {"epochs": 5, "pretrain.epochs": 7}):
        runs = read(written(("pretrain", "embed"), grid)).runs
        assert {name: run.parameters["epochs"] for name, run in runs.items()} == {
            "pretrain-phantoms-none-s0": 7,
            "embed-phantoms-none-s0": 5,
        }


def test_points_are_grids_of_their_own_within_the_grid(written):
    points = [
        {"method": "none", "pretrain.dataset": "phantoms_ct"},
        {"method": ["simclr", "byol"], "pretrain.dataset": ["phantoms", "phantoms+phantoms_ct"]},
    ]
    runs = read(written(("pretrain", "embed", "report"), {"seed": [0, 1]}, points=points)).runs
    assert len(runs) == 2 * 2 * 5 + 1
    embed = runs["embed-phantoms-simclr-s1-phantoms+phantoms_ct"]
    assert embed.after == ("pretrain-phantoms+phantoms_ct-simclr-s1",)
    assert runs[embed.after[0]].parameters["dataset"] == "phantoms+phantoms_ct"
    assert embed.parameters["dataset"] == "phantoms"
    assert [name for name in runs if "none" in name and "s0" in name] == [
        "pretrain-phantoms_ct-none-s0",
        "embed-phantoms-none-s0-phantoms_ct",
    ]


def test_a_point_can_do_without_some_stages(written):
    points = [{"method": "simclr"}, {"method": "none", "stages": ["pretrain", "segment"]}]
    runs = read(written(("pretrain", "classify", "segment"), {}, points=points)).runs
    assert [name for name in runs if "none" in name] == ["pretrain-phantoms-none-s0", "segment-phantoms-none-s0"]
    assert [name for name in runs if "simclr" in name and "classify" in name]
    points[1]["stages"] = ["segmnt"]
    said = wrong(written(("pretrain", "segment"), {}, points=points))
    assert "points.stages: this study has no stage 'segmnt'; did you mean 'segment'?" in said


def test_only_datasets_with_labels_are_classified(written):
    said = wrong(written(("pretrain", "classify"), {"dataset": ["hc18", "hc18+camus"]}))
    assert "tiny.yml: stages.classify: hc18 has no labels; Choose from phantoms, " in said
    assert "stages.classify: hc18+camus has no labels" in said
    for stage, dataset in (("classify", "hc18+phantoms"), ("segment", "hc18")):
        assert len(read(written(("pretrain", stage), {"dataset": dataset}), without_data=True).runs) == 2


def test_only_datasets_with_masks_are_segmented(written):
    said = wrong(written(("pretrain", "segment"), {"dataset": ["phantoms", "iq_othnccd", "head_ct+iq_othnccd"]}))
    sentence = "tiny.yml: stages.segment: iq_othnccd has no masks; Choose from phantoms, phantoms_mammography, "
    assert sentence in said and said.endswith(", or leave the stage out")
    assert "stages.segment: head_ct+iq_othnccd has no masks" in said
    mixed = {"dataset": "phantoms+iq_othnccd"}
    assert len(read(written(("pretrain", "segment"), mixed), without_data=True).runs) == 2
    assert len(read(written(("pretrain", "classify"), {"dataset": "iq_othnccd"}), without_data=True).runs) == 2


def test_a_decoder_is_only_taken_from_a_method_that_writes_one(tmp_path):
    """It was found out when the segmentation of the first encoder failed."""
    file = partial(tiny.study, tmp_path / "t.yml", stages={"pretrain": {}, "segment": {}})
    both = {"seed": 0, "segment.initialise": ["encoder", "encoder-decoder"]}
    said = wrong(file(grid=both | {"method": ["none", "simclr"]}))
    assert "and method none writes none; leave it at encoder there, by `points`" in said
    assert "and method simclr writes none; pretrain with `decoder: true`" in said
    assert "method none" in wrong(file(grid=both | {"method": ["none", "simclr"], "pretrain.decoder": True}))
    assert len(read(file(grid=both | {"method": "spark"})).runs) == 3
    for asked in ({"decoder": True}, {"how": {"decoder": True}}):
        assert (
            len(
                read(
                    file(grid=both | {"method": "simclr"} | {f"pretrain.{name}": of for name, of in asked.items()})
                ).runs
            )
            == 3
        )


def test_what_no_row_names_cannot_vary_in_a_grid(written, tmp_path):
    """A night later the report would refuse both runs: "tested twice for the same question"."""
    stubs = tiny.stages(tmp_path)
    for stage in ("pretrain", "classify"):
        more = "\nlimit = None  # how many\nhow = {}  # further values\nviews = 'by_modality'  # the policy"
        tiny.notebook(tmp_path / f"{stage}.ipynb", tiny.PARAMETERS + more + "\npretrained = ''  # the pretraining")
    file = partial(tiny.study, tmp_path / "t.yml", stages={s: stubs[s] for s in ("pretrain", "classify")})
    views = {"method": ["none", "simclr"], "views": ["ultrasound", "mammography"]}
    for grid, sentence in (
        (
            {"limit": [60, 90]},
            "-s0-limit60 and classify-phantoms-none-s0-limit90 differ in limit, which no row of method ",
        ),
        ({"pretrain.how": [{}, {"devices": 2}], "method": "simclr"}, "differ in how, which no row names, so that "),
        (views, "differ in views, which no row of method none names"),
    ):
        said = wrong(file(grid={"seed": [0, 1]} | grid))
        assert sentence in said
        assert said.count("\n") == 0
    both = [{"method": "none"}, {"method": "simclr", "views": views["views"]}]
    assert len(read(file(grid={"seed": [0, 1]}, points=both)).runs) == 2 * 3 * 2


def test_options_of_a_method_can_vary_and_name_the_run(written, tmp_path):
    stubs = tiny.stages(tmp_path)
    tiny.notebook(tmp_path / "pretrain.ipynb", tiny.PARAMETERS + "\noptions = {}  # the method's own values")
    grid = {"method": "simclr", "options": [{}, {"temperature": 0.1}, {"temperature": 0.5}]}
    stages = {stage: stubs[stage] for stage in ("pretrain", "classify")}
    runs = read(tiny.study(tmp_path / "t.yml", grid=grid, stages=stages)).runs
    names = ["phantoms-simclr-s0", "phantoms-simclr-s0-temperature0.1", "phantoms-simclr-s0-temperature0.5"]
    assert list(runs) == [f"{stage}-{name}" for name in names for stage in ("pretrain", "classify")]
    assert runs["classify-phantoms-simclr-s0-temperature0.5"].after == ("pretrain-phantoms-simclr-s0-temperature0.5",)


def test_a_name_stands_for_its_value_everywhere_and_a_profile_may_change_it(written):
    claim = {"id": "C1", "sentence": "It helps.", "task": "knn", "where": {"dataset": "$us"}, "smallest": 0.01}
    claim |= {"more": {"method": "simclr"}, "than": {"method": "none"}}
    more = {"names": {"us": "phantoms", "all": ["none", "simclr"]}, "claims": [claim], "points": [{"method": "$all"}]}
    more |= {"stand_ins": ["Nothing."], "profiles": {"toy": {"names": {"us": "phantoms_ct"}, "stand_ins": ["All."]}}}
    file = written(("pretrain",), {"dataset": "$us", "seed": 0, "fold": "$seed"}, {"pretrain": {"epochs": 1}}, **more)
    usual, toy = read(file), read(file, "toy")
    assert list(usual.runs) == ["pretrain-phantoms-none-s0", "pretrain-phantoms-simclr-s0"]
    assert list(toy.runs) == ["pretrain-phantoms_ct-none-s0", "pretrain-phantoms_ct-simclr-s0"]
    assert (usual.claims[0]["where"], toy.claims[0]["where"]) == ({"dataset": "phantoms"}, {"dataset": "phantoms_ct"})
    assert (usual.stand_ins, toy.stand_ins) == (("Nothing.",), ("All.",))


def test_what_is_wrong_with_points_and_claims_is_said_too(written):
    claim = {"id": "C1", "sentence": "It helps.", "task": "knn", "more": {"metod": "simclr"}, "smallest": 0}
    more = {"points": [{"method": "simcrl"}], "claims": [claim], "rate": "fast"}
    said = wrong(written(("pretrain",), {}, **more))
    for sentence in (
        "tiny.yml: points.method: there is no method 'simcrl'; did you mean 'simclr'?",
        "tiny.yml: claims: C1: numbers have no column 'metod'; did you mean 'method'?",
        "tiny.yml: rate: 'fast' is no number of images a second",
    ):
        assert sentence in said
    assert "points: 'all' is not a list of mappings" in wrong(written(("pretrain",), {}, points="all"))


def test_a_profile_replaces_values_and_has_a_folder_of_its_own(written):
    toy = {"grid": {"seed": [0]}, "stages": {"pretrain": {"epochs": 1}}}
    file = written(("pretrain",), profiles={"class": {}, "toy": toy})
    assert read(file).folder == read(file, "class").folder == Path("runs/tiny")
    plan = read(file, "toy")
    assert plan.folder == Path("runs/tiny-toy")
    assert [run.parameters["epochs"] for run in plan.runs.values()] == [1, 1]
    assert "did you mean 'toy'?" in wrong(file, profile="toi")


def test_a_notebook_of_ones_own_can_be_a_stage(written, tmp_path):
    tiny.notebook(tmp_path / "mine.ipynb", tiny.PARAMETERS, "1")
    file = written(("pretrain",))
    file.write_text(file.read_text() + "  probe:\n    notebook: mine.ipynb\n")
    run = read(file).runs["probe-phantoms-none-s0"]
    assert (run.files, run.after) == ((), ("pretrain-phantoms-none-s0",))


def test_everything_wrong_is_said_at_once(written):
    grid = {"datset": "phantoms", "method": ["simcrl"], "seed": "one", "fold": "$sede", "out": "here"}
    said = wrong(written(("pretrain", "embed"), grid, {"embed": {"epocs": 3, "epochs": "3x"}}, titel="Tiny"))
    for sentence in (
        "tiny.yml: titel: unknown key; did you mean 'title'?",
        "tiny.yml: grid.datset: no notebook of this study has such a parameter; did you mean 'dataset'?",
        "tiny.yml: grid.method: there is no method 'simcrl'; did you mean 'simclr'?",
        "tiny.yml: grid.seed: seed: 'one' is no whole number",
        "tiny.yml: grid.fold: $sede refers to no key of the grid and to no name; did you mean 'seed'?",
        "tiny.yml: grid.out: `mednb run` fills this in",
        "tiny.yml: stages.embed.epocs: embed.ipynb has no parameter 'epocs'; did you mean 'epochs'?",
        "tiny.yml: stages.embed.epochs: epochs: '3x' is no whole number",
    ):
        assert sentence in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1", "has no keys"),
        ("stages: [", "is not YAML"),
        ("study: tiny", "stages: none is named"),
        ("study: a/b\nstages: {pretrain: }", "'a/b' names a folder"),
        ("stages: {pretrain: }\nprofiles: {../a: {}}", "profiles: '../a' names a folder"),
        ("stages: {pretrain: }\ngrid: &a {seed: *a}", "Circular reference"),
        ("stages: {pretrain: }\ngrid: {dataset: folder}", "dataset folder: say where your images are, with --data"),
        ("stages: {pretrain: }\ngrid: {dataset: busi+busi}", "busi stands in the mix busi+busi twice"),
        ("stages: {pretrain: 3}", "stages.pretrain: 3 is not a mapping"),
        ("stages: {pretrian: {}}", "did you mean 'pretrain'?"),
        ("stages: {pretrain: {notebook: no.ipynb}}", "no.ipynb"),
        ("stages: {pretrain: {}, pretrain: {}}", "'pretrain' stands there twice"),
        ("stages: {pretrain: {}}\ngrid: {1: 2}", "the key '1' is no name but of kind int; put it in quotes, in"),
        ("stages: {pretrain: {}}\ngrid:\n  on: 2", "the key 'on' is no name but of kind bool"),
        ("stages: {pretrain: {}}\ngrid: {~: 2}", "the key '~' is no name but of kind null"),
        ("stages: {pretrain: {}}\ntitle: 2024-13-01", "month must be in 1..12"),
        ("stages: {pretrain: {}}\npoints: [{stages: [[pretrain]]}]", "no stage ['pretrain']; did you mean 'pretrain'?"),
        ("stages: {pretrain: {}}\npoints: [{stages: {a: 1}}]", "points.stages: this study has no stage {'a': 1}"),
        ("stages: {probe: {notebook: 5}}", "stages.probe: notebook: 5 is no path of a notebook"),
        ("stages: {pretrain: {}}\ngrid: {seed: []}", "grid.seed: the list is empty, so that nothing would run"),
        ("stages: {pretrain: {}}\npoints: [{seed: []}]", "points.seed: the list is empty"),
        ("stages: {pretrain: {epochs: 0}}", "stages.pretrain.epochs: 0 is too few; it is 1 or more"),
        ("stages: {pretrain: {}, classify: {tasks: []}}", "stages.classify.tasks: the list is empty; give one value"),
    ],
)
def test_a_file_that_is_no_study_is_answered_with_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "tiny.yml"
    file.write_text(text)
    assert sentence in wrong(file)


def test_missing_data_is_said_before_anything_runs(written, tmp_path):
    file = written(("pretrain",), {"dataset": "busi"})
    (tmp_path / "pretrain.ipynb").unlink()
    tiny.notebook(tmp_path / "pretrain.ipynb", tiny.PARAMETERS + "\ndata = None  # where")
    assert "no such folder" in wrong(file, data=tmp_path / "nowhere")
    (tmp_path / "BUSI").mkdir()
    assert f"dataset busi: it is not to be found in {tmp_path}; download" in wrong(file, data=tmp_path)
    (tmp_path / "BUSI/Dataset_BUSI_with_GT/benign").mkdir(parents=True)
    for root in (tmp_path, tmp_path / "BUSI"):  # as `load` finds it
        assert len(read(file, data=root).runs) == 1
    phantoms = read(written(("pretrain",), {"dataset": "phantoms"}), data=".")
    assert phantoms.runs["pretrain-phantoms-none-s0"].parameters["data"] == "."


def test_what_a_study_would_cost_is_said_before_its_data_are_there(written, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDNB_DATA", str(tmp_path))
    (tmp_path / "pretrain.ipynb").unlink()
    tiny.notebook(tmp_path / "pretrain.ipynb", tiny.PARAMETERS + "\nimages_seen = None  # int: the budget")
    grid = {"dataset": "busi", "method": ["none", "simclr"], "seed": [0, 1]}
    plan = read(written(("pretrain",), grid, rate=10), without_data=True)
    assert plan.images_seen() == [3 * 468] * 2  # three epochs of three fifths of BUSI; none sees nothing
    said = graph.cost(plan)
    assert said[0] == "all 4 runs: 2 pretrain on about 2,808 images, counted as often as seen"
    assert said[1].startswith("at 10 images a second that is about 0.1 hours of one device")
    assert said[2].startswith("missing: dataset busi: it is not to be found in")
    grid |= {"images_seen": 18_000_000}
    assert "about 1,000.0 hours" in graph.cost(read(written(("pretrain",), grid, rate=10), without_data=True))[1]


def test_the_report_is_done_again_when_its_claims_change(written):
    plan = read(written(("pretrain", "report"), {}, stand_ins=["One."]))
    graph.write(plan, 1)
    reads = {run["name"]: run["reads"] for run in json.loads((plan.folder / "plan.json").read_text())["runs"]}
    assert "claims.json" in reads["report"]
    assert reads["pretrain-phantoms-none-s0"] == ["pretrain-phantoms-none-s0/parameters.json"]
    claims = plan.folder / "claims.json"
    os.utime(claims, (1, 1))
    graph.write(plan, 1)
    assert claims.stat().st_mtime == 1
    graph.write(read(written(("pretrain", "report"), {}, stand_ins=["Two."])), 1)
    assert claims.stat().st_mtime > 1


def test_a_report_of_fewer_runs_is_to_do_before_it_is_done(written, capsys):
    plan = read(written(("pretrain", "embed", "report"), {}))
    graph.write(plan, 1)
    for name in plan.runs:
        for path in graph.files(plan, name)[1]:
            (plan.folder / path).touch()
    graph.run(plan, dry_run=True)
    assert report(capsys).startswith("tiny: all 3 runs are up to date;")
    graph.run(read(written(("pretrain", "report"), {})), dry_run=True)
    assert report(capsys).startswith("tiny: 1 of 2 runs to do, 1 at a time:\n  report\n")


def test_a_study_goes_on_from_any_folder(written, tmp_path, monkeypatch):
    """From another one all paths were spelled otherwise, so that every run was done again."""
    file = written(values={"pretrain": {"epochs": 2}}).absolute()
    (tmp_path / "elsewhere").mkdir()
    graph.write(read(file, out=tmp_path / "runs"), 1)
    before = {path: path.read_text() for path in tmp_path.glob("runs/tiny/**/*.json")}
    os.utime(next(iter(before)), (1, 1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    plan = read(file, out=tmp_path / "runs")
    graph.write(plan, 1)
    assert {path: path.read_text() for path in tmp_path.glob("runs/tiny/**/*.json")} == before
    assert plan.folder == tmp_path / "runs/tiny"
    assert read(file, out="../runs", data=".").runs["report"].parameters["out"] == "runs/tiny/report"
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert read(file, out="../moved").runs["report"].parameters["out"] == str(tmp_path / "moved/tiny/report")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").rename(tmp_path / "runs")
    assert read(file).folder == Path("runs/tiny")
    (tmp_path / "runs/tiny/plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"runs/tiny/plan\.json is damaged \(.*: delete it"):
        read(file)


# -------------------- bringing it up to date


def report(capsys) -> str:
    return capsys.readouterr().out


def states(folder: str = "runs/tiny") -> dict[str, tuple]:
    """When each executed notebook was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in Path(folder).glob("*/notebook.ipynb")}


def now_outdated(plan) -> set[str]:
    graph.write(plan, 1)
    return graph.outdated(plan)


@pytest.mark.slow
def test_a_study_is_done_once_and_again_only_where_it_changed(written, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "usable_cores", lambda: 6)
    seen = "import os\nPath(f'{out}/threads').write_text(' '.join(map(os.environ.get, names)))"
    seen = f"from pathlib import Path\nnames = {graph.THREADS}\n{seen}"
    tiny.stages(tmp_path, pretrain=seen)
    stages = ("pretrain", "embed", "report")
    file = written(stages, {})
    graph.run(read(file), jobs=2)
    assert "3 of 3 runs done now" in report(capsys)
    assert Path("runs/tiny/pretrain-phantoms-none-s0/threads").read_text() == "3 3 3 3"  # 6 cores for 2 notebooks
    assert set(states()) == set(read(file).runs)

    tiny.stages(tmp_path, pretrain=seen)  # the notebooks are saved again, and hold what they held
    graph.run(read(file))
    assert report(capsys) == "tiny: all 3 runs are up to date; report: runs/tiny/report/report.html\n"

    changed = {"embed": {"epochs": 9}}
    graph.run(read(written(stages, {}, changed)), dry_run=True)
    assert report(capsys).startswith("tiny: 2 of 3 runs to do, 1 at a time:\n  embed-phantoms-none-s0\n  report\n")
    graph.run(read(written(stages, {})), dry_run=True)  # asking what a change would cost has made nothing old
    assert report(capsys).startswith("tiny: all 3 runs are up to date;")
    assert now_outdated(read(written(stages, {}, changed))) == {"embed-phantoms-none-s0", "report"}
    assert now_outdated(read(written(("pretrain", "report"), {}))) == {"report"}  # of fewer runs, so it is another


@pytest.mark.slow
def test_a_failed_run_stops_only_what_needs_it(written, capsys, tmp_path):
    fails = "assert method == 'none' or fixed, 'this one fails'"
    tiny.stages(tmp_path, pretrain=f"from pathlib import Path\nfixed = Path('fixed').exists()\n{fails}")
    file = written(("pretrain", "embed"), {"method": ["none", "simclr"]})
    with pytest.raises(RunFailed) as caught:
        graph.run(read(file), jobs=2)
    failed = "runs/tiny/pretrain-phantoms-simclr-s0/notebook.failed.ipynb"
    assert "1 of 4 runs failed" in str(caught.value)
    assert f"pretrain-phantoms-simclr-s0: cell [3]: AssertionError: this one fails (see {failed}" in str(caught.value)
    assert "not started, since they need them: 1" in str(caught.value)
    assert Path(failed).exists()
    assert set(states()) == {"pretrain-phantoms-none-s0", "embed-phantoms-none-s0"}
    (tmp_path / "fixed").touch()
    graph.run(read(file), jobs=2)
    assert "2 of 4 runs done now" in report(capsys)
    assert not Path(failed).exists()


@pytest.mark.slow
@pytest.mark.parametrize("ask", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_stopped_goes_on_where_it_was(written, capsys, tmp_path, ask):
    wait = "Path(f'pid-{method}').write_text(str(os.getpid()))\n"
    wait += "time.sleep(0 if method == 'none' or Path('go').exists() else 600)"
    wait = f"import os, time\nfrom pathlib import Path\n{wait}"
    tiny.stages(tmp_path, pretrain=wait)
    file = written(("pretrain", "report"), {"method": ["none", "simclr"]})
    command = [sys.executable, "-m", "mednb.cli", "run", str(file), "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    tiny.within(60, lambda: Path("pid-simclr").exists() and "pretrain-phantoms-none-s0" in states())
    with pytest.raises(RunFailed, match="in use by another"):
        graph.run(read(file))
    time.sleep(2)  # Snakemake takes note of what has finished
    before = states()
    process.send_signal(ask)
    _, said = process.communicate(timeout=30)
    tiny.within(30, lambda: not tiny.alive(int(Path("pid-simclr").read_text())))
    assert process.returncode == {signal.SIGTERM: 130, signal.SIGKILL: -9}[ask]
    assert ask == signal.SIGKILL or "the same command goes on from here: tiny: 1 of 3 done" in said

    (tmp_path / "go").touch()
    graph.run(read(file))
    assert "2 of 3 runs done now" in report(capsys)
    assert states()["pretrain-phantoms-none-s0"] == before["pretrain-phantoms-none-s0"]


@pytest.mark.slow
def test_a_study_that_is_killed_while_it_looks_what_is_to_do_takes_nobody_along(written):
    command = [sys.executable, "-m", "mednb.cli", "run", str(written(("pretrain",)))]
    # A script that runs the study in its own group of processes, as scripts do, and goes on when it was killed.
    script = f"""
import psutil, time
study = psutil.Popen({command})
while not (asked := study.children()):
    time.sleep(0.01)
study.kill()
study.wait()
_, running = psutil.wait_procs(asked, timeout=60)
print(len(running), "left, and goes on")"""
    said = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert said.stdout == "0 left, and goes on\n"


def test_two_studies_cannot_use_one_folder_at_once(written):
    plan = read(written(("pretrain",)))
    plan.folder.mkdir(parents=True)
    with FileLock(plan.folder / ".lock"), pytest.raises(RunFailed, match="runs/tiny is in use"):
        graph.run(plan)


def test_slurm_is_asked_with_squeue_and_without_an_account(written):
    plan = read(written(("pretrain",)))
    command = " ".join(graph.snakemake(plan, 8, 4, "slurm"))
    assert "--executor slurm --jobs 8" in command
    assert "--slurm-no-account --slurm-status-command squeue" in command
    assert "started_by" not in command  # a job on another machine has no parent here
    assert "--cores 8" in " ".join(graph.snakemake(plan, 4, 2, "local"))


def test_slurm_without_its_plugin_is_a_sentence(written, monkeypatch):
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install snakemake-executor-plugin-slurm"):
        graph.run(read(written(("pretrain",))), executor="slurm")


def test_the_progress_line_counts_and_estimates(written):
    plan = read(written(("pretrain", "report"), {"method": ["none", "simclr", "byol"]}))
    names, todo = list(plan.runs), set(list(plan.runs)[1:])  # the first was up to date before
    assert progress.line(plan, todo, jobs=1) == "tiny: 1 of 4 done, 0 running, 0 failed"

    def tell(name, **status):
        (plan.folder / name).mkdir(parents=True, exist_ok=True)
        (plan.folder / name / "status.json").write_text(json.dumps(status))

    tell(names[0], state="done", started=0, seconds=600)
    tell(names[1], state="running", started=time.time() - 300, seconds=0)
    assert progress.line(plan, todo, jobs=2) == (
        f"tiny: 1 of 4 done, 1 running ({names[1]}), 0 failed, about 12 min left"  # (5 + 10 + 10) / 2
    )
    tell(names[1], state="failed", started=0, seconds=1, why="why")
    assert "0 running, 1 failed, about 10 min left" in progress.line(plan, todo, jobs=2)
