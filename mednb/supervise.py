"""Learning with labels: the loop that fine-tuning and segmentation share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mednb.pretrain import train
from mednb.views import LABELLED, ByModality, Policy, key


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
) -> nn.Module:
    """Train `network` for `steps` batches and return it as it was after the round with the best `score`.

    `pixels` (N, H, W) uint8; `targets` are labels (N,) or masks (N, H, W) bool, which follow their images through crop
    and flip, as `views` has them. The number of steps does not depend on N, so few labels get as much training as many.
    `score` judges the network on val after each of `rounds` rounds, higher is better; it must not see test. Without
    `rounds`, there are ten, or fewer of at least ten batches.
    """
    rounds = rounds or max(1, min(10, steps // 10))
    learner = Supervised(network, pixels, targets, loss, score, steps, batch_size, lr, seed, rounds, views)
    train(learner, rounds, [], side=pixels.shape[-1])
    network.load_state_dict(learner.best[1])
    return network.cpu().eval()


class Supervised(pl.LightningModule):
    """A network, its images and targets on the device, and the recipe of its optimiser, as Lightning wants them."""

    def __init__(self, network, pixels, targets, loss, score, steps, batch_size, lr, seed, rounds, views):
        super().__init__()
        self.network = network.train().to(memory_format=torch.channels_last)
        self.pixels, self.targets = torch.from_numpy(np.array(pixels)), torch.from_numpy(np.array(targets))
        self.loss, self.score, self.views, self.lr, self.seed = loss, score, views, lr, seed
        self.batch_size, self.round_steps, self.rounds = batch_size, max(1, steps // rounds), rounds
        self.best: tuple[float, dict] = (-np.inf, {})

    def setup(self, stage: str) -> None:
        self.pixels, self.targets = self.pixels.to(self.device), self.targets.to(self.device)

    def train_dataloader(self) -> DataLoader:
        """The rows of each batch of this round: all images in random order, again and again."""
        generator = np.random.default_rng((self.seed, self.current_epoch))
        wanted = self.round_steps * self.batch_size
        passes = [generator.permutation(len(self.pixels)) for _ in range(-(-wanted // len(self.pixels)))]
        return DataLoader(torch.from_numpy(np.concatenate(passes)[:wanted]), batch_size=self.batch_size)

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
        if not self.best[1] or score > self.best[0]:
            self.best = score, {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=1e-2, fused=True)
        steps = self.rounds * self.round_steps
        schedule = CosineWarmupScheduler(optimiser, warmup_epochs=max(1, steps // 10), max_epochs=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
