"""The notebooks themselves: how they are stored, and that each runs strictly, with few and tiny images."""

from pathlib import Path

import nbformat
import pytest

from mednb.study.notebook import cells, is_parameters, parameters, run
from mednb.study.plan import FILES, NOTEBOOKS, read

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


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks/studies").glob("*.yml")), ids=lambda path: path.stem)
def test_every_profile_of_a_study_fits_its_notebooks(path, tmp_path):
    from mednb.study.plan import load, within

    for folder in ("BUSI",):
        (tmp_path / folder).mkdir()
    for profile in (None, *within(load(path), "profiles")):
        plan = read(path, profile, data=tmp_path)
        assert {run.stage for run in plan.runs.values()} == set(FILES)
