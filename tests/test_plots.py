"""Figures hold what they were given, with nothing empty and nothing on top of each other; no rows are a sentence."""

import subprocess
import sys
from itertools import pairwise

import fake_runs
import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from mednb import plots, results, statistics

IMAGES = fake_runs.images(n_patients=12, size=16)
LESIONS = np.flatnonzero(IMAGES.masks.any(axis=(1, 2)))[:5]

BINS = pd.DataFrame({"confidence": [0.4, 0.7, 0.95], "accuracy": [0.3, 0.75, 0.9], "n_images": [3, 5, 90]})
BINS = BINS.assign(dataset="phantoms", encoder="e", size=32, task="linear")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    study = fake_runs.write_study(tmp_path_factory.mktemp("runs") / "s")
    names = {"metrics": "metrics.csv", "maps": "map.parquet", "cases": "cases.parquet"}
    found = {name: results.gather(study, file) for name, file in names.items()}
    drawn = statistics.bootstrap(results.gather(study, "predictions.parquet"), found["cases"], replicates=50)
    found |= {"scores": statistics.intervals(drawn), "parts": statistics.intervals(drawn, strata=True)}
    return found | {"differences": statistics.differences(drawn), "drawn": drawn}


def examples(*names):
    said = {"image_id": LESIONS, "image": IMAGES.pixels[LESIONS], "mask": IMAGES.masks[LESIONS]}
    return {name: said | {"prediction": np.roll(IMAGES.masks[LESIONS], i, 1)} for i, name in enumerate(names)}


def near(*names):
    rng = np.random.default_rng(0)
    found = {name: rng.integers(0, len(IMAGES.pixels), (4, 3)) for name in names}
    labels = IMAGES.table["label"].to_numpy(str)
    of = {name: labels[index] for name, index in found.items()}
    return IMAGES.pixels[:4], {name: IMAGES.pixels[index] for name, index in found.items()}, labels[:4], of


def assert_sound(figure, axes):
    """The right number of axes, each with something in it; no tick label or legend on top of another or cut off."""
    assert isinstance(figure, plots.Figure)
    assert len(figure.axes) == axes
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    for ax in figure.axes:
        assert ax.has_data()
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            boxes = [box for box in boxes if box.width and ax.bbox.padded(40).overlaps(box)]
            for one, other in pairwise(boxes):
                assert not one.padded(-0.5).overlaps(other.padded(-0.5)), axis.axis_name
    titles = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    for one, other in pairwise(titles):
        assert not one.overlaps(other)
    for box in titles:
        assert page.containsx(box.x0)
        assert page.containsx(box.x1)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert not any(box.padded(-1).overlaps(ax.bbox) for ax in figure.axes)


def test_a_montage_has_one_picture_each():
    assert_sound(plots.montage(IMAGES.pixels[:8], IMAGES.table["label"][4:12], IMAGES.masks[:8], columns=3), 8)
    assert_sound(plots.montage(IMAGES.pixels[:1]), 1)


def test_an_outline_at_the_edge_or_around_everything_is_drawn():
    masks = np.zeros((3, 16, 16), bool)
    masks[1, :, 8:] = True
    masks[2] = True
    figure = plots.montage(IMAGES.pixels[:3], masks=masks)
    assert_sound(figure, 3)
    assert [len(ax.collections) for ax in figure.axes] == [0, 1, 1]
    assert figure.axes[2].get_xlim() == (-0.5, 15.5)


def test_views_and_pairs_stand_below_each_other():
    first = IMAGES.pixels[:5].astype(np.float32) / 255
    assert_sound(plots.views(first, first[:, ::-1]), 10)
    assert_sound(plots.views(first[:, None], first[:, None], IMAGES.pixels[:5]), 15)
    assert_sound(plots.pairs(IMAGES.pixels[:4], IMAGES.pixels[4:8], ["same case"] * 4), 8)
    with pytest.raises(ValueError, match="there are 4 of image, 3 of partner"):
        plots.pairs(IMAGES.pixels[:4], IMAGES.pixels[:3])


def test_pictures_in_a_row_share_one_grey_scale():
    figure = plots.views(IMAGES.pixels[:2] / 255.0, IMAGES.pixels[:2] / 510.0)
    assert len({ax.images[0].get_clim() for ax in figure.axes[:2]}) == 1
    assert {ax.images[0].get_clim() for ax in plots.montage(IMAGES.pixels[:2]).axes} == {(0, 255)}


def test_colour_images_are_drawn_in_colour():
    colour = np.repeat(IMAGES.pixels[:2, None], 3, axis=1)
    assert plots.montage(colour).axes[0].images[0].get_array().shape == (16, 16, 3)


def files(labels=("benign", "malignant", "normal")):
    rng = np.random.default_rng(0)
    sizes = {"width": rng.integers(200, 220, 90), "height": rng.integers(150, 155, 90)}
    return pd.DataFrame({"label": np.repeat(labels, 90 // len(labels)), **sizes})


def test_sizes_of_files_have_a_panel_for_each_class():
    assert_sound(plots.picture_sizes(files()), 3)
    assert_sound(plots.picture_sizes(files([f"class {i}" for i in range(9)])), 9)
    with pytest.raises(plots.NothingToDraw, match="picture_sizes"):
        plots.picture_sizes(files()[:0])


def test_masks_are_averaged_over_the_images_of_a_class():
    labels = IMAGES.table["label"].to_numpy(str)
    figure = plots.mask_coverage(IMAGES.masks, labels)
    shown = {ax.get_title().split(":")[0]: ax for ax in figure.axes if ax.get_title()}
    assert "normal" not in shown and len(figure.axes) == len(shown) + 1
    for label, ax in shown.items():
        assert (ax.images[0].get_array() == IMAGES.masks[labels == label].mean(0)).all()
    with pytest.raises(plots.NothingToDraw, match="all masks are empty"):
        plots.mask_coverage(np.zeros((3, 16, 16), bool), ["a"] * 3)


def test_leaks_have_a_bar_for_each_split_and_reason():
    shares = pd.DataFrame(
        [
            ("this split", "patient", 0.0),
            ("this split", "any", 0.0),
            ("shuffled", "patient", 0.9),
            ("shuffled", "any", 1.0),
        ],
        columns=["split", "reason", "share"],
    )
    figure = plots.leaks(shares)
    assert_sound(figure, 1)
    assert [round(bar.get_width()) for bar in figure.axes[0].patches] == [0, 90, 0, 100]


def test_resizings_say_how_many_lesions_are_small():
    before = np.arange(1, 101) * 100
    rows = [
        pd.DataFrame({"resize": way, "before": before, "after": before // by})
        for way, by in {"pad": 50, "stretch": 500}.items()
    ]
    figure = plots.resizings(pd.concat(rows, ignore_index=True))
    assert_sound(figure, 1)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["in the file", "pad: 9.0% below 20", "stretch: 99.0% below 20"]
    with pytest.raises(plots.NothingToDraw, match="resizings"):
        plots.resizings(rows[0][:0])


@pytest.mark.parametrize("names", [("simclr",), ("simclr", "none", "byol")])
def test_neighbours_are_framed_by_their_label(names):
    queries, found, labels, of = near(*names)
    figure = plots.neighbours(queries, found, pd.Series(labels, index=range(9, 13)), of)
    assert_sound(figure, 4 * (1 + 3 * len(names)))
    framed = [ax.spines["left"] for ax in figure.axes if ax.spines["left"].get_visible()]
    right = sum((of[name] == labels[:, None]).sum() for name in names)
    blue = matplotlib.colors.to_rgba(plots.SAME["color"])
    assert sum(spine.get_edgecolor() == blue for spine in framed) == right
    assert len(framed) == 12 * len(names)


@pytest.mark.parametrize("names", [("simclr",), ("simclr", "none", "byol")])
def test_outlines_of_all_initialisations_are_of_the_same_images(names):
    figure = plots.segmentation(examples(*names))
    assert_sound(figure, 5 * (1 + len(names)))
    assert figure.axes[5].get_ylabel() == plots.in_order(names)[0]
    other = examples(*names)
    other["moco"] = other["simclr"] | {"image_id": LESIONS[::-1]}
    with pytest.raises(ValueError, match="different images"):
        plots.segmentation(other)


def test_an_exact_outline_has_dice_one():
    figure = plots.segmentation(examples("simclr"))
    assert {ax.get_title() for ax in figure.axes[5:]} == {"dice 1.00"}


def test_training_curves_have_a_loss_for_each_and_four_shared_panels(rows):
    figure = plots.training_curves(rows["metrics"])
    assert_sound(figure, 2 + 4)
    assert len(figure.axes[0].lines) == 3  # two seeds and their mean
    alone = rows["metrics"].query("initialisation == 'byol' and seed == 0")
    figure = plots.training_curves(alone[["initialisation", "seed", "epoch", "loss", "spread"]])
    assert_sound(figure, 2)
    assert len(figure.axes[0].lines) == 1


def test_of_one_epoch_training_curves_show_a_point(rows):
    once = rows["metrics"].query("epoch == 0")
    figure = plots.training_curves(once[once["initialisation"] == "byol"])
    assert_sound(figure, 1 + 4)
    assert {line.get_marker() for line in figure.axes[0].lines[:2]} == {"o"}


def test_the_mean_of_training_curves_ends_where_the_first_seed_does(rows):
    alone = rows["metrics"].query("initialisation == 'byol'")
    last = alone["epoch"].max()
    figure = plots.training_curves(alone[(alone["seed"] > 0) | (alone["epoch"] < last)])
    *seeds, mean = figure.axes[0].lines
    assert sorted(line.get_xdata().max() for line in seeds) == [last - 1, last]
    assert mean.get_xdata().max() == last - 1


def test_runs_of_several_sizes_and_with_a_decoder_have_a_line_and_a_mean_each(rows):
    """They were joined into one line that ran to and fro, and their losses into one mean."""
    small = rows["metrics"].query("initialisation == 'byol'").assign(decoder=False)
    large = small.assign(size=96, loss=small["loss"] + 2, run=small["run"] + "-size96")
    with_decoder = small.assign(decoder=True, loss=small["loss"] + 4, run=small["run"] + "-decoder")
    figure = plots.training_curves(pd.concat([small, large, with_decoder]))
    lines = figure.axes[0].lines
    assert all((np.diff(line.get_xdata()) == 1).all() for line in lines)
    means = [line.get_ydata() for line in lines if line.get_linewidth() > 1]
    assert (len(lines), len(means)) == (3 * 2 + 3, 3)
    wanted = small.groupby("epoch")["loss"].mean()
    np.testing.assert_allclose(sorted(mean[-1] for mean in means), wanted.iloc[-1] + np.array([0, 2, 4]))
    size = small["size"].iloc[0]
    written = {text.get_text() for text in figure.axes[0].texts}
    assert written == {f"size {size}, decoder False", "size 96, decoder False", f"size {size}, decoder True"}


def test_maps_have_a_panel_for_each_initialisation_and_one_legend(rows):
    figure = plots.maps(rows["maps"])
    assert_sound(figure, 3)
    assert len(figure.legends) == 1
    for ax in figure.axes:
        drawn = sum(len(points.get_offsets()) for points in ax.collections)
        assert drawn == 2 * 120
    assert_sound(plots.maps(rows["maps"].query("initialisation == 'none'"), colour="split"), 1)
    both = pd.concat([rows["maps"], rows["maps"].assign(dataset="busi")])
    assert_sound(plots.maps(both), 6)


def test_a_categorical_column_keeps_its_order_in_the_legend(rows):
    order = ["normal", "benign", "malignant"]
    points = rows["maps"].assign(label=pd.Categorical(rows["maps"]["label"], order))
    assert [text.get_text() for text in plots.maps(points).legends[0].get_texts()] == order


def test_label_efficiency_has_a_panel_for_each_task(rows):
    figure = plots.label_efficiency(rows["scores"])
    assert_sound(figure, 4)
    assert [ax.get_title() for ax in figure.axes] == ["knn", "linear", "finetune", "segment"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["10 %", "25 %", "100 %"]
    assert figure.axes[3].get_ylabel() == "dice"
    one = rows["scores"].query("task == 'linear' and label_fraction == 0.1")
    assert_sound(plots.label_efficiency(one), 1)
    assert_sound(plots.label_efficiency(one, {"linear": "balanced_accuracy"}), 1)


def test_settings_that_vary_have_panels_of_their_own(rows):
    both = pd.concat([rows["scores"], rows["scores"].assign(dataset="busi")])
    figure = plots.label_efficiency(both.query("task == 'linear'"))
    assert_sound(figure, 2)
    assert [ax.get_title() for ax in figure.axes] == ["phantoms: linear", "busi: linear"]


def test_effects_fill_the_marks_whose_interval_excludes_zero(rows):
    found = rows["differences"].query("metric in ['auroc', 'dice']")
    figure = plots.effects(rows["differences"])
    assert_sound(figure, 1)
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "s^"]
    assert len(marks) == len(found)
    full = sum(line.get_markerfacecolor() != "white" for line in marks)
    assert full == ((found["low"] > 0) | (found["high"] < 0)).sum()
    assert_sound(plots.effects(found.query("task == 'knn' and label_fraction == 0.1")), 1)


@pytest.mark.parametrize("draw", [plots.label_efficiency, plots.effects, plots.effect_map, plots.strata])
def test_what_has_no_interval_is_drawn_without_one(rows, draw):
    of = {plots.label_efficiency: "scores", plots.strata: "parts"}.get(draw, "differences")
    few = {name: np.nan for name in ("low", "high", "p", "p_holm") if name in rows[of]}
    figure = draw(rows[of].assign(**few))
    figure.draw_without_rendering()
    lines = [one for ax in figure.axes for one in ax.collections if hasattr(one, "get_segments")]
    assert not lines and not any(ax.patches for ax in figure.axes)
    some = rows[of].assign(**{name: rows[of][name].where(rows[of].index % 2 == 0) for name in few})
    draw(some).draw_without_rendering()


def test_effects_say_which_side_is_better(rows):
    assert "right: better" in plots.effects(rows["differences"]).get_supxlabel()
    less = plots.effects(rows["differences"].assign(metric="hd95"), dict.fromkeys(results.MAIN_METRIC, "hd95"))
    assert "right: more; of hd95 less is better" in less.get_supxlabel()


def test_effects_have_a_panel_for_each_setting(rows):
    both = pd.concat([rows["differences"], rows["differences"].assign(dataset="busi")])
    figure = plots.effects(both)
    assert_sound(figure, 2)
    assert [ax.get_title() for ax in figure.axes] == ["phantoms", "busi"]


def test_the_map_of_effects_writes_every_number_and_frames_what_is_no_chance(rows):
    found = rows["differences"].query("metric in ['auroc', 'dice']").reset_index(drop=True)
    found["p"] = np.where(found.index % 3 == 0, 0.001, 0.5)
    found.loc[1, "p"] = 0.01  # clear alone, and among the few of its own metric, but not among all
    found = statistics.holm(found)
    figure = plots.effect_map(found)
    (ax,) = figure.axes
    assert ax.images[0].get_array().shape == (2, 4 * 3)
    assert sorted(text.get_text() for text in ax.texts) == sorted(
        f"{100 * value:+.1f}".replace("-", "−") for value in found["difference"]
    )
    bold = [text for text in ax.texts if text.get_fontweight() == "bold"]
    assert len(ax.patches) == len(bold) == (found["p"] == 0.001).sum()
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(figure.bbox.contains(box.x0, box.y0) for box in boxes)


def test_comparisons_of_claims_are_marked_by_what_they_say():
    values = {"low": -0.1, "high": 0.1, "smallest": 0.01, "expects": "more"}
    said = ["supported", "contradicted", "undecided", "not tested"]
    rows = pd.DataFrame({"id": ["C1", "C1", "C2", "C2"], "what": ["a", "b", "", "c"], "of_this": said}).assign(**values)
    rows["effect"] = [0.05, -0.05, 0.0, np.nan]
    figure = plots.claims(rows)
    assert_sound(figure, 1)
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["C1: a", "C1: b", "C2"]
    marks = [(line.get_marker(), line.get_markerfacecolor()) for line in ax.lines if line.get_marker() in "os"]
    assert marks == [("o", "#222222"), ("s", "#222222"), ("o", "white")]
    plots.claims(rows.assign(low=np.nan, high=np.nan, of_this="undecided")).draw_without_rendering()
    for expects, ends in {"more": [0.01], "at least": [-0.01], "no difference": [-0.01, 0.01]}.items():
        (ax,) = plots.claims(rows.assign(expects=expects)).axes
        dashed = [of for of in ax.collections if matplotlib.colors.to_hex(of.get_color()[0]) == "#d55e00"]
        assert [[line[0, 0] for line in of.get_segments()] for of in dashed] == [ends] * 2
    with pytest.raises(plots.NothingToDraw, match="no claim could be tested"):
        plots.claims(rows.assign(effect=np.nan))


def test_ranks_stand_on_a_line_and_a_bar_joins_what_does_not_differ():
    mean = pd.Series({"a": 1.2, "b": 1.9, "c": 3.4, "d": 3.5})
    figure = plots.critical_difference(statistics.Ranks(mean, 1.0, 12, [["a", "b"], ["c", "d"]]))
    (ax,) = figure.axes
    written = [text.get_text() for text in ax.texts]
    assert [text for text in written if "(" in text] == ["a (1.2)", "b (1.9)", "c (3.4)", "d (3.5)"]
    bars = [line[:, 0] for of in ax.collections if of.get_linewidth()[0] > 3 for line in of.get_segments()]
    assert np.array(bars) == pytest.approx(np.array([(1.17, 1.93), (3.37, 3.53)]))
    figure.draw_without_rendering()
    assert all(figure.bbox.contains(*text.get_window_extent().min) for text in ax.texts)


def test_reliability_has_the_diagonal_and_a_line_for_each():
    figure = plots.reliability(pd.concat([BINS.assign(initialisation=name) for name in ("none", "simclr")]))
    assert_sound(figure, 1)
    diagonal, *others = figure.axes[0].lines
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    assert len(others) == 2


def test_parts_of_the_test_images_stand_side_by_side_small_lesions_first(rows):
    figure = plots.strata(rows["parts"])
    panels = {(ax.get_title(), ax.get_xlabel()): ax for ax in figure.axes}
    assert_sound(figure, len(panels))
    sizes = [tick.get_text() for tick in panels["segment", "size"].get_xticklabels()]
    assert sizes == ["small", "medium", "large"]
    assert panels["finetune", "class"].get_ylabel() == "recall"
    assert {title for title, _ in panels} == {"finetune", "segment"}
    with pytest.raises(plots.NothingToDraw, match="no part of the test images is known"):
        plots.strata(rows["scores"])


def test_many_initialisations_have_a_panel_for_each_pretraining_set(rows):
    methods, sets = ("simclr", "moco", "byol"), ("busi", "mini_mias")
    names = ["none", "supervised", *(f"{method} on {each}" for method in methods for each in sets)]
    groups = plots.in_groups(names)
    assert list(groups) == ["on busi", "on mini_mias"]
    assert groups["on busi"] == ["none", "byol on busi", "moco on busi", "simclr on busi", "supervised"]
    assert plots.in_groups(["none", "byol on busi", "byol on udiat"]) == {"": ["none", "byol on busi", "byol on udiat"]}
    many = pd.concat([rows["scores"].query("initialisation == 'simclr'").assign(initialisation=name) for name in names])
    figure = plots.label_efficiency(many)
    assert_sound(figure, 4 * 2)
    assert [len(ax.lines) for ax in figure.axes] == [5] * 8
    cases = pd.concat([rows["cases"].query("initialisation == 'none'").assign(initialisation=name) for name in names])
    assert_sound(plots.lesion_sizes(cases), 2)
    alone = cases.query("initialisation == 'none'").assign(size=128)
    assert_sound(plots.lesion_sizes(pd.concat([cases, alone])), 3)


def test_many_initialisations_of_one_pretraining_set_have_a_panel_each_beside_random_initialisation(rows):
    names = ["none", "barlowtwins", "byol", "densecl", "dino", "moco", "nnclr", "simclr", "swav"]
    scores = rows["scores"].query("initialisation == 'simclr' and task in ['knn', 'segment']")
    figure = plots.label_efficiency(pd.concat([scores.assign(initialisation=name) for name in names]))
    assert_sound(figure, 2 * 8)
    assert [ax.get_title() for ax in figure.axes] == names[1:] * 2
    assert all(len(ax.lines) == 2 for ax in figure.axes)
    assert {len(ax.collections) for ax in figure.axes} == {4}  # a band and intervals, twice
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none"]
    some = pd.concat([scores.assign(initialisation=name) for name in names])
    few = some.query("task == 'knn' or initialisation in ['none', 'byol']")
    assert_sound(plots.label_efficiency(few), 8 + 1)


def test_many_initialisations_of_one_pretraining_set_are_cut_into_panels_that_can_be_followed(rows):
    names = ["none", *(f"method{letter}" for letter in "abcdefghijklm")]

    def many(some):
        return pd.concat([some.assign(initialisation=name) for name in names])

    one = {kind: rows[kind].query("initialisation == 'simclr'") for kind in ("cases", "parts")}
    drawn = plots.reliability(many(BINS)), plots.lesion_sizes(many(one["cases"])), plots.strata(many(one["parts"]))
    for figure in drawn:
        assert_sound(figure, 3 if figure is not drawn[2] else 9)
        titles = [ax.get_title().split("\n")[-1] for ax in figure.axes]
        assert titles[:3] == ["methoda to methode", "methodf to methodi", "methodj to methodm"]
    assert [len(ax.lines) for ax in drawn[2].axes[:3]] == [6, 5, 5]
    assert len({ax.get_ylim() for ax in drawn[2].axes[:3]}) == 1
    sets = ("busi+busbra", "mini_mias+hc18", "hc18")
    names = ["none", *(f"method{letter} same_image on {each}" for each in sets for letter in "abcdef")]
    figure = plots.lesion_sizes(many(one["cases"]))
    assert_sound(figure, 6)
    assert len({ax.get_position().x0 for ax in figure.axes}) == 4  # columns


def test_many_initialisations_with_long_names_leave_their_panels_room(rows):
    sets = ["busi+busbra+breast+busuclm", "mini_mias+inbreast+cbis_ddsm+vindr_mammo", "busi+busbra+breast+mini_mias"]
    methods = ["simclr", "moco", "byol"]
    names = ["none", *(f"{method} same_case on {each}" for method in methods for each in sets)]

    def many(kind):
        some = rows[kind].query("initialisation == 'simclr'")
        return pd.concat([some.assign(initialisation=name) for name in names])

    for figure, axes in [
        (plots.lesion_sizes(many("cases")), 3),
        (plots.strata(many("parts")), 3 * 3),
        (plots.training_curves(many("metrics")), 10 + 4),
        (plots.maps(many("maps")), 10),
    ]:
        assert_sound(figure, axes)
        assert min(ax.bbox.height for ax in figure.axes) > figure.dpi
    figure = plots.critical_difference(statistics.Ranks(pd.Series(range(1, 11), names, float), 4.0, 3, []))
    figure.draw_without_rendering()
    assert all(figure.bbox.contains(*text.get_window_extent().max) for text in figure.axes[0].texts)
    assert figure.axes[0].bbox.width > 3 * figure.dpi


def test_the_map_of_effects_has_room_for_the_names_of_its_columns(rows):
    of = [rows["differences"].assign(dataset=name) for name in ("busi", "folder my_very_long_export_of_2024")]
    figure = plots.effect_map(pd.concat(of, ignore_index=True))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert min(label.get_window_extent().y0 for label in ax.get_xticklabels()) >= 0
    assert ax.bbox.height > 0.25 * 2 * figure.dpi


def test_lesion_sizes_have_a_panel_for_each_label_fraction(rows):
    assert_sound(plots.lesion_sizes(rows["cases"]), 3)
    alone = rows["cases"].query("label_fraction == 1.0 and initialisation == 'none'")
    assert_sound(plots.lesion_sizes(alone), 1)
    assert_sound(plots.lesion_sizes(alone.iloc[:1]), 1)


def test_class_counts_say_images_and_patients():
    figure = plots.class_counts(IMAGES.table)
    assert_sound(figure, 2)
    written = [text.get_text() for text in figure.axes[1].texts]
    assert sum(map(int, written)) == IMAGES.table["patient"].nunique()


@pytest.mark.parametrize("plot", ["class_counts", "picture_sizes", "mask_coverage"])
def test_classes_are_in_alphabetical_order_whichever_comes_first_in_the_table(plot):
    table = pd.DataFrame({"label": ["b", "a", "b"], "split": "train", "patient": list("123"), "width": 3, "height": 3})
    drawn = {"mask_coverage": [np.ones((3, 4, 4), bool), table["label"]]}.get(plot, [table])
    axes = getattr(plots, plot)(*drawn).axes
    shown = (
        [text.get_text() for text in axes[0].get_yticklabels()]
        if plot == "class_counts"
        else [ax.get_title()[:1] for ax in axes[:2]]
    )
    assert shown == ["a", "b"]


def test_speeds_have_a_panel_for_each_size_of_each_device_in_training_and_alone():
    paces = {"lightly": 240, "mednb": 560, "model alone": 590}
    rows = pd.DataFrame(
        {"device": device, "cores": 2, "batch_size": 64, "what": what, "size": size, "pipeline": name}
        | {"views_per_second": pace + i}
        for device in ("AMD EPYC", "NVIDIA H100")
        for what in ("training", "views")
        for size in (64, 128, 224)
        for name, pace in paces.items()
        for i in range(3)
        if (what, name) != ("views", "model alone")
    )
    figure = plots.speed(rows)
    assert_sound(figure, 2 * 2 * 3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["241", "561", "591"]
    assert figure.axes[0].lines[-1].get_xdata()[0] == 591  # the limit
    assert len(figure.axes[3].patches) == 2
    assert_sound(plots.speed(rows.query("device == 'AMD EPYC' and size == 64")), 2)
    larger = rows[(rows["device"] == "NVIDIA H100") & (rows["size"] > 64)].assign(batch_size=256)
    figure = plots.speed(pd.concat([rows, larger]))
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert len(titles) == 2 * 2 * 3 + 2 * 2
    assert titles[0] == "training, 64 x 64 pixels, 64 images"
    assert titles[-1] == "views alone, 224 x 224 pixels, 256 images"


def test_a_pipeline_that_was_measured_at_some_sizes_has_a_bar_there_beside_its_kind():
    rows = pd.DataFrame(
        {"device": "H100", "cores": 16, "batch_size": 64, "what": what, "size": size, "pipeline": name}
        | {"views_per_second": 100.0}
        for what in ("training", "views")
        for size in (64, 128)
        for name in ("mednb", "model alone", "mednb, compiled")
        if (size, name) != (64, "mednb, compiled")
    )
    figure = plots.speed(rows)
    assert_sound(figure, 2 * 2)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["mednb", "mednb, compiled", "model alone"]
    assert [len(ax.patches) for ax in figure.axes[:2]] == [2, 3]


@pytest.mark.parametrize(
    ("draw", "arguments"),
    [
        (plots.speed, [pd.DataFrame()]),
        (plots.montage, [np.empty((0, 8, 8))]),
        (plots.views, [np.empty((0, 8, 8))] * 2),
        (plots.pairs, [np.empty((0, 8, 8))] * 2),
        (plots.neighbours, [np.empty((0, 8, 8)), {}, [], {}]),
        (plots.neighbours, [IMAGES.pixels, {}, [], {}]),
        (plots.segmentation, [{}]),
        (plots.training_curves, [pd.DataFrame()]),
        (plots.maps, [pd.DataFrame()]),
        (plots.label_efficiency, [pd.DataFrame()]),
        (plots.effects, [pd.DataFrame()]),
        (plots.effect_map, [pd.DataFrame()]),
        (plots.claims, [pd.DataFrame()]),
        (plots.reliability, [pd.DataFrame()]),
        (plots.strata, [pd.DataFrame()]),
        (plots.lesion_sizes, [pd.DataFrame()]),
        (plots.class_counts, [pd.DataFrame()]),
    ],
)
def test_nothing_to_draw_is_a_sentence(draw, arguments):
    with pytest.raises(plots.NothingToDraw, match=r"^[\w ]+: (no|there (is|are) no) "):
        draw(*arguments)


def test_rows_without_a_needed_column_are_a_sentence(rows):
    with pytest.raises(ValueError, match=r"maps: the rows have no x; they have image_id"):
        plots.maps(rows["maps"].drop(columns="x"))


def test_a_method_looks_the_same_in_every_figure():
    alone, among = plots.styles(["simclr"]), plots.styles(["spark", "simclr", "none", "something new"])
    assert alone["simclr"] == among["simclr"]
    assert list(among) == ["none", "simclr", "something new", "spark"]
    red, green, blue = matplotlib.colors.to_rgb(among["none"][0])
    assert red == green == blue


def test_initialisations_can_be_told_apart_without_colour():
    looks = plots.styles([*plots.STYLES, *(f"simclr {i}" for i in range(5))]).values()
    assert len({colour for colour, _, _ in looks}) == len(looks)
    assert len({(marker, line) for _, marker, line in looks}) == len(looks)


def test_classes_are_told_apart_in_grey():
    grey = [np.dot(matplotlib.colors.to_rgb(colour), [0.299, 0.587, 0.114]) for colour in plots.CLASSES[:3]]
    assert min(abs(a - b) for i, a in enumerate(grey) for b in grey[:i]) > 0.15


def test_figures_show_and_save_themselves_without_pyplot(tmp_path):
    code = "import sys; from mednb import plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    figure = plots.montage(IMAGES.pixels[:2])
    assert figure._repr_png_().startswith(b"\x89PNG")
    for ending in ("png", "svg"):
        plots.save(figure, tmp_path / f"figures/montage.{ending}")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"montage.png", "montage.svg"}
