"""Your own images, with and without a table, folders of classes, and STL-10's files of numbers."""

from __future__ import annotations

import re
import shutil
import traceback

import medical_files
import numpy as np
import pandas as pd
import pytest
import twins_own as twins
from PIL import Image

from mednb import datasets
from mednb.datasets import DATASETS, decode, masks, pixels
from mednb.datasets.archive import Archive
from mednb.datasets.located import located
from mednb.datasets.sources.folder import Folder


def index_of(root, table=None):
    return Folder(table).index(Archive(root))


def sentence(root, table=None):
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        index_of(root, table)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def values_of(index, root, row):
    """A row's pixels and its mask."""
    archive, row = Archive(root), list(index.itertuples())[row]
    image = np.asarray(Folder().read(archive, row).values)
    return image, masks.of(archive, row, image.shape[:2])


# ---------------------------------------------------------------------------------------------------- without a table


def test_without_a_table_the_folders_are_the_labels(tmp_path):
    twins.plain(tmp_path)
    index = index_of(tmp_path)
    assert index["label"].value_counts().to_dict() == {"benign": 6, "malignant": 6, "unlabelled": 1}
    assert "patient" not in index and len(index) == 13
    assert index.set_index("image_id").loc["loose.png", "label"] == "unlabelled"


def test_masks_lie_beside_their_images(tmp_path):
    twins.plain(tmp_path)
    index = index_of(tmp_path)
    masked = index.set_index("image_id")["masks"].map(len)
    assert masked[masked > 0].to_dict() == {"benign/0.png": 1, "malignant/1.jpg": 2}
    _, mask = values_of(index, tmp_path, index["image_id"].eq("malignant/1.jpg").argmax())
    assert (mask == ((twins.of_box() | np.roll(twins.of_box(), 10, 0)) > 0)).all()
    (tmp_path / "benign/0.png").unlink()
    assert "0_mask.png is a mask without its image '0'" in sentence(tmp_path)


def test_a_folder_is_loaded_with_a_card_of_what_is_in_it(tmp_path):
    twins.plain(tmp_path)
    images = datasets.load("folder", tmp_path, size=32)
    assert images.card.counts == {"benign": 6, "malignant": 6, "unlabelled": 1}
    assert images.classes == ["benign", "malignant", "unlabelled"]
    assert "nobody names the patients" in images.card.patients
    assert images.masks.any(axis=(1, 2)).sum() == 2


def test_a_folder_without_images_or_root_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    assert "holds no images; root is the folder itself" in sentence(tmp_path)
    with pytest.raises(ValueError, match="needs root, --data or a notebook's data: the folder"):
        datasets.load("folder")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        datasets.load("folder", tmp_path / "none")


def test_a_zip_of_your_own_is_read_without_unpacking(tmp_path):
    twins.plain(tmp_path / "mine")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "mine")
    packed = datasets.load("folder", tmp_path / "mine.zip", size=32)
    whole = datasets.load("folder", tmp_path / "mine", size=32)
    assert (packed.pixels == whole.pixels).all() and packed.table.equals(whole.table)


# ------------------------------------------------------------------------------------------------------ DICOM, volumes


def test_numbers_of_a_volumes_mask_mean_the_same_in_every_slice(tmp_path):
    """A structure is lesion, or is not, wherever it lies; also where the image is read between the slices."""
    values = np.zeros((3, 20, 16), np.int16)
    values[:, 4:8, 4:8], values[1, 10:14, 4:8] = 5, 40
    medical_files.volume(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 99, (3, 20, 16)).astype(np.int16))
    medical_files.volume(tmp_path / "v_mask.nii.gz", values)
    index = index_of(tmp_path)
    for row in range(3):
        assert (values_of(index, tmp_path, row)[1] == (values[row] == 40)).all()


def test_a_mask_of_other_slices_than_its_image_is_a_sentence(tmp_path):
    medical_files.volume(tmp_path / "v.nii", np.ones((3, 20, 16), np.int16))
    medical_files.volume(tmp_path / "v_mask.nii", np.ones((5, 20, 16), np.int16))
    assert re.search(r"v_mask\.nii is a mask of 5 frames, but .*v\.nii has 3", sentence(tmp_path))


def test_a_volume_and_its_mask_are_decoded_once_however_many_slices_they_have(tmp_path, monkeypatch):
    from mednb.datasets import volume

    twins.volume(tmp_path)
    index, opened = index_of(tmp_path), []
    monkeypatch.setattr(volume, "Volume", type("Counted", (volume.Volume,), {"__init__": counted(opened, volume)}))
    pixels.LAST.opened.clear()
    for row in range(4):
        values_of(index, tmp_path, row)
    assert len(opened) == 2


def counted(opened, volume):
    plain = volume.Volume.__init__
    return lambda self, archive, file, data: opened.append(file) or plain(self, archive, file, data)


def test_a_dicom_file_names_nobody_whatever_it_is_called(tmp_path):
    who = {"PatientName": "MUSTERMANN^ERIKA", "PatientID": "H-1000", "PatientBirthDate": "19700131"}
    names = ["Erika_Mustermann_2.tif", "b1970-01-31.dcm", "IM_31011970.dcm", "of_01-31-1970.dcm", "MustermannE.dcm"]
    for number, name in enumerate(names):
        twins.dicom(tmp_path / name, twins.scene(np.random.default_rng(number)), "US", **who)
    index = index_of(tmp_path)
    assert index["image_id"].str.startswith("hidden-").all() and len(set(index["patient"])) == 1
    (tmp_path / names[0]).rename(tmp_path / "Erika_Mustermann.raw")
    pd.DataFrame({"image": ["Erika_Mustermann.raw"]}).to_csv(tmp_path / "t.csv", index=False)
    index = index_of(tmp_path, "t.csv")
    assert index["image_id"].str.startswith("hidden-").all() and index["patient"].str.startswith("p-").all()


def test_nobody_is_named_in_what_comes_out_of_dicom_files(tmp_path):
    twins.hospital(tmp_path)
    index = index_of(tmp_path)
    shown = index.to_csv().lower()
    for word in ("erika", "mustermann", "doe", "jane", "secret", "h-100", "1970"):
        assert word not in shown
    assert index["patient"].nunique() == 7 and index["patient"].str.fullmatch(r"p-[0-9a-f]{10}").all()
    hidden = index["image_id"].str.startswith("hidden-")
    assert hidden.sum() == 2 and set(index["label"][hidden]) == {"unlabelled"}
    for row in np.flatnonzero(hidden):
        image, _ = values_of(index, tmp_path, row)
        assert image.shape == (96, 72) and image.std() > 5
    images = datasets.load("folder", tmp_path, size=32)
    assert "7 of your table or your DICOM files" in images.card.patients
    assert not re.search("erika|mustermann|doe", images.table.to_csv().lower())


def test_no_folder_that_names_a_patient_is_listed_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decode, "MANY", 0)
    twins.hospital(tmp_path / "data")
    datasets.load("folder", tmp_path / "data", size=32)
    kept = [path.read_bytes().lower() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) > 5 and not any(re.search(b"mustermann|doe_jane", content) for content in kept)


def test_a_broken_file_does_not_name_anybody_either(tmp_path):
    twins.hospital(tmp_path)
    file = tmp_path / "Erika Mustermann/IM0"
    file.write_bytes(file.read_bytes()[:-4000])
    (tmp_path / "doe_jane/IM1.dcm").write_bytes(b"nothing of the kind" * 30)
    (tmp_path / "benign/broken.tif").write_bytes(b"II*\0 nothing")
    images = datasets.load("folder", tmp_path, size=32, broken="quarantine")
    assert len(images.quarantine) == 3
    assert images.table["patient"].str.startswith("p-").all()  # the others are still known
    for why in images.quarantine["why"]:
        assert ("hidden-" in why or "broken.tif" in why) and not re.search("rika|jane", why)
        assert why.count("cannot be read") == 1


def test_a_name_that_holds_the_patient_of_the_table_is_not_shown(tmp_path):
    for number in range(4):
        twins.picture(tmp_path / f"Smith_{number // 2}/{number}.png", twins.scene(np.random.default_rng(number)))
    names = [f"Smith_{number // 2}/{number}.png" for number in range(4)]
    pd.DataFrame({"image": names, "patient": ["Smith 0", "Smith 0", "Smith 1", "Smith 1"]}).to_csv(tmp_path / "t.csv")
    index = index_of(tmp_path, "t.csv")
    assert "smith" not in index.to_csv().lower() and len(set(index["patient"])) == 2
    assert values_of(index, tmp_path, 3)[0].shape == (96, 72)


def test_frames_of_one_file_stay_together(tmp_path):
    twins.hospital(tmp_path)
    index = index_of(tmp_path)
    film = index[index["image_id"].str.contains("film#")]
    assert film["image_id"].tolist() == [f"malignant/film#{i}" for i in range(5)]
    assert film["position"].tolist() == [0, 0.25, 0.5, 0.75, 1] and len(set(film["patient"])) == 1
    assert not (values_of(index, tmp_path, film.index[0])[0] == values_of(index, tmp_path, film.index[4])[0]).all()


def test_volumes_become_slices_with_their_masks(tmp_path):
    twins.volume(tmp_path)
    index = index_of(tmp_path)
    assert len(index) == 24 and set(index["image_id"].str.split("#").str[0]) == {f"v{i}.nii.gz" for i in range(6)}
    for row, lesion in ((1, False), (2, True)):
        image, mask = values_of(index, tmp_path, row)
        assert mask.any() == lesion and (image == 2500).sum() == mask.sum()
    images = datasets.load("folder", tmp_path, size=32)
    assert images.table.groupby("video")["split"].nunique().max() == 1 and images.table["patient"].nunique() == 6
    assert len(datasets.load("folder", tmp_path, size=32, stride=2)) == 12


@pytest.mark.parametrize("name", ["a.mov", "a.MPG", "a.mpeg", "a.m4v", "a.webp"])
def test_films_of_every_kind_become_frames_also_where_a_table_names_them(tmp_path, name):
    frames = np.stack([twins.scene(np.random.default_rng(i)) for i in range(5)])
    if name == "a.webp":
        pages = [Image.fromarray(frame) for frame in frames]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    else:
        medical_files.video(tmp_path / name, frames, "mpeg1video" if "p" in name.lower() else "mpeg4")
    pd.DataFrame({"image": [name], "patient": "p"}).to_csv(tmp_path / "t.csv", index=False)
    for table in (None, "t.csv"):
        index = index_of(tmp_path, table)
        assert index["image_id"].tolist() == [f"{name}#{i}" for i in range(5)]
        assert values_of(index, tmp_path, 4)[0].shape[:2] == (96, 72)
    (tmp_path / name).rename(tmp_path / "clip.odd")
    pd.DataFrame({"image": ["clip.odd"]}).to_csv(tmp_path / "t.csv", index=False)
    assert len(index_of(tmp_path, "t.csv")) == 5


def test_a_name_in_another_script_is_hidden_too(tmp_path):
    twins.hospital(tmp_path, people=["王^小明", "ИВАНОВ^ПЁТР", "Doe^John", "Müller^Eva", "A^B", "C^D"])
    for number, folder in enumerate(("王小明", "Иванов", "JohnDoe", "Mueller")):
        (tmp_path / folder).mkdir()
        (tmp_path / ("benign" if number % 2 else "malignant") / f"IM{number}").rename(tmp_path / folder / "1.dcm")
    shown = index_of(tmp_path).set_index("image_id")["label"]
    assert not re.search("小明|иванов|doe|mueller", ";".join(shown.index).lower())
    assert shown[shown.index.str.startswith("hidden-")].tolist() == ["unlabelled"] * 4


def test_a_label_is_kept_when_only_the_files_name_tells_the_person(tmp_path):
    twins.hospital(tmp_path)
    (tmp_path / "benign/IM3").rename(tmp_path / "benign/secret_b.dcm")
    hidden = index_of(tmp_path).set_index("image_id")["label"].loc[lambda label: label.index.str.startswith("hidden-")]
    assert sorted(hidden) == ["benign", "unlabelled", "unlabelled"]


def test_a_label_that_is_a_part_of_the_name_is_not_kept(tmp_path):
    for number in range(2):
        twins.picture(tmp_path / f"Smith/{number}.png", twins.scene(np.random.default_rng(number)))
    pd.DataFrame({"image": ["Smith/0.png"], "patient": "Smith 0"}).to_csv(tmp_path / "t.csv")
    assert index_of(tmp_path, "t.csv")["label"].tolist() == ["unlabelled"]


def test_links_to_nothing_are_quarantined_and_name_nobody(tmp_path):
    twins.hospital(tmp_path)
    for name in ("DOE_JANE.dcm", "DOE_JIM", "doe.tif"):
        (tmp_path / "benign" / name).symlink_to(tmp_path / "gone")
    images = datasets.load("folder", tmp_path, size=32, broken="quarantine")
    assert len(images.quarantine) == 3 and len(images) == 12
    said = images.quarantine.set_index("image_id")["why"].drop("benign/doe.tif")
    assert said.str.contains("hidden-").all() and not re.search("doe", f"{said}".lower())


def named(root):
    """Eight images of people whose names are those of their files and masks; the mask of one is too small."""
    people = [f"Doe {letter * 3}" for letter in "ABCDEFGH"]
    rng = np.random.default_rng(0)
    for number, person in enumerate(people):
        twins.picture(root / f"a/{number if number else person}.png", twins.scene(rng))
        twins.picture(root / f"m/{person}.png", twins.of_box()[: 20 if number == 3 else None])
    names, masks = ["a/Doe AAA.png", *(f"a/{i}.png" for i in range(1, 8))], [f"m/{person}.png" for person in people]
    masks[4] = None
    pd.DataFrame({"image": names, "patient": people, "mask": masks, "label": "x"}).to_csv(root / "t.csv")


@pytest.mark.parametrize("processes", [False, True])
def test_a_mask_that_names_the_patient_is_named_nowhere(tmp_path, monkeypatch, processes):
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    if processes:
        monkeypatch.setattr(decode, "FEW", 0)
        monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    named(tmp_path / "data")
    with pytest.raises(ValueError, match=r"hidden-\w+\.? is 72 x 20 pixels, but its image is 72 x 96") as raised:
        datasets.load("folder", tmp_path / "data", size=32, table="t.csv")
    assert "doe" not in "".join(traceback.format_exception(raised.value)).lower()
    images = datasets.load("folder", tmp_path / "data", size=32, table="t.csv", broken="quarantine")
    assert len(images.quarantine) == 1 and "a/4.png" in set(images.table["image_id"])
    assert not re.search("doe", images.quarantine.to_csv().lower())
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".csv", ".sha256", ".json", ".parquet")]
    assert len(kept) >= 4 and not any(b"doe" in path.read_bytes().lower() for path in kept)
    (listed,) = (path for path in kept if path.suffix == ".sha256")
    assert "  a/4.png" in listed.read_text() and listed.read_text().count("  hidden-") == 14


def test_another_salt_is_known_to_processes_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "FEW", 0)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    shown = []
    for salt in ("one", "two"):
        twins.hospital(tmp_path / salt)
        monkeypatch.setenv("MEDNB_SALT", salt)
        shown.append(set(datasets.load("folder", tmp_path / salt, size=32).table["image_id"]))
    assert len(shown[0]) == 12 and sum(name.startswith("hidden-") for name in shown[0] & shown[1]) == 0


# ------------------------------------------------------------------------------------------------------- with a table


def test_the_table_says_who_what_and_where(tmp_path):
    table = twins.table(tmp_path)
    table.assign(split=["test"] * 2 + ["train"] * 10).to_csv(tmp_path / "my.csv", index=False)
    images = datasets.load("folder", tmp_path, size=48, table="my.csv")
    assert len(images) == 12 and images.card.counts == {"A": 6, "B": 6}
    assert images.table["patient"].nunique() == 6 and not images.table["patient"].str.contains("Patient").any()
    assert images.table["age"].astype(int).tolist() == list(range(40, 52))
    assert images.table["split"].eq("test").sum() == 2
    assert images.table["lesions"].tolist() == [2, 1, 0] * 4
    index = index_of(tmp_path, "my.csv")
    assert (values_of(index, tmp_path, 1)[1] == (twins.of_box() > 0)).all()


@pytest.mark.parametrize(
    ("column", "called", "said"),
    [
        ("patient", "Patient", "has a column 'Patient'; call it patient"),
        ("patient", " patient", "has a column ' patient'; call it patient"),
        ("patient", "patient_id", "has a column 'patient_id'; call it patient, or what it is if it is something else"),
        ("label", "labels", "has a column 'labels'; call it label"),
        ("mask", "MASK", "has a column 'MASK'; call it mask"),
        ("age", "label", "has two columns label; leave one of them out"),
        ("age", "Patient ", "has two columns patient; leave one of them out"),
        ("age", "weight", "has a column weight, a name that mednb gives something else"),
        ("patient", "patient_name", "has a column 'patient_name'; call it patient, or what it is"),
        ("patient", "PatientID", "has a column 'PatientID'; call it patient"),
        ("patient", "subject_id", "has a column 'subject_id'; call it patient"),
        ("patient", "MRN", "has a column 'MRN'; call it patient"),
        ("patient", "name of the patient", "has a column 'name of the patient'; call it patient"),
        ("age", "patient_name", "has a column 'patient_name'; leave it out: whose an image is stands in patient"),
        ("age", "subject", "has a column 'subject'; leave it out"),
    ],
)
def test_a_column_that_is_misspelt_or_comes_twice_is_not_lost_without_a_word(tmp_path, column, called, said):
    twins.table(tmp_path).rename(columns={column: called}).to_csv(tmp_path / "my.csv", index=False)
    assert said in sentence(tmp_path, "my.csv")


def test_columns_that_tell_something_about_patients_but_not_who_they_are_stay(tmp_path):
    twins.table(tmp_path).rename(columns={"age": "patient_age"}).to_csv(tmp_path / "my.csv", index=False)
    assert "patient_age" in datasets.load("folder", tmp_path, size=32, table="my.csv").table


@pytest.mark.parametrize("where", ["my.csv", "beside/my.csv"])
def test_a_comma_too_many_in_each_line_shifts_no_column_and_tells_no_name(tmp_path, where):
    table = tmp_path / where
    table.parent.mkdir(exist_ok=True)
    head, *lines = twins.table(tmp_path / "images").to_csv(index=False).splitlines()
    table.write_text("\n".join([head, *(f"{line}," for line in lines)]))
    (tmp_path / "images/my.csv").write_text(table.read_text())
    said = sentence(tmp_path / "images", "my.csv" if where == "my.csv" else str(table))
    assert "cannot be read as a table" in said and "does not match" in said and "Patient" not in said


def test_a_table_that_leaves_nothing_to_train_on_says_so(tmp_path):
    twins.table(tmp_path).assign(split="test").to_csv(tmp_path / "my.csv", index=False)
    with pytest.raises(ValueError, match="all images are test by their table: none is left to train on"):
        datasets.load("folder", tmp_path, size=32, table="my.csv")


def test_who_is_tested_does_not_depend_on_the_salt(tmp_path, monkeypatch):
    twins.hospital(tmp_path / "dicom")
    twins.table(tmp_path / "table").to_csv(tmp_path / "table/my.csv", index=False)
    for root, table in (("dicom", None), ("table", "my.csv")):
        found = []
        for salt in ("one", "two", "three"):
            monkeypatch.setenv("MEDNB_SALT", salt)
            images = datasets.load("folder", tmp_path / root, size=32, table=table)
            few = images.table.index.isin(datasets.splits.few(images.table, 0.5, seed=1))
            found.append((images.table["split"].tolist(), few.tolist(), images.split_hash, images.fingerprint))
        assert found[0] == found[1] == found[2]


def test_another_salt_gives_other_names_in_the_same_cache(tmp_path, monkeypatch):
    twins.table(tmp_path).to_csv(tmp_path / "my.csv", index=False)
    patients = []
    for salt in ("one", "two"):
        monkeypatch.setenv("MEDNB_SALT", salt)
        patients.append(set(datasets.load("folder", tmp_path, size=32, table="my.csv").table["patient"]))
    assert not patients[0] & patients[1]


def test_two_folders_are_two_datasets_and_one_folder_is_one(tmp_path):
    for name in "ab":
        twins.table(tmp_path / name).to_csv(tmp_path / name / "my.csv", index=False)
    a, b = (datasets.load("folder", tmp_path / name, size=32, table="my.csv") for name in "ab")
    assert set(a.members) != set(b.members) and list(a.members.values()) == [a.split_hash]
    again = datasets.load("folder", tmp_path / "a/../a", size=48, table="my.csv", fold=1)
    assert set(again.members) == set(a.members) and again.members != a.members


def test_a_table_may_lie_elsewhere_and_another_one_is_another_dataset(tmp_path):
    table = twins.table(tmp_path / "mine")
    table.to_csv(tmp_path / "one.csv", index=False)
    table.iloc[:10].to_csv(tmp_path / "other.csv", index=False)
    assert len(datasets.load("folder", tmp_path / "mine", size=32, table=tmp_path / "one.csv")) == 12
    assert len(datasets.load("folder", tmp_path / "mine", size=32, table=tmp_path / "other.csv")) == 10
    for name, n in (("in.csv", 12), ("also.csv", 11)):
        table.iloc[:n].to_csv(tmp_path / "mine" / name, index=False)
    assert len(datasets.load("folder", tmp_path / "mine", size=32, table="in.csv")) == 12
    assert len(datasets.load("folder", tmp_path / "mine", size=32, table="also.csv")) == 11
    table.assign(label="C").to_csv(tmp_path / "one.csv", index=False)
    assert datasets.load("folder", tmp_path / "mine", size=32, table=tmp_path / "one.csv").classes == ["C"]


def test_a_table_may_know_the_images_only(tmp_path):
    twins.table(tmp_path)[["image"]].to_csv(tmp_path / "my.csv", index=False)
    index = index_of(tmp_path, "my.csv")
    assert set(index["label"]) == {"img"} and "patient" not in index and "official" not in index
    images = datasets.load("folder", tmp_path, size=32, table="my.csv")
    assert "a table with a column patient would help" in images.card.patients


def test_a_table_says_what_is_shown(tmp_path):
    twins.table(tmp_path).assign(modality="ultrasound", organ="thyroid").to_csv(tmp_path / "my.csv", index=False)
    images = datasets.load("folder", tmp_path, size=32, table="my.csv")
    assert (images.card.modality, images.card.organ) == ("ultrasound", "thyroid")
    assert set(images.table["modality"]) == {"ultrasound"}


def test_words_that_look_empty_are_labels_and_an_empty_one_is_unlabelled(tmp_path):
    table = twins.table(tmp_path / "mine").assign(label=["None", "NA", "", "null", *"AAAABBBB"])
    for where in (tmp_path / "mine/t.csv", tmp_path / "t.csv"):
        table.to_csv(where, index=False)
        assert index_of(tmp_path / "mine", where.name if where.parent.name == "mine" else where)["label"].tolist() == [
            *("None", "NA", "unlabelled", "null", *"AAAABBBB")
        ]


def test_a_name_may_hold_a_number_sign(tmp_path):
    twins.plain(tmp_path)
    (tmp_path / "benign/0.png").rename(tmp_path / "benign/case#1.png")
    (tmp_path / "benign/0_mask.png").unlink()
    for name in ("folder", "imagefolder"):
        images = datasets.load(name, tmp_path, size=32)
        assert "benign/case#1.png" in set(images.table["image_id"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.rename(columns={"image": "file name"}), "has no column image; it has file name, patient"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "has two rows of image img/0.png"),
        (lambda t: t.assign(image=t["image"].replace("img/3.png", "img/33.png")), "names img/33.png, which is not in"),
        (lambda t: t.assign(mask=t["mask"].replace("masks/a.png", "m.png")), "names m.png, which is not in"),
        (lambda t: t.assign(image="/" + t["image"]), "; and 2 more"),
        (lambda t: t.assign(image=t["image"].replace("img/3.png", None)), "has no image in row 4"),
        (lambda t: t.assign(split="holdout"), "has the split 'holdout'; choose train, val or test"),
        (lambda t: t.assign(patient=t["patient"].replace("Patient 2", " ")), "does not say whose img/4.png is"),
        (lambda t: t.assign(width=3), "has a column width, a name that mednb gives something else"),
        (lambda t: t.iloc[:0], "holds no images"),
    ],
)
def test_what_a_table_lacks_is_said_in_a_sentence(tmp_path, change, said):
    change(twins.table(tmp_path)).to_csv(tmp_path / "my.csv", index=False)
    assert said in sentence(tmp_path, "my.csv")


def test_a_split_that_tears_patients_apart_costs_images_and_they_are_counted(tmp_path):
    twins.table(tmp_path).assign(split=["train", "test"] * 6).to_csv(tmp_path / "my.csv", index=False)
    images = datasets.load("folder", tmp_path, size=32, table="my.csv")
    assert len(images) == 6 and "; 6 more left out)" in repr(images)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sep": ";"}, "it has image;patient;label;mask;age: commas must separate its columns"),
        ({"sep": "\t"}, "commas must separate its columns"),
        ({"encoding": "cp1252"}, "cannot be read as a table: 'utf-8' codec can't decode byte 0xfc"),
        ({"encoding": "cp1252"}, "; save it as UTF-8"),
    ],
)
def test_a_table_as_spreadsheets_write_it_is_told_how_to_be_saved(tmp_path, how, said):
    table = twins.table(tmp_path).replace("Patient 2", "Müller")
    table.to_csv(tmp_path / "my.csv", index=False, **how)
    assert said in sentence(tmp_path, "my.csv")


def test_a_table_that_is_none_is_refused(tmp_path):
    twins.table(tmp_path)
    assert "table is no.csv, which is neither a file nor one in" in sentence(tmp_path, "no.csv")
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv cannot be read as a table" in sentence(tmp_path, "empty.csv")
    (elsewhere := tmp_path / "other/t.csv").parent.mkdir()
    elsewhere.write_text("file\na.png\n")
    assert sentence(tmp_path, str(elsewhere)).startswith(f"{elsewhere} has no column image")
    with pytest.raises(ValueError, match="table is for your own images, 'folder'; busi has tables of its own"):
        datasets.load("busi", tmp_path, table="my.csv")


# --------------------------------------------------------------------------------------------------------- photographs


def test_imagefolder_takes_the_folders_as_classes(tmp_path):
    twins.imagefolder(tmp_path)
    images = datasets.load("imagefolder", tmp_path, size=32, channels=3)
    assert images.card.counts == {"cat": 6, "dog": 6} and images.pixels.shape == (12, 3, 32, 32)
    assert "official" not in images.table and "cat/deep/5.PNG" in set(images.table["image_id"])
    twins.picture(tmp_path / "cat/6.webp", twins.of_box())
    assert datasets.load("imagefolder", tmp_path, size=32).card.counts == {"cat": 7, "dog": 6}


def test_imagefolder_keeps_train_and_val_apart(tmp_path):
    twins.imagefolder(tmp_path, "train", "val", "test")
    table = datasets.load("imagefolder", tmp_path, size=32).table
    assert (table["split"] == table["official"]).all() and table["split"].value_counts().to_dict() == {
        "train": 12,
        "val": 12,
        "test": 12,
    }
    twins.picture(tmp_path / "train/stray.png", twins.of_box())
    with pytest.raises(ValueError, match=r"stray.png lies in no class's folder"):
        datasets.load("imagefolder", tmp_path, size=32)
    with pytest.raises(FileNotFoundError, match="holds no folders of pictures"):
        datasets.load("imagefolder", tmp_path / "train/dog/deep", size=32)


def test_stl10_reads_columns_colours_and_labels(tmp_path):
    twins.stl10(tmp_path)
    module = DATASETS["stl10"]
    archive = located(tmp_path, module.CARD, module)
    index = module.index(archive)
    assert index.groupby("official").size().to_dict() == {"test": 10, "train": 28}
    assert index["label"].value_counts().to_dict() == {"unlabelled": 8} | dict.fromkeys(module.CARD.classes[:10], 3)
    row = list(index.itertuples())[3]
    assert row.image_id == "stl10_binary/train_X.bin#3" and row.label == "cat"
    image = np.asarray(module.read(archive, row).values)
    assert image.shape == (96, 96, 3) and (image[0, 0] == 3).all()
    assert (image[1:, :48, 0] == 255).all() and image[:, 48:].max() < 90 and image[1:, :, 1:].max() < 90
    images = datasets.load("stl10", tmp_path, size=32)
    assert len(datasets.load("stl10", tmp_path, size=32, stride=4)) == 38  # a photograph is no frame
    assert len(images) == 38 and set(images.table["official"][images.table["split"] == "test"]) == {"test"}


def test_stl10_misses_bytes_and_labels(tmp_path):
    twins.stl10(tmp_path)
    folder = tmp_path / "STL-10/stl10_binary"
    labels = (folder / "test_y.bin").read_bytes()
    (folder / "test_y.bin").write_bytes(labels[:-1])
    with pytest.raises(ValueError, match=r"test_y.bin should hold 10 numbers from 1 to 10"):
        datasets.load("stl10", tmp_path, size=32)
    (folder / "test_y.bin").write_bytes(labels[:-1] + b"\x0b")
    with pytest.raises(ValueError, match=r"test_y.bin should hold 10 numbers from 1 to 10"):
        datasets.load("stl10", tmp_path, size=32)
    (folder / "train_X.bin").write_bytes((folder / "train_X.bin").read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"train_X.bin is cut off"):
        datasets.load("stl10", tmp_path, size=32)
