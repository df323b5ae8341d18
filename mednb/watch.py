"""Watching a training: what it tells while it learns, what it keeps for the case that it is killed, and its verdict."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import zipfile
from copy import deepcopy
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from lightly.utils import dist
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from tqdm import tqdm

from mednb import embed, metrics
from mednb.datasets import Images
from mednb.files import whole
from mednb.graphs import Recorded
from mednb.study.progress import duration

METRICS = ["epoch", "step", "loss", "lr", "views_per_second", "data_wait"]
METRICS += ["spread", "effective_rank", "alignment", "uniformity"]
METRICS += ["projection_spread", "projection_uniformity", "prediction_spread", "knn"]
LONG = 1800.0  # seconds; in longer trainings it pays to compile the encoder (`Pretraining.fuse`)
KEPT = ("start", "rows", "losses", "seconds", "waited", "images_seen")  # in a checkpoint


class Watch(pl.Callback):
    """A progress bar, a row of metrics per epoch, a checkpoint from time to time, a verdict.

    Of several processes, the first one tells and writes; all of them take part in what they must do together.
    """

    def __init__(
        self,
        out: Path,
        values: dict,
        checkpoint_minutes: float,
        images: Images | None = None,
        val: Images | None = None,
        stop_on_collapse: bool = False,
        run: str = "",
    ):
        self.out, self.values, self.checkpoint_seconds = out, values, 60 * checkpoint_minutes
        self.images, self.val, self.stop_on_collapse = images, val, stop_on_collapse
        self.run = run  # what tells this training from others: `pretrain.identity`
        self.checkpoint = out / "checkpoint.ckpt"
        self.start: dict[str, float] = {}  # the geometry of the random initialisation
        self.rows: list[dict] = []
        self.losses: list[float] = []  # of the epoch so far
        self.seconds = self.waited = 0.0  # of the epoch so far
        self.images_seen = 0
        self.signal: int | None = None
        self.interrupted = False
        self.handlers: dict = {}

    # -------------------- from round to round

    def on_train_start(self, trainer: pl.Trainer, learner) -> None:
        trainer.should_stop = learner.global_step == learner.steps  # killed after the last step
        self.start = self.start or geometry(learner.look())
        seconds, told = estimate(learner)
        if trainer.is_global_zero:
            print(told)
        if seconds > LONG:
            learner.fuse()
        # On the other stream a notebook would show it in red.
        where = {"file": sys.stdout, "mininterval": 5, "disable": not trainer.is_global_zero}
        begun = {"total": learner.seen, "initial": self.images_seen}
        self.bar = tqdm(unit="image", unit_scale=True, **begun, **where)
        self.saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.hear) for number in (signal.SIGINT, signal.SIGTERM)}

    def hear(self, number: int, _) -> None:
        """Ctrl-C, or a cluster that wants its machine back: end after this round. The second time, at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def on_train_epoch_start(self, trainer: pl.Trainer, learner) -> None:
        self.began, learner.waited = time.perf_counter(), 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, learner) -> None:
        """After every round."""
        losses = torch.stack(learner.losses).tolist()  # waits for the device
        seconds = time.perf_counter() - self.began
        learner.pace = seconds / len(losses)
        learner.losses.clear()
        self.losses += losses
        self.seconds, self.waited = self.seconds + seconds, self.waited + learner.waited
        self.images_seen, learner.shown = self.images_seen + learner.shown, 0
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"the loss of {self.values['method']} is {losses[-1]} in epoch {len(self.rows) + 1}; try a smaller "
                "learning rate or a larger batch"
            )
        if learner.global_step % learner.batches == 0:
            self.end_epoch(trainer, learner)
        self.tell(learner)
        strategy = trainer.strategy
        stop = strategy.reduce_boolean_decision(self.signal is not None, all=False)
        due = strategy.broadcast(time.monotonic() - self.saved >= self.checkpoint_seconds)
        if stop or due:
            self.save(trainer)
        self.interrupted = stop
        done = learner.global_step == learner.steps
        # Each process sees embeddings of its own; if one stopped alone, the others would wait for it.
        collapsed = self.stop_on_collapse and strategy.broadcast(self.collapsed())
        trainer.should_stop = done or stop or collapsed

    def end_epoch(self, trainer: pl.Trainer, learner) -> None:
        seen = [each for each in learner.embedded if each is not None] or learner.look()
        views = sum(crops.n for crops in learner.method.crops) * self.values["images_seen"] / learner.epochs
        self.rows.append(
            {
                "epoch": len(self.rows),
                "step": trainer.global_step,
                "loss": math.fsum(self.losses) / len(self.losses),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "views_per_second": views / self.seconds,
                "data_wait": self.waited / self.seconds,
                **geometry(seen),
                "knn": self.knn(learner),
                **learner.method.signs(),
            }
        )
        learner.embedded.clear()
        self.losses, self.seconds, self.waited = [], 0.0, 0.0

    def tell(self, learner) -> None:
        self.bar.n = self.images_seen
        told = f"epoch {min(len(self.rows) + 1, learner.epochs)} of {learner.epochs}"
        if self.rows:
            row = self.rows[-1]
            told += f", loss {row['loss']:.3f}, {row['views_per_second']:.0f} views/s"
            told += f", {row['data_wait']:.0%} waiting, rank {row['effective_rank']:.0f}"
            knn = [each["knn"] for each in self.rows if not np.isnan(each["knn"])]
            told += f", knn {knn[-1]:.2f}" if knn else ""
        self.bar.set_postfix_str(told, refresh=False)
        self.bar.update(0)

    def knn(self, learner) -> float:
        """How well neighbours among the training images tell the classes of val, ten times in a training; else NaN."""
        epoch = len(self.rows) + 1
        if (
            self.val is None
            or learner.global_rank != 0
            or epoch * 10 // learner.epochs == (epoch - 1) * 10 // learner.epochs
        ):
            return math.nan
        score = neighbours_auroc(learner.method.encoder, few(self.images, 1000), few(self.val, 500))
        learner.method.train()
        return score

    # -------------------- the end, and what is kept

    def on_train_end(self, trainer: pl.Trainer, learner) -> None:
        self.bar.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: pl.Trainer, learner, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.on_train_end(trainer, learner)

    @property
    def verdict(self) -> str:
        return verdict(self.rows, self.start)

    def collapsed(self) -> bool:
        """Whether three epochs in a row say so, after the warm-up."""
        late = [row for row in self.rows if row["step"] > self.learner.steps / 10]
        return len(late) >= 3 and all(collapse(row, self.start) for row in late[-3:])

    def raise_if_interrupted(self) -> None:
        if self.interrupted and self.signal == signal.SIGTERM:
            signal.raise_signal(self.signal)  # all is saved: now whoever else listens decides, or it ends the process
        if self.interrupted:
            raise KeyboardInterrupt(f"interrupted; the same call goes on from {self.checkpoint}")

    def save(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            with whole(self.checkpoint) as aside:
                trainer.save_checkpoint(aside)
        else:
            trainer.save_checkpoint(self.checkpoint)  # it takes part, and writes nothing
        self.saved = time.monotonic()

    def setup(self, trainer: pl.Trainer, learner, stage: str) -> None:
        self.learner = learner

    def state_dict(self) -> dict:
        kept = {name: getattr(self, name) for name in KEPT}
        embedded = [each and tuple(z if z is None else z.cpu() for z in each) for each in self.learner.embedded]
        return {**kept, "embedded": embedded, "run": self.run}

    def load_state_dict(self, state: dict) -> None:
        for name in KEPT:
            setattr(self, name, state[name])
        device = self.learner.device  # a checkpoint is read to the processor
        for each in state["embedded"]:
            seen = each and Seen(*(z if z is None else z.to(device) for z in each))
            self.learner.embedded.append(seen)

    def checkpoint_of_this_run(self) -> str | None:
        """The checkpoint to go on from: one that was made by the same call; ValueError when it is damaged."""
        if not self.checkpoint.exists():
            return None
        try:
            with zipfile.ZipFile(self.checkpoint) as file:
                damaged = file.testzip()  # torch itself does not look at the checksums
            kept = torch.load(self.checkpoint, weights_only=True)["callbacks"][self.state_key]
        except Exception as error:  # what a damaged file raises is not documented
            damaged = str(error) or type(error).__name__
        if damaged:
            raise ValueError(f"{self.checkpoint} is damaged ({damaged}): delete it to start anew")
        if kept.get("run") != self.run:
            rank_zero_only(print)(f"{self.checkpoint} is of another training: this one starts anew, and replaces it")
            return None
        return str(self.checkpoint)

    def write_metrics(self) -> None:
        signs = [name for row in self.rows[:1] for name in row if name not in METRICS]
        with whole(self.out / "metrics.csv") as aside:
            pd.DataFrame(self.rows, columns=METRICS + signs).to_csv(aside, index=False)


class PlainCheckpoints(TorchCheckpointIO):
    """Written to where they belong. Lightning's go through the system's folder for temporary files, which may be small,
    and where each kill would leave one."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        torch.save(checkpoint, path)


# kind of collapse -> what is seen, what it usually comes from, what helps
COLLAPSES = {
    "constant": (
        "the projections of all images are the same",
        "The two sides of the loss agree without looking: see that one side gets no gradient and that there is a "
        "predictor, or negatives; try half the learning rate, or a slower momentum",
    ),
    "constant embedding": (
        "the embeddings of all images are the same",
        "The encoder no longer tells images apart, though what follows it may still: try half the learning rate, a "
        "larger batch, or milder views",
    ),
    "predictor": (
        "the predictor says the same of every image, though their projections differ",
        "Through a predictor that does not listen the encoder learns nothing: see that it is trained and that one side "
        "gets no gradient; try half the learning rate, less weight decay, or a wider predictor",
    ),
    "low-rank": (
        "the images lie on a few directions",
        "The views have too little in common, or the learning rate is too high: try milder views, half the learning "
        "rate, a larger batch, or a method with a term against it (vicreg, barlowtwins)",
    ),
    "prototype": (
        "nearly all images fall to a few prototypes",
        "The assignments are not balanced: try a longer queue or a larger batch, fewer prototypes, half the learning "
        "rate, or let the prototypes stand still for longer",
    ),
    "teacher": (
        "the teacher says the same of every image",
        "Centring and sharpening are out of balance: where it names one class, try faster centring or a higher "
        "temperature of the teacher; where it names none, a lower one; in both cases half the learning rate",
    ),
}


def collapse(row: dict, start: dict) -> str | None:
    """The kind of collapse that a row of metrics shows, compared with the random initialisation `start`; else None.

    Only comparison can tell: an untrained encoder has a low spread and rank, too. Healthy trainings of all methods here
    kept over two thirds of the spread of their projections, over a quarter of their uniformity, and over a third of
    the embeddings' rank. The uniformity sees a point where the spread is misled: behind a batch norm the images of a
    collapsed network are one point and a few far ones. What a predictor says is compared with what it is given. NaN, of
    what a method does not have (supervised, spark and densecl have no `head`; byol, simsiam and nnclr alone have a
    predictor), is never a collapse.
    """

    def below(name: str, share: float) -> bool:
        return abs(row[name]) < share * abs(start[name])

    everything = row.get("classes_of_all", math.inf)
    if below("projection_spread", 0.33) or below("projection_uniformity", 0.15):
        return "constant"
    if below("spread", 0.33):
        return "constant embedding"
    if row.get("prediction_spread", math.nan) < 0.1 * row["projection_spread"]:
        return "predictor"
    if row.get("prototypes_in_use", math.inf) < 4:
        return "prototype"
    if everything < 4 or row.get("classes_of_one", 0) > 0.9 * everything:
        return "teacher"
    if below("effective_rank", 0.2):
        return "low-rank"
    return None


def verdict(rows: list[dict], start: dict) -> str:
    """A training in words, from its rows of metrics: no collapse, or which kind since when, its cause and its cure."""
    if not rows:
        return "nothing was trained"
    last = rows[-1]
    told = [f"{spoken(name)} {two(last[name])}, at first {two(start[name])}" for name in start if shown(last, name)]
    told += [f"{spoken(name)} {two(last[name])}" for name in last if name not in METRICS]
    kind = collapse(last, start)
    if kind is None:
        return f"no collapse ({'; '.join(told)})"
    streak = list(takewhile(lambda row: collapse(row, start) == kind, reversed(rows)))
    seen, cure = COLLAPSES[kind]
    since = streak[-1]["epoch"] + 1  # as the progress bar counts
    return f"{kind} collapse since epoch {since}: {seen} ({'; '.join(told)}). {cure}."


def two(value: float) -> str:
    """A number with two digits that count, and no exponent: 0.053, 1.4, 160."""
    return np.format_float_positional(value, 2, fractional=False, trim="-")


def spoken(name: str) -> str:
    return name.replace("_", " ")


def shown(row: dict, name: str) -> bool:
    """Whether a verdict names this number: those that it goes by, where the method has them."""
    numbers = ("spread", "effective_rank", "projection_spread", "projection_uniformity", "prediction_spread")
    return name in numbers and not math.isnan(row[name])


class Seen(NamedTuple):
    """Embeddings (N, D) of two views of a batch; of the first its projections z and predictions p (N, d), if any."""

    a: Tensor
    b: Tensor
    z: Tensor | None
    p: Tensor | None = None


def geometry(seen: list[Seen]) -> dict[str, float]:
    """`embed.geometry` of the embeddings, and how projections and predictions spread, NaN where a method has none."""
    a, b, z, p = (None if each[0] is None else torch.cat(each) for each in zip(*seen, strict=True))
    return embed.geometry(a, b) | {
        "projection_spread": math.nan if z is None else embed.spread(z),
        "projection_uniformity": math.nan if z is None else embed.uniformity(z),
        "prediction_spread": math.nan if p is None else embed.spread(p),
    }


def few(images: Images, n: int) -> Images:
    """At most n of the images, always the same ones."""
    return images.take(np.random.default_rng(0).permutation(len(images))[:n])


def neighbours_auroc(encoder: nn.Module, train: Images, val: Images, k: int = 20) -> float:
    """Area under the ROC curve on val of the votes of the k nearest training images, as in `classify.knn`.

    NaN where one of the two has less than two classes. The encoder is left in eval mode.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train, val = (part.take(part.has_label) for part in (train, val))
    if min(len(np.unique(part.labels)) for part in (train, val)) < 2:
        return math.nan
    voters = KNeighborsClassifier(min(k, len(train)), metric="cosine", weights=lambda d: np.exp(-d / 0.07))
    voters.fit(embed.extract(encoder, train.pixels), train.labels)
    p = np.zeros((len(val), len(val.classes)))
    p[:, voters.classes_] = voters.predict_proba(embed.extract(encoder, val.pixels))
    return float(metrics.auroc(val.labels, p, np.ones((1, len(p))))[0])


def estimate(learner) -> tuple[float, str]:
    """How long the rest of a training will take, in seconds and in words, and in how much memory, from the second of
    two steps of a copy.

    Of a GPU this is the peak; of the processor what the process holds after them, less than its peak. Steps that a GPU
    will replay take longer before they are recorded.
    """
    import psutil

    method = deepcopy(learner.method)
    for _ in range(2):
        began = time.perf_counter()
        views, wanted = learner.views(learner.dealt[1][0])
        with learner.trainer.precision_plugin.train_step_context():
            float(learner.gradients(method, views, wanted))  # waits for the device
        seconds = time.perf_counter() - began
    cuda = learner.device.type == "cuda"
    used = torch.cuda.max_memory_allocated() if cuda else psutil.Process().memory_info().rss
    steps = learner.steps - learner.global_step
    images = len(views[0]) * dist.world_size()
    about = "less than" if isinstance(learner.learn, Recorded) else "about"
    return steps * seconds, (
        f"{about} {duration(steps * seconds)} for {steps:,} steps of {images} images, {len(views)} views of each, "
        f"in {used / 2**30:.1f} GB"
    )
