"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well, it is renamed to `path`.

    A reader sees the old file or the new one, never half of one. When the block raises, or the process dies, `path` is
    as it was. The folder is made when it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays last, because writers such as matplotlib choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def assert_writable(folder: str | Path) -> None:
    """Make the folder when it is missing; OSError that names it when files cannot be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"{folder} cannot be written to: {error.strerror}") from error


def read_json(path: str | Path) -> dict:
    """What a file of `write_json` holds; ValueError that names it when it is damaged."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and run what wrote it again") from error


def write_json(path: str | Path, values: dict) -> None:
    """Write `values` as indented JSON, whole."""
    with whole(path) as aside:
        aside.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")
