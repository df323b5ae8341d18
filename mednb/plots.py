"""Figures: one function for each kind, tidy rows or images in, a Figure out.

An initialisation has the same colour, marker and line in every figure; all of them can be told apart by colour-blind
readers and in grey. Nothing here goes through pyplot, so no figure lingers and none needs a screen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, cycle, product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from mednb import files
from mednb.metrics import LOWER_IS_BETTER
from mednb.results import MAIN_METRIC, SETTING, in_order, method_of, percent

if TYPE_CHECKING:
    from mednb.statistics import Ranks

# Colours of Okabe and Ito (2008), told apart by all kinds of colour vision; random initialisation is grey.
STYLES = {
    "none": ("#6f6f6f", "o", (0, (1.2, 1.2))),
    "simclr": ("#0072b2", "s", "-"),
    "byol": ("#d55e00", "^", (0, (5, 1.5))),
    "moco": ("#009e73", "D", (0, (4, 1.2, 1, 1.2))),
    "simsiam": ("#cc79a7", "v", (0, (7, 2))),
    "swav": ("#56b4e9", "P", (0, (3, 1))),
    "spark": ("#e69f00", "X", (0, (6, 1, 1, 1, 1, 1))),
    "supervised": ("#882255", "*", "-"),
    "imagenet": ("#7b3294", "h", (0, (2, 1))),
}
OTHERS = ["#332288", "#117733", "#999933", "#661100", "#44aa99", "#88ccee"]
# Of initialisations that have no marker and line of their own, and of the further ones of a method.
FREE_MARKERS = ["<", ">", "p", "d", "H", "8", "$\\clubsuit$", "$\\spadesuit$", "$+$", "$\\times$", "$=$", "$\\#$"]
FREE_LINES = [(0, (5, 1.5)), (0, (1.2, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)), (0, (3, 1))]
SHADES = [0.4, -0.45, 0.65, -0.7, 0.2]  # towards white, towards black
TELLING = ("finetune", "linear", "knn")  # which one is drawn where there is room for one
SIZES = ["size: small", "size: medium", "size: large"]  # the only strata that have an order
MANY = 6  # initialisations; more of them in one panel cannot be followed
# Classes have other colours than initialisations (Paul Tol's high-contrast set, then his muted one), and markers too.
CLASSES = ["#004488", "#bb5566", "#ddaa33", "#44aa99", "#882255", "#999933", "#332288", "#117733", "#aa4499", "#88ccee"]
MARKERS = ["o", "^", "s", "D", "v", "P", "X", "<", ">", "*"]
TRUTH, PREDICTED = "#ffffff", "#ff9f1c"
SAME = {"color": "#0072b2", "linewidth": 2.2, "linestyle": "-"}
ANOTHER = {"color": "#d55e00", "linewidth": 2.2, "linestyle": ":"}


class NothingToDraw(ValueError):
    """The rows or images that a figure needs are not there; the sentence says which."""


class Figure(matplotlib.figure.Figure):
    """A Figure that shows itself in a notebook without pyplot."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def save(figure: matplotlib.figure.Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure to `path`, whole; the ending chooses the format."""
    with files.whole(path) as aside:
        figure.savefig(aside, dpi=dpi)


def styles(initialisations: Iterable[str]) -> dict[str, tuple]:
    """name -> (colour, marker, line style), in the order of legends; a method has the same in every figure.

    Further initialisations of a method ("simclr on busi") have a lighter or darker shade of its colour, and a marker
    and a line of their own.
    """
    colours, markers, lines = cycle(OTHERS), cycle(FREE_MARKERS), cycle(FREE_LINES)
    looks, of_method = {}, {}
    for name in in_order(initialisations):
        before = of_method.setdefault(method_of(name), [])
        known = STYLES.get(method_of(name))
        if not before:
            looks[name] = known or (next(colours), next(markers), next(lines))
        else:
            shade = SHADES[(len(before) - 1) % len(SHADES)]
            first = np.array(to_rgb(looks[before[0]][0]))
            looks[name] = (to_hex(first + abs(shade) * ((shade > 0) - first)), next(markers), next(lines))
        before.append(name)
    return looks


def in_groups(initialisations: Iterable[str]) -> dict[str, list[str]]:
    """Heading -> initialisations that share a panel: all, unless they are many; then those of one pretraining set.

    What was pretrained on no set of the study, random initialisation first of all, is in every group.
    """
    names = in_order(initialisations)
    sets = sorted({name.partition(" on ")[2] for name in names} - {""})
    if len(names) <= MANY or len(sets) < 2:
        return {"": names}
    return {f"on {each}": [name for name in names if name.partition(" on ")[2] in ("", each)] for each in sets}


# -------------------- images


def montage(
    pixels: np.ndarray,
    titles: Sequence[str] | None = None,
    masks: np.ndarray | None = None,
    columns: int = 6,
) -> Figure:
    """Images (N, H, W) side by side, `columns` in a row, each under its title and with the outline of its mask."""
    pixels = _pictures(pixels, "montage")
    titles = None if titles is None else list(titles)
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = Figure(figsize=(1.6 * columns, (1.85 if titles is not None else 1.6) * rows), layout="compressed")
    grid = figure.add_gridspec(rows, columns)
    for i, image in enumerate(pixels):
        ax = _picture(figure.add_subplot(grid[i // columns, i % columns]), image, pixels)
        if titles is not None:
            ax.set_title(str(titles[i]), fontsize=8)
        if masks is not None:
            _outline(ax, masks[i], PREDICTED, "-")
    return figure


def views(first: np.ndarray, second: np.ndarray, images: np.ndarray | None = None) -> Figure:
    """Two views of each image (N, H, W), one above the other; the undisturbed images on top where they are given."""
    rows = {} if images is None else {"image": images}
    return _strips(rows | {"view 1": first, "view 2": second})


def pairs(
    images: np.ndarray, partners: np.ndarray, titles: Sequence[str] | None = None, partner: str = "partner"
) -> Figure:
    """Images (N, H, W) above the partners that a strategy gave them; a title says what the two share."""
    return _strips({"image": images, partner: partners}, titles)


def _strips(rows: Mapping[str, np.ndarray], titles: Sequence[str] | None = None) -> Figure:
    rows = {name: _pictures(pixels, name) for name, pixels in rows.items()}
    counts = {name: len(pixels) for name, pixels in rows.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(f"rows of pictures need as many in each: there are {each}")
    columns = next(iter(counts.values()))
    figure = Figure(figsize=(1.5 * columns + 0.3, 1.5 * len(rows) + 0.3), layout="compressed")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pixels) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, pixels, strict=True):
            _picture(ax, image, pixels)
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], titles if titles is not None else [], strict=False):
        ax.set_title(str(title), fontsize=8)
    return figure


def neighbours(
    queries: np.ndarray,
    found: Mapping[str, np.ndarray],
    query_labels: Sequence[str],
    found_labels: Mapping[str, np.ndarray],
) -> Figure:
    """Each query (Q, H, W) and, for every initialisation, its nearest neighbours (Q, k, H, W) in that embedding.

    The labels are (Q,) and (Q, k); the frame of a neighbour says whether it has the query's label.
    """
    queries, query_labels = _pictures(queries, "neighbours"), np.asarray(query_labels)
    names = in_order(found)
    if not names:
        raise NothingToDraw("neighbours: there is no initialisation to look for neighbours with")
    k = len(found[names[0]][0])
    widths = list(chain([1], *([0.18, *[1] * k] for _ in names)))
    figure = Figure(figsize=(0.78 * sum(widths) + 0.2, 0.86 * len(queries) + 0.75))
    grid = figure.add_gridspec(
        len(queries), len(widths), width_ratios=widths, wspace=0.08, hspace=0.12,
        left=0.075, right=0.995, bottom=0.01, top=1 - 0.62 / figure.get_figheight(),
    )  # fmt: skip
    for row, image in enumerate(queries):
        ax = _picture(figure.add_subplot(grid[row, 0]), image, queries)
        ax.set_ylabel(query_labels[row], fontsize=8)
        if row == 0:
            ax.set_title("query", fontsize=9, loc="left")
        for block, name in enumerate(names):
            for i in range(k):
                ax = figure.add_subplot(grid[row, 2 + block * (k + 1) + i])
                _picture(ax, _grey(found[name][row][i]), queries)
                right = np.asarray(found_labels[name])[row, i] == query_labels[row]
                for spine in ax.spines.values():
                    spine.set(visible=True, **(SAME if right else ANOTHER))
                if row == 0 and i == 0:
                    ax.set_title(name, fontsize=9, loc="left")
    frames = [
        Line2D([], [], **SAME, label="same label"),
        Line2D([], [], **ANOTHER, label="another label"),
    ]
    figure.legend(handles=frames, loc="upper left", bbox_to_anchor=(0.06, 1), ncols=2, frameon=False, fontsize=9)
    return figure


def segmentation(examples: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Images, and below each the true and the predicted outline, a row for each initialisation; above each its Dice.

    examples: initialisation -> what is in its examples.npz: image (M, H, W), mask and prediction (M, H, W) bool, for
    the same M images.
    """
    names = in_order(examples)
    if not names or not len(examples[names[0]]["image"]):
        raise NothingToDraw("segmentation: there are no examples to draw")
    ids = [list(examples[name]["image_id"]) for name in names]
    if any(each != ids[0] for each in ids):
        raise ValueError(f"segmentation: {', '.join(names)} have examples of different images")
    images = _pictures(examples[names[0]]["image"], "segmentation")
    masks = np.asarray(examples[names[0]]["mask"], bool)
    figure = Figure(figsize=(max(1.6 * len(images), 3.6), 1.72 * (1 + len(names)) + 0.4), layout="compressed")
    axes = figure.subplots(1 + len(names), len(images), squeeze=False)
    for ax, image in zip(axes[0], images, strict=True):
        _picture(ax, image, images)
    axes[0, 0].set_ylabel("image", fontsize=9)
    for line, name in zip(axes[1:], names, strict=True):
        line[0].set_ylabel(_wrapped(name, 18), fontsize=9)
        for ax, image, mask, predicted in zip(line, images, masks, examples[name]["prediction"], strict=True):
            predicted = np.asarray(predicted, bool)
            _picture(ax, image, images)
            _outline(ax, mask, TRUTH, "-")
            _outline(ax, predicted, PREDICTED, (0, (2.5, 1)))
            size = mask.sum() + predicted.sum()
            ax.set_title(f"dice {2 * (mask & predicted).sum() / size if size else 1.0:.2f}", fontsize=8)
    lines = [
        Line2D([], [], color="#bbbbbb", linewidth=1.6, label="truth (white)"),
        Line2D([], [], color=PREDICTED, linewidth=1.6, linestyle=(0, (2.5, 1)), label="prediction"),
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _pictures(pixels, where: str) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim < 3 or not len(pixels):
        raise NothingToDraw(f"{where}: no images to draw; wanted (N, H, W), got {pixels.shape}")
    return np.stack([_grey(image) for image in pixels])


def _grey(image) -> np.ndarray:
    """One image, (H, W) or channels first as networks have them, as imshow takes it."""
    image = np.asarray(image)
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def _picture(ax: Axes, image: np.ndarray, among: np.ndarray) -> Axes:
    """Draw one image on the grey scale of those it is shown among, so that they can be compared."""
    low, high = (0, 255) if among.dtype == np.uint8 else (among.min(), among.max())
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _outline(ax: Axes, mask: np.ndarray, colour: str, line) -> None:
    mask = np.asarray(mask, bool)
    if mask.any():  # a frame of False around it closes outlines at the edge, and gives a full mask an outline
        edge = np.arange(-1, max(mask.shape) + 1)
        ax.contour(
            edge[: mask.shape[1] + 2], edge[: mask.shape[0] + 2], np.pad(mask, 1), [0.5],
            colors=[colour], linestyles=[line], linewidths=1.4,
        )  # fmt: skip
        ax.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


# -------------------- rows


def class_counts(table: pd.DataFrame) -> Figure:
    """Images and patients of each class in each split, from a table with a row per image: label, split, patient."""
    _rows(table, "class_counts", "label", "split", "patient")
    counts = table.groupby(["label", "split"])["patient"].agg(images="size", patients="nunique")
    labels = sorted(set(table["label"]))
    splits = [split for split in ("train", "val", "test") if split in set(table["split"])]
    shades = {"train": "#444444", "val": "#8c8c8c", "test": "#cccccc"}
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(labels) * (len(splits) + 0.6)), layout="constrained")
    for ax, what in zip(figure.subplots(1, 2, sharey=True), ("images", "patients"), strict=True):
        for j, split in enumerate(splits):
            height = [int(counts[what].get((label, split), 0)) for label in labels]
            at = np.arange(len(labels)) + (j - (len(splits) - 1) / 2) * 0.27
            bars = ax.barh(at, height, height=0.25, color=shades[split], label=split)
            ax.bar_label(bars, fontsize=8, padding=2)
        ax.set(xlabel=what, yticks=range(len(labels)), yticklabels=labels)
        ax.margins(x=0.15)
        _quiet(ax, grid=False)
    ax.invert_yaxis()
    _legend(figure, [Patch(color=shades[split], label=split) for split in splits])
    return figure


def picture_sizes(table: pd.DataFrame, columns: int = 4) -> Figure:
    """Width and height of the files' pictures, a panel for each class; a disc is as large as the share of the class.

    table: a row per image with label, width and height. Where the panels differ, the format of a file gives its label
    away.
    """
    _rows(table, "picture_sizes", "label", "width", "height")
    labels = sorted(set(table["label"]))
    counts = table.groupby(["label", "width", "height"]).size().rename("images").reset_index()
    columns = min(columns, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.4 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(labels) :]:
        ax.remove()
    for ax, label in zip(axes.flat, labels, strict=False):
        rows = counts[counts["label"] == label]
        area = 8 + 400 * rows["images"] / rows["images"].sum()
        ax.scatter(rows["width"], rows["height"], area, color="#0072b2", alpha=0.35, linewidths=0)
        ax.set_title(label, fontsize=9)
        ax.margins(0.15)
        _quiet(ax)
    figure.supxlabel("width in the file, pixels", fontsize=9)
    figure.supylabel("height in the file, pixels", fontsize=9)
    return figure


def mask_coverage(masks: np.ndarray, labels: Sequence[str], columns: int = 6) -> Figure:
    """Where the lesions of each class lie: the share of its masks (N, H, W) that cover a place."""
    labels = np.asarray(labels)
    names = [label for label in sorted(set(labels)) if masks[np.flatnonzero(labels == label)].any()]
    if not names:
        raise NothingToDraw("mask_coverage: all masks are empty")
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(2.2 * columns + 0.9, 2.5 * lines), layout="compressed")
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    means = [masks[np.flatnonzero(labels == name)].mean(0) for name in names]
    for ax, name, mean in zip(axes.flat, names, means, strict=False):
        drawn = ax.imshow(mean, cmap="magma", vmin=0, vmax=max(each.max() for each in means))
        some = masks[np.flatnonzero(labels == name)].any(axis=(1, 2))
        ax.set_title(f"{name}: {some.sum():,} of {len(some):,}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="share of masks")
    return figure


def leaks(shares: pd.DataFrame) -> Figure:
    """The share of test images whose answer is in train, a bar for each split and reason.

    shares: columns split, reason, share.
    """
    _rows(shares, "leaks", "split", "reason", "share")
    wide = shares.pivot_table("share", "split", "reason", sort=False)
    figure = Figure(figsize=(7, 1.1 + 0.5 * len(wide)), layout="constrained")
    ax = figure.subplots()
    for j, (reason, colour) in enumerate(zip(wide, ("#8c8c8c", "#444444"), strict=False)):
        at = np.arange(len(wide)) + (j - (len(wide.columns) - 1) / 2) * 0.36
        bars = ax.barh(at, 100 * wide[reason], height=0.33, color=colour, label=reason)
        ax.bar_label(bars, [f"{share:.1%}" for share in wide[reason]], fontsize=8, padding=2)
    ax.set(
        xlabel="test images whose answer is in train, %", xlim=(0, 112), yticks=range(len(wide)), yticklabels=wide.index
    )
    ax.set_xticks(range(0, 101, 20))
    ax.invert_yaxis()
    _quiet(ax, grid=False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def resizings(lesions: pd.DataFrame, small: int = 20) -> Figure:
    """What resizing leaves of the lesions: for each way, the share of them that have fewer pixels than a number.

    lesions: a row per lesion and way with resize, before and after (pixels, in the file and resized). Below `small`
    pixels an outline says little.
    """
    _rows(lesions, "resizings", "resize", "before", "after", why="no image has a mask that is not empty")
    ways = list(dict.fromkeys(lesions["resize"]))
    looks = [
        ("#0072b2", "-"),
        ("#d55e00", (0, (5, 1.5))),
        ("#009e73", (0, (4, 1.2, 1, 1.2))),
        ("#cc79a7", (0, (1.2, 1.2))),
    ]
    looks = dict(zip(ways, cycle(looks), strict=False))
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    ax = figure.subplots()
    once = lesions[lesions["resize"] == ways[0]]["before"]
    for values, colour, line in [
        (once, "#bbbbbb", "-"),
        *[(lesions[lesions["resize"] == way]["after"], *looks[way]) for way in ways],
    ]:
        ordered = np.sort(values.to_numpy())
        ax.step(
            ordered, 100 * np.arange(1, len(ordered) + 1) / len(ordered), color=colour, linestyle=line, where="post"
        )
    ax.axvline(small, color="#444444", linewidth=0.8)
    ax.annotate(f"{small} pixels", (small, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                textcoords="offset points", fontsize=8, color="#444444")  # fmt: skip
    ax.set(xscale="log", xlabel="pixels of the lesion", ylabel="lesions with at most as many, %", ylim=(0, 101))
    _quiet(ax)

    def said(way: str) -> str:
        after = lesions[lesions["resize"] == way]["after"]
        return f"{way}: {np.mean(after < small):.1%} below {small}"

    handles = [Line2D([], [], color="#bbbbbb", label="in the file")]
    handles += [Line2D([], [], color=colour, linestyle=line, label=said(way)) for way, (colour, line) in looks.items()]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def training_curves(metrics: pd.DataFrame) -> Figure:
    """Pretraining epoch by epoch: the loss of each, then spread, effective_rank, alignment, uniformity and knn of all.

    metrics: rows of metrics.csv with initialisation and seed, and run where there are several of a seed. Losses of
    different methods mean different things: each has its own axis. A thin line is one run, a thick one the mean of
    those that differ in nothing but data and seed, as far as all of them went.
    """
    _rows(metrics, "training_curves", "initialisation", "seed", "epoch", "loss", why="random initialisation has none")
    one_run = [name for name in ("run", "dataset", "size", "decoder", "seed", "fold") if name in metrics]
    kind = [name for name in ("size", "decoder") if len(set(metrics.get(name, ()))) > 1] or ["initialisation"]
    looks = styles(metrics["initialisation"])
    panels = [(f"loss of {name}", "loss", metrics[metrics["initialisation"] == name]) for name in looks]
    healthy = ("spread", "effective_rank", "alignment", "uniformity", "knn")
    healthy = [name for name in healthy if name in metrics and metrics[name].notna().any()]
    # Neighbours are asked now and then only: the line goes from answer to answer.
    panels += [(name.replace("_", " "), name, metrics.dropna(subset=name)) for name in healthy]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.3 * lines + 0.5), layout="constrained")
    grid = figure.add_gridspec(lines, columns, hspace=0.12)
    for i, (title, name, rows) in enumerate(panels):
        ax = figure.add_subplot(grid[i // columns, i % columns])
        for start, group in rows.groupby("initialisation"):
            colour, _, line = looks[start]
            runs = list(group.groupby(one_run, dropna=False))
            several = len(runs) > 1
            for _, run in runs:
                thin = {"linewidth": 0.7, "alpha": 0.6} if several else {"linewidth": 1.8}
                alone = "o" if len(run) == 1 else None  # of one epoch a line would show nothing
                ax.plot(run["epoch"], run[name], color=colour, linestyle=line, marker=alone, markersize=4, **thin)
            kinds = list(group.groupby(kind, dropna=False))
            for values, of_kind in kinds if several else ():
                mean = of_kind.groupby("epoch")[name].agg(["mean", "size"])
                mean = mean.loc[mean["size"] == mean["size"].max(), "mean"]
                ax.plot(mean.index, mean, color=colour, linewidth=1.8, linestyle=line)
                if len(kinds) > 1 and name == "loss":
                    said = ", ".join(f"{what} {value}" for what, value in zip(kind, values, strict=True))
                    ax.annotate(said, (mean.index[-1], mean.iloc[-1]), ha="right", va="bottom", fontsize=7)
        ax.set_title(_wrapped(title, 40), fontsize=10)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=5, min_n_ticks=1)
        _quiet(ax)
    _legend(figure, _handles(looks, markers=False))
    return figure


def maps(points: pd.DataFrame, colour: str = "label") -> Figure:
    """The maps of several initialisations side by side, each image a point, coloured by a column.

    points: rows of map.parquet with x, y, initialisation and the column; the axes have no unit: only who is near
    whom can be read. One panel for each initialisation, and for each dataset. A categorical column keeps its order.
    """
    _rows(points, "maps", "x", "y", "initialisation", colour)
    kinds = points[colour].astype("category").cat.remove_unused_categories()
    points, groups = points.assign(**{colour: kinds.astype("str")}), kinds.cat.categories.astype("str")
    looks = dict(zip(groups, zip(cycle(CLASSES), cycle(MARKERS)), strict=False))
    starts = in_order(points["initialisation"])
    datasets = sorted(set(points["dataset"])) if "dataset" in points else [None]
    panels = [
        (dataset, start, one)
        for dataset in datasets
        for start in starts
        if len(one := _where(points, dataset=dataset, initialisation=start))
    ]
    columns = min(len(starts), 4)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(3.1 * columns, 4), 3.2 * lines + 0.4), layout="constrained")
    grid = figure.add_gridspec(lines, columns)
    for i, (dataset, start, one) in enumerate(panels):
        ax = figure.add_subplot(grid[i // columns, i % columns])
        size = np.clip(9000 / len(one), 9, 26)
        shuffled = one.sample(frac=1, random_state=0)
        for few in (shuffled.iloc[part::5] for part in range(5)):  # in turns, so that no class lies on top of all
            for group, (shade, marker) in looks.items():
                there = few[few[colour] == group]
                like = {"s": size * (1.4 if marker in "^v<>" else 1), "c": shade, "marker": marker, "alpha": 0.85}
                ax.scatter(there["x"], there["y"], **like, linewidths=0.25, edgecolors="white")
        ax.set_title(_wrapped(start if len(datasets) == 1 else f"{dataset}: {start}", 40), fontsize=10)
        ax.set(xticks=[], yticks=[])
        ax.margins(0.06)
        ax.spines[:].set_color("#bbbbbb")
    handles = [
        Line2D([], [], color=shade, marker=marker, linestyle="", markersize=6, label=group)
        for group, (shade, marker) in looks.items()
    ]
    _legend(figure, handles)
    return figure


def label_efficiency(scores: pd.DataFrame, metrics: Mapping[str, str] = MAIN_METRIC) -> Figure:
    """Score against label fraction: one panel for each task (and setting), one line for each initialisation.

    scores: what `statistics.intervals` gives. A band reaches from the lowest seed to the highest, an upright line is
    the interval over seeds and patients. `metrics`: which metric stands for each task. Many initialisations have a
    panel for each pretraining set; where these are still many, each has its own, beside random initialisation.
    """
    scores = _main(scores, "label_efficiency", metrics)
    several = scores.groupby([*SETTING, "task"])["initialisation"].transform("nunique")
    scores = scores[(several > 1) | (several.max() == 1)]  # one alone is not compared with anything
    looks, groups = styles(scores["initialisation"]), in_groups(scores["initialisation"])
    keyed = list(scores.groupby([*SETTING, "task"], sort=False))
    if max(map(len, groups.values())) > MANY:
        return _each_alone(scores, keyed, looks, metrics)
    figure, panels = _panels(keyed, groups)
    for ax, key, panel, heading, names in panels:
        for nth, start in enumerate(names):  # beside, not upon each other
            _efficiency(ax, panel, start, looks[start], 1.025 ** (nth - (len(names) - 1) / 2))
        _fractions(ax, panel)
        ax.set(xlabel="label_fraction", ylabel=metrics[key[-1]])
        ax.set_title(_headed(_title(scores, key), heading), fontsize=10)
        _quiet(ax)
    _legend(figure, _handles(looks))
    return figure


def _each_alone(
    scores: pd.DataFrame, keyed: list[tuple], looks: dict[str, tuple], metrics: Mapping[str, str]
) -> Figure:
    """`label_efficiency` of many initialisations: a panel for each task and each of them but for the first."""
    reference, columns = next(iter(looks)), 7
    shown = [
        [name for name in looks if name != reference and (rows["initialisation"] == name).any()] for _, rows in keyed
    ]
    lines = [-(-len(names) // columns) for names in shown]
    figure = Figure(figsize=(1.5 * columns + 0.5, 1.6 * sum(lines) + 0.4 * len(lines)), layout="constrained")
    blocks = figure.subfigures(len(keyed), squeeze=False, height_ratios=lines)[:, 0]
    for block, (key, panel), names, rows in zip(blocks, keyed, shown, lines, strict=True):
        block.suptitle(f"{_title(scores, key)} {metrics[key[-1]]}", fontsize=10)
        grid = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for ax, start in zip_longest(grid, names):
            if start is None:
                ax.remove()
                continue
            for each, beside in ((reference, 1 / 1.04), (start, 1.04)):
                _efficiency(ax, panel, each, looks[each], beside)
            _fractions(ax, panel)
            ax.set_title(_wrapped(start, 18), fontsize=9)
            _quiet(ax)
            ax.tick_params(labelbottom=start in names[-columns:])
    figure.supxlabel("label_fraction", fontsize=9)
    _legend(figure, _handles({reference: looks[reference]}))
    return figure


def _efficiency(ax: Axes, panel: pd.DataFrame, start: str, look: tuple, beside: float) -> None:
    """One line of `label_efficiency`."""
    colour, marker, line = look
    rows = panel[panel["initialisation"] == start].sort_values("label_fraction")
    x = rows["label_fraction"] * beside
    ax.fill_between(x, rows["seeds_low"], rows["seeds_high"], color=colour, alpha=0.18, linewidth=0)
    _intervals(ax.vlines, x, rows["low"], rows["high"], color=colour, linewidth=1.1, alpha=0.8)
    ax.plot(x, rows["mean"], color=colour, marker=marker, linestyle=line, markersize=5.5, linewidth=1.8)


def _fractions(ax: Axes, panel: pd.DataFrame) -> None:
    """The label fractions as the x axis."""
    fractions = sorted(set(panel["label_fraction"]))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(fractions))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(fractions, [percent(fraction) for fraction in fractions])
    ax.set_xlim(min(fractions) / 1.25, max(fractions) * 1.25)


def effects(differences: pd.DataFrame, metrics: Mapping[str, str] = MAIN_METRIC) -> Figure:
    """What pretraining adds, with its interval: one line for each task and label fraction, zero is no difference.

    differences: what `statistics.differences` gives. An interval that does not touch the line of zero has a full
    marker. One panel for each setting.
    """
    rows = _main(differences, "effects", metrics)
    looks = styles(rows["initialisation"])
    settings = list(rows.groupby(SETTING, sort=False))
    questions = sorted(
        set(zip(rows["task"], rows["label_fraction"], strict=True)), key=lambda q: (list(metrics).index(q[0]), q[1])
    )
    step = 0.24
    height = max(1, step * (len(looks) + 1.2))
    inches = 0.34 * height * len(questions) + 0.9
    figure = Figure(figsize=(4.2 + 2.8 * len(settings), inches), layout="constrained")
    for ax, (key, of) in zip(figure.subplots(1, len(settings), sharey=True, squeeze=False)[0], settings, strict=True):
        for i, (task, fraction) in enumerate(questions):
            if i and task != questions[i - 1][0]:
                ax.axhline((i - 0.5) * height, color="#bbbbbb", linewidth=0.8)
            group = of[(of["task"] == task) & (of["label_fraction"] == fraction)]
            for nth, (start, (colour, marker, _)) in enumerate(looks.items()):
                y = i * height + (nth - (len(looks) - 1) / 2) * step
                for r in group[group["initialisation"] == start].itertuples():
                    apart = r.low > 0 or r.high < 0
                    _intervals(ax.hlines, y, r.low, r.high, color=colour, linewidth=1.6)
                    fill = colour if apart else "white"
                    ax.plot(r.difference, y, marker=marker, color=colour, markersize=6.5, markerfacecolor=fill)
        ax.axvline(0, color="#222222", linewidth=1)
        ax.set_yticks(
            np.arange(len(questions)) * height, [f"{task} {metrics[task]}, {percent(part)}" for task, part in questions]
        )
        ax.set_ylim((len(questions) - 0.5) * height, -0.5 * height)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        if len(settings) > 1:
            ax.set_title(_setting(rows, key), fontsize=10)
        _quiet(ax)
        ax.grid(axis="y", visible=False)
    less = set(rows["metric"]) & set(LOWER_IS_BETTER)
    sides = "left: worse, right: better" if not less else f"right: more; of {' and '.join(sorted(less))} less is better"
    figure.supxlabel(f"difference to {_listed(rows['to'])}   ({sides})", fontsize=10)
    _legend(figure, _handles(looks, lines=False))
    return figure


def effect_map(differences: pd.DataFrame, metrics: Mapping[str, str] = MAIN_METRIC) -> Figure:
    """What pretraining adds at a glance: a row for each initialisation, a column for each task and label fraction.

    differences: what `statistics.differences` gives. A cell holds the difference in hundredths; it is in bold and
    framed where p_holm is below 0.05: no chance among all comparisons of its family (see `statistics.differences`).
    """
    rows = _main(differences, "effect_map", metrics)
    names = in_order(rows["initialisation"])
    columns = list(rows.groupby([*SETTING, "task", "label_fraction"], sort=False))
    titles = [f"{_title(rows, key[:-1])}, {percent(key[-1])}" for key, _ in columns]
    largest = max(100 * rows["difference"].abs().max(), 1e-9)
    width = 1.6 + 0.085 * max(map(len, names)) + 0.5 * len(columns)
    height = 1.1 + 0.055 * max(map(len, titles)) + 0.3 * len(names)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    cells = np.full((len(names), len(columns)), np.nan)
    for j, (_, column) in enumerate(columns):
        for r in column.itertuples():
            i = names.index(r.initialisation)
            cells[i, j] = 100 * r.difference
            sure = r.p_holm < 0.05
            dark = abs(cells[i, j]) > 0.55 * largest
            said = {"fontweight": "bold" if sure else "normal", "color": "white" if dark else "black"}
            ax.text(j, i, f"{cells[i, j]:+.1f}".replace("-", "−"), ha="center", va="center", fontsize=8, **said)
            if sure:
                ax.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, linewidth=1.4))
    ax.imshow(cells, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto")
    ax.set_xticks(range(len(columns)), titles, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"difference to {_listed(rows['to'])}, in hundredths of the metric", fontsize=10, loc="left")
    return figure


def claims(rows: pd.DataFrame) -> Figure:
    """Every comparison of every claim: its effect with its interval, and what was asked for.

    rows: what `claims.table` gives. The short upright line of each claim is the smallest effect that matters. A full
    disc speaks for the claim, a full square against it, a hollow disc leaves it open.
    """
    _rows(rows, "claims", "id", "what", "effect", "low", "high", "of_this", "smallest", "expects")
    rows = rows[np.isfinite(rows["effect"].astype(float))]
    _rows(rows, "claims", why="no claim could be tested")
    kinds = {
        "supported": ("o", "#222222", "speaks for the claim"),
        "contradicted": ("s", "#222222", "speaks against it"),
        "undecided": ("o", "white", "leaves it open"),
    }
    figure = Figure(figsize=(8, 0.23 * (len(rows) + 1.4 * rows["id"].nunique()) + 1.1), layout="constrained")
    ax = figure.subplots()
    y, ticks = 0.0, {}
    for name, of in rows.groupby("id", sort=False):
        first = of.iloc[0]
        top = y
        for r in of.itertuples():
            marker, fill, _ = kinds[r.of_this]
            _intervals(ax.hlines, y, r.low, r.high, color="#222222", linewidth=1.3)
            ax.plot(r.effect, y, marker=marker, color="#222222", markerfacecolor=fill, markersize=6)
            ticks[y] = f"{name}: {r.what}" if r.what else name
            y += 1
        asked = {"more": [1], "at least": [-1], "no difference": [-1, 1]}[first["expects"]]
        ends = [sign * first["smallest"] for sign in asked]
        ax.vlines(ends, top - 0.5, y - 0.5, color="#d55e00", linewidth=1.6, linestyle=(0, (2, 1)))
        y += 0.8
    ax.axvline(0, color="#222222", linewidth=1)
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    ax.set_ylim(y - 0.8, -0.8)
    ax.set_xlabel("effect, in the metric's units")
    _quiet(ax)
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(axis="y", visible=False)
    handles = [
        Line2D([], [], color="#222222", marker=marker, markerfacecolor=fill, label=said)
        for marker, fill, said in kinds.values()
    ]
    asked = Line2D([], [], color="#d55e00", linewidth=1.6, linestyle=(0, (2, 1)), label="what was asked for")
    _legend(figure, [*handles, asked])
    return figure


def critical_difference(ranks: Ranks) -> Figure:
    """Mean ranks of initialisations on a line, 1 is best; a bar joins those that do not differ (Demsar, JMLR 2006).

    ranks: what `statistics.critical_difference` gives.
    """
    names = list(ranks.mean.index)
    half, k = -(-len(names) // 2), len(names)
    bars = 0.32 * len(ranks.alike) + 0.3
    width = max(8, 4 + 2 * 0.085 * max(map(len, names)))
    figure = Figure(figsize=(width, 1.5 + 0.25 * (half + bars)), layout="constrained")
    ax = figure.subplots()
    ends = (1 - 0.02 * k, max(k, 1 + ranks.critical_difference) + 0.02 * k)
    ax.set(xlim=ends, ylim=(bars + half + 0.5, -2.6))
    ax.hlines(0, 1, k, color="#222222", linewidth=1.2)
    for rank in range(1, k + 1):
        ax.vlines(rank, -0.18, 0, color="#222222", linewidth=1.2)
        ax.text(rank, -0.3, str(rank), ha="center", va="bottom", fontsize=9)
    for nth, group in enumerate(ranks.alike):
        y = 0.32 * (nth + 1)
        ax.hlines(y, ranks.mean[group[0]] - 0.03, ranks.mean[group[-1]] + 0.03, color="#222222", linewidth=3.5)
    for nth, name in enumerate(names):
        left = nth < half
        y = bars + (nth if left else k - 1 - nth) + 0.5
        end = ends[0] if left else ends[1]  # at the edge of the axes: there the layout finds room for any name
        ax.plot([ranks.mean[name], ranks.mean[name], end], [0, y, y], color="#777777", linewidth=0.9)
        side = {"ha": "right" if left else "left", "va": "center", "fontsize": 9, "textcoords": "offset points"}
        ax.annotate(f"{name} ({ranks.mean[name]:.1f})", (end, y), (-3 if left else 3, 0), **side)
    ax.hlines(-1.5, 1, 1 + ranks.critical_difference, color="#222222", linewidth=1.6)
    ax.vlines([1, 1 + ranks.critical_difference], -1.62, -1.38, color="#222222", linewidth=1.6)
    said = f"critical difference {ranks.critical_difference:.1f}, of {ranks.blocks} seeds and folds"
    ax.text(1, -1.75, said, va="bottom", fontsize=9)
    ax.set_axis_off()
    return figure


def reliability(rows: pd.DataFrame) -> Figure:
    """Accuracy against confidence: on the diagonal a network is right as often as it says.

    rows: what `metrics.reliability` gives, with initialisation, task and the setting: one panel for each task. A mark
    is as large as the share of the images.
    """
    _rows(rows, "reliability", "confidence", "accuracy", "n_images", "initialisation", "task")
    looks, groups = styles(rows["initialisation"]), in_groups(rows["initialisation"])
    figure, panels = _panels(list(rows.groupby([*SETTING, "task"], sort=False)), groups)
    for ax, key, panel, heading, names in panels:
        ax.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        for start in names:
            colour, marker, line = looks[start]
            of = panel[panel["initialisation"] == start].sort_values("confidence")
            ax.plot(of["confidence"], of["accuracy"], color=colour, linestyle=line, linewidth=1.3)
            size = 6 + 160 * of["n_images"] / of["n_images"].sum()
            ax.scatter(of["confidence"], of["accuracy"], size, color=colour, marker=marker, alpha=0.8, linewidths=0)
        low = max(0, panel["confidence"].min() - 0.05)
        ax.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.03), ylim=(-0.03, 1.03))
        ax.set_title(_headed(_title(rows, key), heading), fontsize=10)
        _quiet(ax)
    _legend(figure, _handles(looks))
    return figure


def strata(scores: pd.DataFrame, metrics: Mapping[str, str] = MAIN_METRIC) -> Figure:
    """The scores in parts of the test images: by size of the lesion, source, scanner, class; with intervals.

    scores: what `statistics.intervals` gives with strata. One panel for segmentation and one for classification (the
    first of fine-tuning, linear probe and neighbours) for each kind of part, at the largest label fraction; within one
    class the score is the recall.
    """
    _rows(scores, "strata", "stratum", "task", "metric", "label_fraction", "initialisation")
    kind, tasks = scores["stratum"].map(lambda part: part.partition(": ")[0]), set(scores["task"])
    told = ["segment", next((task for task in TELLING if task in tasks), "")]
    recall = (kind == "class") & (scores["task"] != "segment")
    wanted = scores["task"].map(metrics).where(~recall, "balanced_accuracy")
    rows = scores.assign(kind=kind)[(kind != "") & scores["task"].isin(told) & (scores["metric"] == wanted)]
    _rows(rows, "strata", why="no part of the test images is known, or there is one only")
    rows = rows[rows["label_fraction"] == rows.groupby([*SETTING, "task"])["label_fraction"].transform("max")]
    looks, groups = styles(rows["initialisation"]), in_groups(rows["initialisation"])
    figure, panels = _panels(list(rows.groupby([*SETTING, "task", "kind"], sort=False)), groups)
    for ax, key, panel, heading, names in panels:
        parts = sorted(set(panel["stratum"]), key=lambda part: (SIZES.index(part) if part in SIZES else 0, part))
        for nth, start in enumerate(names):
            colour, marker, _ = looks[start]
            of = panel[panel["initialisation"] == start]
            x = of["stratum"].map(parts.index) + 0.7 * ((nth + 0.5) / len(names) - 0.5)
            _intervals(ax.vlines, x, of["low"], of["high"], color=colour, linewidth=1.4)
            ax.plot(x, of["mean"], marker=marker, linestyle="", color=colour, markersize=5.5)
        ax.set_xticks(range(len(parts)), [_wrapped(part.partition(": ")[2]) for part in parts])
        ax.set_xlim(-0.6, len(parts) - 0.4)
        ax.set(xlabel=key[-1], ylabel="recall" if key[-1] == "class" and key[-2] != "segment" else metrics[key[-2]])
        ax.set_title(_headed(_title(rows, key[:-1]), heading), fontsize=10)
        _quiet(ax)
        ax.grid(axis="x", visible=False)
    _legend(figure, _handles(looks, lines=False))
    return figure


def lesion_sizes(cases: pd.DataFrame, bins: int = 4) -> Figure:
    """Dice against the size of the lesion: a faint point for each case, a line through the means of equal groups.

    cases: rows of cases.parquet with initialisation; area is the lesion's share of the image. One panel for each label
    fraction, and dataset and size where there are several; for many initialisations only of the largest fraction.
    """
    _rows(cases, "lesion_sizes", "area", "dice", "label_fraction", "initialisation")
    cases = cases.assign(**{name: "" for name in SETTING if name not in cases})
    looks, groups = styles(cases["initialisation"]), in_groups(cases["initialisation"])
    if len(looks) > MANY:
        cases = cases[cases["label_fraction"] == cases["label_fraction"].max()]
    figure, panels = _panels(list(cases.groupby([*SETTING, "label_fraction"])), groups, 3)
    for ax, key, panel, heading, names in panels:
        edges = np.unique(np.quantile(panel["area"], np.linspace(0, 1, bins + 1)))
        for start in names:
            colour, marker, line = looks[start]
            rows = panel[panel["initialisation"] == start]
            ax.scatter(rows["area"], rows["dice"], s=7, color=colour, alpha=0.18, linewidths=0)
            group = np.clip(np.searchsorted(edges, rows["area"], side="right") - 1, 0, max(len(edges) - 2, 0))
            means = rows.groupby(group)[["area", "dice"]].mean()
            like = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5.5, "linewidth": 1.8}
            ax.plot(means["area"], means["dice"], **like)
        ax.set_xscale("log")
        low, high = panel["area"].min(), panel["area"].max()
        ticks = [t for t in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low / 1.2 <= t <= high * 1.2]
        ticks = ticks[:: max(1, -(-len(ticks) // 4))]  # four labels fit beside each other
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [percent(t) for t in ticks])
        ax.set(xlabel="area of the lesion, share of the image", ylabel="dice", ylim=(-0.03, 1.03))
        fraction = f"label_fraction {percent(key[-1])}" if not heading else ""
        ax.set_title(_headed(_setting(cases, key), fraction, heading), fontsize=10)
        _quiet(ax)
    _legend(figure, _handles(looks))
    return figure


def speed(rows: pd.DataFrame) -> Figure:
    """Views per second of each pipeline, in training and by itself: a panel for each size of image, a line of panels
    for each device and batch.

    rows: what `speed.measure` gives. A bar is the median of the repetitions, which are the points; the dashed line is
    what the network could do if views cost nothing and it were trained as one writes it.
    """
    _rows(rows, "speed", "what", "size", "pipeline", "views_per_second", "device", "cores", "batch_size")
    titles = {"training": "training", "views": "views alone"}
    settings = list(rows[["device", "batch_size"]].drop_duplicates().itertuples(index=False, name=None))
    lines = [(*setting, what) for setting in settings for what in titles]
    sizes, pipelines = sorted(set(rows["size"])), list(dict.fromkeys(rows["pipeline"]))
    kinds = [name.split(",")[0] for name in pipelines]
    pipelines = sorted(pipelines, key=lambda name: kinds.index(name.split(",")[0]))  # those of one kind side by side
    figure = Figure(figsize=(3.4 * len(sizes) + 1.2, 2.1 * len(lines) + 0.3), layout="constrained")
    axes = figure.subplots(len(lines), len(sizes), squeeze=False)
    for (device, batch, what), of_line in zip(lines, axes, strict=True):
        there = rows[(rows["device"] == device) & (rows["batch_size"] == batch) & (rows["what"] == what)]
        names = [name for name in pipelines if name in set(there["pipeline"])]
        measured = [size for size in sizes if size in set(there["size"])]
        for ax in of_line[len(measured) :]:
            ax.set_axis_off()
        for ax, size in zip(of_line[: len(measured)], measured, strict=True):
            found = there[there["size"] == size].groupby("pipeline")["views_per_second"]
            median = found.median()
            for y, name in enumerate(names):
                if name not in median:
                    continue
                ours = name.startswith("mednb")
                ax.barh(y, median[name], height=0.7, color="#0072b2" if ours else "#c9c9c9")
                each = found.get_group(name)
                ax.plot(each, np.full(len(each), y), "|", color="#222222", markersize=7)
                beyond = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
                # In front of the dashed line, which would run through it.
                beyond |= {"zorder": 5, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}}
                ax.annotate(f"{median[name]:,.0f}", (max(each), y), **beyond)
            if "model alone" in median:
                ax.axvline(median["model alone"], color="#222222", linewidth=1, linestyle="--")
            ax.set_yticks(range(len(names)), names if ax is of_line[0] else [""] * len(names))
            ax.invert_yaxis()
            ax.margins(x=0.22)
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.set_xlabel("views per second", fontsize=9)
            of = "" if len(settings) == 1 else f", {batch} images"
            ax.set_title(f"{titles[what]}, {size} x {size} pixels{of}", fontsize=9)
            if len(settings) > 1 and ax is of_line[0]:
                ax.set_ylabel(device, fontsize=8)
            _quiet(ax)
            ax.grid(axis="y", visible=False)
    figure.suptitle(
        "; ".join(f"{device}, {cores} cores" for device, cores in rows.groupby("device")["cores"].max().items())
    )
    return figure


def _intervals(lines: Callable, at, low, high, **look) -> None:
    """Draw intervals by `Axes.vlines` or `hlines`, where there are some: of a single patient there is none."""
    at, low, high = np.atleast_1d(at, low, high)
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        lines(at[known], low[known], high[known], **look)


def _rows(rows: pd.DataFrame, where: str, *columns: str, why: str = "") -> None:
    if rows is None or not len(rows):
        raise NothingToDraw(f"{where}: there are no rows to draw" + (f" ({why})" if why else ""))
    missing = [name for name in columns if name not in rows]
    if missing:
        raise ValueError(f"{where}: the rows have no {', '.join(missing)}; they have {', '.join(rows.columns)}")


def _main(rows: pd.DataFrame, where: str, metrics: Mapping[str, str]) -> pd.DataFrame:
    """The rows whose metric stands for their task."""
    _rows(rows, where, "task", "metric", "label_fraction", "initialisation")
    chosen = rows[rows["metric"] == rows["task"].map(metrics)]
    _rows(chosen, where, why=f"no task with its metric among {', '.join(f'{t} {m}' for t, m in metrics.items())}")
    return chosen


def _where(rows: pd.DataFrame, **wanted) -> pd.DataFrame:
    for column, value in wanted.items():
        rows = rows if value is None else rows[rows[column] == value]
    return rows


def _panels(keyed: Sequence[tuple], groups: Mapping[str, list[str]], columns: int = 2) -> tuple[Figure, list[tuple]]:
    """A figure with a panel for each of the keyed rows; where there are several groups, these are its columns, up to 4.

    Returns it and, for each panel, its Axes, the key, its rows, the heading of the group and its initialisations.
    """
    groups = _cut(groups)
    everywhere = set.intersection(*map(set, groups.values()))
    columns = min(len(groups), 4) if len(groups) > 1 else min(len(keyed), columns)
    cells = -(-len(groups) // columns) * columns if len(groups) > 1 else 1  # of the grid, for each key
    lines = -(-len(keyed) * cells // columns)
    wide = 3.9 if columns < 3 else 3.3
    figure = Figure(figsize=(max(wide * columns, 4), 0.77 * wide * lines + 0.5), layout="constrained")
    grid, panels = figure.add_gridspec(lines, columns), []
    for (i, (key, rows)), (nth, (heading, names)) in product(enumerate(keyed), enumerate(groups.items())):
        names = [name for name in names if (rows["initialisation"] == name).any()]
        own = set(names) - everywhere
        if names and (own or nth == 0):  # the first group has shown what is in all of them
            same = panels[-1][0] if panels and panels[-1][1] == key else None  # scores are compared on one scale
            ax = figure.add_subplot(grid[divmod(i * cells + nth, columns)], sharey=same)
            panels.append((ax, key, rows, heading if own else "", names))
    return figure, panels


def _cut(groups: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Groups of at most `MANY`: larger ones in parts, each beside the first, with which all are compared."""
    cut = {}
    for heading, (first, *others) in groups.items():
        parts = np.array_split(np.array(others, object), max(1, -(-len(others) // (MANY - 1))))
        for part in parts:
            ends = [name.partition(" on ")[0] for name in part[[0, -1]]] if len(parts) > 1 else []
            cut[", ".join(filter(None, [heading, " to ".join(ends)]))] = [first, *part]
    return cut


def _setting(rows: pd.DataFrame, key: tuple) -> str:
    """The settings that vary among the rows, of one key that begins with them."""
    return ", ".join(
        f"{value} pixels" if name == "size" else str(value)
        for name, value in zip(SETTING, key, strict=False)
        if len(set(rows[name])) > 1
    )


def _title(rows: pd.DataFrame, key: tuple) -> str:
    """The task, with the settings that vary among the rows before it."""
    setting = _setting(rows, key)
    return f"{setting}: {key[-1]}" if setting else key[-1]


def _headed(*lines: str) -> str:
    """The lines that are not empty, as the title of a panel."""
    return "\n".join(_wrapped(line, 34) for line in lines if line)


def _listed(names: Iterable) -> str:
    return ", ".join(sorted(set(names)))


def _wrapped(text: str, width: int = 14) -> str:
    """The text in lines, which may begin with a plus, too."""
    return "\n".join(line.replace(" +", "+") for line in textwrap.wrap(text.replace("+", " +"), width))


def _quiet(ax: Axes, grid: bool = True) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    ax.tick_params(color="#999999", labelsize=9)
    if grid:
        ax.grid(color="#e6e6e6", linewidth=0.7)
        ax.set_axisbelow(True)


def _handles(looks: dict[str, tuple], markers: bool = True, lines: bool = True) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker if markers else "", linestyle=line if lines else "", label=name)
        for name, (colour, marker, line) in looks.items()
    ]


def _legend(figure: Figure, handles: list) -> None:
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = min(len(handles), max(1, int(figure.get_figwidth() / (0.75 + 0.075 * longest))))
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (lines - 1))  # the panels keep the height that they have
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9, handlelength=3)
