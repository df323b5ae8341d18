"""Learning with labels: the loop that fine-tuning and segmentation share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mednb.pretrain import train
from mednb.views import LABELLED, ByModality, Policy, key

FROZEN = 0.1  # share of the steps in which the encoder stays as it is while a new head finds its place
SLOWER = 0.1  # how much of the head's learning rate the encoder has afterwards
PATIENCE = 5  # rounds without a better score, after which training stops


def few_labels(fractions: Iterable[float], draws: int = 1) -> list[tuple[float, int]]:
    """Every label fraction with its draws, the largest first; all labels can be drawn in one way only."""
    descending = sorted(set(fractions), reverse=True)
    if not descending:
        raise ValueError("fractions: there is none; give one label fraction at least, such as 1.0")
    return [(fraction, draw) for fraction in descending for draw in range(draws if fraction < 1 else 1)]


def grid(rates: Iterable[float], steps: int, lengths: Iterable[float] = (1.0,)) -> list[dict]:
    """What is tried on val: every learning rate with every length, a share of `steps`; values for `fit`."""
    return [{"lr": lr, "steps": max(1, round(length * steps))} for lr in rates for length in lengths]


def choose(tried: Iterable[Mapping], start: Callable[[], nn.Module], *learning, **how) -> tuple[nn.Module, dict]:
    """Train a network from `start()` with each of the values in `tried`; the one with the best score, and its values.

    learning, how: what else `fit` takes. The values are returned with the `score` on val.
    """
    best: tuple[nn.Module, dict] | None = None
    for values in tried:
        network, score = fit(start(), *learning, **how, **values)
        if best is None or score > best[1]["score"]:
            best = network, {**values, "score": score}
    if best is None:
        raise ValueError("there is nothing to choose from: give at least one learning rate and one length")
    return best


def fit(
    network: nn.Module,
    pixels: np.ndarray,
    targets: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    score: Callable[[nn.Module], float],
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 5e-4,
    seed: int = 0,
    rounds: int | None = None,
    views: Policy | ByModality = LABELLED,
    pretrained: str | None = None,
    patience: int = PATIENCE,
) -> tuple[nn.Module, float]:
    """Train `network` for at most `steps` batches; return it as it was after the round with the best score, and that.

    `pixels` (N, H, W) uint8; `targets` are labels (N,) or masks (N, H, W) bool, which follow their images through crop
    and flip, as `views` has them. The number of steps does not depend on N, so few labels get as much training as many.
    `score` judges the network on val after each of `rounds` rounds, higher is better; it must not see test. Without
    `rounds`, there are ten, or fewer of at least ten batches. After `patience` rounds without a better score it stops.

    pretrained: the name of the module that is handled with care, as Wolf et al. (2023) do: in the first tenth of the
        steps it is frozen, its batch norm in eval mode; then it learns at a tenth of the learning rate.
    """
    rounds = rounds or max(1, min(10, steps // 10))
    how = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "rounds": rounds, "patience": patience}
    learner = Supervised(network, pixels, targets, loss, score, views, pretrained, how)
    train(learner, rounds, [], side=pixels.shape[-1])
    network.load_state_dict(learner.best[1])
    return network.cpu().eval().requires_grad_(True), learner.best[0]


class Supervised(pl.LightningModule):
    """A network, its images and targets on the device, and the recipe of its optimiser, as Lightning wants them."""

    def __init__(self, network, pixels, targets, loss, score, views, pretrained, how):
        super().__init__()
        self.network = network.train().to(memory_format=torch.channels_last)
        self.pixels, self.targets = torch.from_numpy(np.array(pixels)), torch.from_numpy(np.array(targets))
        self.loss, self.score, self.views, self.pretrained = loss, score, views, pretrained
        self.lr, self.seed, self.batch_size, self.patience = (how[k] for k in ("lr", "seed", "batch_size", "patience"))
        self.rounds, self.round_steps = how["rounds"], max(1, how["steps"] // how["rounds"])
        self.best: tuple[float, dict] = (-np.inf, {})
        self.waited = 0  # rounds since the best one

    def setup(self, stage: str) -> None:
        self.pixels, self.targets = self.pixels.to(self.device), self.targets.to(self.device)
        self.views = self.views.to(self.device)

    def train_dataloader(self) -> DataLoader:
        """The rows of each batch of this round: all images in random order, again and again."""
        generator = np.random.default_rng((self.seed, self.current_epoch))
        wanted = self.round_steps * self.batch_size
        passes = [generator.permutation(len(self.pixels)) for _ in range(-(-wanted // len(self.pixels)))]
        return DataLoader(torch.from_numpy(np.concatenate(passes)[:wanted]), batch_size=self.batch_size)

    def on_train_batch_start(self, rows: Tensor, batch: int) -> None:
        if self.pretrained is not None:
            learns = self.global_step >= FROZEN * self.rounds * self.round_steps
            # In eval mode its batch norm keeps the statistics that it was pretrained with.
            self.network.get_submodule(self.pretrained).requires_grad_(learns).train(learns)

    def training_step(self, rows: Tensor, batch: int) -> Tensor:
        # When images are few, one comes several times in a batch: the draw, not the image, has a view of its own.
        draws = torch.arange(len(rows), device=rows.device) + batch * self.batch_size
        keys = key(self.seed, self.current_epoch, draws)
        targets, views = self.targets[rows], self.views.of(rows)
        targets = views.masks(targets, keys) if targets.dim() == 3 else targets
        return self.loss(self.network(views(self.pixels[rows], keys)), targets)

    def on_train_epoch_end(self) -> None:
        self.network.eval()
        score = self.score(self.network)
        self.network.train()
        if np.isnan(score):  # which is never better, nor ever found worse
            raise ValueError("the score on val is NaN: nothing can be chosen by it; take more images, or another fold")
        self.waited += 1
        if not self.best[1] or score > self.best[0]:
            state = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            self.best, self.waited = (score, state), 0
        if self.waited >= self.patience:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> dict:
        groups = [{"params": [], "lr": self.lr}, {"params": [], "lr": SLOWER * self.lr}]
        for name, parameter in self.network.named_parameters():
            careful = self.pretrained is not None and name.startswith(f"{self.pretrained}.")
            groups[careful]["params"].append(parameter)
        groups = [group for group in groups if group["params"]]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-2, fused=True)
        steps = self.rounds * self.round_steps
        schedule = CosineWarmupScheduler(optimiser, warmup_epochs=max(1, steps // 10), max_epochs=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
