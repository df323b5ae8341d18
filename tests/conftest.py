"""What every test shares: one thread, a cache of its own, and the real images where they lie."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy are imported
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory):
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_root():
    """The folder of real images: $MEDNB_DATA, else ../shared/data beside the checkout."""
    here = Path(__file__).parents[1]
    root = Path(os.environ.get("MEDNB_DATA", here / "../shared/data")).resolve()
    if not (root / "BUSI").is_dir():
        pytest.skip(f"no real images: {root} holds no BUSI folder (set MEDNB_DATA)")
    return root


def tiny():
    """A class of encoders that train in no time, with a ResNet's names for what mednb touches."""
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, stride=4, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(self.bn1(self.conv1(x)).relu().mean((2, 3)))

    return Tiny


@pytest.fixture
def tiny_encoder(monkeypatch):
    """One of them, and "tiny" as their name."""
    from mednb import encoders

    monkeypatch.setitem(encoders.ENCODERS, "tiny", tiny())
    return encoders.build("tiny", seed=0).eval()
