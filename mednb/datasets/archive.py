"""A dataset's files as they were downloaded: a folder, or a zip that nobody unpacked. Nothing outside is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pandas as pd

LARGEST = 2**31  # bytes of one file inside a zip; more is a zip bomb or no image
SHOWN = 10  # of what is wrong with the files; the rest is counted
MANY = 50_000  # files; of more than these, a stamp looks at the folders only


class Archive:
    """The files below `path`, a folder or a .zip, by their names relative to `base` inside it, with "/" between.

    Files come from strangers: a link that leads out of the folder, a zip's absolute name or one with "..", an entry of
    an absurd size, a name that cannot be written down is a ValueError that names the file. Hidden files and macOS's own
    are not listed.
    """

    def __init__(self, path: str | Path, base: str = ""):
        self.path, self.base, self.token = Path(path), base, uuid.uuid4().hex
        self.zipped = self.path.suffix.lower() == ".zip" and not self.path.is_dir()
        self.root = str(self.path / base)
        # As text, once: joining paths for every image would take a twentieth of the time of decoding it.
        self.before = f"{self.path}: {base}" if self.zipped else os.path.join(self.root, "")  # noqa: PTH118
        self.table = ""  # the one that was read last
        self.zip_of: tuple[int, zipfile.ZipFile] | None = None

    def __repr__(self) -> str:
        return f"Archive({self.path}{', ' + self.base if self.base else ''})"

    def __reduce__(self) -> tuple:
        # Other processes are kept for later, and stay in the working directory that was this one's when they began.
        return elsewhere, (type(self), self.path.absolute(), self.base, self.token)

    @cached_property
    def entries(self) -> dict[str, zipfile.ZipInfo | bool]:
        """Name below the base -> what the zip says of the file; in a folder whether it is a link."""
        try:
            found = dict(self.in_zip() if self.zipped else self.in_folder(self.root))
        except (OSError, RecursionError) as error:
            raise type(error)(f"{self.path} cannot be listed: {error}") from error
        return {name: found[name] for name in sorted(found)}

    def in_zip(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        for info in self.zip().infolist():
            name = PurePosixPath(info.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", info.filename):
                raise ValueError(f"{self.path} holds {info.filename!r}, which leads out of it; this zip is not trusted")
            shown = not any(part.startswith((".", "__MACOSX")) for part in name.parts)
            if shown and not info.is_dir() and str(name).startswith(self.base):
                yield str(name)[len(self.base) :], info

    def in_folder(self, folder: str, above: str = "") -> Iterator[tuple[str, bool]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if not entry.name.isascii():
                    written_down(entry.path)
                linked = entry.is_symlink()
                if not entry.is_dir():
                    yield above + entry.name, linked
                    continue
                if linked and Path(folder).resolve().is_relative_to(self.inside(entry.path).resolve()):
                    raise ValueError(f"{entry.path} is a link to a folder that it lies in; remove it")
                yield from self.in_folder(entry.path, f"{above}{entry.name}/")

    def zip(self) -> zipfile.ZipFile:
        """The open zip: opened once in each process, since its list of files may be long."""
        if self.zip_of is None or self.zip_of[0] != os.getpid():
            try:
                self.zip_of = os.getpid(), zipfile.ZipFile(self.path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{self.path} is missing") from error
            except MemoryError:
                raise
            except Exception as error:  # what a damaged list of files raises is not documented
                raise ValueError(f"{self.path} cannot be read as a zip: {error}; download it again") from error
        return self.zip_of[1]

    def inside(self, path: str) -> Path:
        """A path that is a link, when it stays in the folder."""
        if not Path(path).resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{path} is a link that leads out of {self.path}; copy the file there instead")
        return Path(path)

    @property
    def names(self) -> list[str]:
        """All files, sorted by name."""
        return list(self.entries)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def matching(self, pattern: str) -> list[re.Match]:
        """The files whose whole name fits a regular expression, sorted; `match[0]` is the name."""
        fits = re.compile(pattern)
        return [match for name in self.entries if (match := fits.fullmatch(name))]

    def where(self, name: str = "") -> str:
        """A file as a person looks for it: its path, or the zip's and the name in it; a table elsewhere as it is."""
        if name.startswith("/"):
            return name
        return self.before + name if name or self.zipped else self.root

    def entry(self, name: str) -> zipfile.ZipInfo | bool:
        """What is known of a file; FileNotFoundError when it is not there."""
        if name not in self.entries:
            raise FileNotFoundError(f"{self.where(name)} is missing")
        return self.entries[name]

    def version(self, name: str) -> tuple[int, int]:
        """Two numbers that change when the file is written anew."""
        entry = self.entry(name)
        if isinstance(entry, zipfile.ZipInfo):
            return entry.file_size, entry.CRC
        about = Path(self.where(name)).stat()
        return about.st_size, about.st_mtime_ns

    def read(self, name: str) -> bytes:
        """The contents of one file."""
        entry, where = self.entry(name), self.where(name)
        if not isinstance(entry, zipfile.ZipInfo):
            try:
                with open(self.inside(where) if entry else where, "rb", buffering=0) as file:  # noqa: PTH123
                    return file.read()
            except OSError as error:
                raise type(error)(f"{where} cannot be read: {error.strerror}") from error
        if entry.file_size > LARGEST:
            raise ValueError(f"{where} would unpack to {entry.file_size:,} bytes; that is no image")
        with self.unpacking(where):
            return self.zip().read(entry)

    @contextmanager
    def unpacking(self, where: str) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # a wrong checksum, a password, damaged data: each packer has errors of its own
            raise ValueError(f"{where} cannot be unpacked: {error}") from error

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One file, to read parts of it: the head of a DICOM file, or one image of the many in a file of numbers."""
        entry, where = self.entry(name), self.where(name)
        if isinstance(entry, zipfile.ZipInfo):
            with self.unpacking(where):
                file = self.zip().open(entry)
            with file:
                yield file
        else:
            with open(self.inside(where) if entry else where, "rb") as file:  # noqa: PTH123
                yield file

    @contextmanager
    def on_disk(self, *names: str) -> Iterator[Path]:
        """The path of the first of these files, with the others beside it: for libraries that want a real file."""
        if not self.zipped:
            for name in names:
                self.inside(self.where(name))
            yield Path(self.where(names[0]))
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                (Path(folder) / PurePosixPath(name).name).write_bytes(self.read(name))
            yield Path(folder) / PurePosixPath(names[0]).name

    def csv(self, name: str, columns: tuple[str, ...] = (), key: str | None = None, **how) -> pd.DataFrame:
        """A table in a CSV file.

        columns: those that it must have. key: one that must tell the rows apart. how: as `pandas.read_csv` takes it.
        Raises ValueError that names the file and what is wrong with it.
        """
        content = self.read(name)
        with self.as_table(name, "a table"):
            table = pd.read_csv(io.BytesIO(content), **how)
        return self.checked(name, table, columns, key)

    def excel(self, name: str, columns: tuple[str, ...] = (), key: str | None = None, **how) -> pd.DataFrame:
        """The same of a spreadsheet's first sheet (.xlsx); `how` as `pandas.read_excel` takes it."""
        content = self.read(name)
        with self.as_table(name, "a spreadsheet"):
            table = pd.read_excel(io.BytesIO(content), engine="openpyxl", **how)
        return self.checked(name, table, columns, key)

    @contextmanager
    def as_table(self, name: str, kind: str) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # values for which there is no column
                yield
        except MemoryError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())
            cure = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
            raise ValueError(f"{self.where(name)} cannot be read as {kind}: {said}{cure}") from error

    def checked(self, name: str, table: pd.DataFrame, columns: tuple[str, ...], key: str | None) -> pd.DataFrame:
        self.table = name
        missing = [column for column in (*columns, *filter(None, [key])) if column not in table]
        if missing:
            has = ", ".join(map(str, table.columns))
            cure = ": commas must separate its columns" if len(table.columns) == 1 and set(";\t") & set(has) else ""
            raise ValueError(f"{self.where(name)} has no column {', '.join(missing)}; it has {has}{cure}")
        if key is not None:
            if (empty := table[key].isna() | table[key].eq("")).any():
                raise ValueError(f"{self.where(name)} has no {key} in row {empty.argmax() + 1}")
            if (twice := table[key].duplicated()).any():
                raise ValueError(f"{self.where(name)} has two rows of {key} {table[key][twice].iloc[0]}")
        return table

    def exactly(self, files: Iterable[str], pattern: str, table: str) -> None:
        """That the files which fit a pattern are those that a table names.

        Raises FileNotFoundError that names the files that are missing, else ValueError those that the table does not.
        """
        named = dict.fromkeys(files)
        missing = [FileNotFoundError(f"{self.where(name)} is missing") for name in named if name not in self]
        more = [self.where(match[0]) for match in self.matching(pattern) if match[0] not in named]
        self.faulty(missing + [ValueError(f"{where} is there, but {table} does not name it") for where in more])

    def faulty(self, errors: list[Exception]) -> None:
        """Raise what is wrong with the files as one error of the kind of the first, where anything is: ten of them."""
        if errors:
            more = [f"and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else []
            raise type(errors[0])("; ".join([*map(str, errors[:SHOWN]), *more]))

    def one_of(self, name: str, values: pd.Series, allowed: Iterable[str]) -> pd.Series:
        """A column of a table in small letters; ValueError names the value that is not among the allowed ones."""
        found = values.astype(str).str.strip().str.lower()
        if (wrong := ~found.isin(list(allowed))).any():
            row, said = wrong.argmax(), ", ".join(allowed)
            raise ValueError(
                f"{self.where(name)} has {values.name} {values.iloc[row]!r} in row {row + 1}; {said} are known"
            )
        return found

    def stamp(self) -> str:
        """16 hexadecimal digits that change when a file is added, removed or written anew.

        Of a zip: its length and time of change. Of more than 50,000 files: only the folders' times of change, which
        tell of files that come, go or are replaced, since asking each file would take seconds.
        """
        if self.zipped:
            about = self.path.stat()
            said = [(str(self.path.resolve()), about.st_size, about.st_mtime_ns)]
        else:
            said = [(str(self.path.resolve()), self.base)]
            for folder, _, files in os.walk(self.path / self.base):
                said.append((folder, os.stat(folder).st_mtime_ns))  # noqa: PTH116 (pathlib is slow for so many)
                if len(said) <= MANY:
                    for file in files:
                        about = os.lstat(os.path.join(folder, file))  # noqa: PTH118
                        said.append((folder, file, about.st_size, about.st_mtime_ns))
        return hashlib.sha256(repr(sorted(map(repr, said))).encode()).hexdigest()[:16]


@lru_cache(1)
def elsewhere(kind: type[Archive], path: Path, base: str, token: str) -> Archive:
    """What another process gets of an archive, however often it is sent there: it lists the files itself, once."""
    return kind(path, base)


def written_down(path: str) -> None:
    """ValueError when a file's name is not UTF-8: no table could hold it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        said = path.encode(errors="surrogateescape").decode(errors="replace")
        raise ValueError(f"{said} has a name that is not UTF-8; rename it") from error
