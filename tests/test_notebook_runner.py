"""One notebook, run strictly: what it takes, what is refused, and what is left when it fails."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import tiny

from mednb.parameter import Parameter
from mednb.study import notebook
from mednb.study.notebook import RunFailed, code_hash, parameters, run, unknown

PARAMETERS = """\
method = "simclr"  # how it learns
epochs = 3  # passes over the images
lr = 0.1  # learning rate
fractions = [0.1, 1.0]  # label fractions
pretty = True  # with colours
limit = None  # int: at most this many images
data = None  # where the images are
out = "runs/tiny"  # the run's folder"""


@pytest.fixture
def known(tmp_path):
    return parameters(tiny.notebook(tmp_path / "a.ipynb", PARAMETERS))


def test_parameters_are_read_with_defaults_and_comments(known):
    assert list(known) == ["method", "epochs", "lr", "fractions", "pretty", "limit", "data", "out"]
    assert known["fractions"] == Parameter("fractions", [0.1, 1.0], "label fractions")
    assert str(known["epochs"]) == "epochs = 3  # passes over the images"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("method", "none", "none"),
        ("method", "no", "no"),  # YAML would make it False
        ("epochs", "5", 5),
        ("lr", "1", 1.0),
        ("lr", "1e-3", 0.001),
        ("fractions", "[0.5, 1]", [0.5, 1.0]),
        ("pretty", "false", False),
        ("limit", "60", 60),
        ("limit", "null", None),
        ("data", "../data", "../data"),
    ],
)
def test_a_value_is_read_as_its_default_is_meant(known, name, text, value):
    read = known[name].read(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "3x"),
        ("epochs", "2.5"),
        ("epochs", "true"),
        ("epochs", "null"),
        ("lr", "fast"),
        ("fractions", "0.1"),
        ("fractions", "[a]"),
        ("fractions", "[0.1"),
        ("pretty", "3"),
        ("limit", "all"),
    ],
)
def test_an_ill_typed_value_is_refused_by_name(known, name, text):
    with pytest.raises(ValueError, match=name):
        known[name].read(text)


def test_an_unknown_parameter_is_answered_with_the_nearest_and_the_list(known):
    said = unknown("epocs", "a.ipynb", known)
    assert "'epocs'" in said
    assert "did you mean 'epochs'?" in said
    assert "lr = 0.1  # learning rate" in said


@pytest.mark.parametrize("cell", ["epochs = 1 + n", "import os", "a, b = 1, 2", "epochs ="])
def test_a_parameters_cell_holds_literals_only(tmp_path, cell):
    with pytest.raises(ValueError, match="parameters cell"):
        parameters(tiny.notebook(tmp_path / "a.ipynb", cell))


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "a.ipynb").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.ipynb is not a notebook"):
        parameters(tmp_path / "a.ipynb")
    with pytest.raises(FileNotFoundError, match=r"b\.ipynb"):
        parameters(tmp_path / "b.ipynb")


def test_only_code_changes_the_code_hash(tmp_path):
    path = tiny.notebook(tmp_path / "a.ipynb", "epochs = 3", "print(epochs)")
    before, book = code_hash(path), nbformat.read(path, 4)
    book.cells[0].source = "epochs = 4"
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="3")]
    book.cells.append(nbformat.v4.new_markdown_cell("A thought."))
    nbformat.write(book, path)
    assert code_hash(path) == before
    book.cells[1].source = "print(epochs + 1)"
    nbformat.write(book, path)
    assert code_hash(path) != before


@pytest.mark.slow
def test_a_notebook_runs_where_it_is_called_with_the_values_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = "import os, sys\nprint(epochs, os.getcwd())\nprint('careful', file=sys.stderr)"
    book = tiny.notebook(tmp_path / "notebooks/{odd} name.ipynb", PARAMETERS, cell)
    done = run(book, {"epochs": 7}, "runs/a")
    assert done == Path("runs/a/notebook.ipynb")
    assert nbformat.read(done, 4).cells[-1].outputs[0].text == f"7 {tmp_path}\n"
    assert sorted(path.name for path in Path("runs/a").iterdir()) == ["notebook.ipynb", "stderr.txt"]
    # No more than what the notebook said: a kernel that other users of the machine could reach would complain.
    assert Path("runs/a/stderr.txt").read_text() == "careful\n"


@pytest.mark.slow
def test_a_running_notebook_is_told_the_hash_of_its_code(tmp_path):
    """The ledger writes it down: other cells can make another number of the same values."""
    book = tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, "import os\nprint(os.environ['MEDNB_NOTEBOOK_CODE'])")
    done = run(book, {}, tmp_path / "out")
    assert nbformat.read(done, 4).cells[-1].outputs[0].text == f"{code_hash(book)}\n"


@pytest.mark.slow
def test_a_failed_notebook_is_kept_with_its_error(tmp_path):
    book = tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, "import sys; print('hm', file=sys.stderr)", "1 / 0", "2")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notebook.ipynb").write_text("from an earlier call")
    with pytest.raises(RunFailed, match=r"cell \[3\]: ZeroDivisionError: division by zero .*notebook\.failed\.ipynb"):
        run(book, {}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["notebook.failed.ipynb", "stderr.txt"]
    assert "ZeroDivisionError" in (tmp_path / "out/notebook.failed.ipynb").read_text()
    assert (tmp_path / "out/stderr.txt").read_text() == "hm\n"


@pytest.mark.slow
def test_a_promised_file_must_be_written_by_this_very_run(tmp_path):
    (tmp_path / "run.json").write_text("from an earlier call")
    with pytest.raises(RunFailed, match=r"without writing run\.json"):
        run(tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, "1"), {}, tmp_path, files=("run.json",))
    assert (tmp_path / "notebook.failed.ipynb").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "why"), [("os._exit(3)", "exit status 3"), ("os.kill(os.getpid(), 9)", "SIGKILL, .* memory ran out")]
)
def test_a_dead_kernel_is_noticed_and_its_cell_is_marked(tmp_path, end, why):
    with pytest.raises(RunFailed, match=rf"cell \[3\]: the kernel died, {why}"):
        run(tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, f"import os\n{end}", "2"), {"epochs": 1}, tmp_path / "out")
    cells = nbformat.read(tmp_path / "out/notebook.failed.ipynb", 4).cells
    assert [bool(cell.outputs) for cell in cells] == [False, False, True, False]


def listens(to):
    """A shell lets what it starts in the background ignore Ctrl-C, and so do its children."""
    return signal.getsignal(to) != signal.SIG_IGN


ASKED = """
import os, signal, time
def keep(*_):
    open(f"{out}/kept", "w")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, keep)
open(f"{out}/pid", "w").write(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ask", [each for each in (signal.SIGINT, signal.SIGTERM) if listens(each)])
def test_a_notebook_that_is_stopped_may_save_what_it_has_done(tmp_path, ask):
    book = tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, ASKED)
    command = [sys.executable, "-m", "mednb.cli", "notebook", book, "--out", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    pid = int(tiny.within(60, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    process.send_signal(ask)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (tmp_path / "kept").exists() and not tiny.alive(pid)
    assert "mednb: stopped (see " in said and "the same command goes on" in said


@pytest.mark.slow
def test_a_kernel_that_does_not_listen_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "PATIENCE", 0.5)
    deaf = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        notebook.end(process)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("ask", "state"), [(signal.SIGTERM, "stopped"), (signal.SIGKILL, "running")])
def test_no_kernel_outlives_its_run(tmp_path, ask, state):
    cell = "import os, time\nopen(f'{out}/pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    book = tiny.notebook(tmp_path / "a.ipynb", PARAMETERS, cell)
    task = {"notebook": str(book), "parameters": {"out": str(tmp_path)}, "files": []}
    (tmp_path / "parameters.json").write_text(json.dumps(task))
    process = subprocess.Popen([sys.executable, "-m", "mednb.study.notebook", tmp_path])
    pid = int(tiny.within(60, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    process.send_signal(ask)
    process.wait(20)
    tiny.within(20, lambda: not tiny.alive(pid))
    assert json.loads((tmp_path / "status.json").read_text())["state"] == state
