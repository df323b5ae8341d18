"""Methods of pretraining: one file each. The key is the file's name, in notebooks, runs, tables and legends."""

import difflib
import inspect
import math

from mednb.methods.barlowtwins import BarlowTwins
from mednb.methods.base import OPTIMISERS, RECIPE, STRIDES, Method
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
from mednb.parameter import WORDS, Parameter

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

# The least of whole numbers where it is not 1: SwAV needs neither queue nor small crops, and a collapse to a few
# prototypes, or classes, can be told only where there are more.
LEAST = {("swav", "queue"): 0, ("swav", "small_crops"): 0, ("dino", "small_crops"): 0}
LEAST |= {("swav", "prototypes"): 8, ("dino", "width"): 8}


def method(name: str):
    """The method of that name."""
    if name not in METHODS:
        raise ValueError(f"method '{name}' is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def options(name: str) -> dict[str, Parameter]:
    """What can be set of a method: what it is built with, but for the encoder, and the recipe of its optimiser."""
    of = method(name)
    if not of.pretrains:
        return {}
    own = list(inspect.signature(of).parameters.values())[1:]
    defaults = {each.name: (each.default, each.annotation) for each in own}
    defaults |= {each: (getattr(of, each), Method.__annotations__.get(each, "float")) for each in RECIPE}
    return {each: Parameter(each, default, str(kind)) for each, (default, kind) in defaults.items()}


def accepted(name: str, given: dict) -> dict:
    """The values `given` as options of a method; ValueError with all options when one is unknown or does not fit."""
    known = options(name)
    listed = ", ".join(f"{each.name} ({WORDS[each.kind]})" for each in known.values())
    unknown = [each for each in given if each not in known]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"method {name} has no option {unknown[0]!r}{hint} Its options: {listed or 'none'}")
    try:
        found = {each: known[each].accept(value) for each, value in given.items()}
    except ValueError as error:
        raise ValueError(f"an option of method {name} does not fit: {error}. Its options: {listed}") from None
    for each, value in found.items():
        fits, meant = in_range(name, each, value)
        if not fits:
            raise ValueError(f"an option of method {name} does not fit: {each} is {value}, and should be {meant}")
    if found.get("optimiser", OPTIMISERS[0]) not in OPTIMISERS:
        raise ValueError(f"optimiser '{found['optimiser']}' is unknown; choose one of {', '.join(OPTIMISERS)}")
    return found


def in_range(name: str, option: str, value: object) -> tuple[bool, str]:
    """Whether a method can be trained with a number, and with which numbers it can."""
    if isinstance(value, (bool, str)) or value is None:
        return True, "anything"
    if option == "stride":
        return value in STRIDES, f"one of {', '.join(map(str, STRIDES))}"
    if isinstance(value, int):  # widths, lengths of queues, sides of cells
        return value >= (least := LEAST.get((name, option), 1)), f"at least {least}"
    if not math.isfinite(value):
        return False, "a finite number"
    if option == "hidden":
        return 0 < value < 1, "between 0 and 1: something has to be hidden and something to be seen"
    if option == "epsilon":
        return value >= 0.003, "0.003 or more: 64 bits do not hold what Sinkhorn's algorithm makes of less"
    if option in ("temperature", "clip"):
        return value > 0, "above 0"
    if option in ("m", "tau", "dense", "alpha"):
        return 0 <= value <= 1, "from 0 to 1"
    return value >= 0, "0 or more"
