"""The report is one page that stands alone, answers first, says what it lacks, and names no patient."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import fake_runs
import numpy as np
import pandas as pd
import pytest

from mednb import datasets, ledger, plots, report, results, statistics

IMAGES = fake_runs.images(n_patients=30, size=16)
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """What a test wants of a page: that every tag is closed, its text, its links and its images."""

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.links, self.sources = [], "", [], []
        self.html = Path(path).read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        self.links += [said["href"]] if tag == "a" else []
        self.sources += [said[name] for name in ("src", "srcset", "data") if name in said]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += f"{text} " if "style" not in self.open else ""


def study_of(folder, **values):
    return fake_runs.write_study(folder, **{"of": IMAGES, "seeds": (0, 1), "fractions": (0.1, 1.0)} | values)


def compared(study):
    drawn = statistics.bootstrap(results.gather(study, "predictions.parquet"), results.gather(study, "cases.parquet"))
    return statistics.intervals(drawn), statistics.differences(drawn)


@pytest.fixture(autouse=True)
def images_at_hand(monkeypatch):
    monkeypatch.setattr(IMAGES, "fingerprint", "f" * 16, raising=False)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: IMAGES)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture(scope="module")
def page(study):
    out = study / "report"
    report.keep(plots.effects, compared(study)[1], out=out)
    report.keep(report.maps, study, out=out)
    written = report.write(study, out, title="Phantoms <b>& more</b>", question="Is 1 < 2?", profile="toy")
    return Page(written)


def test_the_page_needs_nothing_else(page):
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 2
    assert "<script" not in page.html
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_what_it_is_given_is_escaped(page):
    assert "<b>& more" not in page.html
    assert "Phantoms <b>& more</b> Is 1 < 2?" in page.text


def test_no_patient_is_named(page):
    assert not [name for name in set(IMAGES.table["patient"]) if name in page.text]


def test_the_answer_comes_first_then_the_budget_then_the_scores(page):
    order = ["answer", "budget", "scores", "worth", "figures", "geometry", "data", "ledger", "remarks", "runs"]
    assert re.findall(r'<section id="(\w+)">', page.html) == order
    assert page.text.index("With 10 % of the labels") < page.text.index("Every pretrained encoder")
    assert "Every pretrained encoder saw the same number of images: 23,040" in page.text


def test_every_run_links_to_its_notebook(study, page):
    links = {link for link in page.links if not link.startswith("#")}
    assert links == {f"../{folder.name}/notebook.ipynb" for folder in study.glob("*-*")}
    assert all((study / "report" / unquote(link)).is_file() for link in links)
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="(\w+)"', page.html))


def test_every_score_links_to_the_notebooks_it_comes_from(page):
    cells = re.findall(r'<td><a class="number" href="([^"]+)"><b>[\d.]+</b></a>', page.html)
    assert len(cells) == len(re.findall(r"<b>\d\.\d\d</b>", page.html)) > 3 * 4 * 2
    for task, stage in (("linear, auroc", "classify"), ("segment, dice", "segment")):
        table = page.html.split(f"<h3>{task} by label_fraction</h3>")[1].split("</table>")[0]
        line = next(line for line in table.split("<tr>") if "<th>simclr</th>" in line)
        linked = re.findall(r'href="([^"]+)"', line)
        both = [f"../{stage}-simclr-s{seed}/notebook.ipynb" for seed in (0, 1)]
        assert linked == [both[0]] * 2 + both  # two label fractions, then all seeds


def test_verdicts_stand_before_everything_else(tmp_path):
    study = study_of(tmp_path / "s", effects={"none": 0.0, "simclr": 3.0, "byol": -3.0}, of=fake_runs.images(150, 16))
    claim = {"sentence": "It helps <much>.", "task": "linear", "where": {"label_fraction": 0.1}, "smallest": 0.01}
    claim |= {"than": {"method": "none"}}
    listed = [claim | {"id": f"C{name}", "more": {"method": name}} for name in ("simclr", "byol", "moco")]
    listed[0] |= {"more": {}, "each": {"more.method": ["simclr", "byol"]}, "combine": "any"}
    told = {"study": "s", "claims": listed, "stand_ins": ["Phantoms stand in for patients."]}
    (study / "claims.json").write_text(json.dumps(told))
    text = Page(report.write(study, tmp_path)).text
    assert "Claims: 1 supported , 1 contradicted , 0 undecided , 1 not tested ." in text
    order = [
        "Csimclr: supported",
        "Cbyol: contradicted",
        "Cmoco: not tested",
        "Phantoms stand in",
        "With 10 % of the labels",
    ]
    places = [text.index(said) for said in order]
    assert places == sorted(places)
    assert "It helps <much>. auroc: 2 comparisons, of which one had to hold: 1 supported, 1 contradicted" in text
    assert "no score has the method 'moco'" in text


def test_a_number_that_may_have_been_chosen_on_test_is_marked(tmp_path):
    study = study_of(tmp_path / "s", stages=("classify",), seeds=(0, 1))
    assert "No ledger was kept" in Page(report.write(study, tmp_path)).text
    reading = dict.fromkeys(ledger.COLUMNS, "x") | {"fold": 0, "task": "linear", "dataset": "phantoms"}
    readings = [("classify-simclr-s0", "a"), ("classify-simclr-s1", "a"), ("classify-simclr-s1", "b")]
    lines = [json.dumps(reading | {"run": run, "values": values}) for run, values in readings]
    (study / "ledger.jsonl").write_text("".join(line + "\n" for line in lines))
    page = Page(report.write(study, tmp_path))
    assert "phantoms 0 linear 3 2 classify-simclr-s1 1 x x" in page.text
    marked = re.findall(r'<a href="([^"]+)">\d</a>†', page.html)
    assert {Path(link).parent.name for link in marked} == {"classify-simclr-s1"}
    scores = report.evidence(study).scores
    assert set(scores.loc[scores["again"], ["initialisation", "task"]].itertuples(index=False, name=None)) == {
        ("simclr", "linear")
    }


def test_less_of_an_error_is_marked_as_better(study):
    scores, differences = compared(study)
    of_error, of_score = (differences["metric"] == metric for metric in ("ece", "auroc"))
    differences.loc[of_error | of_score, ["low", "high"]] = [0.15, 0.25]
    for metric, marks in (("ece", {"hurt"}), ("auroc", {"helped"})):
        lines = report.tables(scores, differences, [("linear", metric)], {})[0]["lines"]
        assert {cell["verdict"] for line in lines[1:] for cell in line["cells"]} == marks


def test_supervised_is_an_upper_bound_and_counts_as_no_pretraining(tmp_path):
    study = study_of(tmp_path / "s", methods=("none", "simclr", "supervised"), seeds=(0, 1), stages=("classify",))
    page = Page(report.write(study, tmp_path))
    assert "it learnt from all labels of the training images, so it is an upper bound" in page.text
    scores, differences = compared(study)
    assert set(report.rivals(differences)["initialisation"]) == {"simclr"}
    varied = pd.DataFrame({"initialisation": ["supervised on busi", "supervised, lr 0.1", "simclr, lr 0.1"]})
    assert report.rivals(varied)["initialisation"].tolist() == ["simclr, lr 0.1"]
    assert not any("on supervised" in said["sentence"] for said in report.answers(scores, report.rivals(differences)))


def test_methods_that_take_other_numbers_of_views_are_not_said_to_have_made_the_same_effort(tmp_path):
    for methods, equal in ((("simclr", "moco"), True), (("simclr", "dino", "spark"), False)):
        study = study_of(tmp_path / methods[-1], methods=("none", *methods), seeds=(0,), stages=("pretrain",))
        budget = report.budget(results.finished(study))
        assert budget["equal"] and budget["views"] is equal
    assert sorted(line["views"] for line in budget["lines"]) == ["1", "2", "2", "–"]
    assert report.views_of("swav", {}) == "2"
    assert report.views_of("swav", {"options": {"small_crops": 6}}) == "2 + 6"


def test_folds_of_other_sizes_are_no_other_effort(tmp_path):
    def budget(*seen_by_simclr):
        for seed, seen in enumerate(seen_by_simclr):
            for method, of_method in (("byol", (46_700, 46_800)[seed]), ("simclr", seen)):
                study_of(
                    tmp_path, methods=(method,), seeds=(seed,), stages=("pretrain",), fold=seed, images_seen=of_method
                )
        return report.budget(results.finished(tmp_path))["equal"]

    assert budget(46_700, 46_800) == "46,700 and 46,800"
    assert budget(46_700, 47_000) is None


def test_what_pretraining_is_worth_in_labels_is_a_table_and_a_file(study, page):
    assert "How many labels is pretraining worth? The share of the labels that random initialisation needs" in page.text
    worth = pd.read_csv(study / "report/worth.csv")
    assert set(worth["initialisation"]) == {"simclr", "byol"}
    assert all(" ".join(said.split()) in page.text for said in worth["said"])


def test_the_time_of_runs_is_told_where_they_wrote_it_down(tmp_path):
    study = study_of(tmp_path / "s", stages=("pretrain",), methods=("simclr",))
    assert report.budget(results.finished(study))["lines"][0]["took"] == "–"
    for seed, seconds in ((0, 60), (1, 180)):
        (study / f"pretrain-simclr-s{seed}/status.json").write_text(json.dumps({"seconds": seconds}))
    assert report.budget(results.finished(study))["lines"][0]["took"] == "2 min (4 min)"


def test_the_data_are_counted(page):
    counts = IMAGES.table.groupby("split")["patient"].agg(["size", "nunique"])
    assert f"fold 0 {counts.loc['train', 'size']} ({counts.loc['train', 'nunique']})" in page.text
    assert "fold 0, benign" in page.text
    assert "No patient is in two splits" in page.text
    assert datasets.DATASETS["phantoms"].CARD.licence in page.text


def test_the_data_of_every_fold_are_counted_even_where_nothing_was_embedded(tmp_path):
    study = study_of(tmp_path / "s", stages=("segment",), seeds=(0,), methods=("none",))
    study_of(study, stages=("segment",), seeds=(1,), methods=("none",), fold=1)
    text = Page(report.write(study, tmp_path)).text
    of_split = IMAGES.table.groupby("split")["patient"].agg(["size", "nunique"])
    counts = " ".join(
        f"{of_split.loc[split, 'size']} ({of_split.loc[split, 'nunique']})" for split in ("train", "val", "test")
    )
    assert f"fold 0 {counts} fold 1 {counts}" in text
    assert "in two splits" not in text


def test_one_embedded_seed_is_no_mean_over_seeds(tmp_path, page):
    assert "Mean over the seeds 0 and 1 (lowest to highest seed)." in page.text
    study = study_of(tmp_path / "s", stages=("embed",), seeds=(0,))
    assert "Of seed 0 only. Alignment" in Page(report.write(study, tmp_path)).text


def test_a_patient_in_two_splits_is_shouted(tmp_path):
    study = study_of(tmp_path / "s", stages=("embed",), seeds=(0,))
    for path in study.glob("embed-*/map.parquet"):
        points = pd.read_parquet(path)
        points.loc[0, "split"] = "val" if points.loc[0, "split"] != "val" else "train"
        points.to_parquet(path)
    assert "Some patients are in two splits: do not believe" in Page(report.write(study, tmp_path)).text


def test_figures_that_were_not_drawn_are_a_sentence(page):
    assert "How pretraining went: not drawn, because nothing was pretrained." in page.text
    assert "What lies near what: not drawn" not in page.text


@pytest.mark.parametrize(
    ("strength", "word"), [(3.0, "helped"), (-3.0, "hurt"), (0.0, "undecided")], ids=["helps", "hurts", "nothing"]
)
def test_the_answer_says_what_was_planted(tmp_path, strength, word):
    effects = {"none": 0.0, "simclr": strength}
    values = {"methods": ("none", "simclr"), "stages": ("classify", "segment"), "tasks": ("linear",)}
    study = study_of(tmp_path / "s", effects=effects, seeds=(0, 1, 2, 3), of=fake_runs.images(150, 16), **values)
    scores, differences = compared(study)
    said = report.answers(scores, differences)
    assert [answer["verdict"] for answer in said] == [word, word]
    assert said[0]["sentence"].startswith("With 10 % of the labels, a linear probe on simclr reached an auroc of ")
    assert said[1]["sentence"].startswith("With 10 % of the masks, a U-Net started from simclr reached a dice of ")
    assert report.VERDICTS[word] in said[0]["sentence"]
    assert sum(report.tally(differences).values()) == 4


def test_the_numbers_in_the_answer_are_those_of_the_tables(study):
    scores, differences = compared(study)
    asked = "initialisation == 'byol' and task == 'linear' and metric == 'auroc' and label_fraction == 0.1"
    score, change = scores.query(asked).iloc[0], differences.query(asked).iloc[0]
    sentence = next(a["sentence"] for a in report.answers(scores, differences) if "probe on byol" in a["sentence"])
    assert f"auroc of {score['mean']:.2f} [{score['low']:.2f},\xa0{score['high']:.2f}]" in sentence
    assert f"The difference is {change['difference']:+.3f}".replace("-", "−") in sentence


def test_one_seed_is_not_hidden(tmp_path):
    study = study_of(tmp_path / "s", seeds=(0,), stages=("classify",))
    text = Page(report.write(study, tmp_path)).text
    assert "This is one seed: another may say otherwise." in text
    assert "There is one seed: the intervals hold the chance of the patients only" in text


def test_one_test_patient_is_no_answer(tmp_path):
    of = fake_runs.images(3, 16)
    of.table["split"] = ["train", "train", "val", "val", "test", "test"]
    study = study_of(tmp_path / "s", methods=("none", "simclr"), seeds=(0,), stages=("segment",), of=of)
    (answer,) = report.answers(*compared(study))
    assert answer["verdict"] == "undecided"
    assert "(no interval: too few patients); one cannot tell what is chance." in answer["sentence"]
    report.write(study, tmp_path)


def test_seeds_that_only_one_has_are_not_in_the_difference(tmp_path):
    study = study_of(tmp_path / "s", seeds=(0, 1), methods=("none",), stages=("segment",))
    study_of(study, seeds=(0,), methods=("simclr",), stages=("segment",))
    (answer,) = report.answers(*compared(study))
    assert "The difference on the seeds that both have is" in answer["sentence"]


@pytest.mark.parametrize("stage", fake_runs.STAGES)
def test_a_study_of_one_stage_still_has_a_report(tmp_path, stage):
    study = study_of(tmp_path / "s", stages=(stage,), methods=("simclr",), seeds=(0,), fractions=(0.1,))
    text = Page(report.write(study, tmp_path)).text
    assert "There is no answer yet" in text
    assert "Not in this study" in text
    assert "Random initialisation (method none) is not in the study" in text


def test_a_study_without_the_linear_probe_answers_with_another_task(tmp_path):
    study = study_of(tmp_path / "s", stages=("classify",), tasks=("knn",), seeds=(0,))
    assert all("the nearest neighbours in" in answer["sentence"] for answer in report.answers(*compared(study)))


def test_datasets_are_told_apart(tmp_path):
    study = study_of(tmp_path / "s", stages=("classify",), tasks=("linear",), seeds=(0,))
    for name in ("none", "simclr", "byol"):
        folder = study / f"classify-{name}-s0"
        other = study / f"other-{name}"
        folder.rename(other)
        said = json.loads((other / "run.json").read_text()) | {"dataset": "busi", "run": other.name}
        (other / "run.json").write_text(json.dumps(said))
    study_of(study, stages=("classify",), tasks=("linear",), seeds=(0,))
    text = Page(report.write(study, tmp_path)).text
    assert "busi: With 10 % of the labels" in text
    assert "phantoms: linear, auroc" in text


# -------------------- figures of the report


def test_a_figure_is_kept_under_its_name_and_removed_when_it_no_longer_can_be_drawn(tmp_path, study):
    assert isinstance(report.keep(report.maps, study, out=tmp_path), plots.Figure)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"maps.png", "maps.svg"}
    empty = study_of(tmp_path / "s", stages=("classify",), seeds=(0,))
    assert report.keep(report.maps, empty, out=tmp_path) == "maps: no run left a map.parquet"
    assert not list((tmp_path / "figures").iterdir())


def test_only_the_first_seed_is_mapped(study):
    figure = report.maps(study)
    assert [ax.get_title() for ax in figure.axes] == ["none", "byol", "simclr"]
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == len(IMAGES.table)


def test_neighbours_are_training_images_of_a_test_image(study, monkeypatch):
    monkeypatch.setattr(plots, "neighbours", lambda *what: what)
    queries, found, labels, near = report.neighbours(study, queries=6, k=2)
    of = {image.tobytes(): row for image, row in zip(IMAGES.pixels, IMAGES.table.itertuples(), strict=True)}
    assert list(labels) == ["benign"] * 2 + ["malignant"] * 2 + ["normal"] * 2
    assert [of[query.tobytes()].label for query in queries] == list(labels)
    assert {of[query.tobytes()].split for query in queries} == {"test"}
    for name, images in found.items():
        rows = [[of[image.tobytes()] for image in line] for line in images]
        assert {row.split for line in rows for row in line} == {"train"}
        assert [[row.label for row in line] for line in rows] == near[name].tolist()
    assert np.mean(near["simclr"] == np.asarray(labels)[:, None]) > np.mean(near["none"] == np.asarray(labels)[:, None])


def test_images_that_are_not_those_of_the_runs_are_not_shown(study, monkeypatch, tmp_path):
    monkeypatch.setattr(IMAGES, "fingerprint", "another")
    assert "not those that the runs used" in report.keep(report.neighbours, study, out=tmp_path)

    def missing(*_, **more):
        raise FileNotFoundError("data/BUSI is missing")

    monkeypatch.setattr(datasets, "load", missing)
    assert "data/BUSI is missing" in report.keep(report.neighbours, study, out=tmp_path)


def test_outlines_are_of_the_first_seed(study):
    figure = report.segmentation(study)
    assert len(figure.axes) == 4 * 6


def test_outlines_are_of_images_that_all_have_where_their_first_seeds_are_of_other_folds(tmp_path, monkeypatch):
    """The first seed of one of them was not finished yet, and the whole report failed."""
    monkeypatch.setattr(plots, "segmentation", lambda examples: examples)
    study = study_of(tmp_path / "s", stages=("segment",), seeds=(0, 1, 2))
    for seed in (1, 2):
        for path in study.glob(f"*-s{seed}/examples.npz"):
            with np.load(path) as arrays:
                others = dict(arrays) | {"image_id": np.char.add(f"fold {seed}: ", arrays["image_id"])}
            np.savez(path, **others)
    shutil.rmtree(study / "segment-simclr-s0")
    found = report.segmentation(study)
    assert list(found) == ["byol", "none", "simclr"]
    assert {one["image_id"][0][:8] for one in found.values()} == {"fold 1: "}
    shutil.rmtree(study / "segment-simclr-s1")
    shutil.rmtree(study / "segment-byol-s2")
    assert list(report.segmentation(study)) == ["byol", "none"]


def test_outlines_are_of_one_dataset(tmp_path):
    study = study_of(tmp_path / "s", stages=("segment",), methods=("none", "simclr"), seeds=(0,))
    for folder in list(study.iterdir()):
        other = folder.rename(folder.with_name(f"busi-{folder.name}"))
        said = json.loads((other / "run.json").read_text()) | {"dataset": "busi", "run": other.name}
        (other / "run.json").write_text(json.dumps(said))
        with np.load(other / "examples.npz") as examples:
            np.savez(other / "examples.npz", **dict(examples) | {"image_id": examples["image_id"][::-1]})
    study_of(study, stages=("segment",), methods=("none", "simclr", "byol"), seeds=(0,))
    assert len(report.segmentation(study).axes) == 3 * 6


def test_neighbours_are_of_one_initialisation_of_each_method(tmp_path, monkeypatch):
    study = study_of(tmp_path / "s", stages=("embed",), methods=("none",), seeds=(0,))
    for name in ("phantoms", "busi"):
        study_of(tmp_path / name, stages=("embed",), methods=("simclr",), seeds=(0,), pretrained_on=name)
        (tmp_path / name / "embed-simclr-s0").rename(study / f"embed-simclr-{name}")
    monkeypatch.setattr(plots, "neighbours", lambda *what: what)
    _, found, _, _ = report.neighbours(study, queries=3, k=2)
    assert list(found) == ["none", "simclr on busi"]


def test_an_option_makes_no_other_method_of_one(tmp_path, monkeypatch):
    study = study_of(tmp_path / "s", stages=("embed",), methods=("none", "simclr"), seeds=(0,))
    other = study_of(tmp_path / "t", stages=("embed",), methods=("simclr",), seeds=(0,), options={"temperature": 0.1})
    (other / "embed-simclr-s0").rename(study / "embed-simclr-s0-temperature0.1")
    monkeypatch.setattr(plots, "neighbours", lambda *what: what)
    _, found, _, _ = report.neighbours(study, queries=3, k=2)
    assert list(found) == ["none", "simclr"]


def test_reliability_is_of_all_labels(study, monkeypatch):
    monkeypatch.setattr(plots, "reliability", lambda rows: rows)
    rows = report.reliability(study)
    assert set(rows["task"]) == {"linear", "finetune"}
    test = (IMAGES.table["split"] == "test").sum()
    assert (rows.groupby(["task", "initialisation"])["n_images"].sum() == 2 * test).all()  # two seeds
    assert ((rows["high"] - rows["low"]) * 15).round(9).eq(1).all()  # as many bins as ece has


def test_ranks_need_three_initialisations(tmp_path, study):
    assert isinstance(report.critical_difference(report.evidence(study).drawn), plots.Figure)
    two = study_of(tmp_path / "s", stages=("segment",), methods=("none", "simclr"))
    said = report.keep(report.critical_difference, report.evidence(two).drawn, out=tmp_path)
    assert said.startswith("critical_difference: there are no ranks (a critical difference needs three")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("stages", [fake_runs.STAGES, ("pretrain",)], ids=["whole", "partial"])
def test_the_notebook_writes_everything_it_promises(tmp_path, stages):
    from mednb.study import notebook

    study = study_of(tmp_path / "s", stages=stages)
    values = {"runs": str(study), "out": str(study / "report"), "study": "s", "title": "A title"}
    book = Path(__file__).parents[1] / "notebooks/07_report.ipynb"
    promised = ("results.csv", "table.csv", "table.md", "table.tex", "report.html")
    notebook.run(book, values, study / "report", promised)
    assert "A title" in Page(study / "report/report.html").text
    drawn = {path.stem for path in (study / "report/figures").iterdir() if path.suffix == ".png"}
    assert drawn == {path.stem for path in (study / "report/figures").iterdir() if path.suffix == ".svg"}
    # The images of these runs were never drawn as phantoms, so the notebook, a process of its own, has no thumbnails.
    whole = set(report.FIGURES) - {"neighbours", "claims"}
    assert drawn == (whole if len(stages) > 1 else {"training_curves"})
