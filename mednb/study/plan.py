"""A study file -> a plan: every run with its notebook, its values, what it writes and what it waits for.

A study file (`notebooks/studies/quick.yml`) has the keys

    study, title, question   its name, and what it asks
    grid                     parameter -> a value, or a list of values: every combination is run. `$seed` is the value
                             of `seed`; `pretrain.epochs` is the `epochs` of that stage alone, and there it wins
    points                   a list of small grids: every combination of `grid` is run with each of them, so that not
                             everything needs to vary with everything; `stages: [pretrain, segment]` in one of them
                             leaves the others out there
    stages                   pretrain, embed, classify, segment, report -> values for that stage's notebook only.
                             `notebook: path` takes another notebook; a stage of any other name needs one
    names                    name -> a value, or a list of values, that `$name` stands for anywhere below
    claims                   what the study is to settle (see `mednb.claims`)
    stand_ins                sentences for the report: what stands in for what could not be had
    rate                     images a second that one device pretrains on, for the estimate of the cost
    profiles                 name -> names, grid, points, stages, stand_ins, rate again: these replace the ones above

Every point of the grid is pretrained, the other stages follow its pretraining, and `report` follows them all.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mednb.files import read_json
from mednb.parameter import Parameter
from mednb.study.notebook import code_hash, parameters, unknown
from mednb.study.values import choose, faults, misset

ROOT = Path(__file__).parents[2]
FILES = {
    "pretrain": ("run.json", "metrics.csv", "encoder.safetensors"),
    "embed": ("run.json", "embeddings.parquet", "map.parquet", "results.csv"),
    "classify": ("run.json", "results.csv", "predictions.parquet"),
    "segment": ("run.json", "results.csv", "cases.parquet", "examples.npz"),
    "report": ("results.csv", "table.csv", "table.md", "table.tex", "report.html"),
}
NOTEBOOKS = {stage: ROOT / f"notebooks/{number:02}_{stage}.ipynb" for number, stage in enumerate(FILES, start=3)}
AGAIN = ("names", "grid", "points", "stages", "stand_ins", "rate")  # what a profile may say, too
KEYS = ("study", "title", "question", *AGAIN, "claims", "profiles")
NAME = r"\w[\w.-]*"  # of a folder
# By these a report tells numbers apart: what their rows say of the run that tests, and of the pretraining before it.
TOLD = ("dataset", "size", "seed", "fold", "initialise")
TOLD_OF_ENCODER = ("method", "encoder", "dataset", "pairs", "views", "batch_size", "epochs", "images_seen", "options")
FILLED_IN = ("study", "title", "question", "profile", "run", "runs", "out")  # by the plan, where a notebook takes them


@dataclass(frozen=True)
class Stage:
    """A kind of run: its notebook, the parameters that this takes, and the values that the study gives to it alone."""

    name: str
    notebook: Path
    takes: dict[str, Parameter]
    values: dict

    def value_of(self, key: str) -> str | None:
        """The name of the parameter that the grid's `key` sets here: `epochs` for `epochs` and `pretrain.epochs`."""
        owner, _, name = key.rpartition(".")
        return name if owner in ("", self.name) and name in self.takes else None

    def at(self, point: dict) -> dict:
        """All values of one run: the notebook's defaults, over them the point of the grid, over it the stage's own."""
        general_first = sorted(point, key=lambda key: "." in key)
        chosen = {self.value_of(key): point[key] for key in general_first if self.value_of(key)} | self.values
        chosen = {name: self.takes[name].accept(follow(value, point)) for name, value in chosen.items()}
        return {name: each.default for name, each in self.takes.items()} | chosen


@dataclass(frozen=True)
class Run:
    """One notebook with one set of values, in the folder `<plan.folder>/<name>`; it waits for the runs in `after`."""

    name: str
    stage: str
    notebook: Path
    parameters: dict
    files: tuple[str, ...]
    after: tuple[str, ...]

    def task(self, cwd: Path) -> dict:
        """What `parameters.json` holds: the run is done again when any of it changes, the notebook's code included.

        cwd: the folder in which the notebook is run, see `Plan`.
        """
        return {
            "run": self.name,
            "stage": self.stage,
            "notebook": short(self.notebook, cwd),
            "code": code_hash(self.notebook),
            "parameters": self.parameters,
            "files": list(self.files),
        }


@dataclass(frozen=True)
class Plan:
    """A study at one profile: its runs by name, each after the runs that it waits for, and what it is to settle.

    cwd: the folder in which the notebooks run, and from which the paths in their values are seen: the current one, and
    of a study that was begun in another, that one.
    """

    study: str
    file: Path
    folder: Path
    runs: dict[str, Run]
    claims: tuple[dict, ...] = ()
    stand_ins: tuple[str, ...] = ()
    rate: float | None = None
    lacks: tuple[str, ...] = ()  # datasets and weights that are not where they are looked for
    cwd: Path = field(default_factory=Path.cwd)

    def images_seen(self) -> list[int]:
        """How many images each run that pretrains will see; where only epochs are given, by the cards of its data."""
        asked = [run.parameters for run in self.runs.values() if run.stage == "pretrain"]
        learning = [values for values in asked if values.get("method") not in ("none", "imagenet")]
        return [values.get("images_seen") or values["epochs"] * in_train(values) for values in learning]


def read(
    file: str | Path,
    profile: str | None = None,
    data: str | None = None,
    out: str | Path = "runs",
    without_data: bool = False,
) -> Plan:
    """The plan of a study file. All that is wrong with its values is said at once: one ValueError, one line for each.

    `data` becomes the `data` of every notebook that takes one. Without `profile`, `class` is taken where the file has
    it: its runs go to `<out>/<study>`, those of another profile to `<out>/<study>-<profile>`. `without_data`: a plan to
    look at, whose datasets may be absent.
    """
    file = Path(file)
    settings = load(file)
    try:
        profiles = within(settings, "profiles")
        usual = "class" if "class" in profiles else None
        profile = profile or usual
        if not str(out).strip():
            raise ValueError("--out is empty; name a folder")
        for name in filter(lambda name: not re.fullmatch(NAME, name), profiles):
            raise ValueError(f"profiles: {name!r} names a folder; take letters, digits, '.', '_' and '-'")
        if profile not in (*profiles, None):
            without = "" if usual else ", or leave it out"
            raise ValueError(f"there is no profile {profile!r}; {choose(profile, profiles)}{without}")
        settings, wrong = at_profile(settings, profile)
        grid, points = values_of(settings["grid"]), [values_of(point) for point in settings["points"]]
        stages = []
        for name in sorted(settings["stages"], key=lambda name: {"pretrain": 0, "report": 2}.get(name, 1)):
            try:
                stages.append(stage_of(name, dict(settings["stages"][name]), file.parent))
            except (OSError, ValueError) as error:
                wrong.append(f"stages.{name}: {error}")
        if data is not None and not Path(data).is_dir():
            raise ValueError(f"--data {data}: there is no such folder")
        only = [point.pop("stages", [each.name for each in stages]) for point in points]
        for name in (name for names in only for name in names if name not in list(settings["stages"])):
            wrong.append(f"points.stages: this study has no stage {name!r}; {choose(name, settings['stages'])}")
        if wrong := [*wrong, *misfits(grid, points, stages), *misclaimed(settings)]:
            raise ValueError("\n".join(dict.fromkeys(wrong)))
        folder = Path(out) / (settings["study"] if profile == usual else f"{settings['study']}-{profile}")
        cwd = begun_in(folder)
        given = {key: str(settings.get(key, "")) for key in ("study", "title", "question")}
        given |= {"profile": profile or "", "runs": short(folder, cwd)}
        given |= {"data": short(Path(data), cwd)} if data is not None else {}
        at = [(grid | point, names) for point, names in zip(points, only, strict=True)]
        found = runs(at or [(grid, settings["stages"])], stages, given)
        if wrong := [*(fault for run in found.values() for fault in misset(run.parameters)), *unanswerable(found)]:
            raise ValueError("\n".join(dict.fromkeys(wrong)))
        if mixed := list(indistinct(found)):
            raise ValueError("\n".join(mixed))
        lacks = tuple(absent(found, cwd))
        if lacks and not without_data:
            raise ValueError("\n".join(lacks))
        told = {"claims": tuple(settings["claims"]), "stand_ins": tuple(settings["stand_ins"])}
        told |= {"rate": settings.get("rate"), "lacks": lacks, "cwd": cwd}
        return Plan(settings["study"], file, Path(short(folder, Path.cwd())), found, **told)
    except ValueError as error:
        lines = str(error).split("\n")
        raise ValueError("\n".join(line if line.startswith(" ") else f"{file}: {line}" for line in lines)) from None


class Strict(yaml.SafeLoader):
    """YAML as it is meant: where YAML lets the second of two equal keys win in silence, this complains."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            kind = key.tag.rpartition(":")[2]
            if isinstance(key, yaml.ScalarNode) and kind not in ("str", "merge"):
                where = str(key.start_mark).strip()
                raise yaml.YAMLError(f"the key {key.value!r} is no name but of kind {kind}; put it in quotes, {where}")
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"the key {name!r} stands there twice, {str(node.start_mark).strip()}")
        return super().construct_mapping(node, deep)


def load(file: Path) -> dict:
    """What the study file says, with every key of a study in it."""
    if not file.is_file():
        there = sorted(path.name for path in (ROOT / "notebooks/studies").glob("*.yml"))
        raise FileNotFoundError(f"there is no study file {file}; notebooks/studies holds {', '.join(there)}")
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), Strict)
        json.dumps(settings, default=str)  # which says when something contains itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of a date that does not exist, say
        raise ValueError(f"{file} is not YAML of a study: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is no study: it has no keys; a study has {', '.join(KEYS)}")
    settings |= {"study": str(settings.get("study", file.stem))}
    if not settings.get("stages"):
        raise ValueError(f"{file}: stages: none is named; there are {', '.join(NOTEBOOKS)}")
    if not re.fullmatch(NAME, settings["study"]):
        raise ValueError(f"{file}: study: {settings['study']!r} names a folder; take letters, digits, '.', '_' and '-'")
    return settings


def within(settings: dict, *keys: str) -> dict:
    """The mapping at `settings[key][key]...`, empty where the file says nothing; ValueError when it is no mapping."""
    for depth, key in enumerate(keys, start=1):
        settings = settings.get(key) or {}
        if not isinstance(settings, dict):
            raise ValueError(f"{'.'.join(keys[:depth])}: {settings!r} is not a mapping of names to values")
    return settings


def at_profile(settings: dict, profile: str | None) -> tuple[dict, list[str]]:
    """What the file says with the profile's values put in and names spelled out, and what is wrong with its keys."""
    instead = within(settings, "profiles", profile) if profile else {}
    wrong = [f"{key}: unknown key; {choose(key, KEYS)}" for key in settings if key not in KEYS]
    for key in instead.keys() - set(AGAIN):
        wrong.append(f"profiles.{profile}.{key}: unknown key; {choose(key, AGAIN)}")
    for name in within(instead, "stages").keys() - within(settings, "stages").keys():
        wrong.append(f"profiles.{profile}.stages.{name}: {choose(name, within(settings, 'stages'))}")
    said = {key: within(settings, key) | within(instead, key) for key in ("names", "grid")}
    for name in within(settings, "stages"):
        own = within(settings, "stages", name) | within(instead, "stages", name)
        said["stages"] = said.get("stages", {}) | {name: own}
    for key, kind in {"points": dict, "claims": dict, "stand_ins": str}.items():
        said[key] = instead.get(key) or settings.get(key) or []
        if not isinstance(said[key], list) or not all(isinstance(each, kind) for each in said[key]):
            what = "sentences" if kind is str else "mappings of names to values"
            raise ValueError(f"{key}: {said[key]!r} is not a list of {what}")
    rate = instead.get("rate", settings.get("rate"))
    if rate is not None and not (isinstance(rate, (int, float)) and rate > 0):
        wrong.append(f"rate: {rate!r} is no number of images a second")
    return settings | spelled_out(said, said["names"]) | {"rate": rate}, wrong


def spelled_out(value, names: dict):
    """`value` with what the study calls `$name` in place of it, at any depth."""
    if isinstance(value, dict):
        return {key: spelled_out(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [spelled_out(each, names) for each in value]
    return names.get(value[1:], value) if is_reference(value) else value


def values_of(grid: dict) -> dict[str, list]:
    return {key: value if isinstance(value, list) else [value] for key, value in grid.items()}


def stage_of(name: str, values: dict, beside: Path) -> Stage:
    own = values.pop("notebook", None)
    if own is None and name not in NOTEBOOKS:
        raise ValueError(f"a stage of this name needs a `notebook:`; {choose(name, NOTEBOOKS)}")
    if not isinstance(own, (str, type(None))):
        raise ValueError(f"notebook: {own!r} is no path of a notebook")
    path = beside / own if own else NOTEBOOKS[name]
    return Stage(name, path, parameters(path), values)


def misclaimed(settings: dict) -> Iterator[str]:
    """One line for everything that is wrong with the claims."""
    if settings["claims"]:
        from mednb import claims

        try:
            claims.read(settings["claims"])
        except ValueError as error:
            yield from str(error).split("\n")


def misfits(grid: dict[str, list], points: list[dict[str, list]], stages: list[Stage]) -> Iterator[str]:
    """One line for every key that no notebook takes, and for every value that does not fit."""
    on_grid = [stage for stage in stages if stage.name != "report"]
    for where, given in [("grid", grid), *(("points", point) for point in points)]:
        for key, values in given.items():
            takers = [stage for stage in on_grid if stage.value_of(key)]
            if not takers:
                near = choose(key.rpartition(".")[2], dict.fromkeys(name for stage in on_grid for name in stage.takes))
                yield f"{where}.{key}: no notebook of this study has such a parameter; {near}"
            if not values:
                yield f"{where}.{key}: the list is empty, so that nothing would run; give one value at least"
            for value in values if takers else ():
                yield from misfit(f"{where}.{key}", takers[0].takes[takers[0].value_of(key)], value, grid | given)
    everywhere = grid | {key: each for key, each in (points or [{}])[0].items() if all(key in p for p in points)}
    for stage in stages:
        for name, value in stage.values.items():
            if name in stage.takes:
                in_sight = {} if stage.name == "report" else everywhere  # the report is one run for all points
                yield from misfit(f"stages.{stage.name}.{name}", stage.takes[name], value, in_sight)
            else:
                yield f"stages.{stage.name}.{name}: {unknown(name, stage.notebook, stage.takes)}"


def misfit(where: str, parameter: Parameter, value, grid: dict[str, list]) -> Iterator[str]:
    if parameter.name in FILLED_IN:
        yield f"{where}: `mednb run` fills this in"
    elif is_reference(value):
        others = [key for key, values in grid.items() if not any(map(is_reference, values))]
        if value[1:] not in others:
            yield f"{where}: {value} refers to no key of the grid and to no name; {choose(value[1:], others)}"
        for each in grid.get(value[1:], ()) if parameter.name == "fold" else ():
            yield from (f"{where}: {fault}" for fault in faults("fold", each))
    else:
        try:
            parameter.accept(value)
        except ValueError as error:
            yield f"{where}: {error}"
        else:
            yield from (f"{where}: {fault}" for fault in faults(parameter.name, value))


def runs(grids: list[tuple[dict[str, list], list[str]]], stages: list[Stage], given: dict) -> dict[str, Run]:
    """Every run by its name, of grids with the names of their stages.

    Points that differ only in a later stage share their pretraining.
    """
    found: dict[str, Run] = {}

    def add(stage: Stage, name: str, point: dict, after: tuple[str, ...]) -> None:
        own = given | {"run": name, "out": f"{given['runs']}/{name}"}
        own |= {"pretrained": f"{given['runs']}/{after[0]}"} if after else {}
        values = stage.at(point) | {key: value for key, value in own.items() if key in stage.takes}
        run = Run(name, stage.name, stage.notebook, values, FILES.get(stage.name, ()), after)
        if found.setdefault(name, run) != run:
            raise ValueError(f"two runs would be called {name}, although their values differ")

    points = [
        (dict(zip(grid, values, strict=True)), only)
        for grid, only in grids
        for values in itertools.product(*grid.values())
    ]
    keys = dict.fromkeys(key for point, _ in points for key in point)
    varied = [key for key in keys if len({repr(point.get(key)) for point, _ in points}) > 1]
    for point, only in points:
        upstream, after = (), ()
        for stage in stages:
            if stage.name == "report" or stage.name not in only:
                continue
            matters = [key for key in varied if any(each.value_of(key) for each in (stage, *upstream))]
            name = label(stage, point, matters)
            add(stage, name, point, after)
            if stage.name == "pretrain":
                upstream, after = (stage,), (name,)
    for stage in stages:
        if stage.name == "report":
            add(stage, "report", {}, tuple(found))
    return found


def indistinct(found: dict[str, Run]) -> Iterator[str]:
    """One line for every kind of runs that a report could not tell apart, before hours are spent on them."""
    asked, said = {}, set()
    for run in found.values():
        if run.stage not in ("classify", "segment"):
            continue
        values, start = run.parameters, found[run.after[0]].parameters if run.after else {}
        untrained = start.get("method") in ("none", "imagenet")
        told = [values.get(name) for name in TOLD]
        told += [start.get(name) for name in TOLD_OF_ENCODER[: 2 if untrained else None]]
        questions = itertools.product([run.stage], values.get("tasks", [""]), values.get("fractions", [""]))
        others = [asked.setdefault(repr((*question, *told)), run) for question in questions]
        other = next((each for each in others if each is not run), None)
        if other:
            both = [(values, other.parameters), (start, found[other.after[0]].parameters if other.after else {})]
            differ = {name for one, two in both for name in one if one[name] != two.get(name)}
            names = ", ".join(sorted(differ - {*FILLED_IN, "pretrained"}))
            if names not in said:
                said.add(names)
                of = f" of method {start['method']}" if untrained else ""
                yield (
                    f"{other.name} and {run.name} differ in {names}, which no row{of} names, so that the report could "
                    "not tell them apart; give it one value there, or make two studies"
                )


def label(stage: Stage, point: dict, varied: list[str]) -> str:
    """`pretrain-busi-simclr-s0`, then whatever else varies in the grid and matters to this run."""
    values = {key: follow(value, point) for key, value in point.items()} | stage.at(point)
    named = ("dataset", "method", "seed")
    words = [stage.name, *(values[name] for name in named[:2] if name in values)]
    words += [f"s{values['seed']}"] if "seed" in values else []
    for key in varied:
        if key in values and key not in named and stage.value_of(key) not in named:
            words.append(worded(key.rpartition(".")[2], values[key]))
    return "-".join(re.sub(r"[^\w.+]+", "_", str(word)) for word in words if word != "")


def worded(name: str, value) -> str:
    """`same_case`, `size128`, `temperature0.1_lr0.01`: a value in the name of a run."""
    if isinstance(value, dict):
        return "_".join(worded(*each) for each in value.items())
    return value if isinstance(value, str) else f"{name}{value}"


def in_train(values: dict) -> int:
    """About how many images a run of these values trains on: three fifths of what the cards say."""
    from mednb.datasets import DATASETS

    cards = [DATASETS[name].CARD for name in values["dataset"].split("+")]
    images = sum(card.n_images or sum(card.counts.values()) for card in cards)
    return round(0.6 * min(images, values.get("limit") or images))


def unanswerable(found: dict[str, Run]) -> Iterator[str]:
    """One line for every dataset that by its card has no label to classify or no mask to segment, and for decoders that
    lack."""
    from mednb.datasets import DATASETS
    from mednb.datasets.card import is_label

    cards = {name: module.CARD for name, module in DATASETS.items()}
    told = [name for name, card in cards.items() if not card.classes or any(map(is_label, card.classes))]
    outlined = [name for name, card in cards.items() if not card.masks.startswith("none")]
    able = {"classify": ("labels", told), "segment": ("masks", outlined)}
    for run in (run for run in found.values() if run.stage in able):
        values, start = run.parameters, found[run.after[0]].parameters if run.after else {}
        answers, names = able[run.stage]
        if not set(values.get("dataset", names[0]).split("+")) & set(names):
            name = values["dataset"]
            yield f"stages.{run.stage}: {name} has no {answers}; {choose(name, names)}, or leave the stage out"
        if values.get("initialise") == "encoder-decoder" and "method" in start:
            from mednb.methods import METHODS  # its import takes seconds

            of, name = METHODS[start["method"]], start["method"]
            asked = start.get("decoder") or (start.get("how") or {}).get("decoder")
            if not (of.pretrains and (asked or of.has_decoder)):
                what = "pretrain with `decoder: true`" if of.pretrains else "leave it at encoder there, by `points`"
                yield f"initialise: encoder-decoder needs a decoder, and method {name} writes none; {what}"


def absent(found: dict[str, Run], cwd: Path) -> Iterator[str]:
    """One line for every dataset, and for weights of ImageNet, that are not where the runs will look for them."""
    from mednb.datasets import DATASETS, data_root, is_there

    values = [run.parameters for run in found.values() if "dataset" in run.parameters]
    named = {(part, each.get("data")): None for each in values for part in each["dataset"].split("+")}
    for name, root in named:
        card, here = DATASETS[name].CARD, cwd / data_root(root)
        if card.folder == "" and root is None:
            yield f"dataset {name}: say where your images are, with --data"
        if card.folder and not is_there(name, here):
            yield f"dataset {name}: it is not to be found in {here.resolve()}; {card.how_to_get}"
    for name in {run.parameters["encoder"]: 0 for run in found.values() if run.parameters.get("method") == "imagenet"}:
        from mednb import encoders  # its import takes seconds

        try:
            encoders.imagenet_file(name)
        except FileNotFoundError as error:
            yield str(error)


def follow(value, point: dict):
    """`$seed` -> the value of `seed` at this point."""
    return point[value[1:]] if is_reference(value) else value


def is_reference(value) -> bool:
    return isinstance(value, str) and value.startswith("$")


def begun_in(folder: Path) -> Path:
    """The folder from which the study in `folder` was first run: from elsewhere it goes on, and does not begin again.

    The current one where it was never run, was moved since, or where that folder is gone.
    """
    path = folder / "plan.json"
    said = read_json(path) if path.is_file() else {}
    before = Path(said.get("cwd", ""))
    here = said and before.is_dir() and (before / said["folder"]).resolve() == folder.resolve()
    return before if here else Path.cwd()


def short(path: Path, cwd: Path) -> str:
    """A path as a person in `cwd` writes it: relative inside it, absolute elsewhere; one place, one spelling."""
    whole = Path(os.path.normpath(path.absolute()))
    return str(whole.relative_to(cwd)) if whole.is_relative_to(cwd) else str(whole)
