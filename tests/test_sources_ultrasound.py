"""Each source of ultrasound images, on a twin of its official layout and, where they are there, on the real files."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import twins_ultrasound as twins
from scipy import ndimage
from twin import opened

from mednb import datasets
from mednb.datasets import DATASETS, masks, pixels

WRITERS = {
    "busbra": twins.busbra,
    "breast": twins.breast,
    "bus_uclm": twins.bus_uclm,
    "udiat": twins.udiat,
    "stu": twins.stu,
    "oasbud": twins.oasbud,
    "hc18": twins.hc18,
    "camus": twins.camus,
    "camus mhd": twins.camus_mhd,
    "echonet": twins.echonet,
    "pocus": twins.pocus,
    "pocus made": twins.pocus_made,
}
# images of each class, patients (None: not told), masks in the index
FACTS = {
    "busbra": ({"benign": 7, "malignant": 8}, 10, 15),
    "breast": ({"normal": 2, "benign": 6, "malignant": 4}, 12, 13),
    "bus_uclm": ({"normal": 6, "benign": 6, "malignant": 6}, 6, 18),
    "udiat": ({"benign": 8, "malignant": 4}, None, 12),
    "stu": ({"unlabelled": 12}, None, 12),
    "oasbud": ({"benign": 6, "malignant": 6}, 5, 12),
    "hc18": ({"unlabelled": 12}, 11, 9),
    "camus": ({"unlabelled": 32}, 8, 32),
    "camus mhd": ({"unlabelled": 24}, 6, 20),
    "echonet": ({"unlabelled": 18}, 9, 18),
    "pocus": ({"covid": 7 + 3 + 1, "pneumonia": 5, "regular": 30 + 1, "viral": 3}, 6, 0),
    "pocus made": ({"covid": 5, "pneumonia": 4, "regular": 4, "viral": 4}, 8, 0),
}
EACH = list(WRITERS)


@pytest.fixture(scope="module", params=EACH)
def twin(request, tmp_path_factory):
    """A twin of one layout: its name, root, source module and index."""
    root = tmp_path_factory.mktemp("data")
    WRITERS[request.param](root)
    return SimpleNamespace(layout=request.param, **vars(opened(request.param.split()[0], root)))


@pytest.fixture
def written(tmp_path):
    """A function that writes a twin of one's own, to be damaged, and returns its folder."""

    def write(layout):
        WRITERS[layout](tmp_path)
        return tmp_path / DATASETS[layout.split()[0]].CARD.folder

    return write


def read(twin, row):
    """The grey values of a row of an index, and its mask."""
    if hasattr(twin.module, "read"):
        raw = twin.module.read(twin.archive, row)
    else:
        file, _, frame = row.image_id.partition("#")
        raw = pixels.read(twin.archive, file, int(frame) if frame else None)
    image = pixels.grey(raw)
    return image, masks.of(twin.archive, row, image.shape)


def test_labels_patients_and_masks_are_those_of_the_download(twin):
    counts, patients, n_masks = FACTS[twin.layout]
    assert twin.index["label"].value_counts().to_dict() == counts
    assert twin.index["image_id"].is_unique
    assert twin.index["masks"].map(len).sum() == n_masks
    assert ("patient" in twin.index) == (patients is not None)
    if patients is not None:
        assert twin.index["patient"].nunique() == patients and twin.index["patient"].map(type).eq(str).all()


def test_a_mask_lies_on_its_lesion_and_covers_all_of_it(twin):
    seen = 0
    for row in twin.index.itertuples():
        image, mask = read(twin, row)
        if mask.any():
            seen += 1
            within = ndimage.binary_erosion(mask)  # pixels on the edge are partly bright
            assert within.any() and np.quantile(image[within], 0.95) < 100, row.image_id
            assert image[~mask].mean() > 120, row.image_id
            assert (image < 60).sum() <= 1.15 * mask.sum(), row.image_id
    expected = {"bus_uclm": 12, "breast": 10, "camus mhd": 20, "pocus": 0, "pocus made": 0, "hc18": 9}
    assert seen == expected.get(twin.layout, len(twin.index))


def test_it_loads_with_patients_on_one_side(twin):
    images = datasets.load(twin.name, twin.root, size=32)
    assert len(images) == len(twin.index) and set(images.table["image_id"]) == set(twin.index["image_id"])
    assert images.table.groupby("patient")["split"].nunique().max() == 1
    assert images.pixels.std(axis=(1, 2)).min() > 0


def test_the_card_knows_its_classes_and_says_what_it_was_tested_on(twin):
    card = twin.module.CARD
    assert set(FACTS[twin.layout][0]) <= set(card.classes) == set(card.counts)
    real = card.name in ("busbra", "hc18", "pocus")
    assert card.tested_on == ("real files" if real else "a twin of the official layout")
    assert ("was not tried on its images" in " ".join(str(card).split())) != real
    assert card.organ == "breast" or card.alike >= 0.9  # other organs lie in one place
    assert "doi:" in card.citation and card.folder in card.how_to_get
    assert "beware" in datasets.card_text(card.name)


@pytest.mark.parametrize("layout", [name for name in EACH if name != "pocus made"])
def test_a_zip_gives_the_same_as_the_folder(layout, written, tmp_path):
    folder, name = written(layout), layout.split()[0]
    whole = opened(name, tmp_path)
    shutil.make_archive(str(tmp_path / "zipped" / folder.name), "zip", tmp_path, folder.name)
    packed = opened(name, tmp_path / "zipped")
    assert packed.archive.zipped and packed.archive.base == f"{folder.name}/"
    pd.testing.assert_frame_equal(packed.index, whole.index)
    last = next(whole.index.iloc[-1:].itertuples())
    for one, other in zip(*(read(found, last) for found in (whole, packed)), strict=True):
        assert (one == other).all()


# ---------------------------------------------------------------------------------------- what each of them knows more


def test_what_windows_leaves_in_a_folder_does_not_disturb_busbra(tmp_path):
    twins.busbra(tmp_path)
    for folder in ("Images", "Masks"):
        (tmp_path / "BUS-BRA/BUSBRA" / folder / "Thumbs.db").write_bytes(b"icons")
    assert len(opened("busbra", tmp_path).index)


def test_busbra_keeps_the_folds_of_its_authors(tmp_path):
    twins.busbra(tmp_path)
    index = opened("busbra", tmp_path).index
    assert (index["official_fold"] == index["case"].astype(int) % 5).all()
    assert set(index["view"]) == {"left", "right", "single"} and set(index["birads"]) == {"4"}
    for fold in range(5):
        table = datasets.load("busbra", tmp_path, size=32, fold=fold).table
        assert set(table["case"][table["split"] == "test"]) == set(index["case"][index["official_fold"] == fold])


def test_breast_unites_several_lesions_and_knows_their_words(tmp_path):
    twins.breast(tmp_path)
    images = datasets.load("breast", tmp_path, size=32)
    table = images.table.set_index("patient")
    assert table["lesions"].to_dict()["case003"] == 3 and table["lesions"].to_dict()["case001"] == 0
    assert table.loc["case004", "birads"] == "4a" and table.loc["case001", "birads"] == "1"
    assert table["age"].isna().sum() == 1 and table.loc["case006", "age"] == 46
    assert "&" in table.loc["case006", "margin"]


def test_bus_uclm_tells_which_images_have_marks(tmp_path):
    twins.bus_uclm(tmp_path)
    index = opened("bus_uclm", tmp_path).index
    assert index["marks"].sum() == 12 and not index["doppler"].any() and not index["combined"].any()


def test_oasbud_makes_square_pixels_of_the_right_depth(tmp_path):
    twins.oasbud(tmp_path)
    twin = opened("oasbud", tmp_path)
    assert twin.index["case"].value_counts().eq(2).all() and set(twin.index["birads"]) == {"3", "4a"}
    for row, samples in zip(twin.index.itertuples(), (900, 800) * 6, strict=True):
        raw = twin.module.read(twin.archive, row)
        decibels, depth, width = np.asarray(raw.values), samples * 1540 / 2 / 40e6, 0.038
        assert decibels.shape == (round(96 * depth / width), 96)
        assert decibels.max() == 0 and decibels.min() >= -50 and raw.window == (-50, 0)


def test_hc18_tests_on_nobody_whose_outline_was_never_published(tmp_path):
    twins.hc18(tmp_path)
    for fold in range(5):
        table = datasets.load("hc18", tmp_path, size=32, fold=fold).table
        hidden = table["image_id"].str.startswith("test_set/")
        assert (table["split"][hidden] == "train").all()
        assert len(set(table["split"][table["patient"] == "training 003"])) == 1
        assert table["circumference_mm"].isna().equals(hidden)
        assert set(table["pixel_mm"][hidden]) == {0.2}


def test_camus_keeps_the_official_split_and_what_is_known_of_the_patient(tmp_path):
    twins.camus(tmp_path)
    index = opened("camus", tmp_path).index
    official = index.groupby("patient")["official"].agg(set)
    assert official.tolist() == [{"train"}] * 5 + [{"val"}] + [{"test"}] * 2
    assert (index["ef"] == 61.5).all() and (index["age"] == 56).all() and set(index["quality"]) == {"Good"}
    for _, pair in index.groupby("video"):
        assert sorted(pair["instant"]) == ["ED", "ES"] and len(set(pair["view"])) == 1


def test_camus_of_old_tests_on_nobody_without_a_mask(tmp_path):
    twins.camus_mhd(tmp_path)
    index = opened("camus", tmp_path).index
    hidden = index["patient"] == "testing patient0001"
    assert hidden.sum() == 4 and not index["masks"][hidden].map(len).any()
    assert (index["official"] == np.where(hidden, "train", "")).all() and (index["ef"] == 61.5).all()


def test_echonet_lists_the_traced_frames_of_the_official_split(tmp_path):
    twins.echonet(tmp_path)
    index = opened("echonet", tmp_path).index
    for _, pair in index.groupby("video"):
        assert dict(zip(pair["instant"], pair["frame"], strict=True)) == twins.TRACED
    assert index["official"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 2}
    assert index.loc[index["video"] == "0X100003", "ef"].tolist() == [57, 57]
    table = datasets.load("echonet", tmp_path, size=32, fold=3).table
    assert (table["split"] == table["official"]).all()


def test_pocus_takes_three_frames_a_second_and_thirty_at_most(tmp_path):
    twins.pocus(tmp_path)
    twin = opened("pocus", tmp_path)
    frames = twin.index[twin.index["frame"] >= 0].groupby("video")["frame"].agg(list).to_dict()
    assert frames == {
        "Cov-Atlas+(44).gif": list(range(0, 21, 3)),  # 10 a second
        "Pneu_Avi_Video_001.mp4": list(range(0, 40, 8)),  # 25 a second
        "Reg_lung_vid1.avi": list(range(30)),  # 3 a second
        "Vir_denault_vid1.mov": [0, 8, 16],  # the table does not tell
        "Cov_bolzano_Linee B 5.mpeg": [0, 8, 16],
    }
    for row in twin.index[twin.index["frame"] >= 0].itertuples():
        assert read(twin, row)[0].mean() == pytest.approx(60 + 2 * row.frame, abs=3), row.image_id


def test_pocus_knows_patients_by_the_table_or_else_by_the_recording(tmp_path):
    twins.pocus(tmp_path)
    index = opened("pocus", tmp_path).index.set_index("video")
    for video in ("Cov-Atlas+(44).gif", "Pneu_Avi_Video_001.mp4"):
        assert set(index.loc[video, "patient"]) == {"1"}
    assert index.loc["Cov_website_donation_1.jpeg", "patient"] == "Cov_website_donation_1.jpeg"
    assert not index.index.str.contains("sliding").any()
    assert index.loc["Reg_bikus.png", "licence"] == "CC BY 4.0" and np.isnan(index.loc["Reg_bikus.png", "age"])


# ----------------------------------------------------------------------------------------------- what is inconsistent


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def copy(name, other):
    return lambda folder: shutil.copy(folder / name, folder / other)


def rename(name, other):
    return lambda folder: (folder / name).rename(folder / other)


def garbled(name):
    return lambda folder: (folder / name).write_bytes(b"no")


def text(name, old, new):
    def change(folder):
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new))

    return change


def table(name, change, **how):
    """Change a CSV file or a spreadsheet by a function of its table."""

    def rewrite(folder):
        path = folder / name
        excel = path.suffix == ".xlsx"
        changed = change(pd.read_excel(path) if excel else pd.read_csv(path, **how))
        changed.to_excel(path, index=False) if excel else changed.to_csv(path, index=False, **how)

    return rewrite


def records(**values):
    """Change fields of the third record of OASBUD.mat."""

    def rewrite(folder):
        from scipy.io import loadmat, savemat

        data = loadmat(folder / "OASBUD.mat")["data"]
        for name, value in values.items():
            data[0, 2][name] = value
        savemat(folder / "OASBUD.mat", {"data": data}, do_compression=True)

    return rewrite


def doubled(rows):
    return pd.concat([rows, rows.iloc[:1]])


def without(column):
    return lambda rows: rows.drop(columns=column)


def put(column, row, value):
    """The same rows with another value in one place."""
    return lambda rows: rows.assign(**{column: rows[column].astype(object).where(rows.index != row, value)})


BUSBRA, UCLM, TEST = "BUSBRA/bus_data.csv", "BUS-UCLM/INFO.csv", "test_set_pixel_size.csv"
CASES, SHEET = "BrEaST-Lesions_USG-images_and_masks", "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"
NIFTI, MHD, SPLIT = "database_nifti/patient0002/", "training/patient0002/", "database_split/subgroup_testing.txt"
TABLE, MADE = "data/dataset_metadata.csv", "data/image_dataset"
HARMS = {
    "busbra": [
        (remove("BUSBRA/Images/bus_0007-s.png"), r"bus_0007-s\.png is missing"),
        (remove("BUSBRA/Masks/mask_0001-l.png"), r"mask_0001-l\.png is missing"),
        (copy("BUSBRA/Masks/mask_0001-l.png", "BUSBRA/Masks/mask_0099-s.png"), r"mask_0099.* bus_data\.csv does not"),
        (table(BUSBRA, doubled), r"bus_data\.csv has two rows of ID bus_0001-l"),
        (table(BUSBRA, without("Case")), "has no column Case; it has ID"),
        (remove("BUSBRA/5-fold-cv.csv"), r"5-fold-cv\.csv is missing"),
        (table("BUSBRA/5-fold-cv.csv", lambda rows: rows[1:]), "do not both have bus_0001-l"),
    ],
    "breast": [
        (remove(SHEET), "does not hold it; there should be one BrEaST-Lesions-USG-clinical-data"),
        (copy(SHEET, "BrEaST-Lesions-USG-clinical-data-2.xlsx"), "holds .*; there should be one BrEaST"),
        (remove(f"{CASES}/case003_other2.png"), r"case003_other2\.png is missing"),
        (copy(f"{CASES}/case003_tumor.png", f"{CASES}/case001_tumor.png"), r"case001_tumor\.png is there, but"),
        (table(SHEET, put("Classification", 0, "benign")), r"case001\.png is benign, but .* no Mask_tumor_filename"),
        (table(SHEET, put("Classification", 3, "normal")), r"case004\.png is normal, but .* a mask of a tumour"),
        (table(SHEET, put("Classification", 3, "odd")), "Classification 'odd' in row 4; normal, benign, malignant"),
        (table(SHEET, put("Image_filename", 3, None)), "should name one image in the row of CaseID 4"),
        (table(SHEET, doubled), "has two rows of CaseID 1"),
    ],
    "bus_uclm": [
        (remove("BUS-UCLM/masks/COPE_001.png"), r"masks/COPE_001\.png is missing"),
        (copy("BUS-UCLM/masks/COPE_001.png", "BUS-UCLM/masks/COPE_009.png"), r"COPE_009.* INFO\.csv does not"),
        (text(UCLM, ";", ","), "has no column Label, Doppler, Marks, Combined, Image"),
        (table(UCLM, doubled, sep=";"), r"has two rows of Image ALWI_000\.png"),
        (text(UCLM, "Malignant", "Evil"), "Label 'Evil' in row 3; normal, benign, malignant are known"),
    ],
    "udiat": [
        (remove("GT/000004.png"), r"GT/000004\.png is missing"),
        (copy("original/000001.png", "original/000044.png"), r"000044\.png is there, but DatasetB\.xlsx does not"),
        (table("DatasetB.xlsx", without("Type")), "has no column Type; it has Image, Diagnosis"),
        (garbled("DatasetB.xlsx"), r"DatasetB\.xlsx cannot be read as a spreadsheet"),
    ],
    "stu": [
        (remove("Hospital/mask_5.png"), r"Test_Image_5\.png is there without its mask_5\.png"),
        (remove("Hospital/Test_Image_6.png"), r"mask_6\.png is there without its Test_Image_6\.png"),
    ],
    "oasbud": [
        (garbled("OASBUD.mat"), r"OASBUD\.mat cannot be read as a MATLAB file"),
        (records(roi2=np.ones((3, 4))), r"lesion 3 has rf2 \(800, 96\) and roi2 \(3, 4\), not a view and a mask"),
        (records(roi1=np.zeros((900, 96))), "lesion 3 has .* not a view and a mask"),
        (records(**{"class": 2}), "lesion 3 has class 2, not 0 or 1"),
    ],
    "hc18": [
        (remove("training_set/002_HC_Annotation.png"), r"002_HC_Annotation\.png is missing"),
        (remove("test_set/002_HC.png"), r"test_set/002_HC\.png is missing"),
        (remove(TEST), r"test_set_pixel_size\.csv is missing"),
        (copy("test_set/002_HC.png", "test_set/009_HC.png"), r"009_HC\.png is there, but test_set_pixel_size\.csv"),
        (text(TEST, "pixel size(mm)", "mm"), r"has no column pixel size\(mm\); it has filename, mm"),
    ],
    "camus": [
        (remove(f"{NIFTI}patient0002_2CH_ED_gt.nii.gz"), r"patient0002_2CH_ED_gt\.nii\.gz is missing"),
        (remove(f"{NIFTI}patient0002_4CH_ES.nii.gz"), r"4CH_ES_gt\.nii\.gz is a mask without its image"),
        (remove(f"{NIFTI}Info_4CH.cfg"), r"Info_4CH\.cfg is missing"),
        (text(f"{NIFTI}Info_4CH.cfg", "EF", "FE"), r"Info_4CH\.cfg has no line 'EF: \.\.\.' and none 'LVef"),
        (text(SPLIT, "07", "06"), "names patient0006, whom another file there names too"),
        (text(SPLIT, "patient0007", ""), "patient0007.* whom no file of database_split names"),
    ],
    "camus mhd": [
        (remove(f"{MHD}patient0002_2CH_ED_gt.mhd"), r"patient0002_2CH_ED_gt\.mhd is missing"),
        (remove(f"{MHD}patient0002_2CH_ED.raw"), r"should lie beside it in 'patient0002_2CH_ED\.raw'"),
    ],
    "echonet": [
        (remove("Videos/0X100004.avi"), r"Videos/0X100004\.avi is missing"),
        (copy("Videos/0X100004.avi", "Videos/0X9.avi"), r"0X9\.avi is there, but FileList\.csv does not name it"),
        (remove("VolumeTracings.csv"), r"VolumeTracings\.csv is missing"),
        (table("FileList.csv", doubled), r"FileList\.csv has two rows of FileName 0X100000"),
        (table("FileList.csv", without("Split")), r"FileList\.csv has no column Split"),
        (table("FileList.csv", put("Split", 0, "MINE")), "Split 'MINE' in row 1; train, val, test are known"),
        (table("VolumeTracings.csv", put("X2", 6, None)), "has an empty cell in row 7"),
        (table("VolumeTracings.csv", lambda rows: rows[-1:]), r"traces no video of FileList\.csv"),
    ],
    "pocus": [
        (remove(TABLE), r"pocus needs .*dataset_metadata\.csv"),
        (table(TABLE, without("Probe")), "has no column Probe"),
        (garbled("data/pocus_videos/convex/Reg_lung_vid1.avi"), r"Reg_lung_vid1\.avi cannot be read"),
        (rename("data/pocus_videos", "data/videos"), "holds neither image_dataset nor pocus_videos"),
    ],
    "pocus made": [
        (text(TABLE, "Cov_v2,Cov-2", "Cov_v1,Cov-2"), "has two rows of cov_v1 with different patients"),
        (rename(f"{MADE}/viral", f"{MADE}/neck"), "lies in a class 'neck'; known are covid"),
    ],
}
CASE_BY_CASE = [(layout, *harm) for layout, harms in HARMS.items() for harm in harms]


@pytest.mark.parametrize(("layout", "harm", "sentence"), CASE_BY_CASE, ids=[case[2] for case in CASE_BY_CASE])
def test_what_is_inconsistent_is_a_sentence_that_names_the_file(layout, harm, sentence, written, tmp_path):
    harm(written(layout))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        datasets.load(layout.split()[0], tmp_path, size=32)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ the real files


@pytest.mark.data
@pytest.mark.parametrize("name", ["busbra", "hc18", "pocus"])
def test_the_real_files_are_as_many_as_the_card_says(name, data_root):
    twin = opened(name, data_root)
    card = twin.module.CARD
    assert twin.index["label"].value_counts().to_dict() == card.counts
    assert twin.index["patient"].nunique() == card.n_patients
    assert twin.index["masks"].map(len).sum() == card.n_masks


@pytest.mark.data
def test_the_real_busbra_is_as_its_source_says(data_root):
    index = opened("busbra", data_root).index
    assert index["birads"].value_counts().to_dict() == {"4": 693, "2": 562, "3": 463, "5": 157}
    patients = index.groupby("patient")
    assert patients["label"].first().value_counts().to_dict() == {"benign": 722, "malignant": 342}
    assert patients[["label", "official_fold"]].nunique().to_numpy().max() == 1
    assert patients.size().value_counts().to_dict() == {2: 811, 1: 253}
    assert sorted(set(index["official_fold"])) == [0, 1, 2, 3, 4] and index["scanner"].nunique() == 4


@pytest.mark.data
def test_the_real_heads_have_the_circumference_of_the_table(data_root):
    """Ramanujan's formula for the ellipse with the mask's second moments; the pictures were reduced in size."""
    twin = opened("hc18", data_root)
    sizes = pd.read_csv(data_root / "HC18/SIZES.csv").set_index("file")
    errors = []
    for row in twin.index[twin.index["masks"].map(len) > 0][::20].itertuples():
        _, mask = read(twin, row)
        half = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(np.nonzero(mask))))
        h = ((half[0] - half[1]) / half.sum()) ** 2
        around = np.pi * half.sum() * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
        scale = sizes.loc[row.image_id, "original_width"] / mask.shape[1]
        errors.append(around * row.pixel_mm * scale / row.circumference_mm - 1)
    assert np.abs(errors).max() < 0.04 and abs(np.mean(errors)) < 0.02
    assert twin.index["patient"].str.startswith("training").sum() == 999
    assert twin.index["patient"][:999].nunique() == 806


@pytest.mark.data
def test_the_real_frames_have_the_patients_and_classes_of_their_list(data_root):
    index = opened("pocus", data_root).index
    listed = pd.read_csv(data_root / "covid19_ultrasound/data/frames.csv")
    listed.index = "data/" + listed["file"]
    listed = listed.loc[index["image_id"]].reset_index(drop=True)
    assert (index["patient"] == listed["patient_id_or_name"].astype(str)).all()
    assert (index["label"] == listed["class"]).all() and (index["licence"] == listed["license"]).all()
    assert (index["frame"] == listed["frame"].where(listed["kind"] == "video", -1)).all()
    assert index["scanner"].value_counts().to_dict() == {"convex": 480, "linear": 37}
    assert index.groupby("label")["patient"].nunique().to_dict()["covid"] == 11
