"""A dataset's twin on the disk, opened as its source opens the real one, and damaged on purpose."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mednb.datasets import DATASETS
from mednb.datasets.located import located


def opened(name: str, root: Path, size: int | None = None) -> SimpleNamespace:
    module = DATASETS[name] if size is None else DATASETS[name].sized(size)
    archive = located(root, module.CARD, module)
    return SimpleNamespace(name=name, root=root, module=module, archive=archive, index=module.index(archive))


def to_damage(writers: ModuleType, root: Path) -> SimpleNamespace:
    """A function that writes a twin and returns its folder, and one that opens it and returns what is wrong with it."""

    def write(name, *how):
        getattr(writers, name)(root, *how)
        return root / DATASETS[how[0] if how else name].CARD.folder

    def sentence(name):
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            opened(name, root)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return SimpleNamespace(write=write, sentence=sentence)
