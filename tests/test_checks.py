import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import twins_mammography
import twins_own
import twins_ultrasound
from PIL import Image
from test_duplicates import scene

from mednb import datasets
from mednb.datasets import checks
from mednb.datasets.archive import Archive
from mednb.datasets.card import Card


def card(**more):
    words = {
        "title": "A twin",
        "task": "tell",
        "patients": "known",
        "masks": "some",
        "licence": "MIT",
        "citation": "us",
    }
    facts = {"modality": "ultrasound", "organ": "breast", "classes": ("a", "b"), "counts": {"a": 10, "b": 10}}
    return Card("twin", folder="Twin", how_to_get="draw it into <root>/Twin", **words, **facts, **more)


def index(archive):
    """Twenty pictures of ten patients, the last one without a mask."""
    names = [match[0] for match in archive.matching(r"images/\d+\.png")]
    table = pd.DataFrame({"image_id": names, "label": ["ab"[int(name[7:9]) % 2] for name in names]})
    table["masks"] = [[mask] if (mask := name.replace("images", "masks")) in archive else [] for name in names]
    return table.assign(patient=[str(int(name[7:9]) // 2) for name in names])


@pytest.fixture
def twin(tmp_path):
    """A source module and the data root its files lie under."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "Twin" / folder).mkdir(parents=True)
    for i in range(20):
        Image.fromarray(scene(rng, 60)).save(tmp_path / f"Twin/images/{i:02}.png")
        mask = np.zeros((60, 60), np.uint8)
        mask[10:30, 10:30] = 255 * (i > 0)
        if i < 19:
            Image.fromarray(mask).save(tmp_path / f"Twin/masks/{i:02}.png")
    known = card(n_patients=10, n_masks=19)
    return SimpleNamespace(CARD=known, LOOKS_LIKE="images/", index=index), tmp_path


@pytest.mark.parametrize(
    ("name", "writers", "file", "column", "value"),
    [
        ("vindr_mammo", twins_mammography, "VinDr-Mammo/finding_annotations.csv", "finding_categories", ""),
        ("busbra", twins_ultrasound, "BUSBRA/5-fold-cv.csv", "kFold", "x"),
        ("echonet", twins_ultrasound, "EchoNet-Dynamic/VolumeTracings.csv", "X1", "x"),
    ],
)
def test_a_table_that_holds_something_else_is_a_sentence_that_names_it(tmp_path, name, writers, file, column, value):
    getattr(writers, name)(tmp_path)
    path = next(tmp_path.rglob(Path(file).name))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[0, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=path.name) as raised:
        datasets.load(name, tmp_path, size=32)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)
    text, ok = datasets.check(name, tmp_path)
    assert not ok and path.name in text


def test_a_whole_dataset_is_counted_measured_and_all_is_well(twin):
    module, root = twin
    before = sorted(path for path in root.rglob("*"))
    text, ok = checks.report(module, root)
    assert ok and text.endswith("all is well")
    assert "20 images, 10 patients, 19 masks (1 images have none)" in text
    assert "a: 10" in text and "b: 10" in text
    assert "all pictures are of 60 x 60 pixels" in text
    assert "1 images have a mask that is empty (1 a)" in text
    assert "0.0% of the test images have their patient or a near-duplicate in train in the 5 folds" in text
    assert "licence: MIT" in text and "near-duplicates (correlation above 0.5)" in text
    assert sorted(path for path in root.rglob("*")) == before


def test_a_shuffled_split_is_said_to_give_answers_away(twin):
    module, root = twin
    line = next(line for line in checks.report(module, root)[0].split("\n") if "had they been" in line)
    assert float(line.rpartition("; ")[2].split("%")[0]) > 20


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (lambda twin: (twin / "images/03.png").write_bytes(b"no picture"), ["images/03.png"]),
        (
            lambda twin: (twin / "images/03.png").write_bytes((twin / "images/03.png").read_bytes()[:99]),
            ["images/03.png"],
        ),
        (lambda twin: (twin / "images/03.png").unlink(), ["b: 9 images; the complete download has 10."]),
        (lambda twin: (twin / "masks/03.png").unlink(), ["18 masks; the complete download has 19."]),
        (lambda twin: Image.new("L", (8, 9)).save(twin / "masks/03.png"), ["masks/03.png is 8 x 9 pixels"]),
        (
            lambda twin: [(twin / f"images/{i}.png").unlink() for i in (10, 11)],
            ["9 patients; the complete download has 10.", "a: 9 images", "b: 9 images"],
        ),
    ],
)
def test_what_is_wrong_is_a_sentence_each(twin, spoil, sentences):
    module, root = twin
    spoil(root / "Twin")
    text, ok = checks.report(module, root)
    assert not ok
    wrong = [line for line in text.split("\n") if line.strip().startswith("WRONG")]
    for sentence in sentences:
        assert any(sentence in line for line in wrong)
    assert text.endswith("thing is wrong" if len(wrong) == 1 else "things are wrong")


def test_many_broken_files_are_counted_and_some_shown(twin):
    module, root = twin
    for path in (root / "Twin/images").iterdir():
        path.write_bytes(b"")
    text, ok = checks.report(module, root)
    assert not ok and "no image can be read" in text
    assert text.count("WRONG") == checks.SHOWN + 1 and "WRONG  and 10 more" in text


def test_near_duplicates_and_labels_that_contradict_are_told(twin):
    module, root = twin
    shutil.copy(root / "Twin/images/00.png", root / "Twin/images/05.png")
    text, ok = checks.report(module, root)
    assert ok
    assert "2 images are in 1 groups of near-duplicates" in text
    assert "2 patients have an image that looks like another patient's: they stay together" in text
    assert "1 groups of near-duplicates carry contradictory labels" in text and "a: 00.png; b: 05.png" in text


def test_without_patient_ids_groups_stand_in(twin):
    module, root = twin
    module.index = lambda archive: index(archive).drop(columns="patient")
    shutil.copy(root / "Twin/images/00.png", root / "Twin/images/04.png")
    text, ok = checks.report(module, root)
    assert ok and "no patient ids" in text and "19 groups stand in for patients" in text


def test_an_official_split_that_leaks_is_told_and_mended(twin):
    module, root = twin
    official = ["train"] * 12 + ["test"] * 8
    module.index = lambda archive: index(archive).assign(official=official)
    shutil.copy(root / "Twin/images/02.png", root / "Twin/images/18.png")
    text, ok = checks.report(module, root)
    assert ok and "0.0% of the test images" in text and "by the authors' split" in text
    assert "2 images are left out of training" in text  # both of the patient whose one image is in test too


def test_a_threshold_that_ties_strangers_together_is_called_too_low(twin):
    module, root = twin
    too_low = "one group holds 20 of the 20 images: the threshold of near-duplicates, -1.0, seems too low"
    assert "too low" not in checks.report(module, root)[0]
    module.CARD = replace(module.CARD, alike=-1.0)
    assert too_low in checks.report(module, root)[0]
    module.index = lambda archive: index(archive).assign(patient="one")
    assert "too low" not in checks.report(module, root)[0]
    module.index = lambda archive: index(archive).drop(columns="patient")
    assert too_low in checks.report(module, root)[0]


def test_files_that_are_missing_are_all_told_and_the_others_are_checked(twin):
    module, root = twin
    whole = index(Archive(root / "Twin"))

    def known(archive):
        archive.exactly([*whole["image_id"], *whole["masks"].explode().dropna()], r".*\.png", "a table")
        return whole

    module.index = known
    for name in ("images/03.png", "images/09.png", "masks/04.png"):
        (root / "Twin" / name).unlink()
    shutil.copy(root / "Twin/images/00.png", root / "Twin/images/77.png")
    (root / "Twin/images/05.png").write_bytes(b"no picture")
    text, ok = checks.report(module, root)
    wrong = [line.split("WRONG  ")[1].removeprefix(f"{root}/Twin/") for line in text.split("\n") if "WRONG" in line]
    assert not ok and "20 images, 10 patients, 19 masks" in text and "5 things are wrong" in text
    assert wrong[:4] == [
        *(f"{name} is missing" for name in ("images/03.png", "images/09.png", "masks/04.png")),
        "images/77.png is there, but a table does not name it",
    ]
    assert wrong[4].startswith("images/05.png cannot be read")


def test_what_cannot_be_told_for_want_of_a_table_is_said_with_what_is_there(twin):
    module, root = twin
    module.index = lambda archive: archive.csv("table.csv")
    text, ok = checks.report(module, root)
    assert not ok and "39 files; which is which cannot be told until that is mended:" in text
    assert f"WRONG  {root}/Twin/table.csv is missing" in text and text.endswith("1 thing is wrong")


def test_pictures_of_12_bits_in_files_of_16_are_said_to_be_dark(twin):
    module, root = twin
    for path in (root / "Twin/images").iterdir():
        values = np.asarray(Image.open(path)).astype(np.uint16) * 16
        Image.fromarray(values).save(path)
    line = next(line for line in checks.report(module, root)[0].split("\n") if "16 bits" in line)
    assert line.endswith("window=(0, 4095) shows them as they are meant.")


def test_where_only_some_pictures_are_of_16_bits_the_window_is_said_to_change_the_others(twin):
    module, root = twin
    path = root / "Twin/images/01.png"
    Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 16).save(path)
    line = next(line for line in checks.report(module, root)[0].split("\n") if "16 bits" in line)
    assert re.search(r"as they are meant, but changes the \d+ other images: convert the files", line)


def test_the_classes_of_your_own_images_are_counted(tmp_path):
    twins_own.table(tmp_path).to_csv(tmp_path / "my.csv", index=False)
    text, _ = datasets.check("folder", tmp_path, table="my.csv")
    assert "12 images, 6 patients, 12 masks (4 images have none)" in text and "A: 6" in text and "B: 6" in text
    text, _ = datasets.check("folder", tmp_path)
    assert "img: 12" in text and "masks: 2" in text
    with pytest.raises(ValueError, match="table is for your own images, 'folder'; busi has tables of its own"):
        datasets.check("busi", tmp_path, table="my.csv")


def test_a_way_of_resizing_that_is_refused_is_left_out(tmp_path):
    twins_own.table(tmp_path).assign(modality="ct").to_csv(tmp_path / "my.csv", index=False)
    assert set(checks.resizings("folder", tmp_path, size=32, table="my.csv")["resize"]) == {*checks.WAYS} - {
        "around the lesion"
    }


def test_words_burnt_into_pixels_are_warned_about(twin, monkeypatch):
    from mednb.datasets import pixels

    module, root = twin
    read = pixels.read
    monkeypatch.setattr(pixels, "read", lambda *asked, **how: burnt(read(*asked, **how)))
    assert "20 files say that words are burnt into their pixels" in checks.report(module, root)[0]


def burnt(raw):
    raw.facts["burned_in"] = True
    return raw


def test_too_few_patients_for_a_split_is_a_sentence(twin):
    module, root = twin
    module.index = lambda archive: index(archive).assign(patient="one")
    text, ok = checks.report(module, root)
    assert not ok and "cannot be split into 5 folds" in text


def test_a_dataset_that_is_not_there_and_one_that_is_drawn(twin):
    module, root = twin
    text, ok = checks.report(module, root / "elsewhere")
    assert not ok and "draw it into <root>/Twin" in text
    assert checks.report(datasets.named("phantoms"), root)[1]


def test_every_way_of_resizing_is_measured_on_the_lesions(twin, monkeypatch):
    module, root = twin
    monkeypatch.setitem(datasets.DATASETS, "twin", module)
    lesions = checks.resizings("twin", root, size=30)
    assert set(lesions["resize"]) == set(checks.WAYS) and (lesions["resize"].value_counts() == 18).all()
    assert (lesions["before"] == 400).all()
    after = lesions.groupby("resize")["after"].median()
    assert after["stretch"] == after["pad"] == 100 < after["around the lesion"]


def test_the_lesions_of_your_own_table_are_measured(tmp_path):
    twins_own.table(tmp_path).to_csv(tmp_path / "my.csv", index=False)
    lesions = checks.resizings("folder", tmp_path, size=32, table="my.csv")
    assert (lesions["resize"].value_counts() == 8).all() and (lesions["before"] > 0).all()


def cell(holds):
    """The cell of 01_data in which this stands."""
    book = json.loads((Path(__file__).parents[1] / "notebooks/01_data.ipynb").read_text(encoding="utf-8"))
    (source,) = (source for each in book["cells"] if holds in (source := "".join(each["source"])))
    return source


def test_the_notebook_measures_the_lesions_of_the_table_that_it_reads(monkeypatch):
    asked = {}
    monkeypatch.setattr(checks, "resizings", lambda *_, **how: asked.update(how) or [])
    reading = {"resize": "pad", "around": "lesion", "window": None, "curate": True, "table": "my.csv", "stride": 2}
    exec(
        cell("checks.resizings("),
        {"dataset": "folder", "data": "", "size": 9, "fold": 1, "limit": 8, "reading": reading},
    )
    assert asked == {"fold": 1, "limit": 8, "window": None, "table": "my.csv", "stride": 2}


def test_the_notebook_says_how_many_images_hold_words(capsys):
    images = datasets.load("phantoms", size=32, limit=60)
    some = images.table.assign(burned_in=pd.array([True, False, None] * 20, dtype="boolean"))
    for said, table in (("0 images say", images.table), ("20 images say", some)):
        exec(cell("print(images.card)"), {"images": replace(images, table=table)})
        assert f"\n{said} that words are burnt into their pixels" in capsys.readouterr().out


def test_the_notebook_shows_the_most_alike_pairs_or_none():
    images = datasets.load("phantoms", size=32, limit=60)
    drawn = SimpleNamespace(
        pairs=lambda first, second, titles, _: counts.append((len(first), len(second), len(titles)))
    )
    known, counts = {"datasets": datasets, "np": np, "pd": pd, "plots": drawn}, []
    for alike in (0.5, 1.2):
        exec(cell("duplicates.pairs("), known | {"images": replace(images, card=replace(images.card, alike=alike))})
    ((first, second, titles),) = counts
    assert 1 <= first == second == titles <= 8


def test_what_is_drawn_is_resized_in_one_way_and_without_masks_there_is_nothing_to_lose(twin, monkeypatch):
    module, root = twin
    lesions = checks.resizings("phantoms", size=32, limit=60)
    assert set(lesions["resize"]) == {"stretch"} and (lesions["before"] > 0).all()
    module.index = lambda archive: index(archive).assign(masks=[[] for _ in range(20)])
    monkeypatch.setitem(datasets.DATASETS, "twin", module)
    assert len(checks.resizings("twin", root, size=32)) == 0


def test_curation_drops_training_images_that_look_the_same_and_nothing_else(twin, monkeypatch):
    module, root = twin
    monkeypatch.setitem(datasets.DATASETS, "twin", module)
    for i in range(0, 20, 2):  # both images of every patient are the same
        shutil.copy(root / f"Twin/images/{i:02}.png", root / f"Twin/images/{i + 1:02}.png")
    whole, curated = (datasets.load("twin", root, size=32, curate=curate) for curate in (False, True))
    counts = [images.table["split"].value_counts().to_dict() for images in (whole, curated)]
    assert counts == [{"train": 12, "val": 4, "test": 4}, {"train": 6, "val": 4, "test": 4}]
    assert curated.split_hash == whole.split_hash
    kept = curated.where(split="train").table["image_id"]
    assert set(kept) <= {f"images/{i:02}.png" for i in range(0, 20, 2)}
