"""Whoever reads a test split is written down, and who looks again after other values is marked."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from mednb import ledger, results
from mednb.datasets import load


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=60)


@pytest.fixture
def read(images, tmp_path):
    """A run's reading of the test split of some phantoms, with these values."""
    return lambda run, tasks=("knn",), **values: ledger.record(
        tmp_path / "study" / run, images, tasks, "study", run, values
    )


def test_a_reading_says_who_when_and_which_test_set_was_read(read, images, tmp_path):
    read("classify-s0", ["knn", "linear"], steps=10)
    rows = ledger.read(tmp_path / "study")
    assert list(rows["task"]) == ["knn", "linear"]
    row = rows.iloc[0]
    assert (row["study"], row["run"], row["dataset"], row["fold"]) == ("study", "classify-s0", "phantoms", 0)
    assert row["split_hash"] == images.split_hash
    assert "@" in row["who"]
    assert row["time"].endswith("+00:00")
    assert not rows["again"].any()


def test_a_second_look_with_other_values_is_marked_and_a_rerun_is_not(read, tmp_path):
    read("a", steps=10)
    read("a", steps=10)  # the same again, as after an interruption
    read("b", steps=20, method="byol")  # another run
    read("a", ["linear"], steps=20)  # another question
    assert not ledger.read(tmp_path / "study")["again"].any()
    read("a", steps=20)
    read("a", steps=10)  # back to what was first: but now the other answer is known
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False] * 4 + [True] * 2


def test_another_name_does_not_hide_a_second_look(read, tmp_path):
    read("a", steps=10, method="byol", seed=0, pretrained="runs/a")
    read("renamed", steps=10, method="byol", seed=0, pretrained="runs/b")  # the same values: a rerun
    read("b", steps=20, method="byol", seed=1)  # another seed, and so another number
    read("c", steps=20, method="byol", seed=0, fractions=[0.1])  # of other labels
    assert not ledger.read(tmp_path / "study")["again"].any()
    read("renamed again", steps=20, method="byol", seed=0)
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False] * 4 + [True]


def test_a_second_look_by_other_code_is_marked(read, tmp_path, monkeypatch):
    read("a", steps=10)
    monkeypatch.setattr(results, "code_hash", lambda: "0" * 16)
    read("a", steps=10)
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False, True]


def test_a_second_look_by_other_cells_of_the_notebook_is_marked(read, tmp_path, monkeypatch):
    for cells in ("a", "a", "b"):
        monkeypatch.setenv("MEDNB_NOTEBOOK_CODE", cells)
        read("a", steps=10)
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False, False, True]


def test_other_fractions_do_not_hide_a_second_look_at_those_that_both_have(read, tmp_path):
    read("a", steps=10, fractions=[0.1, 1.0])
    read("renamed", steps=10, fractions=[0.1, 1.0])
    read("others", steps=20, fractions=[0.25])
    read("more", steps=20, fractions=[1.0, 0.5])
    read("more", ["linear"], steps=20, fractions=[1.0, 0.5])
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False] * 3 + [True, False]


def test_a_ledger_without_fractions_is_read_as_before(read, tmp_path):
    for run, steps in (("a", 10), ("b", 10), ("c", 20)):
        read(run, steps=steps, fractions=[0.1])
    path = tmp_path / "study/ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if k not in ("of_fraction", "fractions")} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    read("c", steps=20, fractions=[0.1])
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False, False, True]


def test_a_ledger_that_names_no_questions_tells_runs_by_their_names(read, tmp_path):
    for run, steps in (("a", 10), ("b", 20), ("a", 20)):
        read(run, steps=steps)
    path = tmp_path / "study/ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "question"}) + "\n" for line in lines))
    assert ledger.read(tmp_path / "study")["again"].tolist() == [False, False, True]


def test_a_folder_in_which_nothing_was_read_has_an_empty_ledger(tmp_path):
    rows = ledger.read(tmp_path)
    assert rows.empty
    assert list(rows) == [*ledger.COLUMNS, "again"]


def test_many_runs_at_once_leave_whole_lines(read, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: read(f"run-{i}", ["knn", "linear", "finetune"], steps=i), range(40)))
    rows = ledger.read(tmp_path / "study")
    assert len(rows) == 120
    assert (rows.groupby("run")["task"].size() == 3).all()
    assert rows.groupby("run")["task"].agg(list).map(len).eq(3).all()


def test_the_order_of_the_values_does_not_matter(read):
    (a,), (b,), (c,) = read("a", x=1, y=2), read("a", y=2, x=1), read("a", y=2, x=2)
    assert a["values"] == b["values"] != c["values"]


def test_a_damaged_line_is_named(read, tmp_path):
    read("a")
    with (tmp_path / "study/ledger.jsonl").open("a") as file:
        file.write(json.dumps({"time": "now"}) + "\n")
    with pytest.raises(ValueError, match=r"ledger.jsonl, line 2, is no reading of a test split"):
        ledger.read(tmp_path / "study")
