"""What is typed in a terminal: every answer is a sentence, and the exit code says who has to act."""

import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import tiny
import twins_own

import mednb
from mednb import datasets
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


def test_a_misspelt_parameter_is_refused_before_anything_large_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "mednb.cli", "notebook", PRETRAIN, "-p", "epocs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "mednb.parameter" in imported and not {"torch", "pandas", "papermill", "jupyter_client"} & imported
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
        (["data", "card", "folder", "--table", "my.csv"], "--table is for check"),
        (["data", "check", "folder"], "needs root, --data or a notebook's data: the folder"),
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


def test_a_list_says_what_is_under_the_root(capsys, tmp_path):
    def line(name):
        return next(
            line for line in said(capsys, "data", "list", "--data", tmp_path, code=0).split("\n") if name in line
        )

    assert line("phantoms ").split()[1] == "drawn"
    assert line("busi ").split()[1] == "-"
    (tmp_path / "BUSI/Dataset_BUSI_with_GT/benign").mkdir(parents=True)
    assert line("busi ").split()[1] == "there"
    assert line("folder ").split()[1] == "yours"


def test_what_cannot_be_downloaded_is_explained_with_the_place_to_put_it(capsys, tmp_path):
    answer = said(capsys, "data", "get", "busi", "--data", tmp_path, code=0)
    assert "download" in answer and f"{tmp_path}/BUSI.zip" in answer
    assert not list(tmp_path.iterdir())


def test_what_can_be_downloaded_is_put_under_the_root(capsys, tmp_path, monkeypatch):
    from types import SimpleNamespace

    asked, card = [], SimpleNamespace(folder="it", how_to_get="ask")

    def get(folder, size):
        asked.append(size)
        (folder / "deep").mkdir()
        (folder / "deep/a.bin").write_bytes(b"new")

    module = SimpleNamespace(get=get, has=lambda folder, size: (folder / "deep/a.bin").exists(), CARD=card)
    monkeypatch.setitem(datasets.DATASETS, "it", module)
    for _ in range(2):
        answer = said(capsys, "data", "get", "it", "--data", tmp_path, "--size", 64, code=0)
        assert f"it is in {tmp_path / 'it'}" in answer
    assert asked == [64]  # once: it is there
    assert [path.relative_to(tmp_path / "it").as_posix() for path in (tmp_path / "it").rglob("*")] == [
        "deep",
        "deep/a.bin",
    ]


def test_a_download_that_fails_touches_nothing_else(tmp_path, monkeypatch):
    """Neither what another process has downloaded meanwhile, nor an older file of the same name."""
    from torchvision.datasets import utils

    folder = tmp_path / "medmnist"
    folder.mkdir()
    (folder / "pathmnist_64.npz").write_bytes(b"old")

    def arrives(_, path, *__):
        Path(path).write_bytes(b"half of it")
        (folder / "bloodmnist.npz").write_bytes(b"of another process")
        raise URLError("connection lost")

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", arrives)
    with pytest.raises(OSError, match=r"pathmnist was not downloaded: .*connection lost"):
        datasets.get("pathmnist", tmp_path, 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "pathmnist_64.npz": b"old",
        "bloodmnist.npz": b"of another process",
    }


def test_a_zip_of_your_own_is_checked(capsys, tmp_path):
    import shutil

    twins_own.plain(tmp_path / "mine")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "mine")
    assert "all is well" in said(capsys, "data", "check", "folder", "--data", tmp_path / "mine.zip", code=0)


@pytest.mark.parametrize("name", ["organsmnist", "stl10"])
@pytest.mark.parametrize("fault", ["no network", "a wrong checksum"])
def test_a_download_that_fails_is_a_sentence_and_leaves_nothing(capsys, tmp_path, monkeypatch, name, fault):
    from torchvision.datasets import utils

    def arrives(_, path, *__):
        Path(path).write_bytes(b"half of it")
        if fault == "no network":
            raise URLError("name resolution failed")

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", arrives)
    answer = said(capsys, "data", "get", name, "--data", tmp_path / "data", code=2)
    reason = "name resolution failed" if fault == "no network" else "File not found or corrupted"
    assert f"mednb: {name} was not downloaded: " in answer and reason in answer and "\n" not in answer.strip()
    assert f"Try again, or do it by hand: `mednb data get {name}`, or {name}" in answer.replace("10_binary", "10")
    assert not [path for path in tmp_path.rglob("*") if path != tmp_path / "data"]
    mine = tmp_path / "data" / datasets.named(name).CARD.folder / "mine.npz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"other numbers")
    said(capsys, "data", "get", name, "--data", tmp_path / "data", code=2)
    assert list(mine.parent.iterdir()) == [mine]


def test_a_download_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def begins(_, path, *__):
        Path(path).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", begins)
    with pytest.raises(KeyboardInterrupt):
        datasets.get("stl10", tmp_path / "data")
    assert not [path for path in tmp_path.rglob("*") if path != tmp_path / "data"]


def test_own_images_are_checked_with_their_table(capsys, tmp_path):
    twins_own.table(tmp_path).to_csv(tmp_path / "my.csv", index=False)
    answer = said(capsys, "data", "check", "folder", "--data", tmp_path, "--table", "my.csv", code=0)
    assert "12 images, 6 patients" in answer and "A: 6" in answer and answer.strip().endswith("all is well")


def test_the_members_of_a_mix_are_described_and_checked_each(capsys, tmp_path):
    answer = said(capsys, "data", "card", "busi+phantoms", code=0)
    assert answer.startswith("busi: ") and "\nphantoms: " in answer
    answer = said(capsys, "data", "check", "phantoms+busi", "--data", tmp_path, code=1)
    assert "phantoms: drawn" in answer and "busi needs" in answer


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("busi", ["780 images, no patient ids, 798 masks", "normal: 133", "benign: 437", "malignant: 210"]),
        ("busbra", ["1,875 images, 1,064 patients, 1,875 masks", "benign: 1,268", "malignant: 607"]),
        ("mini_mias", ["322 images, 161 patients", "normal: 207", "benign: 63", "malignant: 52"]),
        ("hc18", ["1,334 images, 1,141 patients, 999 masks (335 images have none)", "unlabelled: 1,334"]),
        ("pocus", ["517 images, 102 patients, 0 masks", "covid: 90", "pneumonia: 161", "regular: 246", "viral: 20"]),
        ("iq_othnccd", ["1,097 images, no patient ids, 0 masks", "normal: 416", "benign: 120", "malignant: 561"]),
    ],
)
def test_real_datasets_are_as_they_are_known(capsys, data_root, name, sentences):
    answer = said(capsys, "data", "check", name, "--data", data_root, code=0)
    assert all(sentence in answer for sentence in [*sentences, "0.0% of the test images", "all is well"])


def test_data_that_are_not_there_fail_the_check(capsys, tmp_path):
    assert str(tmp_path) in said(capsys, "data", "check", "busi", "--data", tmp_path, code=1)
