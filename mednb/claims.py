"""Claims: what a work says, as a comparison that a study can settle, and the verdict of the study's numbers on it.

A study file lists them:

    claims:
      - id: C0.2
        sentence: On ultrasound, BYOL and MoCo are at least as good as SimCLR.
        task: linear                              # and the task's main metric, unless `metric` names another
        where: {dataset: busi, label_fraction: 1.0}              # what all sides have in common
        more: {pretrained_on: busi}
        than: {pretrained_on: busi, method: simclr}
        each: {more.method: [byol, moco]}         # one comparison for each value; here both have to hold
        expects: at least
        smallest: 0.01                            # the smallest difference that matters, in the metric's units

`where`, `more` and `than` select numbers by columns of results.csv. What is compared with weights other than 1 and -1
is written as `contrast: [{weight: 1, where: {...}}, ...]`: a difference of differences, for example.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from mednb import files, metrics, results
from mednb.results import COLUMNS, MAIN_METRIC, markdown
from mednb.study.values import choose

EXPECTS = ("more", "at least", "no difference")
VERDICTS = ("supported", "contradicted", "undecided", "not tested")
# Of a score, which is the mean over the draws of the labelled images, and of test.
NOT_SELECTED = ("study", "run", "draw", "split", "value", "n_patients", "n_images")
SELECTED_BY = [*(name for name in COLUMNS if name not in NOT_SELECTED), "initialisation"]
HOPELESS = 50  # times as much evidence: more than anybody will collect


@dataclass(frozen=True)
class Claim:
    """What a work says, and by which comparisons of a study's numbers it stands or falls.

    combine: how many of the comparisons have to hold: "all", "any", or a number.
    expects: the effect (`more` minus `than`) is "more" than zero by what matters, "at least" zero but for what does
        not matter, or there is "no difference" that matters. What matters is `smallest`.
    untestable: why no comparison of numbers settles this, instead of one.
    """

    id: str
    sentence: str
    work: str = ""
    task: str = ""
    metric: str = ""
    stratum: str = ""
    where: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)
    than: dict = field(default_factory=dict)
    contrast: list = field(default_factory=list)
    each: dict = field(default_factory=dict)
    combine: str | int = "all"
    expects: str = "more"
    smallest: float = 0.0
    untestable: str = ""

    def needed(self, of: int) -> int:
        """How many of so many comparisons have to hold."""
        return {"all": of, "any": 1}.get(self.combine) or min(self.combine, of)

    def comparisons(self) -> dict[str, list[tuple[float, dict]]]:
        """What is compared in words -> its terms, each a weight and a selection, as `statistics.contrast` takes them.

        The words are the values of `each`; "" where there is one comparison only.
        """
        if self.untestable:
            return {}
        said = {"task": self.task, "metric": self.metric, "stratum": self.stratum}
        shared = {name: value for name, value in said.items() if value}
        sides = {"more": self.more, "than": self.than}
        weights = {"more": 1.0, "than": -1.0}
        if self.contrast:
            sides = {str(nth): term["where"] for nth, term in enumerate(self.contrast)}
            weights = {str(nth): float(term["weight"]) for nth, term in enumerate(self.contrast)}
        found = {}
        for values in itertools.product(*(self.each[key] for key in self.each)):
            of = {side: {} for side in sides}
            for key, value in zip(self.each, values, strict=True):
                side, _, column = key.rpartition(".")
                for own in [side] if side else sides:
                    of[own][column] = value
            selected = {side: shared | self.where | sides[side] | of[side] for side in sides}
            found[", ".join(map(str, values))] = [(weights[side], selected[side]) for side in sides]
        return found


@dataclass(frozen=True)
class Verdict:
    """What a study's numbers say about a claim.

    word: one of `VERDICTS`. comparisons: a row for each, with what (in words), effect, low, high, p, n_seeds,
    n_patients, verdict, and missing (why it could not be made; ""). why: the reason for the word, in a sentence.
    decides: what evidence would decide, in a sentence; "" where the claim is decided.
    """

    claim: Claim
    word: str
    comparisons: pd.DataFrame
    why: str
    decides: str = ""


# -------------------- what is claimed


def read(listed: Iterable[dict], work: str = "") -> list[Claim]:
    """The claims of a study file; all that is wrong with them is one ValueError, a line for each."""
    wrong, found = [], []
    for nth, said in enumerate(listed, start=1):
        where = f"claims: {said.get('id', f'number {nth}')}"
        faults = list(faults_of(said))
        wrong += [f"{where}: {fault}" for fault in faults]
        if not faults:
            claim = Claim(**({"work": work} | said))
            wrong += [f"{where}: there are two claims of this id"] if claim.id in {each.id for each in found} else []
            found.append(claim)
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def faults_of(said: dict):
    """A sentence for everything that is wrong with one claim as a study file says it."""
    known = [each.name for each in fields(Claim)]
    for key in said:
        if key not in known:
            yield f"{key}: unknown key; {choose(key, known)}"
    for key, kind in {**dict.fromkeys(("where", "more", "than", "each"), dict), "contrast": list}.items():
        if not isinstance(said.get(key, kind()), kind):
            yield f"{key}: {said[key]!r} is no {'mapping of columns to values' if kind is dict else 'list of terms'}"
            return
    if not all(said.get(key) and isinstance(said[key], (str, int, float)) for key in ("id", "sentence")):
        yield "a claim has an id and a sentence"
    if said.get("untestable"):
        return
    if said.get("task") not in list(MAIN_METRIC):
        yield f"task: there is no task {said.get('task')!r}; {choose(said.get('task'), MAIN_METRIC)}"
    elif (said.get("metric") or MAIN_METRIC[said["task"]]) not in (known := metrics.of(said["task"])):
        yield f"metric: {said['task']} has no {said['metric']!r}; {choose(said['metric'], known)}"
    if said.get("expects", "more") not in EXPECTS:
        yield f"expects: {said['expects']!r}; {choose(said['expects'], EXPECTS)}"
    smallest = said.get("smallest")
    if isinstance(smallest, bool) or not isinstance(smallest, (int, float)) or not smallest >= 0:
        yield f"smallest: {smallest!r}; it is the smallest difference that matters, 0 or more, in the metric's units"
    elif smallest == 0 and said.get("expects") == "no difference":
        yield "smallest: 0; no study can show that there is no difference at all, say which one would matter"
    combine = said.get("combine", "all")
    if combine not in ("all", "any") and not (type(combine) is int and combine > 0):
        yield f"combine: {combine!r}; it is all, any, or how many of the comparisons have to hold"
    if bool(said.get("contrast")) == bool(said.get("more") or said.get("than")):
        yield "it compares by `more` and `than`, or by a `contrast`"
        return
    terms = said.get("contrast", [])
    for term in terms:
        if not isinstance(term, dict) or term.keys() != {"weight", "where"} or not isinstance(term["where"], dict):
            yield f"contrast: {term!r} is not {{weight: 1, where: {{...}}}}"
            return
        if type(term["weight"]) not in (int, float) or not math.isfinite(term["weight"]):
            yield f"contrast: the weight {term['weight']!r} is no number; write it out, 0.333 for a third"
    each = said.get("each", {})
    asked = {side for side in ("more", "than") if said.get(side)} | {str(key).partition(".")[0] for key in each}
    for side in {"more", "than"} - asked if not terms else ():
        yield f"{side}: nothing is selected; say it by `{side}`, or by `{side}.` and a column in `each`"
    for key, values in each.items():
        if not isinstance(values, list) or not values:
            yield f"each.{key}: {values!r} is no list of values"
        if str(key).rpartition(".")[0] not in ("", *(() if terms else ("more", "than"))):
            yield f"each.{key}: a side is called more or than"
    sides = [said.get(key, {}) for key in ("where", "more", "than")] + [term["where"] for term in terms]
    for task in each["task"] if isinstance(each.get("task"), list) else ():
        if task not in list(MAIN_METRIC):
            yield f"each.task: there is no task {task!r}; {choose(task, MAIN_METRIC)}"
    for column in dict.fromkeys([*itertools.chain(*sides), *(str(key).rpartition(".")[2] for key in each)]):
        if column not in SELECTED_BY:
            yield f"numbers have no column {column!r}; {choose(column, SELECTED_BY)}"
    for value in itertools.chain(*(side.values() for side in sides), *(v for v in each.values() if type(v) is list)):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (list, dict)):
                yield f"{one!r} is no value of a column"
            if isinstance(one, str) and one.startswith("$"):
                yield f"{one} is no name of this study"


def of(study: str | Path) -> tuple[list[Claim], list[str]]:
    """The claims of the study in a folder, and its stand-ins, as `mednb run` left them in claims.json."""
    path = Path(study) / "claims.json"
    if not path.is_file():
        return [], []
    said = files.read_json(path)
    return read(said["claims"], said["study"]), said["stand_ins"]


# -------------------- what becomes of it


def judge(claim: Claim, drawn, level: float = 0.95) -> Verdict:
    """The verdict of the numbers in `drawn` (a `statistics.Bootstrap`) on a claim.

    Where k of n comparisons have to hold, at least k must be supported by intervals of the level 1 - (1 - level) /
    (n - k + 1), and to be contradicted at least n - k + 1 must be, at 1 - (1 - level) / k: what is picked from many has
    to be clearer (Benjamini and Heller, Biometrics 2008). A comparison that the study lacks counts as undecided.
    """
    from mednb import statistics

    compared = claim.comparisons()
    n = len(compared)
    if claim.untestable or not n:
        return Verdict(claim, "not tested", pd.DataFrame(), claim.untestable)
    k = claim.needed(n)
    holds, fails = (1 - (1 - level) / among for among in (n - k + 1, k))
    rows = []
    for what, terms in compared.items():
        row = {"what": what, "missing": ""}
        try:
            found = {each: statistics.contrast(drawn, terms, each) for each in {holds, fails, level}}
        except ValueError as error:
            rows.append(row | {"verdict": "not tested", "missing": str(error)})
            continue
        words = [decide(claim, *(found[each][end] for end in ("effect", "low", "high"))) for each in (holds, fails)]
        word = "supported" if words[0] == "supported" else words[1] if words[1] == "contradicted" else "undecided"
        effect = found[level]["effect"]
        side = "supported" if decide(claim, effect, effect, effect) == "supported" else "contradicted"
        asked = found[holds if side == "supported" else fails]
        times = times_as_much(claim, effect, asked["low"], asked["high"])
        rows.append(row | found[level] | {"verdict": word, "side": side, "times": times})
    rows = pd.DataFrame(rows)
    count = {word: int((rows["verdict"] == word).sum()) for word in VERDICTS}
    if count["not tested"] == n:
        return Verdict(claim, "not tested", rows, sentence_of(rows["missing"].iloc[0]))
    if count["supported"] >= k:
        word = "supported"
    elif count["contradicted"] >= n - k + 1:
        word = "contradicted"
    else:
        word = "undecided"
    return Verdict(claim, word, rows, reason(claim, rows, k), further(rows, k) if word == "undecided" else "")


def decide(claim: Claim, effect: float, low: float, high: float) -> str:
    """Whether one comparison supports or contradicts the claim, from its effect and interval."""
    matters = claim.smallest
    if not all(map(math.isfinite, (effect, low, high))):
        return "undecided"
    supported, contradicted = {
        "more": (low > 0 and effect >= matters, high < matters),
        "at least": (low > -matters, high < -matters),
        "no difference": (-matters < low and high < matters, low > matters or high < -matters),
    }[claim.expects]
    return "supported" if supported else "contradicted" if contradicted else "undecided"


def reason(claim: Claim, rows: pd.DataFrame, k: int) -> str:
    """The numbers behind a verdict: the effect with its interval, or how many comparisons said what."""
    asked = {
        "more": f"above 0 beyond chance, and {signed(claim.smallest)} or more",
        "at least": f"beyond chance no less than {signed(-claim.smallest)}",
        "no difference": f"beyond chance less than {claim.smallest:g} either way",
    }[claim.expects]
    tested = rows[rows["verdict"] != "not tested"]
    if len(rows) == 1:
        row = tested.iloc[0]
        return f"effect {signed(row['effect'])} {bracket(row['low'], row['high'])}; asked for: {asked}"
    n, words = len(rows), ("supported", "contradicted", "undecided", "not tested")
    said = ", ".join(f"{count} {word}" for word in words if (count := int((rows["verdict"] == word).sum())))
    low, high = tested["effect"].min(), tested["effect"].max()
    have_to = "all" if k == n else "one" if k == 1 else f"{k}"
    effects = f"effects from {signed(low)} to {signed(high)}" if len(tested) > 1 else f"effect {signed(low)}"
    return f"{n} comparisons, of which {have_to} had to hold: {said}; {effects}; asked for: {asked}"


def further(rows: pd.DataFrame, k: int) -> str:
    """How much more evidence would decide, and how: it brings as many intervals as it takes off what they reach over.

    rows: all comparisons, of which k have to hold: the `side` that each leans to, its seeds, patients, the `share` of
    the dataset that these are, and `times_as_much`. The width of an interval falls with the root of the evidence; the
    effects are taken to stay.
    """
    ways = []
    for side, needed in (("supported", k), ("contradicted", len(rows) - k + 1)):
        leaning = rows[rows["side"] == side].sort_values("times")
        if len(leaning) >= needed:
            ways.append((leaning["times"].iloc[needed - 1], side, leaning.iloc[:needed]))
    if not ways:
        return "The comparisons that are missing would decide."
    times, side, those = min(ways, key=lambda way: way[0])
    if those.get("low", pd.Series()).isna().any():
        return "It takes more test patients: of so few there is no interval."
    seeds, patients = int(those["n_seeds"].min()), int(those["n_patients"].min())
    alone = " A single seed says nothing of other seeds: several are needed in any case." if seeds == 1 else ""
    if times > HOPELESS:
        return (
            f"Of more seeds and patients it would take more than {HOPELESS} times as many: the effect is too near "
            f"to what was asked for.{alone}"
        )
    further_patients = f"{math.ceil(patients * times):,}"
    needed = f"{math.ceil(seeds * times)} and {further_patients} instead of {seeds} and {patients:,}"
    beyond = ""
    if times * those["share"].max() > 1:
        needed = f"{further_patients} patients instead of {patients:,}"
        tested = "Whoever can be tested is tested already" if those["share"].max() == 1 else "Its five folds hold fewer"
        beyond = f" {tested}: it takes another dataset, or a larger one."
    return (
        f"If the effects stay as they are, about {number(times)} times as many seeds and test patients ({needed}) "
        f"would have it {side}.{beyond}{alone}"
    )


def times_as_much(claim: Claim, effect: float, low: float, high: float) -> float:
    """How many times the evidence it takes until an interval around the same effect no longer reaches what it must not.

    `claim` says what that is: infinite where the effect lies on it.
    """
    matters = claim.smallest
    gap = {
        "more": effect if effect >= matters else matters - effect,
        "at least": abs(effect + matters),
        "no difference": abs(abs(effect) - matters),
    }[claim.expects]
    reach = max(high - effect, effect - low)
    return (reach / gap) ** 2 if gap > 0 and math.isfinite(reach) else math.inf


def number(times: float) -> str:
    return f"{times:.1f}" if times < 3 else f"{math.ceil(times)}"


def signed(value: float) -> str:
    """A difference as people write it: +0.012, −0.300."""
    return f"{value:+.3f}".replace("-", "−")


def bracket(low: float, high: float) -> str:
    return results.bracket(low, high, signed)


def sentence_of(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# -------------------- for people


def table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """A row for each comparison of each claim: work, id, claim, verdict (on the claim), task, what, its own numbers."""
    columns = ["effect", "low", "high", "p", "n_seeds", "n_patients"]
    rows = []
    for verdict in verdicts:
        claim = verdict.claim
        said = {"work": claim.work, "id": claim.id, "claim": claim.sentence, "verdict": verdict.word}
        said |= {"why": verdict.why, "would_decide": verdict.decides, "task": claim.task, "expects": claim.expects}
        said |= {"smallest": claim.smallest}
        for row in verdict.comparisons.to_dict("records") or [{}]:
            mine = {"what": row.get("what", ""), "of_this": row.get("verdict", "not tested")}
            rows.append(said | mine | {name: row.get(name, math.nan) for name in columns})
    return pd.DataFrame(rows)


def write(out: str | Path, verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Write `out/claims.csv` (a row for each comparison), claims.md and claims.tex (a line for each claim).

    A study without claims has none of them. Returns for people: id, verdict, claim, why, would_decide.
    """
    verdicts = list(verdicts)
    shown = pd.DataFrame(
        [[v.claim.id, v.word, v.claim.sentence, v.why, v.decides] for v in verdicts],
        columns=["id", "verdict", "claim", "why", "would_decide"],
    )
    texts = {"claims.csv": table(verdicts).to_csv(index=False, lineterminator="\n"), "claims.md": markdown(shown)}
    texts["claims.tex"] = shown.to_latex(
        index=False, escape=True, column_format="llp{5cm}p{5cm}p{4cm}"
    )  # sentences wrap
    for name, text in texts.items():
        if not verdicts:
            (Path(out) / name).unlink(missing_ok=True)  # an older one would belong to an older study
            continue
        with files.whole(Path(out) / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return shown
