"""What the values of a notebook may be, found out before a study starts and not after a night of pretraining."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from pkgutil import resolve_name

METHODS = Path(__file__).parents[1] / "methods"
NAMED = {  # where the names stand that a parameter takes; of methods their files, because importing them takes seconds
    "dataset": "mednb.datasets:DATASETS",
    "method": "",
    "encoder": "mednb.encoders:ENCODERS",
    "pairs": "mednb.pairs:STRATEGIES",
    "views": "mednb.views:NAMES",
    "tasks": "mednb.classify:TASKS",
    "initialise": "mednb.segment:INITIALISE",
}
LISTS = ("tasks", "fractions", "rates", "lengths")  # of which one value at least is needed
LEAST = {"seed": 0} | dict.fromkeys(("epochs", "images_seen", "size", "limit", "batch_size", "steps", "draws"), 1)
PASSED_ON = {"more": "mednb.datasets:load", "how": "mednb.pretrain:fit"}  # what takes further values
APART = ("images_seen", "val", "options")  # parameters of their own


def faults(name: str, value: object) -> Iterator[str]:
    """A sentence for everything that is wrong with the value of the parameter `name`, but for its type."""
    if name in NAMED:
        choices = names(name)
        for part in value if isinstance(value, list) else str(value).split("+"):  # a mix names several datasets
            if part not in choices:
                yield f"there is no {name} {part!r}; {choose(part, choices)}"
    if name in LISTS and value == []:
        yield "the list is empty; give one value at least" + (f". {choose('', names(name))}" if name in NAMED else "")
    if name in LISTS and isinstance(value, list):
        twice = [each for at, each in enumerate(value) if each in value[:at]]
        yield from (f"{each!r} stands in the list twice; its numbers would count twice, too" for each in twice)
    if name in LEAST and type(value) is int and value < LEAST[name]:
        yield f"{value} is too few; it is {LEAST[name]} or more"
    if name in PASSED_ON and isinstance(value, dict):
        takes = PASSED_ON[name].rpartition(":")[2]
        takers = inspect.signature(resolve_name(PASSED_ON[name])).parameters.values()
        known = [each.name for each in takers if each.kind is each.KEYWORD_ONLY and each.name not in APART]
        yield from (f"{takes} takes no {key!r}; {choose(key, known)}" for key in value if key not in known)
    if name == "fold" and isinstance(value, int):
        from mednb.datasets.store import FOLDS

        if not 0 <= value < FOLDS:
            yield f"there is no fold {value}; {choose(value, list(map(str, range(FOLDS))))}"
    if name == "fractions" and isinstance(value, list):
        shares = [each for each in value if isinstance(each, (int, float)) and not 0 < each <= 1]
        yield from (f"{each:g} is no share of the labels; all of them are 1.0, and a tenth is 0.1" for each in shares)


def misset(values: dict) -> Iterator[str]:
    """A sentence when the `options` in a notebook's values are not those of its `method`."""
    if values.get("options") and "method" in values:
        from mednb.methods import accepted  # its import takes seconds

        try:
            accepted(values["method"], values["options"])
        except ValueError as error:
            yield f"options: {error}"


def names(of: str) -> list[str]:
    """The names that the parameter `of` takes."""
    if NAMED[of]:
        return sorted(resolve_name(NAMED[of]))
    others = ("__init__", "base", "encoder_decoder")
    return sorted(path.stem for path in METHODS.glob("*.py") if path.stem not in others)


def choose(wanted: object, choices: Collection[str]) -> str:
    near = difflib.get_close_matches(str(wanted), choices, 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Choose from {', '.join(choices) or 'none'}"
