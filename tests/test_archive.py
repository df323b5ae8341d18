import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from mednb.datasets.archive import Archive

FILES = {"top/a.txt": b"a", "top/in/b.csv": b"name,n\nx,1\ny,2\n", "top/in/c 1.txt": b"c" * 1000}
HIDDEN = {"top/.DS_Store": b"", "top/._a.txt": b"", "__MACOSX/top/a.txt": b"", ".git/config": b""}


@pytest.fixture(params=["folder", "zip"])
def path(request, tmp_path):
    """The same files as a folder and as a zip."""
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in (FILES | HIDDEN).items():
                file.writestr(name, content)
        return tmp_path / "data.zip"
    for name, content in (FILES | HIDDEN).items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


def test_a_folder_and_a_zip_read_the_same_and_hide_what_is_hidden(path):
    archive = Archive(path)
    assert archive.names == sorted(FILES)
    assert {name: archive.read(name) for name in archive.names} == FILES
    assert "top/a.txt" in archive and "a.txt" not in archive and "top/._a.txt" not in archive


def test_names_are_relative_to_the_base(path):
    archive = Archive(path, "top/")
    assert archive.names == ["a.txt", "in/b.csv", "in/c 1.txt"]
    assert archive.read("in/b.csv") == FILES["top/in/b.csv"]
    assert "top/in/b.csv" in archive.where("in/b.csv") and str(path) in archive.where()


def test_names_are_matched_as_a_whole_and_in_order(path):
    found = Archive(path).matching(r"top/in/(?P<stem>\w)\D*.*")
    assert [(match[0], match["stem"]) for match in found] == [("top/in/b.csv", "b"), ("top/in/c 1.txt", "c")]


def test_files_lie_on_disk_together_for_as_long_as_they_are_needed(path):
    with Archive(path, "top/").on_disk("in/b.csv", "in/c 1.txt") as first:
        assert first.read_bytes() == FILES["top/in/b.csv"]
        assert first.with_name("c 1.txt").read_bytes() == FILES["top/in/c 1.txt"]
    assert first.exists() != (path.suffix == ".zip")


def test_a_table_is_read_with_the_columns_and_the_key_that_it_must_have(path):
    table = Archive(path).csv("top/in/b.csv", columns=("n",), key="name")
    assert table.to_dict("list") == {"name": ["x", "y"], "n": [1, 2]}


def test_all_files_that_a_table_names_and_that_are_missing_are_named(path):
    archive, names = Archive(path, "top/"), [f"{number}.png" for number in range(12)]
    archive.exactly(["a.txt"], r"\w\.txt", "t.csv")
    with pytest.raises(FileNotFoundError, match=r"0\.png is missing; .*9\.png is missing; and 2 more$"):
        archive.exactly([*names, "a.txt"], r"\w\.txt", "t.csv")
    with pytest.raises(ValueError, match=r"a\.txt is there, but t\.csv does not name it$"):
        archive.exactly([], r"\w\.txt", "t.csv")


def test_a_spreadsheet_is_read_like_a_table(tmp_path):
    import pandas as pd

    pd.DataFrame({"case": [1, 2], "label": ["benign", "malignant"]}).to_excel(tmp_path / "a.xlsx", index=False)
    assert Archive(tmp_path).excel("a.xlsx", ("label",), key="case")["label"].tolist() == ["benign", "malignant"]


def test_a_version_and_a_stamp_change_when_a_file_is_written_anew(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    version, stamp = Archive(tmp_path).version("a.txt"), Archive(tmp_path).stamp()
    assert (version, stamp) == (Archive(tmp_path).version("a.txt"), Archive(tmp_path).stamp())
    (tmp_path / "a.txt").write_bytes(b"two, and longer")
    assert Archive(tmp_path).version("a.txt") != version and Archive(tmp_path).stamp() != stamp


def test_a_stamp_knows_files_that_come_and_go(tmp_path):
    stamps = [Archive(tmp_path).stamp()]
    (tmp_path / "a.txt").touch()
    stamps.append(Archive(tmp_path).stamp())
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    stamps.append(Archive(tmp_path).stamp())
    assert len(set(stamps)) == 3


def test_it_is_read_by_many_threads_and_travels_to_other_processes(path):
    archive = Archive(path)
    names = archive.names * 50
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(archive.read, names)) == [FILES[name] for name in names]
    sent = [pickle.loads(pickle.dumps(each)) for each in (archive, archive, Archive(path))]
    assert all(each.read("top/a.txt") == b"a" for each in sent)
    assert sent[0] is sent[1] and sent[0] is not sent[2]  # an archive is listed once in each process


def test_a_zip_is_opened_once_for_all_files(path, monkeypatch):
    opened = []
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given, real=zipfile.ZipFile: opened.append(given) or real(*given))
    archive = Archive(path)
    for name in archive.names:
        archive.read(name)
    assert len(opened) == (path.suffix == ".zip")


def test_backslashes_and_double_slashes_in_a_zip_are_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("in\\a.txt", "in//b.txt", "./c.txt"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            file.writestr(info, name)
    archive = Archive(tmp_path / "a.zip")
    assert archive.names == ["c.txt", "in/a.txt", "in/b.txt"]
    assert archive.read("in/b.txt") == b"in//b.txt"


def test_a_name_in_an_old_zip_that_is_not_utf8_is_still_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("caf_.txt", b"found")
    content = (tmp_path / "a.zip").read_bytes().replace(b"caf_", b"caf\x82")  # as DOS wrote it
    (tmp_path / "a.zip").write_bytes(content)
    archive = Archive(tmp_path / "a.zip")
    assert archive.names == ["café.txt"] and archive.read("café.txt") == b"found"


def test_letters_of_all_alphabets_are_fine_in_a_folder(tmp_path):
    (tmp_path / "乳腺 é.txt").write_bytes(b"found")
    assert Archive(tmp_path).read("乳腺 é.txt") == b"found"


def test_links_inside_the_folder_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").write_bytes(b"a")
    (tmp_path / "also").symlink_to("real")
    (tmp_path / "b.txt").symlink_to(tmp_path / "real/a.txt")
    archive = Archive(tmp_path)
    assert archive.names == ["also/a.txt", "b.txt", "real/a.txt"]
    assert {archive.read(name) for name in archive.names} == {b"a"}
    outside = tmp_path.with_name(tmp_path.name + "-link")
    outside.symlink_to(tmp_path)  # the dataset's folder itself may be a link
    assert Archive(outside).read("b.txt") == b"a"


def test_a_folder_may_be_called_zip(tmp_path):
    (tmp_path / "old.zip").mkdir()
    (tmp_path / "old.zip/a.txt").write_bytes(b"a")
    assert Archive(tmp_path / "old.zip").names == ["a.txt"]
