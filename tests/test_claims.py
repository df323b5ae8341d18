"""Claims are judged by intervals, the more strictly the more is picked from, and say what is missing to judge them."""

import json
import math

import fake_runs
import pandas as pd
import pytest
from fake_runs import cases

from mednb import claims, results, statistics
from mednb.claims import Claim

SAID = {"id": "C1", "sentence": "It helps.", "task": "linear", "smallest": 0.01}
PAIR = {"more": {"method": "simclr"}, "than": {"method": "none"}}


def wrong(**more) -> str:
    with pytest.raises(ValueError) as caught:
        claims.read([SAID | PAIR | more])
    return str(caught.value)


def claim(**more) -> Claim:
    return claims.read([SAID | PAIR | more], "seeds")[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """simclr is much better than none, byol much worse, moco the same."""
    effects = {"none": 0.0, "simclr": 3.0, "byol": -3.0, "moco": 0.0}
    of = fake_runs.images(100, 16)
    values = {"stages": ("classify", "segment"), "tasks": ("linear",), "fractions": (0.1, 1.0), "seeds": (0, 1, 2)}
    study = fake_runs.write_study(
        tmp_path_factory.mktemp("runs") / "s", tuple(effects), effects=effects, of=of, **values
    )
    frames = (results.gather(study, name) for name in ("predictions.parquet", "cases.parquet"))
    return statistics.bootstrap(*frames, replicates=200)


# -------------------- what is claimed


def test_a_short_claim_compares_two_sides():
    shared = {"task": "linear", "label_fraction": 1.0}
    assert claim(where={"label_fraction": 1.0}).comparisons() == {
        "": [(1.0, shared | {"method": "simclr"}), (-1.0, shared | {"method": "none"})]
    }
    (_, more), _ = claim(metric="f1", stratum="size: small").comparisons()[""]
    assert (more["metric"], more["stratum"]) == ("f1", "size: small")


def test_each_makes_a_comparison_for_every_combination_and_tells_the_sides_apart():
    compared = claim(each={"more.method": ["simclr", "byol"], "task": ["linear", "segment"]}).comparisons()
    assert list(compared) == ["simclr, linear", "simclr, segment", "byol, linear", "byol, segment"]
    (_, more), (_, than) = compared["byol, segment"]
    assert (more["method"], than["method"]) == ("byol", "none")
    assert more["task"] == than["task"] == "segment"


def test_a_contrast_has_the_weights_it_is_given():
    terms = [{"weight": weight, "where": {"label_fraction": 0.1}} for weight in (1, -1, 0.5)]
    compared = claims.read([SAID | {"where": {"dataset": "d"}, "contrast": terms}])[0].comparisons()[""]
    assert [weight for weight, _ in compared] == [1.0, -1.0, 0.5]
    assert {term["dataset"] for _, term in compared} == {"d"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"expect": "more"}, "C1: expect: unknown key; did you mean 'expects'?"),
        ({"expects": "less"}, "C1: expects: 'less'; Choose from more, at least, no difference"),
        ({"task": "lineal"}, "did you mean 'linear'?"),
        ({"metric": "dice"}, "C1: metric: linear has no 'dice'; Choose from balanced_accuracy, auroc"),
        ({"metric": "aurc"}, "metric: linear has no 'aurc'; did you mean 'auroc'?"),
        ({"task": "segment", "metric": "auroc"}, "segment has no 'auroc'; Choose from dice, iou"),
        ({"smallest": None}, "smallest: None; it is the smallest difference that matters"),
        ({"smallest": -1}, "smallest: -1"),
        ({"smallest": 0, "expects": "no difference"}, "no study can show that there is no difference at all"),
        ({"combine": 0}, "combine: 0; it is all, any, or how many"),
        ({"where": {"metod": "simclr"}}, "no column 'metod'; did you mean 'method'?"),
        ({"where": "simclr"}, "where: 'simclr' is no mapping"),
        ({"where": {"dataset": "$us"}}, "$us is no name of this study"),
        ({"each": {"method": "simclr"}}, "each.method: 'simclr' is no list of values"),
        ({"each": {"less.method": ["simclr"]}}, "a side is called more or than"),
        ({"each": {"task": ["lineal"]}}, "each.task: there is no task 'lineal'"),
        ({"contrast": [{"weight": 1}]}, "by `more` and `than`, or by a `contrast`"),
        ({"sentence": ""}, "a claim has an id and a sentence"),
        ({"id": ["a"]}, "a claim has an id and a sentence"),
        ({"task": ["linear"]}, "there is no task ['linear']; did you mean 'linear'? Choose from knn, linear"),
        ({"each": {"task": [["x"]]}}, "each.task: there is no task ['x']"),
        ({"each": {"task": "linear"}}, "each.task: 'linear' is no list of values"),
        ({"each": {5: [1]}}, "numbers have no column '5'; Choose from dataset"),
        ({"than": {}}, "than: nothing is selected; say it by `than`, or by `than.` and a column in `each`"),
        ({"more": {}, "each": {"than.method": ["byol"]}}, "more: nothing is selected"),
        ({"where": {"draw": 0}}, "numbers have no column 'draw'; Choose from dataset"),
        ({"where": {"method": {"a": 1}}}, "{'a': 1} is no value of a column"),
        ({"smallest": math.nan}, "smallest: nan"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(more, sentence):
    assert sentence in wrong(**more)


@pytest.mark.parametrize("weight", ["1/3", [1], None, math.inf])
def test_a_weight_that_is_no_number_is_refused(weight):
    terms = [{"weight": weight, "where": {"method": "simclr"}}, {"weight": -1, "where": {"method": "none"}}]
    with pytest.raises(ValueError, match=r"C1: contrast: the weight .* is no number; write it out, 0.333 for a third"):
        claims.read([SAID | {"contrast": terms}])


def test_what_a_claim_may_select_by_scores_have():
    assert set(claims.SELECTED_BY) <= set(statistics.UNIT)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match=r"(?s)C1: expects.*C1: combine.*C2: there are two") as caught:
        second = SAID | PAIR | {"id": "C2"}
        claims.read([SAID | PAIR | {"expects": "less", "combine": "some"}, second, second])
    assert len(str(caught.value).split("\n")) == 3


# -------------------- one comparison


@pytest.mark.parametrize(
    ("expects", "low", "effect", "high", "word"),
    [
        ("more", 0.01, 0.03, 0.05, "supported"),
        ("more", 0.001, 0.01, 0.03, "undecided"),  # more than nothing, but is it more than what matters?
        ("more", -0.01, 0.03, 0.05, "undecided"),
        ("more", -0.01, 0.005, 0.015, "contradicted"),
        ("at least", -0.015, 0.0, 0.015, "supported"),
        ("at least", -0.03, 0.0, 0.03, "undecided"),
        ("at least", -0.06, -0.04, -0.021, "contradicted"),
        ("no difference", -0.015, 0.0, 0.015, "supported"),
        ("no difference", -0.03, 0.0, 0.015, "undecided"),
        ("no difference", 0.03, 0.05, 0.07, "contradicted"),
        ("no difference", -0.07, -0.05, -0.03, "contradicted"),
        ("more", math.nan, 0.05, math.nan, "undecided"),
    ],
)
def test_an_interval_decides(expects, low, effect, high, word):
    assert claims.decide(claim(expects=expects, smallest=0.02), effect, low, high) == word


@pytest.mark.parametrize("expects", claims.EXPECTS)
@pytest.mark.parametrize("effect", [-0.05, -0.012, 0.0, 0.004, 0.011, 0.05])
def test_as_much_evidence_as_it_says_would_decide_and_less_would_not(expects, effect):
    of, reach = claim(expects=expects), 0.2
    assert claims.decide(of, effect, effect - reach, effect + reach) == "undecided"
    needed = reach / math.sqrt(claims.times_as_much(of, effect, effect - reach, effect + reach))
    assert claims.decide(of, effect, effect - 0.99 * needed, effect + 0.99 * needed) != "undecided"
    assert claims.decide(of, effect, effect - 1.01 * needed, effect + 1.01 * needed) == "undecided"


# -------------------- the verdict


@pytest.mark.parametrize(("method", "word"), [("simclr", "supported"), ("byol", "contradicted")])
def test_what_was_planted_is_found(drawn, method, word):
    verdict = claims.judge(claim(more={"method": method}, where={"label_fraction": 1.0}), drawn)
    assert verdict.word == word
    row, compared = verdict.comparisons.iloc[0], statistics.differences(drawn)
    asked = "task == 'linear' and metric == 'auroc' and label_fraction == 1.0"
    same = compared.query(f"initialisation == '{method}' and {asked}").iloc[0]
    assert (row["effect"], row["low"], row["high"]) == (same["difference"], same["low"], same["high"])
    assert f"effect {claims.signed(row['effect'])} [" in verdict.why
    assert verdict.decides == ""


def test_what_may_be_chance_is_undecided_and_says_what_would_decide(drawn):
    verdict = claims.judge(claim(more={"method": "moco"}, where={"label_fraction": 1.0}, smallest=0.001), drawn)
    assert verdict.word == "undecided"
    row = verdict.comparisons.iloc[0]
    assert row["low"] < 0 < row["high"]
    assert "times as many" in verdict.decides


@pytest.mark.parametrize(
    ("methods", "combine", "word"),
    [
        (["simclr", "byol"], "all", "contradicted"),
        (["simclr", "byol"], "any", "supported"),
        (["simclr", "byol"], 1, "supported"),
        (["simclr", "byol"], 2, "contradicted"),
        (["byol", "moco"], "any", "undecided"),
        (["simclr", "moco"], "all", "undecided"),
        (["simclr", "absent"], "all", "undecided"),
        (["byol", "absent"], "all", "contradicted"),
        (["absent"], "all", "not tested"),
    ],
)
def test_comparisons_are_put_together_as_the_claim_says(drawn, methods, combine, word):
    of = claim(more={}, each={"more.method": methods}, combine=combine, where={"label_fraction": 1.0}, smallest=0.001)
    assert claims.judge(of, drawn).word == word


def test_the_best_of_many_has_to_be_clearer_than_one_alone(monkeypatch):
    """An interval that excludes zero at 95 % but not at 99 % carries a claim alone, and not as the best of five."""

    def contrast(drawn, terms, level):
        reach = 0.04 if level <= 0.951 else 0.06
        ends = {"effect": 0.05, "low": 0.05 - reach, "high": 0.05 + reach}
        return ends | {"p": 0.02, "n_seeds": 3, "n_patients": 50, "share": 0.2}

    monkeypatch.setattr(statistics, "contrast", contrast)
    five = {"more": {}, "each": {"more.method": list("abcde")}}
    assert claims.judge(claim(), None).word == "supported"
    best = claims.judge(claim(**five, combine="any"), None)
    assert best.word == "undecided"
    assert "about 1.4 times as many seeds" in best.decides  # (0.06 / 0.05)², and not (0.04 / 0.05)²
    assert claims.judge(claim(**five, combine="all"), None).word == "supported"


def test_what_a_study_lacks_is_not_tested_and_says_what(drawn):
    verdict = claims.judge(claim(where={"dataset": "busi"}), drawn)
    assert verdict.word == "not tested"
    assert "no score has the dataset 'busi'; there are phantoms" in verdict.why
    why = "This is a condition and no number."
    said = claims.read([{"id": "C2", "sentence": "It is fair.", "untestable": why}])[0]
    verdict = claims.judge(said, drawn)
    assert (verdict.word, verdict.why) == ("not tested", why)


def leaning(*sides_and_times, seeds=3, share=0.01):
    tested = {"n_seeds": seeds, "n_patients": 100, "share": share}
    return pd.DataFrame([{"side": side, "times": times} | tested for side, times in sides_and_times])


def test_one_seed_is_said_to_be_too_few():
    said = claims.further(leaning(("supported", 4.0), seeds=1), 1)
    assert "about 4 times as many seeds and test patients (4 and 400 instead of 1 and 100) would have it supp" in said
    assert "A single seed says nothing of other seeds" in said
    assert "more than 50 times as many" in claims.further(leaning(("supported", 51.0), seeds=1), 1)


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (1, "about 9 times as many seeds and test patients (27 and 900 instead of 3 and 100) would have it supported"),
        (2, "about 20 times as many seeds and test patients (60 and 2,000 instead of 3 and 100) would have it supp"),
        (3, "about 2.0 times as many seeds and test patients (6 and 200 instead of 3 and 100) would have it contra"),
    ],
)
def test_what_would_decide_is_as_many_comparisons_of_one_side_as_it_takes(k, said):
    """The clearest one does not decide when it leans to the other side, nor when more than one has to hold."""
    assert said in claims.further(leaning(("contradicted", 2.0), ("supported", 9.0), ("supported", 20.0)), k)


@pytest.mark.parametrize(
    ("share", "needed", "then"),
    [
        (0.6, "(4 and 120 instead of 3 and 100)", ""),
        (
            1.0,
            "(120 patients instead of 100)",
            " Whoever can be tested is tested already: it takes another dataset, or a larger",
        ),
        (
            0.9,
            "(120 patients instead of 100)",
            " Its five folds hold fewer: it takes another dataset, or a larger one.",
        ),
    ],
)
def test_more_patients_than_a_dataset_has_are_not_asked_of_it(share, needed, then):
    said = claims.further(leaning(("supported", 1.2), share=share), 1)
    assert f"about 1.2 times as many seeds and test patients {needed} would have it supported.{then}" in said
    assert ("another dataset" in said) == bool(then)


def test_one_patient_decides_nothing_and_is_said_to_be_too_few():
    both = [
        cases([value], initialisation=name, method=name, run=name) for name, value in (("none", 0.5), ("simclr", 0.7))
    ]
    verdict = claims.judge(claim(task="segment"), statistics.bootstrap(None, pd.concat(both), replicates=20))
    assert verdict.word == "undecided"
    assert verdict.why.startswith("effect +0.200 (no interval: too few patients); asked for")
    assert verdict.decides == "It takes more test patients: of so few there is no interval."


def test_comparisons_that_are_missing_may_be_what_would_decide():
    rows = pd.concat([leaning(("supported", 2.0)), pd.DataFrame([{"verdict": "not tested"}])])
    assert claims.further(rows, 2) == "The comparisons that are missing would decide."


# -------------------- in files


def test_tables_have_a_row_for_each_comparison_and_a_line_for_each_claim(drawn, tmp_path):
    both = claim(more={}, each={"more.method": ["simclr", "byol"]}, where={"label_fraction": 1.0})
    condition = claims.read([{"id": "C2", "sentence": "A | B at 5 %.", "untestable": "A condition."}])[0]
    verdicts = [claims.judge(each, drawn) for each in (both, condition)]
    shown = claims.write(tmp_path, verdicts)
    assert shown["verdict"].tolist() == ["contradicted", "not tested"]
    assert shown["would_decide"].tolist() == [verdict.decides for verdict in verdicts]
    rows = pd.read_csv(tmp_path / "claims.csv")
    assert rows["id"].tolist() == ["C1", "C1", "C2"]
    assert rows["what"].tolist()[:2] == ["simclr", "byol"]
    assert rows["of_this"].tolist() == ["supported", "contradicted", "not tested"]
    lines = (tmp_path / "claims.md").read_text().splitlines()
    assert len(lines) == 2 + 2
    assert r"A \| B at 5 %." in lines[3]
    assert r"C2 & not tested & A | B at 5 \%. & A condition. &  \\" in (tmp_path / "claims.tex").read_text()


def test_a_study_without_claims_keeps_no_tables_of_older_ones(tmp_path):
    (tmp_path / "claims.csv").write_text("id\nC1\n")
    assert list(claims.write(tmp_path, [])) == ["id", "verdict", "claim", "why", "would_decide"]
    assert not list(tmp_path.iterdir())


def test_a_study_s_folder_says_its_claims(tmp_path):
    assert claims.of(tmp_path) == ([], [])
    said = {"study": "seeds", "claims": [SAID | PAIR], "stand_ins": ["One."]}
    (tmp_path / "claims.json").write_text(json.dumps(said))
    assert claims.of(tmp_path) == ([claim()], ["One."])
    assert claims.of(tmp_path)[0][0].work == "seeds"
