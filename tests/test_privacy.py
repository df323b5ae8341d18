import multiprocessing
import re
import stat

import numpy as np
import pydicom
import pytest
import twins_ct
import twins_mammography
from medical_files import dicom

from mednb import datasets
from mednb.datasets import dicom as headers
from mednb.datasets import pixels, privacy
from mednb.datasets.archive import Archive

IDENTITY = {
    "PatientName": "O'Brien^Mary^Ann",
    "PatientID": "HOSP-0012345",
    "PatientBirthDate": "19610203",
    "PatientAddress": "12 Secret Street",
    "PatientComments": "told me about her sister",
    "OtherPatientIDs": "INSURANCE-77",
    "AccessionNumber": "ACC998877",
    "StudyDate": "20200304",
    "SeriesTime": "123456",
    "InstitutionName": "Royal Hidden Hospital",
    "ReferringPhysicianName": "House^Gregory",
    "OperatorsName": "Nobody^Knows",
    "StationName": "ROOM51",
    "StudyDescription": "second opinion for the mayor",
    "DeviceSerialNumber": "SN-4711",
}
PIXELS = np.random.default_rng(0).integers(0, 4000, (12, 16), dtype=np.uint16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEDNB_SALT", raising=False)
    return tmp_path / "cache"


def test_a_hash_is_short_the_same_each_time_and_hides_the_id(cache):
    one = privacy.hashed("HOSP-0012345")
    assert re.fullmatch("p-[0-9a-f]{10}", one)
    assert one == privacy.hashed(" HOSP-0012345 ") != privacy.hashed("HOSP-0012346")
    assert privacy.hashed(12) == privacy.hashed("12")


def test_another_salt_gives_another_hash(cache, monkeypatch):
    hashes = {privacy.hashed("1"), privacy.hashed("1", salt="a"), privacy.hashed("1", salt="b")}
    monkeypatch.setenv("MEDNB_SALT", "a")
    assert privacy.hashed("1") == privacy.hashed("1", salt="a")
    assert len(hashes) == 3


def test_the_salt_is_made_once_and_nobody_else_can_read_it(cache):
    hashed = privacy.hashed("1")
    salt = cache / "salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert len(salt.read_text()) == 64 and privacy.hashed("1") == hashed
    assert [path.name for path in cache.iterdir()] == ["salt"]  # nothing half written is left


def hashed_elsewhere(_):
    return privacy.hashed("1")


def test_processes_that_start_at_once_share_one_salt(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(hashed_elsewhere, range(8), chunksize=1))) == 1


def test_an_empty_id_is_a_sentence(cache):
    with pytest.raises(ValueError, match="the patient's id is empty"):
        privacy.hashed(" ")


def test_nothing_of_who_it_is_leaves_the_reader(tmp_path):
    """Neither in what is read nor in what is kept of the header while frames are read."""
    dicom(tmp_path / "a.dcm", PIXELS, **IDENTITY, BurnedInAnnotation="YES", WindowCenter=2000, WindowWidth=3000)
    raw = pixels.read(Archive(tmp_path), "a.dcm")
    assert raw.facts == {"burned_in": True}
    kept = list(pixels.LAST.opened.values())[-1][1].header
    for keyword, value in IDENTITY.items():
        assert keyword not in kept
        for part in value.split("^"):
            assert not re.search(rf"\b{part}\b", f"{raw} {kept}")


def test_what_is_read_of_a_header_may_name_nobody():
    for keyword in headers.NEEDED:
        assert not headers.PERSON.search(keyword)
    for keyword in set(IDENTITY) - {"StudyDescription", "DeviceSerialNumber"}:
        assert headers.PERSON.search(keyword)


def test_a_source_gets_the_words_of_a_header_but_no_persons(tmp_path):
    dicom(tmp_path / "a.dcm", PIXELS, **IDENTITY, ViewPosition="MLO", ImageLaterality="L")
    archive = Archive(tmp_path)
    assert headers.header(archive, "a.dcm", "ViewPosition", "ImageLaterality", "KVP") == {
        "ViewPosition": "MLO",
        "ImageLaterality": "L",
        "KVP": None,
    }
    for keyword in ("PatientName", "PatientID", "StudyDate", "InstitutionName"):
        with pytest.raises(ValueError, match=f"{keyword} may name a person"):
            headers.header(archive, "a.dcm", keyword)
    (tmp_path / "b.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ValueError, match=r"b\.dcm cannot be read"):
        headers.header(Archive(tmp_path), "b.dcm", "ViewPosition")


def test_the_patient_of_a_file_is_a_hash(cache, tmp_path):
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", "P2"), ("d", "")):
        dicom(tmp_path / f"{name}.dcm", PIXELS, PatientID=patient)
    a, b, c = (privacy.patient(Archive(tmp_path), f"{name}.dcm") for name in "abc")
    assert a == b == privacy.hashed("P1") != c
    with pytest.raises(ValueError, match=r"d\.dcm .*the patient's id is empty"):
        privacy.patient(Archive(tmp_path), "d.dcm")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("scans/o_brien/1.dcm", True),
        ("scans/Mary Ann/1.dcm", True),
        ("hosp-0012345.dcm", True),
        ("a/19610203/1.dcm", True),
        ("insurance_77.dcm", True),
        ("scans/ann-arbor/1.dcm", True),  # rather once too often
        ("scans/maryland/1.dcm", False),
        ("scans/case 12/1.dcm", False),
    ],
)
def test_a_path_that_names_the_patient_is_noticed(tmp_path, path, told):
    data = dicom(tmp_path / "a.dcm", PIXELS, **IDENTITY).read_bytes()
    assert privacy.tells(path, privacy.names_of(privacy.identity(data))) == told


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("王小明/1.dcm", "王^小明", True),
        ("scans/小明王2.dcm", "Wang^Xiaoming=王^小明", True),
        ("明/1.dcm", "王^小明", False),  # one letter is in too many words
        ("Иванов/1.dcm", "ИВАНОВ^ПЁТР", True),
        ("петр/1.dcm", "ИВАНОВ^ПЁТР", True),
        ("клиника/1.dcm", "Ли", False),
        ("JohnDoe/1.dcm", "Doe^John", True),
        ("doejohn_1.dcm", "Doe^John^A", True),
        ("xjohndoe7.dcm", "Doe^John", True),
        ("jdoe.dcm", "Doe^J", True),
        ("DOE1.dcm", "Doe^J", True),
        ("Mu\u0308ller/1.dcm", "MULLER^E", True),
        ("Muller/1.dcm", "Müller^E", True),
        ("Mueller/1.dcm", "Müller^E", True),
        ("müller/1.dcm", "MUELLER^E", True),
        ("Strasse/1.dcm", "Straße^E", True),
        ("benign/00012.dcm", "Nig^Be", False),
        ("malignant/johannes.dcm", "Ann^Li", False),
        ("normal/1.dcm", "", False),
    ],
)
def test_a_name_is_found_in_any_script_and_written_together(path, name, told):
    assert privacy.tells(path, privacy.names_of({"PatientName": name})) == told


def test_an_id_with_a_number_is_not_found_in_a_longer_number():
    assert privacy.tells("patient1.png", {"patient 1"}) and not privacy.tells("patient12.png", {"patient 1"})


def test_a_file_without_identity_names_nobody(tmp_path):
    data = dicom(tmp_path / "a.dcm", PIXELS, PatientID="", PatientName="").read_bytes()
    assert not privacy.tells("any/path at all.dcm", privacy.names_of(privacy.identity(data)))


PUBLISHED = {  # the sources of DICOM files, their twins, and how the published pseudonym of a patient looks
    "cbis_ddsm": (twins_mammography, r"P_\d{5}"),
    "inbreast": (twins_mammography, r"[0-9a-f]+"),
    "cmmd": (twins_mammography, r"D[12]-\d{4}"),
    "vindr_mammo": (twins_mammography, r"[0-9a-f]+"),
    "lidc": (twins_ct, r"LIDC-IDRI-\d{4}"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_pseudonym_is_kept_and_nothing_else_of_the_person(cache, tmp_path, name):
    twins, pseudonym = PUBLISHED[name]
    getattr(twins, name)(tmp_path / "data")
    for path in [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".dcm", ".dicom")]:
        header = pydicom.dcmread(path)
        for keyword, value in IDENTITY.items():
            setattr(header, keyword, value)
        header.save_as(path)
    table = datasets.load(name, tmp_path / "data", size=32).table
    assert table["patient"].str.fullmatch(pseudonym).all() and "published" in datasets.named(name).CARD.patients
    kept = [table.to_csv().encode(), *(path.read_bytes() for path in cache.rglob("*") if path.is_file())]
    for part in (part for value in IDENTITY.values() for part in value.split("^")):
        assert not any(part.encode() in content for content in kept), part


@pytest.mark.parametrize(("said", "facts"), [("YES", {"burned_in": True}), ("NO", {"burned_in": False}), (None, {})])
def test_whether_words_are_burnt_into_the_pixels_is_told(tmp_path, said, facts):
    dicom(tmp_path / "a.dcm", PIXELS, **({"BurnedInAnnotation": said} if said else {}))
    assert pixels.read(Archive(tmp_path), "a.dcm").facts == facts
