"""Pipelines give comparable views, and what is measured is what is said."""

import dataclasses
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from mednb import speed
from mednb.datasets import load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return load("phantoms", size=32, limit=20)


@pytest.fixture
def setting(images, tiny_encoder):
    return speed.Setting(images, batch_size=8, encoder="tiny", workers=0, seconds=0.01)


@pytest.mark.parametrize("name", ["lightly", "torchvision", "kornia", "mednb"])
def test_every_pipeline_gives_two_different_grey_views_of_a_batch_for_ever(setting, name):
    torch.manual_seed(0)
    batches = list(islice(speed.PIPELINES[name](setting), 4))  # more than all images
    for a, b in batches:
        assert a.shape == b.shape == (8, 1, 32, 32)
        assert a.dtype == torch.float32
        assert a.std() > 0.1
        assert not torch.allclose(a, b)
    assert not torch.allclose(batches[0][0], batches[1][0])


@pytest.mark.parametrize("change", [lambda grey: np.stack([grey] * 3, 1), lambda grey: grey.astype(np.uint16) * 257])
def test_images_that_others_would_take_for_something_else_are_refused(images, change):
    changed = dataclasses.replace(images, stored_pixels=change(np.array(images.pixels)), rows=None)
    with pytest.raises(ValueError, match="phantoms: others' pipelines are measured here on grey images of 8 bits only"):
        speed.Setting(changed)


def test_the_limit_gets_views_that_are_already_there(setting):
    first, second = islice(speed.PIPELINES[speed.LIMIT](setting), 2)
    assert first[0] is second[0]


def test_the_pace_counts_steps_after_two_that_do_not_count_and_ends_its_stream(setting, monkeypatch):
    told = []

    def stream(_):
        try:
            for i in range(100):
                yield [i, i]
        finally:
            told.append("closed")

    monkeypatch.setitem(speed.PIPELINES, "counted", stream)
    clock = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: 10.0 * next(clock))
    views_per_second, held = speed.pace(setting, "counted", lambda a, b: told.append(a), steps=3)
    assert told == [0, 1, 2, 3, 4, "closed"]
    assert held == pytest.approx(0, abs=0.5)  # gigabytes; a process that another test has left may count
    assert views_per_second == 3 * 2 * 8 / (10 * (1 + 2))  # looked at twice in between


def test_a_stream_that_ends_is_an_error(setting, monkeypatch):
    monkeypatch.setitem(speed.PIPELINES, "short", lambda _: iter_twice())
    with pytest.raises(RuntimeError, match="short ran out of images"):
        speed.pace(setting, "short", lambda a, b: None, steps=3)


def iter_twice():
    yield from ([0, 0], [1, 1])


def test_the_blur_of_others_has_an_odd_kernel_of_a_tenth_of_the_image():
    assert [speed.blur_kernel(size) for size in (16, 64, 128, 224)] == [3, 7, 13, 23]


def test_all_pipelines_are_measured_in_turns(setting):
    rows = speed.measure(setting, repetitions=2)
    training, alone = (rows[rows["what"] == what] for what in ("training", "views"))
    here = [name for name in speed.PIPELINES if torch.cuda.is_available() or name not in speed.ON_GPUS]
    assert list(training["pipeline"]) == [name for name in here for _ in range(2)]
    assert list(dict.fromkeys(alone["pipeline"])) == ["lightly", "torchvision", "kornia", "mednb"]
    assert (rows["views_per_second"] > 0).all()
    assert set(training["repetition"]) == {0, 1}
    assert rows[["device", "cores", "torch", "dataset", "load"]].notna().all().all()
    slow = training.set_index("pipeline")["precision"]
    assert set(slow[["lightly", "torchvision", "kornia", speed.LIMIT_32]]) == {"32-true"}
    assert set(slow["mednb"]) == set(slow[speed.LIMIT]) == {speed.pretrain.precision()}


def test_pretraining_is_timed_as_it_is_and_leaves_no_method_behind(setting):
    before = dict(speed.METHODS), speed.watch.LONG
    for long in (False, True):
        assert speed.in_earnest(setting, steps=3, long=long) > 0
    assert before == (speed.METHODS, speed.watch.LONG)


def test_memory_is_the_peak_of_a_block():
    taken = []
    for megabytes in (1, 300):
        with speed.memory(CPU) as found:
            held = np.ones(megabytes * 2**20, np.uint8)
            assert held.all()
            del held
        taken.append(found["here"])
    if np.isnan(taken).all():
        pytest.skip("this system does not tell the peak of a process's memory")
    assert taken[1] - taken[0] == pytest.approx(0.29, abs=0.1)


def test_ratios_compare_each_repetition_with_itself():
    paces = {"lightly": [100, 50, 80], "mednb": [300, 100, 320], speed.LIMIT: [300, 200, 320]}
    rows = pd.DataFrame(
        {"device": "d", "batch_size": 64, "what": "training", "size": 64, "pipeline": name, "repetition": i}
        | {"views_per_second": pace}
        for name, of in paces.items()
        for i, pace in enumerate(of)
    )
    found = speed.ratios(rows).set_index("pipeline")[["median", "lowest", "highest"]]
    assert found.loc["lightly"].tolist() == [3, 2, 4]
    assert found.loc[speed.LIMIT].tolist() == [1, 0.5, 1]
    assert "mednb" not in found.index
    assert len(speed.ratios(pd.concat([rows, rows.assign(batch_size=256)]))) == 2 * len(found)
