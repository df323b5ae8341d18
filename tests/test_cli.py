"""What is typed in a terminal: every answer is a sentence, and the exit code says who has to act."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import mednb
from mednb.cli import main

PRETRAIN = Path(__file__).parents[1] / "notebooks/03_pretrain.ipynb"


def said(capsys, *arguments, code: int) -> str:
    """What a command prints, on either stream; its exit code must be `code`."""
    try:
        ended = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        ended = stop.code
    out, err = capsys.readouterr()
    assert ended == code, err
    return out + err


def test_the_version_is_the_package_s(capsys):
    assert said(capsys, "--version", code=0) == f"mednb {mednb.__version__}\n"


def test_a_misspelt_parameter_is_refused_within_seconds():
    started = time.monotonic()
    command = [sys.executable, "-m", "mednb.cli", "notebook", PRETRAIN, "-p", "epocs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert time.monotonic() - started < 5
    assert done.returncode == 2
    assert "no parameter 'epocs'; did you mean 'epochs'? Its parameters:" in done.stderr
    assert "batch_size = " in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_the_parameters_of_a_notebook(capsys, tmp_path):
    book = tiny.notebook(tmp_path / "a.ipynb", "epochs = 3  # passes over the images")
    assert "epochs = 3  # passes over the images" in said(capsys, "notebook", book, "--help", code=0)
    assert "NOTEBOOK.ipynb" in said(capsys, "notebook", "--help", code=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["notebook", "a.ipynb", "-p", "epochs", "3x"], "epochs: '3x' is no whole number; its default is 3"),
        (["notebook", "a.ipynb", "-p", "epochs", "3", "-p", "epochs", "4"], "epochs is given twice"),
        (["notebook", "b.ipynb"], "there is no notebook b.ipynb"),
        (["notebook"], "which notebook?"),
        (["run", "b.yml"], "there is no study file b.yml"),
        (["run", "b.yml", "--jobs", "0"], "'0' is no number of notebooks"),
        (["data", "card"], "which one? there is phantoms"),
        (["data", "card", "phantom"], "Did you mean phantoms?"),
        (["rum"], "invalid choice: 'rum'"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    tiny.notebook(tmp_path / "a.ipynb", "epochs = 3")
    assert sentence in said(capsys, *arguments, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.slow
def test_out_is_a_parameter_and_where_the_notebook_goes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = tiny.notebook(
        tmp_path / "a.ipynb", 'out = "runs/a"\nepochs = 3', "open(f'{out}/here', 'w').write(str(epochs))"
    )
    assert "b/notebook.ipynb (in " in said(capsys, "notebook", book, "--out", "b", "-p", "epochs", 5, code=0)
    assert Path("b/here").read_text() == "5"


@pytest.mark.slow
def test_a_failed_notebook_is_exit_code_1_and_where_it_is(capsys, tmp_path):
    book = tiny.notebook(tmp_path / "a.ipynb", "epochs = 3", "epochs / 0")
    answer = said(capsys, "notebook", book, "--out", tmp_path / "b", code=1)
    assert answer.startswith("mednb: cell [2]: ZeroDivisionError: division by zero (see ")
    assert "b/notebook.failed.ipynb" in answer


def test_data_are_listed_described_and_checked(capsys):
    assert "phantoms" in said(capsys, "data", "list", code=0)
    assert "licence" in said(capsys, "data", "card", "phantoms", code=0)
    assert said(capsys, "data", "get", "phantoms", code=0).strip()


def test_data_that_are_not_there_fail_the_check(capsys, tmp_path):
    assert str(tmp_path) in said(capsys, "data", "check", "busi", "--data", tmp_path, code=1)
