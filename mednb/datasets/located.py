"""Where a dataset lies under the data root: in its folder, in a zip, or somewhere else, and then where."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card


def located(root: Path, card: Card, module: ModuleType) -> Archive:
    """The dataset's files: in <root>/<card.folder>, in a zip beside or inside of it, or in the root itself.

    They are known by the path `module.LOOKS_LIKE`, or by one of several; one leading folder, such as a zip's own top
    folder, is skipped, but not in the root, where it may be another dataset's. `module.ZIPS` are further names that the
    zip may have.
    Raises FileNotFoundError that says what was looked for and where, what is there, and which root would do, and
    ValueError when two folders look like the dataset.
    """
    for place in places(root, card, module):
        for looks_like in known_by(module):
            base = base_of(place, looks_like, skip=place != root)
            if base is not None:
                return Archive(place, base)
    looked = f"{card.name} needs {' or '.join(str(root / card.folder / path) for path in known_by(module))}"
    if not root.is_dir():
        wrong = "is a file and no folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"{looked}, but {root.absolute()} {wrong}. If the data lies elsewhere, say so with --data, a notebook's "
            f"parameter data, root or $MEDNB_DATA. To get it: {card.how_to_get}."
        )
    around = [root.absolute().parent, root.absolute().parent.parent, *sorted(root.iterdir())]
    right = [other for other in around if looks_right(other, card, module)]
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"The data root seems to be {right[0]}" if right else f"To get it: {card.how_to_get}"
    raise FileNotFoundError(f"{looked}, but {root.absolute()} holds {there or 'nothing'}. {hint}.")


def places(root: Path, card: Card, module: ModuleType) -> list[Path]:
    """Where a dataset may lie, in the order in which it is looked for."""
    zips = (f"{card.folder}.zip", *getattr(module, "ZIPS", ()))
    inside = [root / card.folder / name for name in zips]
    return [root / card.folder, *(root / name for name in zips), *inside, root]


def known_by(module: ModuleType) -> tuple[str, ...]:
    """The paths one of which is there when the dataset is: one for each layout that it comes in."""
    return (module.LOOKS_LIKE,) if isinstance(module.LOOKS_LIKE, str) else module.LOOKS_LIKE


def base_of(place: Path, looks_like: str, skip: bool) -> str | None:
    """What stands before `looks_like` in a folder or a zip: "", or, to `skip`, one folder. None: it is not there."""
    if place.is_file() and place.suffix.lower() == ".zip":
        found = {name[: name.index(looks_like)] for name in Archive(place).names if looks_like in name}
        found = {base for base in found if base == "" or (base.endswith("/") and base.count("/") == 1)}
    elif place.is_dir() and os.access(place, os.R_OK | os.X_OK):
        found = {""} if (place / looks_like).exists() else set()
        if skip and not found:
            folders = (path for path in place.iterdir() if not path.name.startswith("."))
            found = {f"{path.name}/" for path in folders if os.access(path, os.X_OK) and (path / looks_like).exists()}
    else:
        return None
    if len(found) > 1:
        first, second = sorted(found)[:2]
        raise ValueError(f"{place / first} and {place / second} both look like the dataset; move one of them away.")
    return found.pop() if found else None


def looks_right(root: Path, card: Card, module: ModuleType) -> bool:
    """Whether the dataset lies unpacked in this root."""
    paths = [folder / path for folder in (root / card.folder, root) for path in known_by(module)]
    return os.access(root, os.X_OK) and any(path.exists() for path in paths)
