"""Each source of CT slices, and MedMNIST, on a twin of its official layout; one on the real files, where they are."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import twins_ct as twins
from twin import opened, to_damage

from mednb import datasets
from mednb.datasets import DATASETS, masks, pixels

# images of each class, patients (None: not told), masks in the index
FACTS = {
    "lidc": ({"no nodule": 22, "nodule": 6}, 6, 6),
    "covid_ct": ({"covid": 12, "non_covid": 12}, 14, 0),
    "head_ct": ({"normal": 6, "haemorrhage": 6}, None, 0),
    "iq_othnccd": ({"normal": 5, "benign": 5, "malignant": 5}, None, 0),
}


@pytest.fixture(scope="module", params=FACTS)
def twin(request, tmp_path_factory):
    """A twin of one layout, not to be changed."""
    root = tmp_path_factory.mktemp("data")
    getattr(twins, request.param)(root)
    return opened(request.param, root)


@pytest.fixture
def damaged(tmp_path):
    return to_damage(twins, tmp_path)


def test_labels_patients_and_masks_are_those_of_the_download(twin):
    counts, patients, n_masks = FACTS[twin.name]
    assert twin.index["label"].value_counts().to_dict() == counts
    assert twin.index["image_id"].is_unique and twin.index["masks"].map(len).sum() == n_masks
    assert ("patient" in twin.index) == (patients is not None)
    assert patients is None or twin.index["patient"].nunique() == patients


def test_it_loads_with_patients_on_one_side(twin):
    images = datasets.load(twin.name, twin.root, size=32)
    leaked = twin.name == "covid_ct"  # the official lists have one patient in val and in test
    assert len(images) == len(twin.index) - leaked
    assert images.table.groupby("patient")["split"].nunique().max() == 1
    assert images.pixels.std(axis=(1, 2)).min() > 0


def test_a_zip_gives_the_same_as_the_folder(twin, tmp_path):
    folder = twin.module.CARD.folder
    shutil.make_archive(str(tmp_path / folder), "zip", twin.root / folder)
    packed = opened(twin.name, tmp_path)
    assert packed.archive.zipped
    pd.testing.assert_frame_equal(packed.index, twin.index)


def test_a_card_says_how_to_get_it_and_what_it_was_tested_on(twin):
    card = twin.module.CARD
    assert set(FACTS[twin.name][0]) == set(card.classes) and (
        card.counts == {} or set(card.counts) == set(card.classes)
    )
    assert card.tested_on == ("real files" if twin.name == "iq_othnccd" else "a twin of the official layout")
    assert f"<root>/{card.folder}" in card.how_to_get and "beware" in str(card)


# ---------------------------------------------------------------------------------------- what each of them knows more


def test_lidc_puts_slices_in_order_and_outlines_where_they_belong(tmp_path):
    twins.lidc(tmp_path)
    twin = opened("lidc", tmp_path)
    assert "DX" not in set(twin.index["image_id"]) and not {"volume", "slice"} & set(twin.index)
    assert twin.index.groupby("patient")["case"].nunique().to_dict()["LIDC-IDRI-0001"] == 2
    for _, volume in twin.index.groupby("case"):
        assert volume["position"].tolist() == [0, 1 / 3, 2 / 3, 1]
        assert [file[-5] for file in volume["image_id"]] == ["4", "3", "2", "1"]
    outlined = twin.index[twin.index["label"] == "nodule"]
    assert (outlined["frame"] == 2).all() and not outlined["case"].str.endswith(" 2").any()
    for row in outlined.itertuples():
        units = np.asarray(pixels.read(twin.archive, row.image_id).values)  # Hounsfield units
        mask = masks.of(twin.archive, row, units.shape)
        left, upper, right, lower = twins.BOX
        box = np.zeros(mask.shape, bool)
        box[upper:lower, left:right] = True
        assert (mask & ~box).sum() == 0 and mask.sum() > 0.85 * box.sum()
        assert units[mask].min() > -50 and units[~box].max() < -500


def test_lidc_is_read_in_the_lung_window_and_thinned_out_by_stride(tmp_path):
    twins.lidc(tmp_path)
    images = datasets.load("lidc", tmp_path, size=32, stride=2)
    assert len(images) == 14 and set(images.table["frame"]) == {0, 2}
    # -800 of -1350 to 150, and 40.
    assert np.median(images.pixels[0]) == pytest.approx(255 * 550 / 1500, abs=4)
    nodule = images.table["label"].eq("nodule").argmax()
    assert images.pixels[nodule].max() == pytest.approx(255 * 1390 / 1500, abs=8)


def test_lidc_misses_slices_places_and_sense(damaged):
    folder = damaged.write("lidc")
    xml = next(folder.rglob("003.xml"))
    xml.write_text(xml.read_text().replace(".31.2<", ".31.9<"))
    assert "003.xml outlines a nodule in a slice that is not there" in damaged.sentence("lidc")
    xml.write_text('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    assert "003.xml cannot be read as XML" in damaged.sentence("lidc")
    xml.unlink()
    twins.dicom(next(folder.rglob("LIDC-IDRI-0002/*/*/1-1.dcm")), twins.slice_of(np.random.default_rng(0), False), "CT")
    assert "does not say in its header where the slice lies" in damaged.sentence("lidc")
    for file in folder.rglob("*.dcm"):
        file.unlink()
    assert "holds no LIDC-IDRI-0001/.../*.dcm" in damaged.sentence("lidc")


def test_covid_ct_keeps_the_official_lists_and_the_patients(tmp_path):
    twins.covid_ct(tmp_path)
    index = opened("covid_ct", tmp_path).index
    assert index.groupby(["label", "official"]).size().tolist() == [3, 6, 3] * 2
    named = index.set_index(index["image_id"].str.rsplit("/", n=1).str[1])["patient"]
    assert named["2020.01.24.919183-p27-0.png"] == named["2020.01.24.919183-p27-1.png"] == "covid Patient 0"
    assert named["10%2.jpg"] != named["11%2.jpg"]  # not in the table: each its own
    for name in ("COVID-CT-MetaInfo.xlsx", "NonCOVID-CT-MetaInfo.csv"):
        (tmp_path / "COVID-CT" / name).unlink()
    assert opened("covid_ct", tmp_path).index["patient"].nunique() == 24


def test_covid_ct_knows_its_patients_whichever_suffix_the_tables_have(tmp_path):
    twins.covid_ct(tmp_path)
    known = opened("covid_ct", tmp_path).index["patient"]
    file = tmp_path / "COVID-CT/COVID-CT-MetaInfo.xlsx"
    table = pd.read_excel(file)
    table.assign(**{"File name": table["File name"].str.removesuffix(".png")}).to_excel(file, index=False)
    assert opened("covid_ct", tmp_path).index["patient"].equals(known)


def test_covid_ct_misses_images_and_lists(damaged):
    folder = damaged.write("covid_ct")
    names = folder / "Data-split/COVID/valCT_COVID.txt"
    whole = names.read_text()
    names.write_text(whole + "2020.01.24.919183-p27-0.png\n")
    assert "names 2020.01.24.919183-p27-0.png, which is in train already" in damaged.sentence("covid_ct")
    names.write_text("")
    assert "is in none of the lists in Data-split/COVID" in damaged.sentence("covid_ct")
    names.write_text(whole)
    images = folder / "Images-processed/CT_COVID"
    (images / "2020.01.24.919183-p27-7.png").unlink()
    assert "names 2020.01.24.919183-p27-7.png, which is not in" in damaged.sentence("covid_ct")
    shutil.make_archive(str(images), "zip", images)
    shutil.rmtree(images)
    assert "CT_COVID.zip is still a zip; unpack it" in damaged.sentence("covid_ct")


def test_head_ct_misses_slices_rows_and_sense(damaged):
    folder = damaged.write("head_ct")
    (folder / "head_ct/head_ct/003.png").rename(folder / "head_ct/head_ct/020.png")
    assert "lists 1 slices without picture, such as 003.png" in damaged.sentence("head_ct")
    twins.picture(folder / "head_ct/head_ct/003.png", np.zeros((8, 8), np.uint8))
    assert "020.png has no row in labels.csv" in damaged.sentence("head_ct")
    (folder / "head_ct/head_ct/020.png").unlink()
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("11,0", "11,2"))
    assert "says hemorrhage 2 of 11; it should be 0 or 1" in damaged.sentence("head_ct")


def test_iq_othnccd_misses_classes_and_names(damaged):
    folder = damaged.write("iq_othnccd") / twins_folder()
    (folder / "Normal cases/Normal case (1).jpg").rename(folder / "Bengin cases/Normal case (1).jpg")
    assert "the name should be 'Bengin case (1).jpg'" in damaged.sentence("iq_othnccd")
    shutil.rmtree(folder / "Normal cases")
    assert "holds no images; there should be 'Normal case (1).jpg'" in damaged.sentence("iq_othnccd")


def image_of(twin, frame):
    """(H, W) or (H, W, 3): an image of a set, by its number."""
    return np.asarray(twin.module.read(twin.archive, list(twin.index.itertuples())[frame]).values)


def twins_folder():
    return DATASETS["iq_othnccd"].LOOKS_LIKE.split("/")[0]


@pytest.mark.data
def test_iq_othnccd_is_what_its_description_says(data_root):
    found = opened("iq_othnccd", data_root)
    assert found.index["label"].value_counts().to_dict() == {"malignant": 561, "normal": 416, "benign": 120}
    report, well = datasets.check("iq_othnccd", data_root)
    assert well, report


# ------------------------------------------------------------------------------------------------------------ MedMNIST


def test_every_flat_set_of_medmnist_is_there_under_its_own_name():
    sets = [name for name, module in DATASETS.items() if module.CARD.folder == "medmnist"]
    assert len(sets) == 12 and {"organsmnist", "breastmnist", "chestmnist"} <= set(sets)
    organs = DATASETS["organsmnist"].CARD
    assert (organs.modality, organs.organ, len(organs.classes)) == ("ct", "abdomen", 11)
    assert organs.n_images == 13932 + 2452 + 8827 and organs.licence == "CC BY 4.0"
    assert "train 13,932, val 2,452 and test 8,827" in organs.task


def test_medmnist_is_neither_imported_nor_given_a_folder(tmp_path):
    code = "import sys; from mednb.datasets import sources; print('medmnist' in sys.modules, 'torch' in sys.modules)"
    env = {"HOME": str(tmp_path), "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("wanted", "taken"), [(28, 28), (32, 64), (64, 64), (128, 64)])
def test_medmnist_takes_the_smallest_file_that_is_large_enough(tmp_path, wanted, taken):
    for size in (28, 64):
        twins.medmnist(tmp_path, "organsmnist", size)
    twin = opened("organsmnist", tmp_path, wanted)
    assert twin.index["image_id"].iloc[17] == f"organsmnist{'' if taken == 28 else '_64'}.npz#17"
    assert image_of(twin, 0).shape == (taken, taken)


def test_medmnist_keeps_order_labels_and_the_official_split(tmp_path):
    twins.medmnist(tmp_path, "organsmnist")
    twin = opened("organsmnist", tmp_path)
    assert twin.index["official"].value_counts().to_dict() == {"train": 30, "val": 12, "test": 12}
    assert twin.index["label"].iloc[:2].tolist() == ["bladder", "femur-left"]
    for frame in (0, 1, 29, 30, 53, 53, 7):  # forwards, again, and back
        assert image_of(twin, frame)[0, 0] == frame
    images = datasets.load("organsmnist", tmp_path, size=28)
    assert (images.table["official"] == images.table["split"]).all() and len(images) == 54
    assert images.pixels[:, 0, 0].tolist() == list(range(54))
    assert len(datasets.load("organsmnist", tmp_path, size=28, stride=5)) == 54  # an image is no frame


def test_medmnist_has_colours_and_several_labels(tmp_path):
    twins.medmnist(tmp_path, "pathmnist", labels=9, colours=True)
    twin = opened("pathmnist", tmp_path)
    assert image_of(twin, 0).shape == (28, 28, 3)
    twins.medmnist(tmp_path, "chestmnist", labels=14, many=True)
    index = opened("chestmnist", tmp_path).index
    assert index["findings"].str.contains("; ").any() and (index["label"] == "none").any()
    assert (index["findings"].str.split("; ").str[0].replace("", "none") == index["label"]).all()


def test_medmnist_misses_files_and_sense(damaged, tmp_path):
    folder = damaged.write("medmnist", "organsmnist")
    file = folder / "organsmnist.npz"
    with np.load(file) as arrays:
        whole = dict(arrays)
    np.savez_compressed(file, **whole | {"val_labels": whole["val_labels"][:5]})
    assert "has 5 labels of 12 images of val" in damaged.sentence("organsmnist")
    np.savez_compressed(file, **whole | {"val_labels": whole["val_labels"] + 9})
    assert "has labels that OrganSMNIST does not have" in damaged.sentence("organsmnist")
    np.savez_compressed(file, **whole | {"val_images": whole["val_images"].astype(float)})
    assert "holds numbers of type float64" in damaged.sentence("organsmnist")
    np.savez_compressed(file, train_images=whole["train_images"])
    assert "organsmnist.npz cannot be read" in damaged.sentence("organsmnist")
    file.write_bytes(file.read_bytes()[:500])
    assert "organsmnist.npz cannot be read" in damaged.sentence("organsmnist")
    file.unlink()
    assert "holds none of organsmnist.npz, organsmnist_64.npz" in damaged.sentence("organsmnist")
    assert "mednb data get organsmnist" in damaged.sentence("organsmnist")
