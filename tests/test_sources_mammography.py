"""Each source of mammograms, on a twin of its official layout and, where they are there, on the real files."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import twins_mammography as twins
from twin import opened, to_damage

from mednb import datasets
from mednb.datasets import masks, pixels

# images of each class, patients, masks in the index
FACTS = {
    "mini_mias": ({"normal": 7, "benign": 3, "malignant": 2}, 6, 5),
    "cbis_ddsm": ({"benign": 5, "malignant": 5}, 8, 11),
    "inbreast": ({"normal": 5, "benign": 3, "suspicious": 4}, 6, 5),
    "cmmd": ({"benign": 4, "malignant": 6, "unlabelled": 4}, 5, 0),
    "vindr_mammo": ({"normal": 8, "benign": 8, "suspicious": 8}, 6, 3),
    "cdd_cesm": ({"normal": 8, "benign": 4, "malignant": 8}, 5, 6),
}
OUTLINED = {"mini_mias": 3, "cbis_ddsm": 10, "inbreast": 4, "cmmd": 0, "vindr_mammo": 2, "cdd_cesm": 6}  # images


@pytest.fixture(scope="module", params=FACTS)
def twin(request, tmp_path_factory):
    """A twin of one layout, not to be changed."""
    root = tmp_path_factory.mktemp("data")
    getattr(twins, request.param)(root)
    return opened(request.param, root)


@pytest.fixture
def damaged(tmp_path):
    return to_damage(twins, tmp_path)


def read(twin, row):
    """The grey values of a row of an index, and its mask."""
    image = pixels.grey(pixels.read(twin.archive, row.image_id))
    return image, masks.of(twin.archive, row, image.shape)


def rows_of(twin):
    return twin.index.set_index("image_id")


def test_labels_patients_and_masks_are_those_of_the_download(twin):
    counts, patients, n_masks = FACTS[twin.name]
    assert twin.index["label"].value_counts().to_dict() == counts
    assert twin.index["image_id"].is_unique and twin.index["patient"].nunique() == patients
    assert twin.index["masks"].map(len).sum() == n_masks
    assert set(twin.index["side"]) <= {"left", "right"}


def test_a_mask_lies_on_its_lesion(twin):
    seen = 0
    for row in twin.index.itertuples():
        image, mask = read(twin, row)
        if mask.sum() > 100:
            seen += 1
            bright = image > 150
            assert (mask & bright).sum() > 0.7 * mask.sum(), row.image_id
            if twin.name != "cdd_cesm":  # a circle inside of the box covers less of it
                assert (mask & bright).sum() > 0.7 * bright.sum(), row.image_id
    assert seen == OUTLINED[twin.name]


def test_it_loads_with_patients_on_one_side(twin):
    images = datasets.load(twin.name, twin.root, size=32)
    assert set(images.table["image_id"]) == set(twin.index["image_id"])
    assert images.table.groupby("patient")["split"].nunique().max() == 1
    assert images.pixels.std(axis=(1, 2)).min() > 0


def test_a_zip_gives_the_same_as_the_folder(twin, tmp_path):
    folder = twin.module.CARD.folder
    shutil.make_archive(str(tmp_path / folder), "zip", twin.root / folder)
    packed = opened(twin.name, tmp_path)
    assert packed.archive.zipped
    pd.testing.assert_frame_equal(packed.index, twin.index)
    row = next(twin.index.itertuples())
    for one, other in zip(read(twin, row), read(packed, row), strict=True):
        assert (one == other).all()


def test_a_card_says_how_to_get_it_and_what_it_was_tested_on(twin):
    card = twin.module.CARD
    assert set(FACTS[twin.name][0]) <= set(card.classes)
    assert card.counts == {} or set(card.counts) == set(card.classes)
    assert card.tested_on == ("real files" if twin.name == "mini_mias" else "a twin of the official layout")
    assert f"<root>/{card.folder}" in card.how_to_get and "beware" in str(card)


# ---------------------------------------------------------------------------------------- what each of them knows more


@pytest.mark.parametrize("suffix", [".pgm", ".png"])
def test_mini_mias_counts_from_the_bottom_and_pairs_the_sides(tmp_path, suffix):
    twins.mini_mias(tmp_path, suffix)
    rows = rows_of(opened("mini_mias", tmp_path))
    one = rows.loc[f"all-mias/mdb001{suffix}"]
    assert one["masks"] == [{"circle": [400, 400, 80], "of": [1024, 1024]}]
    assert (one["side"], one["density"], one["abnormality"], one["patient"]) == ("right", "G", "CIRC", "p001")
    assert rows.loc[f"all-mias/mdb002{suffix}", ["side", "patient"]].tolist() == ["left", "p001"]
    assert rows.loc[f"all-mias/mdb007{suffix}", "label"] == "malignant"  # benign and malignant: the worst
    for name in ("mdb003", "mdb006"):
        assert rows.loc[f"all-mias/{name}{suffix}", "masks"] == []


def test_mini_mias_misses_films_and_rows(damaged):
    folder = damaged.write("mini_mias") / "all-mias"
    (folder / "mdb004.pgm").rename(folder / "mdb013.pgm")
    assert "lists mdb004, but there is no mdb004.pgm" in damaged.sentence("mini_mias")
    twins.picture(folder / "mdb004.pgm", np.zeros((8, 8), np.uint8))
    assert "mdb013.pgm has no row in Info.txt" in damaged.sentence("mini_mias")
    (folder / "Info.txt").write_text("mdb001 G CIRC Q 1 2 3\n")
    assert "a row that cannot be read: 'mdb001 G CIRC Q 1 2 3'" in damaged.sentence("mini_mias")


@pytest.mark.data
def test_mini_mias_is_what_its_description_says(data_root):
    found = opened("mini_mias", data_root)
    assert found.index["label"].value_counts().to_dict() == found.module.CARD.counts
    assert found.index["patient"].value_counts().eq(2).all() and found.index["patient"].nunique() == 161
    assert found.index["masks"].map(len).sum() == found.module.CARD.n_masks
    ours = pd.read_csv(data_root / "mini-MIAS/labels.csv").set_index("image")
    for row in found.index.itertuples():
        other = ours.loc[row.image_id.removeprefix("all-mias/")]
        assert (row.patient, row.side, row.density, row.label) == tuple(other[["patient", "side", "tissue", "label"]])
    report, well = datasets.check("mini_mias", data_root)
    assert well, report


def test_cbis_ddsm_tells_the_mask_from_the_crop_and_keeps_the_official_split(tmp_path):
    twins.cbis_ddsm(tmp_path)
    twin = opened("cbis_ddsm", tmp_path)
    index = twin.index.assign(film=twin.index["image_id"].str.split("/").str[1])
    rows = index.set_index("film")
    worst = rows.loc["Mass-Training_P_00001_LEFT_CC"]
    assert (worst["label"], len(worst["masks"]), worst["birads"]) == ("malignant", 2, "5")
    assert rows.loc["Mass-Training_P_00002_RIGHT_CC", "label"] == "benign"
    assert rows["official"].value_counts().to_dict() == {"train": 7, "test": 3}
    assert rows.loc["Calc-Training_P_00004_RIGHT_CC", "density"] == 2 and set(index["abnormality"]) == {"mass", "calc"}
    assert index.groupby("case")["view"].nunique().max() == 2
    stretched = [type(mask) is dict for masks in index["masks"] for mask in masks]
    assert sum(stretched) == 1
    for row in twin.index.itertuples():
        image, mask = read(twin, row)
        assert (mask == (twins.of_box() > 0)).all() and mask.shape == image.shape
    for fold in range(5):
        table = datasets.load("cbis_ddsm", tmp_path, size=32, fold=fold).table
        assert set(table["official"][table["split"] == "test"]) == {"test"}


def test_cbis_ddsm_works_without_masks_but_not_without_some(damaged, tmp_path):
    folder = damaged.write("cbis_ddsm")
    below = folder / "CBIS-DDSM"
    shutil.rmtree(below / "Mass-Training_P_00001_LEFT_CC_2")
    assert "has no Mass-Training_P_00001_LEFT_CC_2" in damaged.sentence("cbis_ddsm")
    for parts in below.glob("*_[12]"):
        shutil.rmtree(parts)
    assert opened("cbis_ddsm", tmp_path).index["masks"].map(len).sum() == 0
    shutil.rmtree(below / "Calc-Test_P_00005_RIGHT_CC")
    assert "Calc-Test_P_00005_RIGHT_CC should hold one mammogram and holds 0" in damaged.sentence("cbis_ddsm")
    file = folder / "mass_case_description_test_set.csv"
    file.write_text(file.read_text().replace("BENIGN", "UNCLEAR"))
    assert "has the pathology 'UNCLEAR'" in damaged.sentence("cbis_ddsm")


def test_inbreast_reads_what_osirix_wrote(tmp_path):
    twins.inbreast(tmp_path)
    twin = opened("inbreast", tmp_path)
    by_grade = twin.index.groupby("birads")["label"].first().to_dict()
    assert by_grade == {
        "1": "normal",
        "2": "benign",
        "3": "benign",
        **dict.fromkeys(["4a", "4c", "5", "6"], "suspicious"),
    }
    assert twin.index["density"].isna().sum() == 1 and set(twin.index["view"]) == {"CC", "MLO"}
    dot = next(row for row in twin.index.itertuples() if row.masks and row.birads == "2")
    assert read(twin, dot)[1].sum() == 1
    outlined = next(row for row in twin.index.itertuples() if row.birads == "5")
    assert (read(twin, outlined)[1] == (twins.of_box() > 0)).all()


def test_inbreast_misses_rows_images_and_sense(damaged):
    folder = damaged.write("inbreast") / "INbreast Release 1.0"
    whole = (folder / "INbreast.csv").read_text()
    (folder / "INbreast.csv").write_text(whole.replace("20586908", "99999999"))
    assert "INbreast.csv lists 99999999, but AllDICOMs has no such image" in damaged.sentence("inbreast")
    (folder / "INbreast.csv").write_text("\n".join(line for line in whole.splitlines() if "20586908" not in line))
    assert "has no row in INbreast.csv" in damaged.sentence("inbreast")
    (folder / "INbreast.csv").write_text(whole.replace(";4a", ";?"))
    assert "has Bi-Rads '?' in the row of 20586960" in damaged.sentence("inbreast")
    (folder / "INbreast.csv").write_text(whole)
    (folder / "AllXML/20586960.xml").write_text('<!DOCTYPE plist [<!ENTITY a "b">]><plist><string>&a;</string></plist>')
    assert "20586960.xml cannot be read as OsiriX's outlines" in damaged.sentence("inbreast")


def test_cmmd_knows_sides_and_views_from_the_headers(tmp_path):
    twins.cmmd(tmp_path)
    index = opened("cmmd", tmp_path).index
    labels = index.groupby("case")["label"].unique().map(list).to_dict()
    assert labels["D1-0002 right"] == ["malignant"] and labels["D1-0002 left"] == ["unlabelled"]
    assert all(set(views) == {"CC", "MLO"} for _, views in index.groupby("case")["view"])
    assert set(index["age"][index["patient"] == "D1-0001"]) == {44}
    assert set(index["subtype"][index["case"] == "D2-0001 left"]) == {"Luminal A"}


def test_cmmd_misses_images_sides_and_labels(damaged):
    folder = damaged.write("cmmd")
    patient = folder / "manifest-1616439774456/CMMD/D2-0002"
    file = sorted(patient.rglob("*.dcm"))[0]
    twins.dicom(file, twins.of_box())
    assert "does not say in its header whether the breast is the left or the right" in damaged.sentence("cmmd")
    shutil.rmtree(patient)
    assert "lists 1 patients without images, such as D2-0002" in damaged.sentence("cmmd")
    table = pd.read_excel(folder / "CMMD_clinicaldata_revision.xlsx").iloc[:3]
    table.assign(classification="Unclear").to_excel(folder / "CMMD_clinicaldata_revision.xlsx", index=False)
    assert "has the classification 'unclear' of D1-0001" in damaged.sentence("cmmd")


def test_vindr_mammo_has_boxes_the_official_test_and_turns_black_and_white(tmp_path):
    twins.vindr_mammo(tmp_path)
    twin = opened("vindr_mammo", tmp_path)
    assert twin.index["official"].tolist() == ["train"] * 20 + ["test"] * 4
    assert twin.index["density"].tolist() == (["A"] * 4 + ["B"] * 4 + ["C"] * 4) * 2
    assert twin.index["findings"].dropna().tolist() == ["Mass", "Mass; Nipple Retraction"]
    turned = next(twin.index.itertuples())
    image, _ = read(twin, turned)
    assert image[twins.of_box() > 0].min() > image[twins.of_box() == 0].max()


def test_vindr_mammo_misses_images_rows_and_sense(damaged):
    folder = damaged.write("vindr_mammo")
    table = (folder / "breast-level_annotations.csv").read_text()
    (folder / "breast-level_annotations.csv").write_text(table.replace("BI-RADS 5", "BI-RADS 9"))
    assert "has breast_birads '9'; known are 1, 2, 3, 4, 5" in damaged.sentence("vindr_mammo")
    (folder / "breast-level_annotations.csv").write_text("\n".join(table.splitlines()[:-1]))
    assert "is there, but breast-level_annotations.csv does not name it" in damaged.sentence("vindr_mammo")
    (folder / "breast-level_annotations.csv").write_text(table)
    sorted(folder.rglob("*.dicom"))[0].unlink()
    assert damaged.sentence("vindr_mammo").endswith(".dicom is missing")


def test_cdd_cesm_draws_every_shape_of_the_annotator(tmp_path):
    twins.cdd_cesm(tmp_path)
    twin = opened("cdd_cesm", tmp_path)
    areas = {row.image_id.rsplit("/")[1][:-4]: read(twin, row)[1].sum() for row in twin.index.itertuples()}
    box = (twins.of_box() > 0).sum()
    assert areas["P1_L_DM_CC"] == areas["P1_L_CM_CC"] == areas["P2_R_DM_CC"] == box
    assert areas["P1_L_DM_MLO"] == pytest.approx(np.pi * 12 * 15, rel=0.03)
    assert areas["P1_L_CM_MLO"] == pytest.approx(np.pi * 100, rel=0.03)
    assert twin.index["energy"].value_counts().to_dict() == {"low": 10, "subtracted": 10}
    assert (twin.index["age"] == 45).all() and twin.index["case"].nunique() == 5


def test_cdd_cesm_misses_pictures_rows_and_sense(damaged):
    folder = damaged.write("cdd_cesm")
    file = folder / "Low energy images of CDD-CESM/P1_L_DM_CC.jpg"
    file.rename(file.with_name("P9_L_DM_CC.jpg"))
    assert "names 1 pictures that are not there, such as P1_L_DM_CC.jpg" in damaged.sentence("cdd_cesm")
    twins.picture(file, twins.of_box())
    assert "P9_L_DM_CC.jpg has no row in Radiology-manual-annotations.xlsx" in damaged.sentence("cdd_cesm")
    shapes = folder / "Radiology_hand_drawn_segmentations_v2.csv"
    shapes.write_text(shapes.read_text().replace("circle", "spiral"))
    assert "has a shape of P1_L_CM_MLO.jpg that cannot be read" in damaged.sentence("cdd_cesm")
