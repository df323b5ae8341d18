"""Methods of pretraining: one file each. The key is the file's name, in notebooks, runs, tables and legends."""

from mednb.methods.barlowtwins import BarlowTwins
from mednb.methods.byol import BYOL
from mednb.methods.densecl import DenseCL
from mednb.methods.dino import DINO
from mednb.methods.imagenet import ImageNet
from mednb.methods.moco import MoCo
from mednb.methods.nnclr import NNCLR
from mednb.methods.none import RandomInitialisation
from mednb.methods.simclr import SimCLR
from mednb.methods.simsiam import SimSiam
from mednb.methods.spark import SparK
from mednb.methods.supervised import Supervised
from mednb.methods.swav import SwAV
from mednb.methods.vicreg import VICReg
from mednb.methods.vicregl import VICRegL

METHODS = {
    "none": RandomInitialisation,
    "imagenet": ImageNet,
    "supervised": Supervised,
    "simclr": SimCLR,
    "moco": MoCo,
    "nnclr": NNCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "swav": SwAV,
    "dino": DINO,
    "barlowtwins": BarlowTwins,
    "vicreg": VICReg,
    "densecl": DenseCL,
    "vicregl": VICRegL,
    "spark": SparK,
}


def method(name: str):
    """The method of that name."""
    if name not in METHODS:
        raise ValueError(f"method '{name}' is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
