"""The report of a study: one HTML page that needs nothing else, and says what to believe before it shows anything.

The figures are drawn by 07_report, one by one, with `keep`; `write` puts the page together from the runs and from them.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from mednb import files, plots, results, statistics
from mednb.plots import Figure, NothingToDraw
from mednb.results import MAIN_METRIC, QUESTION, SETTING, in_order, percent

# What a score is a score of, and what there are few of.
ASKED = {
    "knn": ("the nearest neighbours in", "labels"),
    "linear": ("a linear probe on", "labels"),
    "finetune": ("fine-tuning", "labels"),
    "segment": ("a U-Net started from", "masks"),
}
VERDICTS = {
    "helped": "the interval excludes zero: pretraining helped",
    "hurt": "the interval excludes zero: pretraining hurt",
    "undecided": "the interval includes zero, so the difference may be chance",
}
QUESTION_OF_ALL = "Does an encoder that first looked at images without labels need fewer labels afterwards?"


@dataclass(frozen=True)
class Kind:
    """A kind of figure in the report: its heading, what to look for, and why a study may be without it."""

    heading: str
    caption: str
    lacks: str


FIGURES = {
    "effects": Kind(
        "What pretraining adds",
        "Each mark is the difference to random initialisation on the same seeds and test patients, each line its "
        "95 % interval. Right of zero pretraining helped. A full mark: the interval excludes zero; a hollow one: "
        "the difference may be chance. Of twenty intervals about one misses the truth, so look for a pattern, not "
        "for the best line.",
        "no encoder was tested on the same seed as random initialisation",
    ),
    "label_efficiency": Kind(
        "Score against the number of labels",
        "A band reaches from the lowest to the highest seed, an upright line is the 95 % interval over seeds and "
        "patients. Look for a pretrained curve that is above the grey one on the left and meets it on the right: "
        "that is a saving in labels. Whether two curves differ by more than chance is told by the figure above, "
        "because their lines share the same patients.",
        "no run of classify or segment finished",
    ),
    "maps": Kind(
        "What lies near what",
        "Each point is an image (first seed), placed by UMAP so that similar embeddings are near. Look for "
        "classes that gather, and for islands that no class explains: a scanner, a patient. Distances between "
        "islands and their sizes mean nothing, nor do the directions.",
        "no run of embed finished",
    ),
    "neighbours": Kind(
        "Who looks alike to the encoder",
        "Left a test image, then the training images most similar to it in each embedding (first seed). Look at "
        "what the neighbours share: the lesion, or the brightness, the depth, the shape of the sector. Solid "
        "frames: same class; dotted: another.",
        "no run of embed finished, or its images are not at hand",
    ),
    "training_curves": Kind(
        "How pretraining went",
        "A healthy loss falls fast, then creeps; losses of different methods cannot be compared. Spread falling "
        "to 0, or an effective rank of a few, is a collapse: every image gets the same embedding. Alignment near "
        "0 with uniformity near 0 is the same thing said twice.",
        "nothing was pretrained",
    ),
    "segmentation": Kind(
        "Outlines",
        "The same test images for every initialisation: white the expert's outline, dashed the network's, all "
        "masks used (first seed). Look for the kind of error: a lesion missed, a shadow taken for one, a margin "
        "cut short.",
        "no run of segment finished",
    ),
    "lesion_sizes": Kind(
        "Are small lesions harder?",
        "Dice of each test case against the share of the image that the lesion covers; the lines join the means of "
        "four groups of equal size. Look at the left: on a small lesion each wrong pixel costs more.",
        "no run of segment finished",
    ),
}


# -------------------- figures that need more than rows


def keep(draw: Callable[..., Figure], *what, out: str | Path) -> Figure | str:
    """Draw, and save as `out/figures/<name of draw>.png`; where there is nothing to draw, say why in a sentence."""
    path = Path(out) / "figures" / f"{draw.__name__}.png"
    try:
        figure = draw(*what)
    except NothingToDraw as reason:
        path.unlink(missing_ok=True)  # an older figure would belong to an older study
        return str(reason)
    plots.save(figure, path)
    return figure


def maps(runs: str | Path) -> Figure:
    """The maps of the first seed of every initialisation."""
    return plots.maps(_first(results.gather(runs, "map.parquet"), "maps: no run left a map.parquet"))


def segmentation(runs: str | Path) -> Figure:
    """The example outlines of the first seed of every initialisation."""
    examples = {}
    for run in results.finished(runs).sort_values(["seed", "fold"], kind="stable").itertuples():
        path = run.folder / "examples.npz"
        if path.is_file() and run.initialisation not in examples:
            with np.load(path) as arrays:
                examples[run.initialisation] = dict(arrays)
    return plots.segmentation(examples)


def neighbours(runs: str | Path, data: str | Path | None = None, queries: int = 6, k: int = 3) -> Figure:
    """Some test images, evenly over the classes, and their k nearest training images (first seed).

    `data` is the folder of the datasets, as in `mednb.datasets.load`; the images must be those of the runs.
    """
    from mednb import datasets, embed

    embedded = _first(results.gather(runs, "embeddings.parquet"), "neighbours: no run left an embeddings.parquet")
    of = embedded[embedded["run"] == embedded["run"].iloc[0]]
    run = results.finished(runs).set_index("run").loc[of["run"].iloc[0]]
    try:
        images = datasets.load(run["dataset"], data, int(run["size"]), int(run["fold"]), **_reading(run["folder"]))
    except (FileNotFoundError, ValueError) as error:
        raise NothingToDraw(f"neighbours: the images are not at hand ({error})") from error
    if images.fingerprint != run["said"]["data"]["fingerprint"]:
        raise NothingToDraw(f"neighbours: the images of {run['dataset']} at hand are not those that the runs used")
    at = pd.Series(np.arange(len(images.table)), index=images.table["image_id"])

    test = of[of["split"] == "test"]
    turns = test.sample(frac=1, random_state=0).groupby("label").cumcount()  # one of each class, then the next of each
    asked = test.loc[turns.sort_values(kind="stable").index[:queries]].sort_values("label", kind="stable")
    found, labels = {}, {}
    for name, group in embedded.groupby("initialisation"):
        known = group[(group["split"] == "train") & (group["dataset"] == run["dataset"])]
        mine = group.set_index("image_id").loc[asked["image_id"]]
        near, _ = embed.neighbours(embed.vectors(mine), k, embed.vectors(known))
        found[name] = images.pixels[at[known["image_id"]].to_numpy()[near]]
        labels[name] = known["label"].to_numpy(str)[near]
    return plots.neighbours(images.pixels[at[asked["image_id"]].to_numpy()], found, asked["label"], labels)


def _first(rows: pd.DataFrame, otherwise: str) -> pd.DataFrame:
    """The rows of the first run (by seed, then fold) of each initialisation and dataset."""
    if not len(rows):
        raise NothingToDraw(otherwise)
    order = rows.sort_values(["seed", "fold", "run"], kind="stable")
    return rows[rows["run"].isin(order.groupby(["dataset", "initialisation"])["run"].first())]


def _reading(folder: Path) -> dict:
    """What else the run gave to `datasets.load`: its limit and further values; the plan of the study knows."""
    path = folder / "parameters.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("parameters", {}) if path.is_file() else {}
    return {"limit": said.get("limit"), **(said.get("more") or {})}


# -------------------- the page


def write(
    runs: str | Path, out: str | Path, title: str = "", question: str = "", profile: str = "", study: str = ""
) -> Path:
    """Write `out/report.html` from the runs of a study and the figures in `out/figures`; returns its path.

    What the study does not have is missing with a sentence. No patient is named on the page.
    """
    from jinja2 import Environment, StrictUndefined

    drawn = statistics.bootstrap(results.gather(runs, "predictions.parquet"), results.gather(runs, "cases.parquet"))
    scores, differences = statistics.intervals(drawn), statistics.differences(drawn)
    finished, points = results.finished(runs), results.gather(runs, "map.parquet")
    main = list(MAIN_METRIC.items())
    others = sorted(set(zip(scores["task"], scores["metric"], strict=True)) - set(main))
    template = resources.files("mednb").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        title=title or f"Study {study or finished['study'].iloc[0]}",
        question=question or QUESTION_OF_ALL,
        profile=profile,
        tally=tally(differences),
        answers=answers(scores, differences),
        seeds=in_words(finished["seed"].dropna().astype(int)),
        budget=budget(finished),
        tables=tables(scores, differences, main),
        more=tables(scores, differences, others),
        figures=[asdict(kind) | {"png": _png(out, name)} for name, kind in FIGURES.items()],
        geometry=geometry(results.collect(runs), finished),
        data=[data(name, finished, points) for name in sorted(set(finished["dataset"].dropna()))],
        remarks=results.remarks(runs),
        runs=[run._asdict() | {"link": _link(run.folder, out)} for run in finished.itertuples()],
    )
    path = Path(out) / "report.html"
    with files.whole(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def verdict(low: float, high: float) -> str:
    """What the interval of a difference says: helped, hurt or undecided."""
    return "helped" if low > 0 else "hurt" if high < 0 else "undecided"


def tally(differences: pd.DataFrame) -> dict[str, int]:
    """How many comparisons with random initialisation (main metrics) say helped, hurt and undecided."""
    main = differences[differences["metric"] == differences["task"].map(MAIN_METRIC)]
    said = [verdict(row.low, row.high) for row in main.itertuples()]
    return {word: said.count(word) for word in VERDICTS}


def answers(scores: pd.DataFrame, differences: pd.DataFrame) -> list[dict[str, str]]:
    """The answer in sentences, with a verdict each: at the smallest label fraction, for each encoder.

    One for classification (the linear probe, else the first task there is) and one for segmentation.
    """
    first = next((task for task in ("linear", "finetune", "knn") if task in set(differences["task"])), None)
    numbers = scores[[*QUESTION, "mean", "low", "high", "n_seeds"]]
    other = [name if name != "initialisation" else "to" for name in QUESTION]
    rows = differences.merge(numbers, on=QUESTION, suffixes=("", "_of"))
    rows = rows.merge(numbers.rename(columns={"initialisation": "to"}), on=other, suffixes=("", "_base"))
    rows = rows[rows["metric"] == rows["task"].map(MAIN_METRIC)]
    said = []
    for task in (first, "segment"):
        of_task = rows[rows["task"] == task]
        for row in of_task[of_task["label_fraction"] == of_task["label_fraction"].min()].itertuples():
            (how, few), word = ASKED[task], verdict(row.low, row.high)
            shared = "on the seeds that both have " if row.n_seeds < max(row.n_seeds_of, row.n_seeds_base) else ""
            sentence = (
                f"{_where(scores, row)}With {percent(row.label_fraction)} of the {few}, {how} {row.initialisation} "
                f"reached {'an' if row.metric[0] in 'aeiou' else 'a'} {row.metric} of "
                f"{row.mean:.2f} {_bracket(row.low_of, row.high_of)}, random initialisation "
                f"{row.mean_base:.2f} {_bracket(row.low_base, row.high_base)}. The difference {shared}is "
                f"{_signed(row.difference)} {_bracket(row.low, row.high, _signed)}; {VERDICTS[word]}."
            )
            alone = " This is one seed: another may say otherwise." if row.n_seeds == 1 else ""
            said.append({"verdict": word, "sentence": sentence + alone})
    return said


def tables(scores: pd.DataFrame, differences: pd.DataFrame, asked: Iterable[tuple[str, str]]) -> list[dict]:
    """One small table for each setting, task and metric: a row per initialisation, a column per label fraction."""
    change = differences[[*QUESTION, "low", "high"]]
    rows = scores.merge(change, on=QUESTION, how="left", suffixes=("", "_of_difference"))
    found = []
    for _, of_setting in rows.groupby(SETTING):
        for task, metric in asked:
            of_task = of_setting[(of_setting["task"] == task) & (of_setting["metric"] == metric)]
            if not len(of_task):
                continue
            fractions = sorted(set(of_task["label_fraction"]))
            lines = []
            for name in in_order(of_task["initialisation"]):
                mine = of_task[of_task["initialisation"] == name]
                cells = {
                    cell.label_fraction: {
                        "mean": f"{cell.mean:.2f}",
                        "interval": _bracket(cell.low, cell.high),
                        "verdict": verdict(cell.low_of_difference, cell.high_of_difference),
                    }
                    for cell in mine.itertuples()
                }
                seen = f"{mine['images_seen'].iloc[0]:,}"
                lines.append({"name": name, "images_seen": seen, "cells": [cells.get(each) for each in fractions]})
            found.append(
                {
                    "title": f"{_where(scores, of_task.iloc[0])}{task}, {metric}",
                    "fractions": [percent(fraction) for fraction in fractions],
                    "lines": lines,
                    "seeds": _span(of_task["n_seeds"]),
                    "patients": _span(of_task["n_patients"]),
                }
            )
    return found


def budget(finished: pd.DataFrame) -> dict:
    """What each initialisation cost: its pretraining runs, images seen, epochs, batch size, device."""
    runs = finished[finished["stage"] == "pretrain"]
    lines = []
    for name in in_order(runs["initialisation"]):
        mine = runs[runs["initialisation"] == name]
        lines.append(
            {
                "name": name,
                "runs": len(mine),
                "images_seen": in_words(mine["images_seen"]),
                "epochs": in_words(mine["epochs"]) if name != "none" else "–",
                "batch_size": in_words(mine["batch_size"]) if name != "none" else "–",
                "device": in_words(said.get("device", "?") for said in mine["said"]),
            }
        )
    seen = runs.loc[runs["method"] != "none", "images_seen"]
    return {"lines": lines, "pretrained": len(seen), "equal": in_words(seen) if len(set(seen)) == 1 else None}


def geometry(rows: pd.DataFrame, finished: pd.DataFrame) -> dict:
    """What was measured about the embeddings: the mean over seeds, with the lowest and the highest seed."""
    rows = rows[rows["task"] == "geometry"].merge(finished[["run", "initialisation"]], on="run")
    of_seeds = rows.groupby(["initialisation", "metric"])["value"].agg(["mean", "min", "max"])
    said = {key: f"{mean:.2f} ({low:.2f} to {high:.2f})" for key, (mean, low, high) in of_seeds.T.items()}
    metrics = sorted(set(rows["metric"]))
    lines = [
        {"name": name, "cells": [said.get((name, metric), "–") for metric in metrics]}
        for name in in_order(rows["initialisation"])
    ]
    return {"metrics": metrics, "lines": lines}


def data(name: str, finished: pd.DataFrame, points: pd.DataFrame) -> dict:
    """A dataset's card, and how many images (and patients) of each class are in each split."""
    from mednb import datasets

    facts, lines, splits, disjoint = {}, [], [], True
    if name in datasets.DATASETS:
        card = datasets.DATASETS[name].CARD
        facts = {"what": card.title, "modality": f"{card.modality}, {card.organ}", "patients": card.patients}
        facts |= {"licence": card.licence, "citation": card.citation, "beware": " ".join(card.defects)}
    if len(points) and name in set(points["dataset"]):
        of = points[points["dataset"] == name]
        of = of[of["run"] == of["run"].iloc[0]]
        disjoint = not of[["patient", "split"]].drop_duplicates()["patient"].duplicated().any()
        splits = [split for split in ("train", "val", "test") if split in set(of["split"])]
        for label in [*dict.fromkeys(of["label"]), "all"]:
            part = of if label == "all" else of[of["label"] == label]
            counts = [part[part["split"] == split] for split in splits]
            lines.append({"label": label, "cells": [f"{len(one):,} ({one['patient'].nunique():,})" for one in counts]})
    size = in_words(finished.loc[finished["dataset"] == name, "size"].dropna().astype(int))
    facts = {key: fact for key, fact in facts.items() if fact}
    return {"name": name, "size": size, "facts": facts, "splits": splits, "lines": lines, "disjoint": disjoint}


def in_words(values: Iterable) -> str:
    """The distinct values in order, as in "1, 2 and 3"; thousands have a comma."""
    words = [str(value) if isinstance(value, str) else f"{value:,}" for value in sorted(set(values))]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _bracket(low: float, high: float, written: Callable[[float], str] = "{:.2f}".format) -> str:
    return f"[{written(low)},\N{NO-BREAK SPACE}{written(high)}]"


def _where(scores: pd.DataFrame, row) -> str:
    """The settings that vary among the scores, in front of what is said of one of them."""
    return "".join(f"{getattr(row, name)}: " for name in SETTING if len(set(scores[name])) > 1)


def _png(out: str | Path, name: str) -> str | None:
    path = Path(out) / "figures" / f"{name}.png"
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def _link(folder: Path, out: str | Path) -> str | None:
    notebook = folder / "notebook.ipynb"
    return quote(Path(os.path.relpath(notebook, out)).as_posix()) if notebook.is_file() else None
