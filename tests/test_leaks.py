"""No patient and no near-duplicate is on two sides of a split of real images, by code of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from mednb import datasets
from mednb.datasets import splits
from mednb.datasets.located import located

FOLDS = range(5)
FOLDERS = ["BUSI", "BUS-BRA", "mini-MIAS", "HC18", "covid19_ultrasound", "IQ-OTHNCCD"]


def who(folder: Path, image_id: str, of_case: dict) -> str | None:
    """The patient of an image, from its name or the authors' table; None where nobody knows."""
    stem = Path(image_id).stem
    if folder.name == "mini-MIAS":
        return str((int(stem.removeprefix("mdb")) + 1) // 2)
    if folder.name == "HC18":
        return f"{'training' if 'training' in image_id else 'test'} {int(stem.split('_')[0])}"
    return of_case.get(Path(image_id).name) or of_case.get(stem)


def cases(folder: Path) -> dict:
    """What the authors' tables say of patients: file or stem -> patient."""
    if folder.name == "BUS-BRA":
        return pd.read_csv(folder / "BUSBRA/bus_data.csv", dtype=str).set_index("ID")["Case"].to_dict()
    if folder.name == "covid19_ultrasound":
        frames = pd.read_csv(folder / "data/frames.csv", dtype=str)
        return dict(zip(frames["file"].map(lambda file: Path(file).name), frames["patient_id_or_name"], strict=True))
    return {}


def blur(n: int = 48, sigma: float = 6.0) -> np.ndarray:
    """A Gaussian blur as a matrix, mirrored at the borders."""
    reach = np.arange(-24, 25)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    matrix = np.zeros((n, n))
    for row in range(n):
        for step, weight in zip(reach, weights / weights.sum(), strict=True):
            at = (row + step) % (2 * n)
            matrix[row, at if at < n else 2 * n - 1 - at] += weight
    return matrix


def correlations(files: list[Path]) -> np.ndarray:
    """(N, N): how alike the local contrasts of any two pictures are, at 48 x 48 pixels."""
    g, vectors = blur(), []
    for file in files:
        small = np.asarray(Image.open(file).convert("L").resize((48, 48), Image.Resampling.BOX), float)
        detail = small - g @ small @ g.T
        vectors.append((detail / np.sqrt(g @ detail**2 @ g.T + 4)).ravel())
    return np.corrcoef(np.array(vectors))


@pytest.fixture(scope="module", params=FOLDERS)
def known(request, data_root):
    """A dataset's name, all its images by id, which of them are too alike, and whose they are by the authors."""
    folder = data_root / request.param
    names = [name for name, module in datasets.SOURCES.items() if module.CARD.folder == request.param]
    if not folder.is_dir() or not names:
        pytest.skip(f"no {request.param} here")
    module = datasets.SOURCES[names[0]]
    archive = located(data_root, module.CARD, module)
    index = module.index(archive)
    alike = correlations([Path(archive.where(image_id)) for image_id in index["image_id"]]) > module.CARD.alike + 1e-3
    of_case = cases(folder)
    return names[0], index["image_id"].tolist(), alike, [who(folder, i, of_case) for i in index["image_id"]]


@pytest.mark.data
@pytest.mark.parametrize("fold", FOLDS)
def test_no_near_duplicate_and_no_patient_is_on_two_sides(known, data_root, fold):
    name, image_ids, alike, patients = known
    table = datasets.load(name, data_root, size=32, fold=fold).table.set_index("image_id")
    side = pd.Series(image_ids).map(table["split"]).to_numpy()
    first, second = np.nonzero(np.triu(alike, k=1))
    used = pd.notna(side[first]) & pd.notna(side[second])
    across = used & (side[first] != side[second])
    assert not across.any(), [(image_ids[first[i]], image_ids[second[i]]) for i in np.flatnonzero(across)[:5]]
    sides = pd.DataFrame({"patient": patients, "side": side}).dropna().drop_duplicates()
    assert not sides["patient"].duplicated().any(), sides[sides["patient"].duplicated(keep=False)].head()
    assert set(side[pd.notna(side)]) == set(splits.NAMES)
    assert pd.isna(side).sum() <= 0.01 * len(side)  # few are left out of the authors' split


@pytest.mark.data
def test_the_test_splits_of_all_folds_cover_every_image_that_the_authors_did_not_fix(known, data_root):
    name, image_ids, _, _ = known
    tables = [datasets.load(name, data_root, size=32, fold=fold).table for fold in FOLDS]
    tested = [set(table.loc[table["split"] == "test", "image_id"]) for table in tables]
    official = tables[0].set_index("image_id")["official"] if "official" in tables[0] else pd.Series(dtype=str)
    if official.eq("test").any():
        assert all(test == tested[0] for test in tested)
    else:
        free = [image_id for image_id in image_ids if official.get(image_id, "") == ""]
        assert sorted(image_id for test in tested for image_id in test) == sorted(free)


@pytest.mark.data
def test_a_random_split_of_the_same_images_would_leak(known, data_root):
    name, _, alike, patients = known
    side = np.random.default_rng(0).permutation(datasets.load(name, data_root, size=32).table["split"])
    first, second = np.nonzero(np.triu(alike[: len(side), : len(side)], k=1))
    torn = pd.DataFrame({"patient": patients[: len(side)], "side": side}).dropna().groupby("patient")["side"].nunique()
    assert (side[first] != side[second]).any() or (torn > 1).any()


# -------------------- planted leaks


@pytest.fixture
def images():
    return datasets.load("phantoms", size=32, limit=120)


def planted(images, rows, **columns):
    table = images.table.copy()
    for column, value in columns.items():
        table.loc[rows, column] = value
    return replace(images, table=table)


def test_a_patient_who_is_planted_in_another_split_raises(images):
    several = images.table["patient"].duplicated(keep=False) & (images.table["split"] == "train")
    row = np.flatnonzero(several)[0]
    with pytest.raises(ValueError, match=rf"Patients on both sides of a split: {images.table['patient'][row]} "):
        planted(images, [row], split="test")


def test_a_near_duplicate_that_is_planted_in_another_split_raises(images):
    rows = [np.flatnonzero(images.table["split"] == split)[0] for split in ("train", "test")]
    table = images.table.assign(group=images.table["patient"])
    with pytest.raises(ValueError, match="Groups of near-duplicates on both sides of a split: one "):
        planted(replace(images, table=table), rows, group="one")


def test_a_shuffled_split_raises_before_anything_is_trained(images):
    shuffled = images.table["split"].sample(frac=1, random_state=0, ignore_index=True)
    with pytest.raises(ValueError, match=r"Patients on both sides of a split: .* and .* more"):
        replace(images, table=images.table.assign(split=shuffled))


def test_no_split_of_phantoms_gives_an_answer_away_and_a_shuffled_one_does():
    for fold in FOLDS:
        table = datasets.load("phantoms", size=32, limit=120, fold=fold).table
        assert splits.given_away(table, table["split"].to_numpy()) == 0
        shuffled = table["split"].sample(frac=1, random_state=fold).to_numpy()
        assert splits.given_away(table, shuffled) > 0.2


PLANTED = {
    "ValueError: Patients on both sides of a split: phantom-": """\
table = images.table.copy()
twice = table["patient"].duplicated(keep=False) & (table["split"] == "train")
table.loc[twice.idxmax(), "split"] = "test"
images = replace(images, table=table)""",
    "ValueError: Groups of near-duplicates on both sides of a split: one ": """\
table = images.table.assign(group=images.table["patient"])
table.loc[[(table["split"] == split).idxmax() for split in ("train", "test")], "group"] = "one"
images = replace(images, table=table)""",
    "ValueError: a model must be chosen on val, but .* is of test": """\
h = embed.frame(images.table, embed.extract(encoders.build(seed=0), images.pixels))
classify.linear(h[h["split"] == "train"], h[h["split"] == "test"], images.classes)""",
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", PLANTED)
def test_a_planted_leak_stops_the_run_with_its_sentence(sentence, tmp_path):
    from mednb.study.notebook import RunFailed, run

    begin = """\
from dataclasses import replace
from mednb import classify, datasets, embed, encoders
images = datasets.load("phantoms", size=32, limit=60)"""
    leaky = tiny.notebook(tmp_path / "leaky.ipynb", tiny.PARAMETERS, begin, PLANTED[sentence])
    with pytest.raises(RunFailed, match=sentence):
        run(leaky, {}, tmp_path / "out")
