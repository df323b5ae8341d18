"""What the values of a notebook may be, found out before a study starts and not after a night of pretraining."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name

from mednb.parameter import Parameter

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
COUNTS = ("epochs", "images_seen", "limit", "batch_size", "steps", "draws", "accumulate", "devices")
LEAST = {"seed": 0, "size": 16} | dict.fromkeys(COUNTS, 1)
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
    if name == "seed" and type(value) is int and value >= 2**32:
        yield f"{value} is too large; seeds are below 2^32"
    if name == "out" and not str(value).strip():
        yield "it is empty; name a folder"
    if name == "dataset" and isinstance(value, str):
        parts = value.split("+")
        twice = dict.fromkeys(part for part in parts if parts.count(part) > 1)
        yield from (f"{part} stands in the mix {value} twice" for part in twice)
    if name in ("rates", "lengths") and isinstance(value, list):
        numbers = [each for each in value if isinstance(each, (int, float))]
        right = {each for each in numbers if 0 < each < math.inf and (name == "rates" or each <= 1)}
        what = "rate, above 0" if name == "rates" else "share of the steps, above 0 and up to 1"
        yield from (f"{each:g} is no {what}" for each in numbers if each not in right)
    if name in PASSED_ON and isinstance(value, dict):
        yield from refused(PASSED_ON[name], value)
    if name == "fold" and isinstance(value, int):
        from mednb.datasets.store import FOLDS

        if not 0 <= value < FOLDS:
            yield f"there is no fold {value}; {choose(value, list(map(str, range(FOLDS))))}"
    if name == "fractions" and isinstance(value, list):
        shares = [each for each in value if isinstance(each, (int, float)) and not 0 < each <= 1]
        yield from (f"{each:g} is no share of the labels; all of them are 1.0, and a tenth is 0.1" for each in shares)


def refused(function: str, values: dict) -> Iterator[str]:
    """A sentence for everything in `values` that a function (of `PASSED_ON`) would refuse."""
    from mednb.datasets import mixes
    from mednb.datasets.decode import Settings

    takes = inspect.signature(resolve_name(function)).parameters
    known = {name: each for name, each in takes.items() if each.kind is each.KEYWORD_ONLY and name not in APART}
    right = {}
    for name, value in values.items():
        if name not in known:
            yield f"{function.rpartition(':')[2]} takes no {name!r}; {choose(name, known)}"
        elif value is not None or "None" not in known[name].annotation:
            try:
                right[name] = Parameter(name, known[name].default, "").accept(value)
            except ValueError as error:
                yield str(error)
            else:
                yield from (f"{name}: {fault}" for fault in faults(name, value))
    try:
        Settings(**{each.name: right[each.name] for each in fields(Settings) if each.name in right})
    except (TypeError, ValueError) as error:
        yield str(error)
    if right.get("balance", mixes.BALANCES[0]) not in mixes.BALANCES:
        yield f"balance: {right['balance']!r}; {choose(right['balance'], mixes.BALANCES)}"
    try:
        mixes.assert_likeness(right.get("across"))
    except ValueError as error:
        yield str(error)
    if not isinstance(right.get("table", ""), (str, Path)):
        yield f"table: {right['table']!r} is no path of a CSV file"


def misset(values: dict) -> Iterator[str]:
    """A sentence when values of a notebook do not fit each other: options or size the method, datasets a mix."""
    options, names_of = values.get("options") or {}, str(values.get("dataset", "")).split("+")
    if len(names_of) > 1 and (values.get("more") or {}).get("across") is None:
        from mednb.datasets import DATASETS, mixes

        try:
            mixes.assert_nobody_twice([DATASETS[name].CARD for name in names_of if name in DATASETS])
        except ValueError as error:
            yield f"dataset: {error}"
    if options and "method" in values:
        from mednb.methods import accepted  # its import takes seconds

        try:
            accepted(values["method"], options)
        except ValueError as error:
            yield f"options: {error}"
            return
    if str(values.get("encoder")).startswith("convnext") and "size" in values:
        from mednb.encoders import assert_large_enough  # its import takes seconds

        try:
            assert_large_enough(values["encoder"], values["size"] // (2 if options.get("small_crops") else 1))
        except ValueError as error:
            yield f"size: {error}"
    if values.get("method") == "spark" and "size" in values:
        from mednb.methods.spark import cell_of

        try:
            cell_of(values["size"], options.get("cell"))
        except ValueError as error:
            yield f"size: {error}"


def names(of: str) -> list[str]:
    """The names that the parameter `of` takes."""
    if NAMED[of]:
        return sorted(resolve_name(NAMED[of]))
    others = ("__init__", "base", "encoder_decoder")
    return sorted(path.stem for path in METHODS.glob("*.py") if path.stem not in others)


def choose(wanted: object, choices: Collection[str]) -> str:
    near = difflib.get_close_matches(str(wanted), choices, 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Choose from {', '.join(choices) or 'none'}"
