"""The report of a study: one HTML page that needs nothing else, and says what to believe before it shows anything.

The figures are drawn by 07_report, one by one, with `keep`; `write` puts the page together from the runs and from them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from mednb import claims, files, ledger, metrics, plots, results, statistics
from mednb.claims import Verdict, signed
from mednb.plots import Figure, NothingToDraw
from mednb.results import MAIN_METRIC, QUESTION, SETTING, in_order, method_of, percent
from mednb.study.progress import duration

# What a score is a score of, and what there are few of.
ASKED = {
    "knn": ("the nearest neighbours in", "labels"),
    "linear": ("a linear probe on", "labels"),
    "finetune": ("fine-tuning", "labels"),
    "segment": ("a U-Net started from", "masks"),
}
OF_A_CLAIM = {
    "supported": "the numbers hold the claim up, beyond chance",
    "contradicted": "the numbers speak against it, beyond chance",
    "undecided": "seeds and patients are too few to tell",
    "not tested": "the study lacks what it would take",
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
    "claims": Kind(
        "The comparisons behind the claims",
        "Each mark is one comparison of a claim with its 95 % interval; the dashed line is what was asked for. Where "
        "one of several comparisons is enough, it has to be clearer than its line here shows, and the marks know that.",
        "the study makes no claim that it could test",
    ),
    "effect_map": Kind(
        "What pretraining adds, at a glance",
        "A row for each initialisation, a column for each task and share of the labels; a cell is the difference to "
        "random initialisation in hundredths. Bold and framed: no chance, even among all cells (p_holm below 0.05 in "
        "differences.csv: Holm's correction over all comparisons of the study in these metrics; any other metric is a "
        "family of its own). Look for rows and columns of one sign, not for the largest number.",
        "no encoder was tested on the same seed as random initialisation",
    ),
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
    "critical_difference": Kind(
        "Who is ahead over all tasks?",
        "Mean rank over all tasks, seeds and folds, 1 is best; a bar joins what does not differ (Nemenyi). The tasks "
        "of a seed share encoders and patients, so a seed and fold counts once, however many its tasks. Ranks forget "
        "how large a difference is: a summary, no evidence. Who learnt from all labels (supervised) is not ranked.",
        "it takes three initialisations that were all tested on two seeds",
    ),
    "reliability": Kind(
        "Is it right as often as it says?",
        "With the most labels. On the diagonal accuracy equals confidence; below it the classifier is too sure of "
        "itself. A large mark stands for many images: believe it more than a small one. Linear probe and fine-tuning "
        "learn with weighted classes, as if all were equally frequent: what that moves off the diagonal is in this "
        "figure, and in the metric ece, too.",
        "no run of classify finished",
    ),
    "strata": Kind(
        "Who is it worse for?",
        "The scores on parts of the test images, with the most labels and 95 % intervals. Look for a part in which all "
        "initialisations are worse, and for one in which their order changes. Small parts have wide intervals.",
        "no part of the test images is known, or there is one only",
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


@dataclass(frozen=True)
class Evidence:
    """What the runs of a study allow to say: scores with intervals, also in strata, differences, verdicts on claims."""

    drawn: statistics.Bootstrap
    scores: pd.DataFrame
    parts: pd.DataFrame
    differences: pd.DataFrame
    worth: pd.DataFrame
    verdicts: list[Verdict]
    stand_ins: list[str]


def evidence(runs: str | Path) -> Evidence:
    """Draw test patients and seeds anew, and see what the scores in the folder of a study and its claims are worth."""
    drawn = statistics.bootstrap(results.gather(runs, "predictions.parquet"), results.gather(runs, "cases.parquet"))
    parts = statistics.intervals(drawn, strata=True)
    parts = parts.assign(again=_read_again(parts, runs))
    claimed, stand_ins = claims.of(runs)
    return Evidence(
        drawn=drawn,
        scores=parts[parts["stratum"] == ""].reset_index(drop=True),
        parts=parts,
        differences=statistics.differences(drawn),
        worth=statistics.labels_worth(drawn),
        verdicts=[claims.judge(claim, drawn) for claim in claimed],
        stand_ins=stand_ins,
    )


def _read_again(scores: pd.DataFrame, runs: str | Path) -> list[bool]:
    """Of each score whether test had been read before for one of its seeds; see `ledger.read`."""
    readings = ledger.read(runs)
    of = results.finished(runs).merge(readings.loc[readings["again"], ["run", "task"]], on="run")
    asked = [*SETTING, "initialisation", "task"]
    marked = set(of[asked].itertuples(index=False, name=None))
    return [key in marked for key in scores[asked].itertuples(index=False, name=None)]


# -------------------- figures that need more than rows


def keep(draw: Callable[..., Figure], *what, out: str | Path) -> Figure | str:
    """Draw, and save as `out/figures/<name of draw>.png` and .svg; where there is nothing to draw, say why."""
    paths = [Path(out) / "figures" / f"{draw.__name__}.{ending}" for ending in ("png", "svg")]
    try:
        figure = draw(*what)
    except NothingToDraw as reason:
        for path in paths:
            path.unlink(missing_ok=True)  # an older figure would belong to an older study
        return str(reason)
    for path in paths:
        plots.save(figure, path)
    return figure


def maps(runs: str | Path) -> Figure:
    """The maps of the first seed of every initialisation."""
    return plots.maps(_first(results.gather(runs, "map.parquet"), "maps: no run left a map.parquet"))


def critical_difference(drawn: statistics.Bootstrap) -> Figure:
    """The mean ranks of the initialisations over all tasks, seeds and folds, without `supervised`."""
    try:
        return plots.critical_difference(statistics.critical_difference(drawn))
    except ValueError as error:
        raise NothingToDraw(f"critical_difference: there are no ranks ({error})") from error


def reliability(runs: str | Path) -> Figure:
    """How often each classifier is right, given how sure it is; with the most labels, all seeds together."""
    rows = results.gather(runs, "predictions.parquet")
    if not len(rows):
        raise NothingToDraw("reliability: no run left a predictions.parquet")
    most = rows.groupby([*SETTING, "task"])["label_fraction"].transform("max")
    rows = rows[(rows["label_fraction"] == most) & (rows["task"] != "knn")]
    found = []
    by = [*SETTING, "task", "initialisation"]
    for key, of in rows.groupby(by):
        probabilities = of.filter(regex=r"^p\d+$").dropna(axis=1, how="all").to_numpy(float)
        told = metrics.reliability(of["label"].to_numpy(int), probabilities)
        found.append(told.assign(**dict(zip(by, key, strict=True))))
    return plots.reliability(pd.concat(found, ignore_index=True) if found else pd.DataFrame())


def segmentation(runs: str | Path) -> Figure:
    """The example outlines of the first seed of every initialisation, on the first dataset and at its first size.

    Where the first seeds are not tested on the same images, as they are of other folds, or some of them are missing:
    those images that the most initialisations have.
    """
    shown = {}  # images -> initialisation -> the examples of its first seed that has these
    finished = results.finished(runs)
    of = finished[finished["stage"] == "segment"].sort_values(["dataset", "size", "seed", "fold"], kind="stable")
    for run in of[(of[["dataset", "size"]] == of[["dataset", "size"]].head(1).to_numpy()).all(axis=1)].itertuples():
        path = run.folder / "examples.npz"
        if path.is_file():
            with np.load(path) as arrays:
                shown.setdefault(tuple(arrays["image_id"]), {}).setdefault(run.initialisation, path)
    examples = {}
    for name, path in max(shown.values(), key=len, default={}).items():
        with np.load(path) as arrays:
            examples[name] = dict(arrays)
    return plots.segmentation(examples)


def neighbours(runs: str | Path, data: str | Path | None = None, queries: int = 6, k: int = 3) -> Figure:
    """Some test images, evenly over the classes, and their k nearest training images (first seed of each method).

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
    one_each = {method_of(name): name for name in reversed(in_order(embedded["initialisation"]))}  # of each method
    for name, group in embedded[embedded["initialisation"].isin(one_each.values())].groupby("initialisation"):
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
    said = files.read_json(path).get("parameters", {}) if path.is_file() else {}
    return {"limit": said.get("limit"), **(said.get("more") or {})}


# -------------------- the page


def write(
    runs: str | Path,
    out: str | Path,
    title: str = "",
    question: str = "",
    profile: str = "",
    study: str = "",
    of: Evidence | None = None,
) -> Path:
    """Write `out/report.html` from the runs of a study and the figures in `out/figures`; returns its path.

    `of`: the evidence, where it is at hand. What the study does not have is missing with a sentence. No patient is
    named on the page. `out/worth.csv` holds how many labels pretraining is worth.
    """
    from jinja2 import Environment, StrictUndefined

    of = of or evidence(runs)
    scores, differences = of.scores, of.differences
    finished, points = results.finished(runs), results.gather(runs, "map.parquet")
    readings = ledger.read(runs)
    books = notebooks(finished, set(readings.loc[readings["again"], "run"]), out)
    main = list(MAIN_METRIC.items())
    others = sorted(set(zip(scores["task"], scores["metric"], strict=True)) - set(main))
    template = resources.files("mednb").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        title=title or f"Study {study or finished['study'].iloc[0]}",
        question=question or QUESTION_OF_ALL,
        profile=profile,
        verdicts=[said_of(verdict) for verdict in of.verdicts],
        counted={word: [each.word for each in of.verdicts].count(word) for word in OF_A_CLAIM},
        meaning=OF_A_CLAIM,
        stand_ins=of.stand_ins,
        tally=tally(rivals(differences)),
        answers=answers(scores, rivals(differences)),
        bound=len(rivals(differences)) < len(differences),
        seeds=in_words(finished["seed"].dropna().astype(int)),
        budget=budget(finished, out),
        tables=tables(scores, differences, main, books),
        more=tables(scores, differences, others, books),
        worth=worth(rivals(of.worth)),
        figures=[asdict(kind) | {"png": _png(out, name)} for name, kind in FIGURES.items()],
        geometry=geometry(results.collect(runs), finished),
        folds=len(set(finished["fold"])) > 1,
        data=[data(name, finished, points) for name in sorted(set(finished["dataset"].dropna()))],
        readings=read_of_test(readings),
        remarks=results.remarks(runs),
        runs=[run._asdict() | {"link": _link(run.folder, out)} for run in finished.itertuples()],
    )
    path = Path(out) / "report.html"
    for file, text in {path: html, path.with_name("worth.csv"): of.worth.to_csv(index=False)}.items():
        with files.whole(file) as aside:
            aside.write_text(text, encoding="utf-8")
    return path


def said_of(verdict: Verdict) -> dict:
    """A verdict as the page says it: the claim, the word, why, what would decide, and its comparisons."""
    claim, rows = verdict.claim, verdict.comparisons
    asked = {claim.metric or MAIN_METRIC.get(task, "") for task in claim.each.get("task", [claim.task])}
    lines = []
    for row in rows.to_dict("records") if len(rows) else ():
        tested = row["verdict"] != "not tested"
        numbers = f"{signed(row['effect'])} {_bracket(row['low'], row['high'], signed)}" if tested else row["missing"]
        lines.append({"what": row["what"], "numbers": numbers, "verdict": row["verdict"]})
    seeds = rows.get("n_seeds", pd.Series(dtype=float)).dropna().astype(int)
    patients = rows.get("n_patients", pd.Series(dtype=float)).dropna().astype(int)
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "word": verdict.word,
        "why": verdict.why,
        "decides": verdict.decides,
        "metric": in_words(asked - {""}),
        "lines": lines,
        "seeds": _span(seeds) if len(seeds) else "",
        "patients": _span(patients) if len(patients) else "",
    }


def notebooks(finished: pd.DataFrame, again: set[str], out: str | Path) -> dict[tuple, list[dict]]:
    """The notebooks that each score comes from: (dataset, encoder, size, initialisation, stage) -> one for each seed.

    `again`: the runs that read test again after other values of theirs had been read.
    """
    found = {}
    for run in finished.sort_values(["seed", "fold"], kind="stable").itertuples():
        key = (*(getattr(run, name) for name in SETTING), run.initialisation, run.stage)
        said = {"seed": run.seed, "link": _link(run.folder, out), "again": run.run in again}
        found.setdefault(key, []).append(said)
    return found


def read_of_test(readings: pd.DataFrame) -> list[dict]:
    """How often each test set was read: a line for each dataset, fold and task."""
    lines = []
    for (dataset, fold, task), of in readings.groupby(["dataset", "fold", "task"]):
        lines.append(
            {
                "dataset": dataset,
                "fold": fold,
                "task": task,
                "readings": len(of),
                "runs": of["run"].nunique(),
                "again": in_words(of.loc[of["again"], "run"]),
                "who": in_words(of["who"]),
                "codes": of["code"].nunique(),
                "last": of["time"].max()[:16].replace("T", " "),
            }
        )
    return lines


def worth(rows: pd.DataFrame) -> list[dict]:
    """How many labels pretraining is worth: a small table for each setting and task, in words."""
    found = []
    for _, of in rows.groupby([*SETTING, "task"], sort=False):
        fractions = sorted(set(of["label_fraction"]))
        lines = []
        for name in in_order(of["initialisation"]):
            said = of[of["initialisation"] == name].set_index("label_fraction")["said"]
            halves = [said.get(fraction, "–").partition(" [") for fraction in fractions]
            cells = [{"worth": worth, "interval": bracket.strip() + interval} for worth, bracket, interval in halves]
            lines.append({"name": name, "cells": cells})
        title = f"{_where(rows, of.iloc[0])}{of['task'].iloc[0]}"
        found.append({"title": title, "fractions": [percent(fraction) for fraction in fractions], "lines": lines})
    return found


def verdict(low: float, high: float) -> str:
    """What the interval of a difference says: helped, hurt or undecided."""
    return "helped" if low > 0 else "hurt" if high < 0 else "undecided"


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without `supervised`, which learnt from all labels: an upper bound, which saves none."""
    return rows[rows["initialisation"].map(method_of) != "supervised"]


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
                f"{signed(row.difference)} {_bracket(row.low, row.high, signed)}; "
                f"{VERDICTS[word] if row.low <= row.high else 'one cannot tell what is chance'}."
            )
            alone = " This is one seed: another may say otherwise." if row.n_seeds == 1 else ""
            said.append({"verdict": word, "sentence": sentence + alone})
    return said


def tables(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    asked: Iterable[tuple[str, str]],
    books: dict[tuple, list[dict]],
) -> list[dict]:
    """One small table for each setting, task and metric: a row per initialisation, a column per label fraction.

    books: the notebooks that the scores come from, as `notebooks` gives them.
    """
    change = differences[[*QUESTION, "low", "high"]].copy()
    less = change["metric"].isin(metrics.LOWER_IS_BETTER)
    change.loc[less, ["low", "high"]] = -change.loc[less, ["high", "low"]].to_numpy()
    rows = scores.merge(change, on=QUESTION, how="left", suffixes=("", "_of_difference"))
    found = []
    for setting, of_setting in rows.groupby(SETTING):
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
                seen = results.seen(mine)
                said = {"name": name, "images_seen": seen if isinstance(seen, str) else f"{seen:,}"}
                said |= {"books": books.get((*setting, name, "segment" if task == "segment" else "classify"), [])}
                lines.append(said | {"cells": [cells.get(each) for each in fractions]})
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


def budget(finished: pd.DataFrame, out: str | Path = ".") -> dict:
    """What each initialisation cost: its pretraining runs, images seen, views of each, epochs, batch size, device."""
    runs = finished[finished["stage"] == "pretrain"]
    lines = []
    for name in in_order(runs["initialisation"]):
        mine = runs[runs["initialisation"] == name]
        lines.append(
            {
                "name": name,
                "runs": len(mine),
                "link": _link(mine["folder"].iloc[0], out),
                "images_seen": in_words(mine["images_seen"]),
                "views": in_words(map(views_of, mine["method"], mine["said"])),
                "epochs": in_words(mine["epochs"]) if name != "none" else "–",
                "batch_size": in_words(mine["batch_size"]) if name != "none" else "–",
                "device": in_words(said.get("device", "?") for said in mine["said"]),
                "took": _took(mine["folder"]),
            }
        )
    trained = runs[runs["method"] != "none"]
    seen, views = trained["images_seen"], set(map(views_of, trained["method"], trained["said"]))
    equal = in_words(seen) if len(set(results.budgets(trained))) == 1 else None
    by_fold = len(set(seen)) > 1
    return {"lines": lines, "pretrained": len(seen), "equal": equal, "by_fold": by_fold, "views": len(views) == 1}


def views_of(method: str, said: dict) -> str:
    """How many views of each image a method took: "2", or "2 + 4" where the further ones are smaller.

    said: the run's run.json.
    """
    from mednb.methods import METHODS

    known = METHODS.get(method)
    if not known or not known.pretrains:
        return "–"
    small = (said.get("options") or {}).get("small_crops")
    return " + ".join([*(str(crops.n) for crops in known.crops), *([str(small)] if small else [])])


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
    seeds = set(rows["seed"])
    return {"metrics": metrics, "lines": lines, "seeds": in_words(seeds), "several": len(seeds) > 1}


def data(name: str, finished: pd.DataFrame, points: pd.DataFrame) -> dict:
    """A dataset's card, and how many images (and patients) are in each split of each fold, as its runs say.

    Of a fold that was embedded the classes are counted, too: `points`, what `results.gather` gives for map.parquet.
    """
    from mednb import datasets

    facts, lines, splits = {}, [], ("train", "val", "test")
    if name in datasets.DATASETS:
        card = datasets.DATASETS[name].CARD
        facts = {"what": card.title, "modality": f"{card.modality}, {card.organ}", "patients": card.patients}
        facts |= {"licence": card.licence, "citation": card.citation, "beware": " ".join(card.defects)}
    for run in finished[finished["dataset"] == name].drop_duplicates("fold").sort_values("fold").itertuples():
        said = run.said["data"]
        counts = [(said.get(f"n_{split}", 0), said.get(f"n_{split}_patients", 0)) for split in splits]
        lines.append({"label": f"fold {int(run.fold)}", "cells": [f"{n:,} ({patients:,})" for n, patients in counts]})
    of, disjoint = points[points["dataset"] == name] if len(points) else points, None
    if len(of):
        whose = of[["run", "patient", "split"]].drop_duplicates()
        disjoint = not whose.duplicated(["run", "patient"]).any()
        of = of[of["run"] == of["run"].iloc[0]]
        for label, part in of.groupby("label", sort=False):
            counts = [part[part["split"] == split] for split in splits]
            cells = [f"{len(one):,} ({one['patient'].nunique():,})" for one in counts]
            lines.append({"label": f"fold {of['fold'].iloc[0]}, {label}", "cells": cells})
    size = in_words(finished.loc[finished["dataset"] == name, "size"].dropna().astype(int))
    facts = {key: fact for key, fact in facts.items() if fact}
    return {"name": name, "size": size, "facts": facts, "splits": splits, "lines": lines, "disjoint": disjoint}


def in_words(values: Iterable) -> str:
    """The distinct values in order, as in "1, 2 and 3"; thousands have a comma."""
    words = [str(value) if isinstance(value, str) else f"{value:,}" for value in sorted(set(values))]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _took(folders: Iterable[Path]) -> str:
    """The wall time of runs, mean and all together, as their processes wrote it down; "–" where they did not."""
    paths = [path for folder in folders if (path := folder / "status.json").is_file()]
    seconds = [files.read_json(path)["seconds"] for path in paths]
    return f"{duration(sum(seconds) / len(seconds))} ({duration(sum(seconds))})" if seconds else "–"


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _bracket(low: float, high: float, written: Callable[[float], str] = "{:.2f}".format) -> str:
    return results.bracket(low, high, written).replace(", ", ",\N{NO-BREAK SPACE}")


def _where(scores: pd.DataFrame, row) -> str:
    """The settings that vary among the scores, in front of what is said of one of them."""
    said = dict(row) if isinstance(row, pd.Series) else row._asdict()
    said["size"] = f"{said['size']} pixels"
    return "".join(f"{said[name]}: " for name in SETTING if len(set(scores[name])) > 1)


def _png(out: str | Path, name: str) -> str | None:
    path = Path(out) / "figures" / f"{name}.png"
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def _link(folder: Path, out: str | Path) -> str | None:
    notebook = folder / "notebook.ipynb"
    return quote(Path(os.path.relpath(notebook, out)).as_posix()) if notebook.is_file() else None
