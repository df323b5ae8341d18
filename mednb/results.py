"""Rows of measured numbers: written by each run, collected from all runs of a study, shown in tables.

One row of `results.csv` is one measured number. An interval needs more than the number: `mednb.statistics` draws it
from the predictions and cases that the runs leave beside it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mednb import files

if TYPE_CHECKING:
    from mednb.datasets import Images

# What a row says about its run, and then what was measured. The order is the order in results.csv. `dataset` is what
# was measured on, `pretrained_on` where the encoder learnt ("" for none and imagenet), `initialise` what a U-Net took
# of it. `stratum` is the part of the test images that was measured ("" for all, or as in "size: small").
RUN = {
    "study": "str",
    "run": "str",
    "dataset": "str",
    "pretrained_on": "str",
    "method": "str",
    "pairs": "str",
    "views": "str",
    "encoder": "str",
    "initialise": "str",
    "size": "int64",
    "batch_size": "int64",
    "epochs": "int64",
    "images_seen": "int64",
    "seed": "int64",
    "fold": "int64",
}
MEASURED = {
    "task": "str",
    "metric": "str",
    "label_fraction": "float64",
    "draw": "int64",
    "split": "str",
    "stratum": "str",
    "value": "float64",
    "n_patients": "int64",
    "n_images": "int64",
}
COLUMNS = RUN | MEASURED

MANY = 5  # runs that are named one by one in the remarks

# The number that speaks for a task where there is room for one only.
MAIN_METRIC = {"knn": "auroc", "linear": "auroc", "finetune": "auroc", "segment": "dice"}

# Numbers are compared within one setting; `initialisation` is what is compared.
SETTING = ["dataset", "encoder", "size"]
QUESTION = [*SETTING, "initialisation", "task", "metric", "label_fraction", "stratum"]

VERSIONED = (
    *("mednb", "torch", "torchvision", "lightly", "pytorch-lightning", "segmentation-models-pytorch"),
    *("umap-learn", "scikit-learn", "scipy", "numpy", "pandas"),
)


# -------------------- one run: run.json, rows


def write_run(out: str | Path, **values) -> dict:
    """Write `out/run.json`: the values of a run, with the versions it ran under, and return all of it.

    `values` must hold `stage`, `study` and `run`. Added unless given: `versions` (of the libraries, without importing
    them), `code` (16 hex digits over the package's sources), `device`.
    """
    missing = [name for name in ("stage", "study", "run") if name not in values]
    if missing:
        raise ValueError(f"{Path(out) / 'run.json'} would lack {', '.join(missing)}: a run says stage, study and run")
    values = made_by() | values
    values = json.loads(json.dumps(values, default=_plain))
    files.write_json(Path(out) / "run.json", values)
    return values


def made_by() -> dict:
    """What computes here: `versions` of the libraries, `code` (see `code_hash`) and `device`."""
    found = {name: _version(name) for name in VERSIONED}
    versions = {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
    return {"versions": versions, "code": code_hash(), "device": _device()}


def read_run(folder: str | Path) -> dict:
    """The values in `folder/run.json`."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not the folder of a finished run")
    return files.read_json(path)


def about(images: Images, seed: int) -> dict:
    """What run.json says of a run's images: dataset, size, fold, seed, classes, and `data` with the rest."""
    split = images.table.groupby("split")["patient"].agg(images="size", patients="nunique")
    data = {"fingerprint": images.fingerprint, "split_hash": images.split_hash, "licence": images.card.licence}
    data |= {"members": images.members or {images.name: images.split_hash}}
    data |= {f"n_{name}": int(row.images) for name, row in split.iterrows()}
    data |= {f"n_{name}_patients": int(row.patients) for name, row in split.iterrows()}
    said = {"dataset": images.name, "size": images.size, "fold": int(images.table["fold"].iloc[0])}
    return said | {"seed": seed, "classes": images.classes, "data": data}


def origin(pretrained: str | Path, images: Images) -> dict:
    """What a later run says of its encoder: values of the pretraining run in the folder `pretrained`, and a hash of its
    weights, which tells of all that no value names.

    Raises ValueError when that run split the images of any dataset here otherwise, alone or in a mix, or had them from
    a dataset that was taken from another one (`Card.part_of`): its encoder may have seen the patients of `images` that
    are now for testing. All phantoms are the same people, and two folders of your own may be copies: there the fold
    tells.
    """
    from mednb.datasets import DATASETS

    said = read_run(pretrained)
    seen = said["data"].get("members") or {said["dataset"]: said["data"]["split_hash"]}
    here = images.members or {images.name: images.split_hash}
    other = said["fold"] != images.table["fold"].iloc[0]
    kinds = {kind for kind in ("phantoms", "folder ", "imagefolder ") if any(name.startswith(kind) for name in seen)}
    for name, split_hash in here.items():
        if seen.get(name, split_hash) != split_hash or (other and name.startswith(tuple(kinds))):
            raise ValueError(
                f"{Path(pretrained) / 'run.json'} used another split of {name} (fold {said['fold']}), so its "
                "encoder may have seen patients that are now for testing; keep to one fold and one limit"
            )
        for one in seen:
            parts = {each: DATASETS[each].CARD.part_of for each in (name, one) if each in DATASETS}
            if name in parts.get(one, ()) or one in parts.get(name, ()):
                raise ValueError(
                    f"{Path(pretrained) / 'run.json'} learnt from {one}, whose images and those of {name} are partly "
                    "the same, so its encoder may have seen patients that are now for testing"
                )
    names = ("pretrained_on", "method", "pairs", "views", "encoder", "batch_size", "epochs", "images_seen")
    weights = Path(pretrained) / "encoder.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else None
    more = {"options": said["options"]} if said.get("options") else {}
    return {name: said[name] for name in names} | more | {"pretrained": str(pretrained), "weights": digest}


def row(
    run: Mapping,
    task: str,
    metric: str,
    value: float,
    label_fraction: float,
    split: str,
    n_patients: int,
    n_images: int,
    draw: int = 0,
    stratum: str = "",
) -> dict:
    """One measured number of `run` (the values of its run.json) as a row of results.csv.

    `label_fraction` is NaN (or None) where no labels were used; the counts are of what it was measured on. A run that
    does not say what a U-Net took of its encoder (`initialise`) took the encoder.
    """
    run = {"initialise": "encoder"} | dict(run)
    missing = [name for name in RUN if name not in run]
    if missing:
        raise ValueError(f"the run {run.get('run', '?')} does not say its {', '.join(missing)}, and a row has to")
    measured = (task, metric, label_fraction, draw, split, stratum, value, n_patients, n_images)
    return {name: run[name] for name in RUN} | dict(zip(MEASURED, measured, strict=True))


def write_rows(out: str | Path, rows: Iterable[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """Write `out/results.csv` whole, its columns in the order of `COLUMNS`, floats so that they read back the same."""
    path = Path(out) / "results.csv"
    frame = _typed(rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows)), path)
    with files.whole(path) as aside:
        frame.to_csv(aside, index=False, lineterminator="\n")
    return frame


def read_rows(path: str | Path) -> pd.DataFrame:
    """The rows of one results.csv."""
    floats = [name for name, kind in COLUMNS.items() if kind == "float64"]
    frame = pd.read_csv(
        path, dtype="str", keep_default_na=False, na_values={name: [""] for name in floats}, encoding="utf-8"
    )
    return _typed(frame, path)


def _typed(frame: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    if frame.empty and not len(frame.columns):
        frame = pd.DataFrame(columns=list(COLUMNS))
    missing, unknown = set(COLUMNS) - set(frame.columns), set(frame.columns) - set(COLUMNS)
    if missing or unknown:
        said = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        said += [f"has unknown {', '.join(sorted(unknown))}"] if unknown else []
        raise ValueError(f"{path}: a row {' and '.join(said)}; the columns are {', '.join(COLUMNS)}")
    whole_numbers = [name for name, kind in COLUMNS.items() if kind == "int64"]
    if frame[whole_numbers].isna().any(axis=None):
        empty = [name for name in whole_numbers if frame[name].isna().any()]
        raise ValueError(f"{path}: a row has no {', '.join(empty)}")
    try:
        return frame[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a row holds a value of the wrong kind ({error})") from error


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_hash() -> str:
    """16 hexadecimal digits over the package's sources."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _device() -> str:
    torch = sys.modules.get("torch")  # not imported for this: a run that needed no torch ran on the processor
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"


def _plain(value):
    """NumPy's numbers and arrays as Python's, paths as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"run.json cannot hold {value!r}")


# -------------------- a study: many runs


def finished(study: str | Path) -> pd.DataFrame:
    """The runs of a study that left a run.json, one row each; the report's own is not among them.

    Where the study has a plan (plan.json), only the runs in it: a folder may still hold those of an earlier plan.

    Columns: stage, those of `RUN`, folder, said (all of run.json), initialisation (what its encoder started from: the
    method, and whatever else the study varies within it). Raises FileNotFoundError when there is none.
    """
    planned = _planned(study)
    rows = []
    for folder in sorted(path.parent for path in Path(study).glob("*/run.json")):
        said = read_run(folder)
        if said.get("stage") != "report" and (planned is None or folder.name in planned):
            said = {"initialise": "encoder"} | said
            rows.append({name: said.get(name) for name in ("stage", *RUN)} | {"folder": folder, "said": said})
    if not rows:
        raise FileNotFoundError(f"{study} holds no finished run: no folder in it has a run.json")
    runs = pd.DataFrame(rows)
    return runs.assign(initialisation=_initialisations(runs))


def _planned(study: str | Path) -> set[str] | None:
    """The names of the runs in the study's plan, which `mednb run` leaves beside them."""
    path = Path(study) / "plan.json"
    return {run["name"] for run in files.read_json(path)["runs"]} if path.is_file() else None


def _initialisations(runs: pd.DataFrame) -> list[str]:
    """Of each run the method, and what else the study varies within it: "simclr same_case on busi, encoder-decoder".

    Whatever is not named here, rows cannot tell apart: `study.plan` refuses a grid that varies it.
    """
    options = [said.get("options") or {} for said in runs["said"]]
    runs = runs.assign(options=[", ".join(f"{name} {of[name]}" for name in sorted(of)) for of in options])
    names = runs["method"].astype("str")
    within = ["stage", "method", *SETTING]

    def varies(column: str) -> pd.Series:
        several = runs.groupby(within, dropna=False)[column].transform("nunique") > 1
        return runs["method"].isin(set(runs.loc[several, "method"]) - {"none"}) & (runs[column].astype("str") != "")

    elsewhere = varies("pretrained_on")
    within.append("pretrained_on")  # a budget in images is more epochs of a smaller set: that is no other variation
    for column in ("pairs", "views", "batch_size", "epochs"):
        if column == "batch_size":
            within.append("fold")  # of which each has another number of training images, and so of even batches
        value = runs[column].astype("str")
        said = value if column in ("pairs", "views") else f"{column} " + value
        names = names.where(~varies(column), names + " " + said)
    names = names.where(~elsewhere, names + " on " + runs["pretrained_on"].astype("str"))
    names = names.where(~varies("options"), names + ", " + runs["options"])
    whole = varies("initialise") & (runs["initialise"] != "encoder")
    return names.where(~whole, names + ", " + runs["initialise"].astype("str")).tolist()


def method_of(initialisation: str) -> str:
    """The method with which the name of an initialisation begins."""
    return re.split("[ ,]", initialisation, maxsplit=1)[0]


def in_order(initialisations: Iterable[str]) -> list[str]:
    """Each name once, random initialisation (`none`) first: the order of every table and legend."""
    return sorted(set(initialisations), key=lambda name: (name != "none", name))


def collect(study: str | Path) -> pd.DataFrame:
    """All rows of a study's runs, in an order that depends on nothing but the rows."""
    paths = [folder / "results.csv" for folder in finished(study)["folder"]]
    found = [frame for frame in map(read_rows, filter(Path.is_file, paths)) if len(frame)]
    rows = pd.concat(found, ignore_index=True) if found else _typed(pd.DataFrame(), study)
    return rows.sort_values([*[name for name in COLUMNS if name != "value"], "value"], ignore_index=True)


def gather(study: str | Path, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    """The file `name` (csv or parquet) of every run of a study as one frame, with the run's values beside each row.

    `columns`: only these of a parquet file. Added: the columns of `RUN` and `initialisation`, and `class`, the name of
    the `label` where there is one, and `decoder` of a pretraining; the file's own `seed` stays. Empty where no run left
    such a file.
    """
    frames = []
    for run in finished(study).itertuples():
        path = run.folder / name
        if path.is_file():
            frame = pd.read_parquet(path, columns=columns) if path.suffix == ".parquet" else pd.read_csv(path)
            said = {name: run.said.get(name) for name in RUN if name != "seed" or "seed" not in frame}
            said |= {name: run.said[name] for name in ("decoder",) if name in run.said}  # whether it learnt, too
            if "label" in frame:
                named = dict(enumerate(run.said.get("classes") or []))
                said["class"] = frame["label"].map(lambda label, named=named: named.get(label, label)).astype("str")
            frames.append(frame.assign(**said, initialisation=run.initialisation))
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def remarks(study: str | Path) -> list[str]:
    """What to know before believing a table: one sentence for each thing that is mixed, missing or unequal."""
    runs = finished(study)
    said = []

    def mixed(what: str, of: pd.Series) -> None:
        values = sorted({str(value) for value in of.dropna()})
        if len(values) > 1:
            said.append(f"The runs do not share {what}: {', '.join(values)}.")

    mixed("one version of mednb's code", runs["said"].map(lambda run: run.get("code")))
    for library in ("mednb", "torch", "lightly"):
        mixed(f"one version of {library}", runs["said"].map(lambda run, of=library: run.get("versions", {}).get(of)))
    mixed("one kind of device", runs["said"].map(lambda run: run.get("device")))
    data = runs.assign(
        fingerprint=runs["said"].map(lambda run: run.get("data", {}).get("fingerprint")),
        split_hash=runs["said"].map(lambda run: run.get("data", {}).get("split_hash")),
    )
    for (dataset, size), group in data.groupby(["dataset", "size"]):
        mixed(f"one set of images of {dataset} at size {size} (fingerprints)", group["fingerprint"])
    for (dataset, fold), group in data.groupby(["dataset", "fold"]):
        mixed(f"one split of {dataset}, fold {fold}", group["split_hash"])

    pretrained = runs[(runs["stage"] == "pretrain") & (runs["method"] != "none")]
    seen_by = budgets(pretrained)
    if len(set(seen_by)) > 1:
        each = "; ".join(f"{name} {', '.join(f'{n:,}' for n in seen)}" for name, seen in seen_by.items())
        said.append(f"The budgets are unequal: {each} images seen.")
    if len(set(runs["seed"].dropna())) == 1:
        said.append("There is one seed: the intervals hold the chance of the patients only; another seed may differ.")
    if "none" not in set(runs["method"]):
        said.append("Random initialisation (method none) is not in the study: nothing says what pretraining added.")
    seeds = runs.dropna(subset="seed").groupby("initialisation")["seed"].agg(lambda seeds: tuple(sorted(set(seeds))))
    if len(set(seeds)) > 1:
        each = "; ".join(f"{name} {', '.join(map(str, has))}" for name, has in seeds.items())
        said.append(f"The initialisations do not have the same seeds: {each}. Comparisons are on those that both have.")
    said += _ends_of_grids(runs)
    planned = _planned(study)
    begun = {path.parent.name for path in Path(study).glob("*/parameters.json")} - {"report"}
    done = {path.parent.name for path in Path(study).glob("*/run.json")} - {"report"}
    unfinished = sorted((begun if planned is None else begun & planned) - done)
    if len(unfinished) > MANY:
        some = ", ".join(unfinished[:3])
        said.append(f"{len(unfinished)} runs did not finish and are left out, among them {some}.")
    else:
        said += [f"The run {name} did not finish and is left out." for name in unfinished]
    if planned is not None and done - planned:
        said.append(f"Left out, because they are of an earlier plan: {', '.join(sorted(done - planned))}.")
    return said


def budgets(pretrained: pd.DataFrame) -> pd.Series:
    """Initialisation -> how many images its runs saw, in order: several numbers where folds are not of one size."""
    return pretrained.groupby("initialisation")["images_seen"].agg(lambda seen: tuple(sorted(set(seen))))


def _ends_of_grids(runs: pd.DataFrame) -> list[str]:
    """Where most choices of a learning rate fell on the largest or the smallest one: the best may lie beyond it."""
    chosen = []
    for run in runs["said"]:
        rates, choices = sorted(run.get("rates", [])), [one for one in run.get("chosen", []) if "lr" in one]
        if len(rates) > 1 and choices:
            one = max(choices, key=lambda one: one["label_fraction"])  # for the others its rate was kept
            ends = {"largest": rates[-1], "smallest": rates[0]}
            chosen += [[run["dataset"], one["task"], end, rate, one["lr"] == rate] for end, rate in ends.items()]
    chosen = pd.DataFrame(chosen, columns=["dataset", "task", "end", "rate", "hit"])
    said = []
    for (dataset, task, end), of in chosen.groupby(["dataset", "task", "end"], sort=False):
        if len(of) >= 5 and of["hit"].mean() >= 0.75:
            rates = " or ".join(f"{rate:g}" for rate in sorted(set(of["rate"])))
            said.append(
                f"On {dataset}, {task} chose the {end} learning rate that was tried ({rates}) in {of['hit'].sum()} of "
                f"{len(of)} runs: a {end.replace('est', 'er')} one might do better."
            )
    return said


# -------------------- tables for people

AGAIN = "†: test had been read before for this number, with other values or by other code (ledger.jsonl)."


def percent(fraction: float) -> str:
    """A label fraction as people write it: 0.1 -> '10 %'."""
    return f"{100 * fraction:g} %"


def bracket(low: float, high: float, written: Callable[[float], str] = "{:.2f}".format) -> str:
    """An interval as people write it, [0.52, 0.61]; in words where there is none, as of a single patient."""
    return f"[{written(low)}, {written(high)}]" if low <= high else "(no interval: too few patients)"


def seen(scores: pd.DataFrame) -> int | str:
    """How many images the encoders of some intervals saw: a number, or "46,700 to 46,900" where folds differ in it."""
    least, most = scores["images_seen"].min(), scores.get("images_seen_most", scores["images_seen"]).max()
    return least if least == most else f"{least:,} to {most:,}"


def table(scores: pd.DataFrame, metrics: Mapping[str, str] = MAIN_METRIC) -> pd.DataFrame:
    """Intervals as a table for people: a row per initialisation, a column per task and label fraction, no strata.

    A cell is "mean [low, high]", and † where the column `again` of the scores says that test had been read before.
    `metrics`: which metric stands for each task. The settings (dataset, encoder, size) are columns where the study
    varies them; images_seen always is one. Random initialisation is the first row.
    """
    shown = scores[(scores["metric"] == scores["task"].map(metrics)) & (scores["stratum"] == "")]
    varied = [name for name in SETTING if len(set(shown[name])) > 1]
    asked = sorted(
        set(zip(shown["task"], shown["label_fraction"], strict=True)),
        key=lambda pair: (list(metrics).index(pair[0]), pair[1]),
    )
    headings = {(task, fraction): f"{task} {metrics[task]}, {percent(fraction)}" for task, fraction in asked}
    rows = []
    groups = dict(list(shown.groupby([*varied, "initialisation"])))
    for key in sorted(groups, key=lambda key: (*key[:-1], key[-1] != "none", key[-1])):
        group = groups[key]
        line = dict(zip([*varied, "initialisation"], key, strict=True)) | {"images_seen": seen(group)}
        for cell in group.itertuples():
            mark = " †" if getattr(cell, "again", False) else ""
            said = f"{cell.mean:.2f} {bracket(cell.low, cell.high)}{mark}"
            line[headings[cell.task, cell.label_fraction]] = said
        rows.append(line)
    return pd.DataFrame(rows, columns=[*varied, "initialisation", "images_seen", *headings.values()]).fillna("–")


def write_tables(out: str | Path, scores: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Write intervals.csv, strata.csv, differences.csv (tidy), and table.csv, .md and .tex (for people) into `out`.

    scores, compared: from `statistics.intervals`, with strata or without, and `statistics.differences`. Returns the
    table for people.
    """
    shown, whole = table(scores), scores["stratum"] == ""
    note = f"\n{AGAIN}\n" if shown.astype("str").apply(lambda column: column.str.endswith("†")).any(axis=None) else ""
    texts = {"intervals.csv": _csv(scores[whole]), "strata.csv": _csv(scores[~whole])}
    texts |= {"differences.csv": _csv(compared), "table.csv": _csv(shown), "table.md": markdown(shown) + note}
    texts["table.tex"] = shown.to_latex(index=False, escape=True) + note
    for name, text in texts.items():
        with files.whole(Path(out) / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return shown


def _csv(shown: pd.DataFrame) -> str:
    return shown.to_csv(index=False, lineterminator="\n")


def markdown(shown: pd.DataFrame) -> str:
    """A table of texts and numbers as Markdown."""
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.astype("str").to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)
