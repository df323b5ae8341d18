"""A dataset's files as they were downloaded: a folder, or a zip that nobody unpacked. Nothing outside is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

LARGEST = 2**31  # bytes of one file inside a zip; more is a zip bomb or no image
MANY = 50_000  # files; of more than these, a stamp looks at the folders only


class Archive:
    """The files below `path`, a folder or a .zip, by their names relative to `base` inside it, with "/" between.

    Files come from strangers: a link that leads out of the folder, a zip's absolute name or one with "..", an entry of
    an absurd size is a ValueError that names the file. Hidden files and macOS's own are not listed.
    """

    def __init__(self, path: str | Path, base: str = ""):
        self.path, self.base = Path(path), base
        self.zipped = self.path.suffix.lower() == ".zip"

    def __repr__(self) -> str:
        return f"Archive({self.path}{', ' + self.base if self.base else ''})"

    @cached_property
    def _entries(self) -> dict[str, tuple[int, float]]:
        """Name below the base -> (bytes, time of change)."""
        found = dict(self._in_zip() if self.zipped else self._in_folder(self.path / self.base))
        return {name: found[name] for name in sorted(found)}

    def _in_zip(self) -> Iterator[tuple[str, tuple[int, float]]]:
        try:
            with zipfile.ZipFile(self.path) as file:
                infos = file.infolist()
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{self.path} cannot be read as a zip: {error}; download it again") from error
        for info in infos:
            name = PurePosixPath(info.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", info.filename):
                raise ValueError(f"{self.path} holds {info.filename!r}, which leads out of it; this zip is not trusted")
            shown = not any(part.startswith((".", "__MACOSX")) for part in name.parts)
            if shown and not info.is_dir() and str(name).startswith(self.base):
                yield str(name)[len(self.base) :], (info.file_size, info.CRC)

    def _in_folder(self, folder: Path, above: str = "") -> Iterator[tuple[str, tuple[int, float]]]:
        for entry in os.scandir(folder):
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                if entry.is_symlink():
                    self._inside(folder / entry.name)
                yield from self._in_folder(folder / entry.name, f"{above}{entry.name}/")
            else:
                about = entry.stat(follow_symlinks=True) if not entry.is_symlink() else os.lstat(entry.path)
                yield above + entry.name, (about.st_size, about.st_mtime)

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{path} is a link that leads out of {self.path}; copy the file there instead")
        return path

    @property
    def names(self) -> list[str]:
        """All files, sorted by name."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def matching(self, pattern: str) -> list[re.Match]:
        """The files whose whole name fits a regular expression, sorted; `match[0]` is the name."""
        fits = re.compile(pattern)
        return [match for name in self._entries if (match := fits.fullmatch(name))]

    def where(self, name: str = "") -> str:
        """A file as a person looks for it: its path, or the zip's and the name in it."""
        return f"{self.path}: {self.base}{name}" if self.zipped else str(self.path / self.base / name)

    def version(self, name: str) -> tuple[float, ...]:
        """Numbers that change when the file is written anew."""
        if name not in self._entries:
            raise FileNotFoundError(f"{self.where(name)} is missing")
        if self.zipped:
            return self._entries[name]
        about = os.stat(self.path / self.base / name)  # noqa: PTH116
        return about.st_size, about.st_mtime_ns

    def read(self, name: str) -> bytes:
        """The contents of one file."""
        if name not in self._entries:
            raise FileNotFoundError(f"{self.where(name)} is missing")
        if not self.zipped:
            return self._inside(self.path / self.base / name).read_bytes()
        if self._entries[name][0] > LARGEST:
            raise ValueError(f"{self.where(name)} would unpack to {self._entries[name][0]:,} bytes; that is no image")
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(self.base + name)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{self.where(name)} cannot be unpacked: {error}") from error

    @contextmanager
    def on_disk(self, *names: str) -> Iterator[Path]:
        """The path of the first of these files, with the others beside it: for libraries that want a real file."""
        if not self.zipped:
            yield [self._inside(self.path / self.base / name) for name in names][0]
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                (Path(folder) / PurePosixPath(name).name).write_bytes(self.read(name))
            yield Path(folder) / PurePosixPath(names[0]).name

    def csv(self, name: str, columns: tuple[str, ...] = (), **how) -> pd.DataFrame:
        """A table in a CSV file; `columns` are those that it must have. ValueError names what is wrong with it."""
        try:
            table = pd.read_csv(io.BytesIO(self.read(name)), **how)
        except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"{self.where(name)} cannot be read as a table: {' '.join(str(error).split())}") from error
        return self.with_columns(name, table, columns)

    def excel(self, name: str, columns: tuple[str, ...] = (), **how) -> pd.DataFrame:
        """The same of a spreadsheet's first sheet (.xlsx)."""
        try:
            table = pd.read_excel(io.BytesIO(self.read(name)), engine="openpyxl", **how)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.where(name)} cannot be read as a spreadsheet: {error}") from error
        return self.with_columns(name, table, columns)

    def with_columns(self, name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
        missing = [column for column in columns if column not in table]
        if missing:
            raise ValueError(
                f"{self.where(name)} has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
            )
        return table

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
                said.append((folder, os.stat(folder).st_mtime_ns))
                if len(said) <= MANY:
                    for file in files:
                        about = os.lstat(os.path.join(folder, file))  # noqa: PTH118 (pathlib is slow for so many)
                        said.append((folder, file, about.st_size, about.st_mtime_ns))
        return hashlib.sha256(repr(sorted(map(repr, said))).encode()).hexdigest()[:16]
