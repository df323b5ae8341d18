"""The notebooks themselves: how they are stored, and that each runs strictly, with few and tiny images."""

from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest

from mednb import claims, datasets, embed, plots, results, watch
from mednb.study.notebook import cells, is_parameters, parameters, run
from mednb.study.plan import FILES, NOTEBOOKS, load, read, within

ROOT = Path(__file__).parents[1]
ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("**/*.ipynb"))
ALONE = [path for path in ALL if ROOT / path not in NOTEBOOKS.values()]
TINY = {
    "dataset": "phantoms",
    "images_drawn": 240,
    "limit": 60,
    "size": 32,
    "sizes": [32],
    "batch_size": 16,
    "epochs": 1,
    "steps": 2,
    "fractions": [0.5, 1.0],
    "repetitions": 1,
    "seconds": 0.1,
}


def strictly(notebook: Path, out: Path, files: tuple[str, ...] = (), **values) -> Path:
    known = parameters(ROOT / notebook)
    chosen = {name: known[name].accept(value) for name, value in (TINY | values).items() if name in known}
    return run(ROOT / notebook, chosen | {"out": str(out)}, out, files)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_a_notebook_is_stored_as_it_was_written_not_as_it_was_run(path):
    book = nbformat.read(ROOT / path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert len({cell.id for cell in book.cells}) == len(book.cells)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_a_notebook_is_short_and_says_what_its_parameters_mean(path):
    assert [name for name, each in parameters(ROOT / path).items() if not each.comment] == []
    code = cells(ROOT / path)
    assert 5 <= len(code) <= 12
    assert [cell["source"] for cell in code if len(cell["source"].splitlines()) > 8 and not is_parameters(cell)] == []


def test_a_cell_of_the_report_shows_all_that_it_draws():
    """Of what a cell computes Jupyter shows the last value only."""
    lines = [cell["source"].splitlines() for cell in cells(NOTEBOOKS["report"])]
    assert [line for cell in lines for line in cell[:-1] if line.startswith("report.keep")] == []
    assert sum(line.startswith("display(report.keep") for cell in lines for line in cell) == 5


def test_the_geometry_of_many_images_is_of_some_of_every_kind_and_its_rows_say_of_how_many(monkeypatch, tiny_encoder):
    drawn = datasets.load("phantoms", size=32, limit=60)
    val = drawn.take(np.repeat(np.arange(len(drawn)), 10))
    rare = np.where(np.arange(len(val)) < 520, "a", "b")  # as the members of a mix lie one behind the other
    val = replace(val, table=val.table.assign(split="val", patient=rare))
    known = {"val": val, "images": val, "embed": embed, "encoder": tiny_encoder, "origin": {"views": "ultrasound"}}
    known |= {"results": results, "few": watch.few, "seed": 0, "out": "", "study": "", "run": ""}
    monkeypatch.setattr(results, "write_run", lambda out, **said: dict.fromkeys(results.RUN, 0))
    monkeypatch.setattr(results, "write_rows", lambda out, rows: rows)
    monkeypatch.setattr(results, "about", lambda images, seed: {})
    for cell in cells(NOTEBOOKS["embed"]):
        if "embed.geometry(" in cell["source"] or "results.row(" in cell["source"]:
            exec(cell["source"], known)
    assert {(row["n_patients"], row["n_images"]) for row in known["rows"]} == {(2, 512)}


def test_the_pairs_that_are_shown_are_of_all_classes_where_a_table_is_sorted_by_them(monkeypatch):
    drawn, shown = datasets.load("phantoms", size=32, limit=60), []
    known = {"images": drawn.take(np.argsort(drawn.labels)), "pairs": "same_image", "seed": 0}
    monkeypatch.setattr(plots, "pairs", lambda images, partners, titles: shown.extend(titles))
    sources = [cell["source"] for cell in cells(ROOT / "notebooks/02_pairs.ipynb")]
    exec(next(source for source in sources if "plots.pairs(" in source), known)
    assert set(shown) == set(drawn.classes)


@pytest.mark.slow
@pytest.mark.parametrize("path", ALONE, ids=str)
def test_a_notebook_runs_alone(path, tmp_path):
    strictly(path, tmp_path)


@pytest.mark.slow
def test_the_stages_follow_each_other_and_leave_what_they_promise(tmp_path):
    for stage, notebook in NOTEBOOKS.items():
        names = {"study": "tiny", "run": f"{stage}-phantoms-simclr-s0"}
        upstream = {"runs": str(tmp_path), "pretrained": str(tmp_path / "pretrain-phantoms-simclr-s0")}
        strictly(notebook, tmp_path / names["run"], FILES[stage], method="simclr", **names, **upstream)


@pytest.mark.slow
@pytest.mark.data
def test_the_data_notebook_runs_on_real_images(data_root, tmp_path):
    values = {"dataset": "mini_mias", "data": str(data_root), "limit": None}
    strictly(Path("notebooks/01_data.ipynb"), tmp_path, ("splits.csv",), **values)
    assert len((tmp_path / "splits.csv").read_text().splitlines()) == 323


STUDIES = sorted((ROOT / "notebooks/studies").glob("*.yml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_profile_of_a_study_fits_its_notebooks(path):
    for profile in (None, *within(load(path), "profiles")):
        plan = read(path, profile, without_data=True)
        assert {"pretrain", "report"} < {run.stage for run in plan.runs.values()} <= set(FILES)


@pytest.mark.parametrize("path", [path for path in STUDIES if "2" in path.stem], ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["paper", "toy"])
def test_at_the_scale_of_its_work_and_as_a_toy_a_study_has_all_that_its_claims_compare(path, profile):
    plan = read(path, profile, without_data=True)
    runs = {name: each for name, each in plan.runs.items() if each.stage != "report"}
    there = {name: set() for name in ("task", "dataset", "size", "method", "pretrained_on", "initialise")}
    for each in runs.values():
        pretrained = runs[each.after[0]].parameters if each.after else each.parameters
        said = each.parameters | {"method": pretrained["method"], "pretrained_on": pretrained["dataset"]}
        for name in there.keys() & said.keys():
            there[name].add(said[name])
        there["task"] |= set(said.get("tasks", ["segment"] if each.stage == "segment" else []))
    for claim in claims.read(plan.claims):
        for terms in claim.comparisons().values():
            for column, wanted in ((name, where[name]) for _, where in terms for name in there.keys() & where.keys()):
                assert set(wanted if isinstance(wanted, list) else [wanted]) <= there[column], (claim.id, column)


def test_the_toys_of_all_studies_need_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDNB_DATA", str(tmp_path))
    assert [read(path, "toy").lacks for path in STUDIES] == [()] * len(STUDIES)


def test_the_toys_test_encoders_of_a_mix_on_the_patients_of_its_members():
    """A limit says how many phantoms are drawn; a mix draws all of them, and so has other patients for testing."""
    for path in STUDIES:
        values = [run.parameters for run in read(path, "toy").runs.values() if run.stage == "pretrain"]
        assert not [said for said in values if "+" in said["dataset"] and said["limit"] is not None], path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_toys_have_images_to_learn_from(path):
    plan = read(path, "toy")
    asked = [run.parameters for run in plan.runs.values() if run.stage == "pretrain"]
    kinds = ("dataset", "size", "fold", "limit", "more")
    each = {repr(values): values for values in ([of[name] for name in kinds] for of in asked)}
    for dataset, size, fold, limit, more in each.values():
        images = datasets.load(dataset, size=size, fold=fold, limit=limit, **more).where(split="train")
        assert len(images) > 40
        if "+" in dataset:
            shares = images.table.groupby(more["balance"])["weight"].sum()
            assert shares.to_numpy() == pytest.approx([len(images) / len(shares)] * len(shares))
