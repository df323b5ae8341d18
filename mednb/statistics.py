"""What measured numbers allow to say: intervals over seeds and patients, comparisons, and how many labels are saved.

Everything begins with `bootstrap`, which measures each test set again and again on patients drawn anew. Whatever is
compared afterwards is a contrast: a weighted sum of scores on the same seeds and patients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from mednb.datasets.store import FOLDS
from mednb.metrics import CLASSIFICATION, LOWER_IS_BETTER, SEGMENTATION, UNBOUNDED
from mednb.results import MAIN_METRIC, MEASURED, QUESTION, RUN, SETTING, percent

INTERVAL = ["low", "high", "seeds_low", "seeds_high", "n_seeds", "n_patients"]
UNIT = [name for name in (*RUN, "initialisation", *MEASURED) if name not in ("study", "run", "draw", "split", "value")]
STRATA = ("size", "source", "scanner", "class")
STRATIFIED = ("auroc", "balanced_accuracy", "dice", "found")  # what is measured in strata; in a class it is the recall
SIZES = ("small", "medium", "large")


# -------------------- draw the patients


@dataclass(frozen=True)
class Bootstrap:
    """Every score of a study as it was measured, and again with the test patients drawn anew.

    units: one row per measured test set, metric and stratum: the columns of a row of results.csv without study, run,
        draw, split and value, and initialisation. Draws of the labelled images belong to their seed: a score is their
        mean
    scores: (units, 1 + replicates); column 0 is as measured. In each column all units of a dataset and fold share
        their drawn patients, so that their scores can be subtracted.
    patients: of each unit the numbers of its patients among those of its dataset and fold
    alike: (dataset, fold) -> the first fold that is tested on the same patients, as all are where a dataset's authors
        have fixed who is tested
    """

    units: pd.DataFrame
    scores: np.ndarray
    patients: Sequence[np.ndarray]
    seed: int = 0
    alike: Mapping[tuple[str, int], int] = field(default_factory=dict)

    @cached_property
    def block(self) -> np.ndarray:
        """(units,) the number of each unit's seed and fold."""
        return self.units.groupby(["seed", "fold"]).ngroup().to_numpy()

    @cached_property
    def place(self) -> np.ndarray:
        """(units,) the number of each unit's dataset and test patients: units of one place share these."""
        tested = zip(self.units["dataset"], self.units["fold"], strict=True)
        return pd.factorize(pd.Series([(of[0], self.alike.get(of, of[1])) for of in tested]))[0]

    @cached_property
    def cell(self) -> np.ndarray:
        """(units,) the number of each unit's question: units of one cell are its seeds and folds."""
        return self.units.groupby(QUESTION, dropna=False).ngroup().to_numpy()


def bootstrap(
    predictions: pd.DataFrame | None = None,
    cases: pd.DataFrame | None = None,
    replicates: int = 1000,
    seed: int = 0,
    strata: Iterable[str] = STRATA,
) -> Bootstrap:
    """Draw the test patients with replacement and measure again, `replicates` times.

    predictions, cases: what `results.gather` gives for predictions.parquet and cases.parquet; either may be empty or
    None. Patients are drawn whole, with all their images. One draw serves all that is tested on the same patients: the
    tasks and initialisations of a fold, and its seeds where there are several (the pigeonhole bootstrap of Owen, Annals
    of Applied Statistics 2007). Drawn anew for each of them they would count as more patients than they are.

    strata: the scores of `STRATIFIED` are measured in these parts of the test images too, where they are known: "size"
    (small, medium, large: thirds of the images with a lesion, by its area), "source", "scanner", "class".
    """
    frames = [(predictions, _classified), (cases, _segmented)]
    frames = [(_whole(frame), measured) for frame, measured in frames if frame is not None and not frame.empty]
    times, alike = _times([frame for frame, _ in frames], replicates, seed)
    asked = [*(name for name in QUESTION if name not in ("metric", "stratum")), "seed", "fold", "draw"]
    rows, scores, tested = [], [], []
    for frame, measured in frames:
        measure, parts = measured(frame), _strata(frame, strata)
        image, patient = pd.factorize(frame["image_id"])[0], frame["patient"].astype("str").to_numpy(str)
        found = {}  # of each unit its rows, and its scores in every draw
        for (*key, _), at in frame.groupby(asked).indices.items():
            if len(np.unique(image[at])) < len(at):
                twice = " and ".join(sorted(set(frame["run"].iloc[at])))
                raise ValueError(f"the same images are tested twice for the same question in {twice}")
            patients, drawn = times[frame["dataset"].iloc[at[0]], frame["fold"].iloc[at[0]]]
            number = np.searchsorted(patients, patient[at])
            weights = drawn[:, number]
            for stratum, part in {"": slice(None), **_members(parts, at)}.items():
                for metric, values in measure(at[part], weights[:, part], STRATIFIED if stratum else ()).items():
                    if np.isfinite(values[0]):
                        found.setdefault((*key, metric, stratum), (at[part], number[part], []))[2].append(values)
        about = frame[[name for name in UNIT if name in frame]]
        for (*_, metric, stratum), (at, number, of_draws) in found.items():
            tested.append(np.unique(number))
            counts = {"n_patients": len(tested[-1]), "n_images": len(at)}
            rows.append(about.iloc[at[0]].to_dict() | {"metric": metric, "stratum": stratum} | counts)
            scores.append(np.mean(of_draws, axis=0))
    scores = np.array(scores).reshape(len(rows), 1 + replicates)
    return Bootstrap(pd.DataFrame(rows, columns=UNIT), scores, tested, seed, alike)


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    """With the columns that a file may be without: it has one task, or one draw of the labelled images."""
    of_all = {"task": "segment", "draw": 0}
    return frame.assign(**{name: value for name, value in of_all.items() if name not in frame}).reset_index(drop=True)


def _times(
    frames: Sequence[pd.DataFrame], replicates: int, seed: int
) -> tuple[dict[tuple[str, int], tuple[np.ndarray, np.ndarray]], dict[tuple[str, int], int]]:
    """For each dataset and fold its patients in order, and how often each is drawn (1 + replicates, patients).

    Folds of the same patients share what is drawn; the second value is `Bootstrap.alike`.
    """
    times, first, names = {}, {}, ["dataset", "fold", "patient"]
    everyone = pd.concat([frame[names].drop_duplicates() for frame in frames] or [pd.DataFrame(columns=names)])
    for (dataset, fold), of in everyone.groupby(["dataset", "fold"]):
        patients = np.unique(of["patient"].astype("str").to_numpy(str))
        alike = first.setdefault((dataset, *patients), fold)
        if alike != fold:
            times[dataset, fold] = times[dataset, alike]
            continue
        rng = np.random.default_rng([seed, 1, fold, *dataset.encode()])  # two datasets have no luck in common
        times[dataset, fold] = patients, _multiplicities(len(patients), len(patients), replicates, rng)
    return times, {(dataset, fold): first[dataset, *times[dataset, fold][0]] for dataset, fold in times}


def _multiplicities(count: int, draws: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """(1 + replicates, count): how often each of `count` is drawn; row 0 is once each, the sample as it is."""
    drawn = rng.multinomial(draws, np.full(count, 1 / count), size=replicates)
    return np.vstack([np.ones(count), drawn])


def _strata(frame: pd.DataFrame, strata: Iterable[str]) -> list[tuple[np.ndarray, list[str]]]:
    """For every kind of strata that is known the number of each row's stratum, -1 for none, and the names of these."""
    found = []
    for kind in strata:
        if kind not in STRATA:
            raise ValueError(f"strata: {kind!r} is unknown; choose among {', '.join(STRATA)}")
        values = _sizes(frame) if kind == "size" else frame.get(kind)
        if values is not None:
            number, names = pd.factorize(values)
            found.append((number, [f"{kind}: {name}" for name in names]))
    return found


def _sizes(frame: pd.DataFrame) -> pd.Series | None:
    """Whether each row's lesion is in the small, medium or large third of the lesions of its dataset."""
    area = frame.get("lesion_area", frame.get("area"))
    if area is None:
        return None
    # Every image of a dataset is tested equally often, unless a run is missing: the share of rows is that of images.
    share = area.where(area > 0).groupby([frame["dataset"], frame["size"]]).rank(method="max", pct=True)
    return pd.cut(share, [0, 1 / 3, 2 / 3, 1], labels=SIZES)


def _members(parts: list[tuple[np.ndarray, list[str]]], at: np.ndarray) -> dict[str, np.ndarray]:
    """The positions within `at` of every stratum; a kind of which all images are alike says nothing new."""
    found = {}
    for number, names in parts:
        there = np.unique(number[at])
        if len(there) > 1:
            found |= {names[i]: np.flatnonzero(number[at] == i) for i in there if i >= 0}
    return found


# Both take the frame apart once, and give a function that measures the rows `at` under weights (R, rows): all metrics,
# or those that are named in `only`.


def _classified(frame: pd.DataFrame) -> Callable[[np.ndarray, np.ndarray, Sequence[str]], dict[str, np.ndarray]]:
    probabilities, labels = frame.filter(regex=r"^p\d+$").to_numpy(float), frame["label"].to_numpy(int)

    def measure(at, weights, only):
        p = probabilities[at]
        p = p[:, ~np.isnan(p).all(axis=0)]  # another dataset of the study may have more classes
        wanted = [metric for metric in CLASSIFICATION if not only or metric.__name__ in only]
        return {metric.__name__: metric(labels[at], p, weights) for metric in wanted}

    return measure


def _segmented(frame: pd.DataFrame) -> Callable[[np.ndarray, np.ndarray, Sequence[str]], dict[str, np.ndarray]]:
    values = {name: frame[name].to_numpy(float) for name in SEGMENTATION if name in frame}

    def measure(at, weights, only):
        scores = {}
        for metric in [name for name in values if not only or name in only]:
            value = values[metric][at]
            defined = np.isfinite(value)
            with np.errstate(invalid="ignore"):
                scores[metric] = (weights @ np.where(defined, value, 0)) / (weights @ defined.astype(float))
        return scores

    return measure


# -------------------- intervals and contrasts


def intervals(drawn: Bootstrap, level: float = 0.95, strata: bool = False) -> pd.DataFrame:
    """The mean over seeds of every score, with an interval over seeds and patients.

    Percentiles of a two-level bootstrap: the patients were drawn by `bootstrap`, here the seeds are drawn. Of S seeds
    S - 1 are drawn, which makes the variance of a mean of few seeds come out right (Rao and Wu, JASA 1988). Then the
    percentiles are moved apart, or together, to the width of `contrast`, which knows Student's t for few seeds and
    patients. A single seed is taken as it is: the interval is then over patients alone. A single patient has none: its
    ends are NaN.

    strata: also those of the test images. Columns: those of `QUESTION`, then images_seen and images_seen_most (by the
    encoder that saw the fewest and by that which saw the most: folds differ in size), mean, low, high (the interval),
    seeds_low, seeds_high (the lowest seed and the highest), n_seeds, n_patients.
    """
    rows = []
    for key, at in _groups(drawn.units, strata):
        seen = drawn.units["images_seen"].iloc[at]
        said = dict(zip(QUESTION, key, strict=True)) | {"images_seen": seen.min(), "images_seen_most": seen.max()}
        (by_seed,), counts = _by_seed(drawn, [at])
        again = _seeds_drawn(by_seed, drawn.seed)
        again = again[0] + _wider(by_seed, again, counts["n_patients"], level) * (again - again[0])
        if said["metric"] == "ece":
            # A draw has fewer people, whose bins are off by more by chance alone, so that it lies above the estimate.
            again[1:] += again[0] - np.nanmean(again[1:])
        low, high = _percentiles(again, level)
        if said["metric"] not in UNBOUNDED:
            low, high = np.clip([low, high], 0, 1)
        rows.append(said | {"mean": again[0], "low": low, "high": high} | _ends(by_seed) | counts)
    return pd.DataFrame(rows, columns=[*QUESTION, "images_seen", "images_seen_most", "mean", *INTERVAL])


def contrast(drawn: Bootstrap, terms: Sequence[tuple[float, Mapping]], level: float = 0.95) -> dict:
    """A weighted sum of scores on the same seeds and patients: is it zero?

    terms: a weight and a selection each, as in [(1, {"method": "simclr", "task": "linear"}), (-1, {"method": "none",
        "task": "linear"})]. A selection names columns of `Bootstrap.units` with a value or a list of values; unless it
        says otherwise, it takes each task's main metric (`results.MAIN_METRIC`) on all test images (stratum ""). The
        score of a term is the mean over the questions that match, within each seed and fold. Seeds and folds that lack
        any of the questions are left out.

    Returns effect, low, high, p, seeds_low, seeds_high (the lowest and the highest effect in one seed), n_seeds,
    n_patients (of all terms together), share (how many of the dataset's patients these are: all five folds are 1). The
    interval is Student's t about the effect. Its variance is that of two crossed samples, seeds and patients: variance
    of the seeds' effects, plus that of the mean effect when patients are drawn, less what both count, the chance of one
    seed on one patient (Cameron, Gelbach and Miller, Journal of Business & Economic Statistics 2011; none below zero),
    its degrees of freedom Satterthwaite's (Biometrics Bulletin 1946). Where each seed is tested on patients of its own,
    this is the larger of the two variances. p is two-sided: 1 - p is the level whose interval ends at zero. In
    simulations the 95 % interval holds the truth in 92 to 99 % of all studies of three seeds or more, whether on the
    same patients or on others, and in no more than 89 % at worst where there are two. Of a single patient, and where no
    draw could be measured, low, high and p are NaN.

    Raises ValueError for a term that matches nothing, and when no seed has all that the terms ask for.
    """
    weights, at = [float(weight) for weight, _ in terms], [_select(drawn.units, where) for _, where in terms]
    tested = _tested(drawn, weights, at, level)
    if not tested["n_seeds"]:
        shared = " and ".join(_said(where) for _, where in terms)
        raise ValueError(f"no seed has all that is compared: {shared} have none in common")
    return tested | {"share": _share_tested(drawn, np.concatenate(at))}


def differences(drawn: Bootstrap, to: str = "none", level: float = 0.95, strata: bool = False) -> pd.DataFrame:
    """What each initialisation adds to the initialisation `to`: `contrast` with it, for every question.

    Two scores of one seed share their test patients, so the difference is better known than either score. Seeds that
    only one of the two has are left out; an initialisation without any common seed has no row. One family of `holm` is
    all comparisons of the study in the tasks' main metrics, which are what is looked at first; any other metric, and a
    metric in a stratum, is a family of its own.

    strata: also those of the test images. Columns: those of `QUESTION`, then to, difference, low, high, seeds_low,
    seeds_high, n_seeds, n_patients, p, family, p_holm.
    """
    groups = _groups(drawn.units, strata)
    where, start = dict(groups), QUESTION.index("initialisation")
    rows = []
    for key, at in groups:
        other = where.get((*key[:start], to, *key[start + 1 :]))
        if key[start] != to and other is not None:
            tested = _tested(drawn, [1.0, -1.0], [at, other], level)
            if tested["n_seeds"]:
                rows.append(dict(zip(QUESTION, key, strict=True)) | {"to": to, "difference": tested["effect"]} | tested)
    compared = pd.DataFrame(rows, columns=[*QUESTION, "to", "difference", *INTERVAL, "p"])
    return holm(compared.assign(family=_families(compared)))


def _families(compared: pd.DataFrame) -> pd.Series:
    """Which comparisons are looked at together; see `differences`."""
    whole = compared["stratum"] == ""
    named = compared["metric"].where(whole, compared["metric"] + ", " + compared["stratum"])
    return named.mask(whole & (compared["metric"] == compared["task"].map(MAIN_METRIC)), "main metrics")


def holm(compared: pd.DataFrame) -> pd.DataFrame:
    """Add `p_holm`: p as it must be read when all rows of one `family` were looked at.

    The smallest p of m is multiplied by m, the next by m - 1, and so on (Holm, Scandinavian Journal of Statistics
    1979): if nothing differs, any of them is below 0.05 in 5 % of all studies at most. NaN where p is.
    """
    from statsmodels.stats.multitest import multipletests

    adjusted = pd.Series(np.nan, index=compared.index, dtype=float)
    for _, p in compared["p"].dropna().groupby(compared["family"]):
        adjusted[p.index] = multipletests(p, method="holm")[1]
    return compared.assign(p_holm=adjusted)


def _groups(units: pd.DataFrame, strata: bool) -> list[tuple[tuple, np.ndarray]]:
    """The units of each question, settings and tasks in their order, random initialisation first."""
    rank = {name: i for i, name in enumerate([*MAIN_METRIC, *sorted(set(units["task"]) - set(MAIN_METRIC))])}
    groups = units.groupby(QUESTION).indices
    at = {name: i for i, name in enumerate(QUESTION)}

    def place(key):
        start = key[at["initialisation"]]
        measured = (rank[key[at["task"]]], key[at["metric"]], key[at["stratum"]], key[at["label_fraction"]])
        return (*key[: len(SETTING)], *measured, start != "none", start)

    return [(key, groups[key]) for key in sorted(groups, key=place) if strata or not key[at["stratum"]]]


def _select(units: pd.DataFrame, where: Mapping) -> np.ndarray:
    """The positions of the units that a term means; ValueError where there are none, or where a listed value lacks."""
    keep, lists = np.ones(len(units), bool), {}
    for column, wanted in ({"stratum": ""} | dict(where)).items():
        if column not in units:
            raise ValueError(f"{_said(where)}: scores have no {column!r}; choose among {', '.join(UNIT)}")
        wanted = list(wanted) if isinstance(wanted, (list, tuple, set)) else [wanted]
        there = set(units[column].unique())
        for value in wanted:
            if value not in there:
                known = ", ".join(map(str, sorted(there))) or "none"
                raise ValueError(f"{_said(where)}: no score has the {column} {value!r}; there are {known}")
        keep &= units[column].isin(wanted).to_numpy()
        lists |= {column: wanted} if len(wanted) > 1 else {}
    if "metric" not in where:
        keep &= (units["metric"] == units["task"].map(MAIN_METRIC)).to_numpy()
    if not keep.any():
        raise ValueError(f"{_said(where)}: no score has all of these together")
    there = set(units.loc[keep, list(lists)].itertuples(index=False, name=None))
    for each in itertools.product(*lists.values()) if lists else ():
        if each not in there:  # the mean over some of them would be another question
            raise ValueError(f"{_said(where)}: no score has {' and '.join(map(str, each))} together with the rest")
    return np.flatnonzero(keep)


def _said(where: Mapping) -> str:
    each = (
        f"{name} {' or '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in where.items()
    )
    return "(" + ", ".join(each) + ")"


def _by_seed(drawn: Bootstrap, at: Sequence[np.ndarray]) -> tuple[np.ndarray, dict]:
    """The score of each term in every seed that has all of them: (terms, seeds, 1 + replicates), and the counts of it.

    at: for each term the positions of its units.
    """
    in_blocks = [_in_blocks(drawn, of_term) for of_term in at]
    shared = sorted(set.intersection(*(set(blocks) for blocks, _ in in_blocks)))
    scores = np.stack([scores[np.searchsorted(blocks, shared)] for blocks, scores in in_blocks])
    used = np.concatenate([of_term[np.isin(drawn.block[of_term], shared)] for of_term in at])
    seed_of = drawn.units["seed"].to_numpy()[used[np.unique(drawn.block[used], return_index=True)[1]]]
    seeds = np.unique(seed_of)
    folds = (seed_of == seeds[:, None]) / (seed_of == seeds[:, None]).sum(axis=1, keepdims=True)  # (seeds, blocks)
    places = {place: used[drawn.place[used] == place] for place in np.unique(drawn.place[used])}
    # Small and large lesions are of different people, a difference on the same people counts them once: all together.
    n_patients = sum(len(np.unique(np.concatenate([drawn.patients[i] for i in of]))) for of in places.values())
    if _alone(drawn, used, len(seeds)):
        scores[:, :, 1:] = np.nan
    return folds @ scores, {"n_seeds": len(seeds), "n_patients": n_patients}


def _alone(drawn: Bootstrap, used: np.ndarray, seeds: int) -> bool:
    """Whether a question is tested on a single patient: drawn anew it is the same one, which says nothing of others.

    Where each of several seeds has another patient, their differences say it.
    """
    few = [i for i in used if len(drawn.patients[i]) < 2]
    for cell in np.unique(drawn.cell[few]):
        of = used[drawn.cell[used] == cell]
        if np.isin(of, few).all() and (seeds == 1 or len(np.unique(drawn.place[of])) == 1):
            return True
    return False


def _share_tested(drawn: Bootstrap, at: np.ndarray) -> float:
    """The share of a dataset's patients that the units `at` are tested on, for the dataset of which it is largest.

    A fold tests a fifth of them; folds that test the same patients are those of authors who have fixed who is tested.
    """
    units = drawn.units[["dataset", "fold"]].iloc[at].assign(place=drawn.place[at])
    counts = units.groupby("dataset").nunique()
    return float((counts["fold"] / FOLDS).where(counts["fold"] == counts["place"], 1.0).max())


def _in_blocks(drawn: Bootstrap, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The seeds and folds that have all questions of the units `at`, and the mean over these: (blocks, 1 + R)."""
    blocks, has = np.unique(drawn.block[at], return_counts=True)
    blocks = blocks[has == len(np.unique(drawn.cell[at]))]
    share = (drawn.block[at] == blocks[:, None]) / max(has, default=1)
    return blocks, share @ drawn.scores[at]


def _ends(by_seed: np.ndarray) -> dict[str, float]:
    return {"seeds_low": by_seed[:, 0].min(), "seeds_high": by_seed[:, 0].max()}


def _tested(drawn: Bootstrap, weights: Sequence[float], at: Sequence[np.ndarray], level: float) -> dict:
    """What `contrast` returns, for terms that are given by the positions of their units."""
    from scipy import stats

    by_seed, counts = _by_seed(drawn, at)
    by_seed = np.tensordot(weights, by_seed, axes=1)
    if not counts["n_seeds"]:
        return counts
    effect = by_seed[:, 0].mean()
    error, freedom = _error(by_seed, counts["n_patients"])
    reach = error * stats.t.ppf((1 + level) / 2, freedom)
    low, high = effect - reach, effect + reach
    if not set(drawn.units["metric"].iloc[np.concatenate(at)]) & set(UNBOUNDED):
        low = max(low, sum(min(weight, 0) for weight in weights))
        high = min(high, sum(max(weight, 0) for weight in weights))
    p = float(effect == 0) if error == 0 else 2 * stats.t.sf(abs(effect) / error, freedom)
    return {"effect": effect, "low": low, "high": high, "p": p} | _ends(by_seed) | counts


def _error(by_seed: np.ndarray, n_patients: int) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean over seeds; see `contrast`.

    by_seed: (S, 1 + R), column 0 as measured, the others with the patients drawn anew. NaN where no draw is finite.
    """
    again = by_seed[:, 1:][:, np.isfinite(by_seed[:, 1:]).all(axis=0)]
    if not again.shape[1]:
        return np.nan, np.nan
    S, n = len(by_seed), max(n_patients, 2)
    patients = again.mean(axis=0).var() * n / (n - 1)  # a sample's own variance is too small by this
    if S == 1:
        return np.sqrt(patients), n - 1
    seeds = by_seed[:, 0].var(ddof=1) / S
    both = max(again.var(axis=1).mean() * n / (n - 1) - patients, 0) / (S - 1)
    variance = max(seeds - both, 0) + max(patients - both, 0) + both
    if variance == 0:
        return 0.0, S - 1
    return np.sqrt(variance), variance**2 / (seeds**2 / (S - 1) + patients**2 / (n - 1) + both**2 / ((S - 1) * (n - 1)))


def _seeds_drawn(by_seed: np.ndarray, seed: int) -> np.ndarray:
    """The mean over seeds (1 + R,): as measured, then again and again with patients and seeds drawn.

    Of S seeds S - 1 are drawn; a single seed is taken as it is.
    """
    S = len(by_seed)
    times = _multiplicities(S, max(S - 1, 1), by_seed.shape[1] - 1, np.random.default_rng([seed, 0]))
    return (times * by_seed.T).sum(axis=1) / times.sum(axis=1)


def _wider(by_seed: np.ndarray, again: np.ndarray, n_patients: int, level: float) -> float:
    """How much wider than the spread of `again` an interval must be to be as wide as that of `contrast`."""
    from scipy import stats

    spread = np.nanstd(again)
    if not spread > 0:
        return 1.0
    error, freedom = _error(by_seed, n_patients)
    return error * stats.t.ppf((1 + level) / 2, freedom) / (spread * stats.norm.ppf((1 + level) / 2))


def _percentiles(again: np.ndarray, level: float, method: str = "linear") -> tuple[float, float]:
    """The ends of the interval that holds the share `level` of what was drawn: all columns of `again` but the first."""
    found = again[1:][~np.isnan(again[1:])]
    return tuple(np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method=method)) if len(found) else (np.nan,) * 2


# -------------------- many comparisons at a glance


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of initialisations, 1 is best, and how far apart two must be to differ (`critical_difference`).

    mean: by initialisation, best first. blocks: how many seeds and folds were ranked. alike: groups of neighbours in
    rank that do not differ, as lists of names.
    """

    mean: pd.Series
    critical_difference: float
    blocks: int
    alike: list[list[str]]


def critical_difference(drawn: Bootstrap, metrics: Mapping[str, str] = MAIN_METRIC, level: float = 0.95) -> Ranks:
    """Rank the initialisations in every task: how far apart must two mean ranks be (Nemenyi; Demsar, JMLR 2006)?

    They are ranked by their mean score over label fractions, in each setting, task, seed and fold that has all of them;
    `supervised`, which learnt from all labels, is no rival and not ranked. The rankings of one seed and fold share
    encoders and patients, so they count as one block, and their mean as one rank, which varies less: the distance is
    rather too large than too small. Seeds that share their test patients tell of further seeds only. Ranks use the
    order of the scores: the figure is a summary, and the intervals of `differences` are the evidence.

    metrics: which metric stands for each task. Raises ValueError for fewer than three initialisations or two blocks.
    """
    from scipy import stats

    units = drawn.units
    shown = (units["metric"] == units["task"].map(metrics)) & (units["stratum"] == "")
    shown &= units["method"] != "supervised"
    better = np.where(units["metric"].isin(LOWER_IS_BETTER), -1, 1)
    scores = units.assign(score=better * drawn.scores[:, 0])[shown]
    scores = scores.pivot_table("score", [*SETTING, "task", "seed", "fold"], "initialisation").dropna()
    n, k = scores.groupby(["seed", "fold"]).ngroups, scores.shape[1]
    if k < 3 or n < 2:
        raise ValueError(
            f"a critical difference needs three initialisations and two seeds that have all of them, not {k} and {n}"
        )
    ranks = scores.rank(axis=1, ascending=False).groupby(["seed", "fold"]).mean()
    mean = ranks.mean().sort_values(kind="stable")
    apart = stats.studentized_range.ppf(level, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    reach = [np.flatnonzero(mean.to_numpy() - start <= apart)[-1] for start in mean]
    alike = [
        mean.index[i : end + 1].tolist()
        for i, end in enumerate(reach)
        if end > i and (i == 0 or end > reach[i - 1])  # not a part of the group before
    ]
    return Ranks(mean, float(apart), n, alike)


# -------------------- how many labels pretraining is worth


def labels_worth(
    drawn: Bootstrap, to: str = "none", level: float = 0.95, metrics: Mapping[str, str] = MAIN_METRIC
) -> pd.DataFrame:
    """The label fraction at which the initialisation `to` reaches what another one reaches with fewer labels.

    The curve of `to` is made to rise (isotonic regression of its mean over seeds) and is read between its label
    fractions on a logarithmic scale. It is never continued: what it does not reach is worth inf, what it exceeds with
    the fewest labels is worth no more than that fraction. The interval holds the percentiles of the curves of drawn
    patients and drawn seeds, whose distance from the measured curves is stretched as in `intervals`.

    Columns: those of `QUESTION`, then to, worth, low, high (label fractions), said (the three in words), n_seeds,
    n_patients. A curve of `to` needs two label fractions.
    """
    from scipy.optimize import isotonic_regression

    curves = {}
    for key, at in _groups(drawn.units, strata=False):
        of = dict(zip(QUESTION, key, strict=True))
        if metrics.get(of["task"]) == of["metric"]:
            fraction = of.pop("label_fraction")
            curves.setdefault(tuple(of.items()), {})[fraction] = at
    rows = []
    for key, mine in curves.items():
        of = dict(key)
        scratch = curves.get(tuple((of | {"initialisation": to}).items()), {})
        if of["initialisation"] == to or len(scratch) < 2:
            continue
        scores, counts = _by_seed(drawn, [*mine.values(), *scratch.values()])
        if not counts["n_seeds"]:
            continue
        apart = scores[: len(mine)].mean(axis=0) - scores[len(mine) :].mean(axis=0)
        wider = _wider(apart, _seeds_drawn(apart, drawn.seed), counts["n_patients"], level)
        again = np.stack([_seeds_drawn(by_seed, drawn.seed) for by_seed in scores])  # (label fractions of both, 1 + R)
        again = again[:, :1] + wider * (again - again[:, :1])
        again *= -1 if of["metric"] in LOWER_IS_BETTER else 1
        again = again[:, np.isfinite(again).all(axis=0)]
        rising = np.apply_along_axis(lambda curve: isotonic_regression(curve).x, 0, again[len(mine) :])
        for fraction, score in zip(mine, again, strict=False):
            worth = _reached(score, rising, np.array(list(scratch)))
            ends = _percentiles(worth, level, "inverted_cdf")  # of values that may be infinite there is no mean
            worths = dict(zip(("worth", "low", "high"), (worth[0], *ends), strict=True))
            ends = [_in_labels(value, min(scratch), max(scratch)) for value in worths.values() if not np.isnan(value)]
            said = "{} [{}, {}]".format(*ends) if len(ends) == 3 else ends[0]
            rows.append(of | {"label_fraction": fraction, "to": to, "said": said} | worths | counts)
    return pd.DataFrame(rows, columns=[*QUESTION, "to", "worth", "low", "high", "said", "n_seeds", "n_patients"])


def _reached(score: np.ndarray, rising: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Where each of the rising curves (F, R) over label fractions (F,) reaches its score (R,); inf where nowhere."""
    after = (rising < score).sum(axis=0)  # the first label fraction that is good enough
    within = (after > 0) & (after < len(fractions))
    i, at = after[within], np.flatnonzero(within)
    below, above, x = rising[i - 1, at], rising[i, at], np.log(fractions)
    found = np.where(after == 0, fractions[0], np.inf)
    found[within] = np.exp(x[i - 1] + (score[at] - below) / (above - below) * (x[i] - x[i - 1]))
    return found


def _in_labels(worth: float, fewest: float, most: float) -> str:
    """A label fraction that was read from a curve, in words; the curve reaches from the fewest labels to the most."""
    if np.isinf(worth):
        return f"more than {percent(most)}"
    return f"at most {percent(fewest)}" if worth <= fewest else percent(float(f"{worth:.2g}"))
