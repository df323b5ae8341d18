"""Methods of pretraining: one file each. The key is the file's name, in notebooks, runs, tables and legends."""

from mednb.methods.byol import BYOL
from mednb.methods.none import RandomInitialisation
from mednb.methods.simclr import SimCLR

METHODS = {
    "none": RandomInitialisation,
    "simclr": SimCLR,
    "byol": BYOL,
}


def method(name: str):
    """The method of that name."""
    if name not in METHODS:
        raise ValueError(f"method '{name}' is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
