"""Pretraining: one method, one set of images, one budget -> an encoder."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mednb import embed, encoders
from mednb.datasets import Images
from mednb.files import whole
from mednb.methods import method as named_method
from mednb.methods.base import Method
from mednb.pairs import strategy
from mednb.views import key
from mednb.views import policy as named_policy

METRICS = ["epoch", "step", "loss", "lr", "views_per_second", "data_wait"]
METRICS += ["spread", "effective_rank", "alignment", "uniformity"]


def fit(
    images: Images,
    method: str = "simclr",
    pairs: str = "same_image",
    views: str = "ultrasound",
    encoder: str = "resnet18",
    batch_size: int | None = None,
    epochs: int = 100,
    seed: int = 0,
    out: str | Path = "runs/pretrain",
    checkpoint_minutes: float = 5,
) -> nn.Module:
    """Pretrain an encoder on `images` without looking at their labels, and return it.

    Each epoch shows every image once, as two views, in even batches of about `batch_size` images; None takes the
    method's own, so that methods which want small batches and methods which want large ones see the same images.
    Writes `encoder.safetensors` and `metrics.csv` into `out`; from time to time a checkpoint, from which an interrupted
    call goes on when it is made again with the same values.

    Raises ValueError for an unknown name, or a batch larger than the set.
    """
    out = Path(out)
    strategy(pairs), named_policy(views)
    batch_size = min(named_method(method).batch_size, len(images)) if batch_size is None else batch_size
    if named_method(method).pretrains and not 2 <= batch_size <= len(images):
        raise ValueError(f"batch_size must be between 2 and the number of images, {len(images)}; it is {batch_size}")
    values = {"method": method, "pairs": pairs, "views": views, "encoder": encoder, "batch_size": batch_size}
    values |= {"epochs": epochs, "seed": seed, "size": images.size, "fingerprint": images.fingerprint}
    values |= {"split_hash": images.split_hash, "images": len(images)}

    learner = Pretraining(images, values)
    watch = Watch(out, values, checkpoint_minutes)
    if learner.method.pretrains and epochs > 0:
        train(learner, epochs, [watch], watch.checkpoint_of_this_run())
    watch.write_metrics()
    card = {
        **values,
        "images_seen": len(watch.rows) * len(images),
        "dataset": images.name,
        "licence": images.card.licence,
    }
    encoders.save_encoder(learner.method.encoder, out / "encoder.safetensors", card)
    watch.checkpoint.unlink(missing_ok=True)
    return learner.method.encoder.cpu().eval()


def train(
    learner: pl.LightningModule, epochs: int, callbacks: list[pl.Callback], checkpoint: str | None = None
) -> None:
    """Lightning's loop for `epochs` epochs on the best device here, in bfloat16 where that is native."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no lines about devices that are not used
    with warnings.catch_warnings():
        # The rows of a batch come from memory: workers would only add to the work.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # Lightning 2.6 asks torch 2.15 about trees in the old way.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if has_bf16() else "32-true",
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,  # the order of the images is drawn from (seed, epoch)
        ).fit(learner, ckpt_path=checkpoint)


def has_bf16() -> bool:
    """Whether this machine computes in bfloat16 rather than imitating it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return can.get("avx512_bf16", False) or can.get("amx_bf16", False)


class Pretraining(pl.LightningModule):
    """A method, its images on the device, and the recipe of its optimiser, as Lightning wants them."""

    def __init__(self, images: Images, values: dict):
        super().__init__()
        self.seed, self.batch_size = values["seed"], values["batch_size"]
        self.batches = max(1, round(len(images) / self.batch_size))
        self.steps = values["epochs"] * self.batches
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.method: Method = named_method(values["method"])(encoders.build(values["encoder"], seed=self.seed))
        self.method.to(memory_format=torch.channels_last)
        self.table, self.partner = images.table, strategy(values["pairs"])
        self.policy = named_policy(values["views"])
        self.pixels = torch.from_numpy(np.array(images.pixels))
        self.seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(1, 512 // self.batch_size))
        self.waited = 0.0
        self._h: list[Tensor] = []
        self.method.encoder.register_forward_hook(lambda encoder, x, h: self._h.append(h.detach()))

    def setup(self, stage: str) -> None:
        self.pixels = self.pixels.to(self.device)

    def train_dataloader(self) -> DataLoader:
        """The rows of each batch of this epoch: all images, cut evenly. The images already lie on the device."""
        epoch = self.current_epoch
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.table)))
        self.partners = torch.from_numpy(self.partner(self.table, self.seed, epoch)).to(self.device)
        return DataLoader(order.tensor_split(self.batches), batch_size=None)

    def training_step(self, rows: Tensor, _: int) -> Tensor:
        began = time.perf_counter()
        a, b = (
            self.policy(self.pixels[of], key(self.seed, self.current_epoch, rows, view))
            for view, of in enumerate((rows, self.partners[rows]))
        )
        self.waited += time.perf_counter() - began
        self._h.clear()
        loss = self.method.loss(a, b)
        self.seen.append(tuple(torch.cat(self._h).chunk(2)))
        return loss

    def on_train_batch_end(self, *_) -> None:
        self.method.after_step(self.global_step, self.steps)

    def configure_optimizers(self) -> dict:
        """AdamW, a tenth of the training to warm up, then a cosine down to zero. Norms and biases do not decay."""
        decays = [p for p in self.method.parameters() if p.requires_grad and p.dim() > 1]
        stays = [p for p in self.method.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [{"params": decays, "weight_decay": self.method.weight_decay}, {"params": stays, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=self.method.lr * (self.batch_size / 256) ** 0.5, fused=True)
        schedule = CosineWarmupScheduler(optimiser, warmup_epochs=max(1, self.steps // 10), max_epochs=self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Watch(pl.Callback):
    """What a run tells while it learns: a progress bar, a row of metrics per epoch, a checkpoint from time to time."""

    def __init__(self, out: Path, values: dict, checkpoint_minutes: float):
        self.out, self.values, self.checkpoint_seconds = out, values, 60 * checkpoint_minutes
        self.checkpoint = out / "checkpoint.ckpt"
        self.rows: list[dict] = []

    def on_train_start(self, trainer: pl.Trainer, learner: Pretraining) -> None:
        # On the other stream a notebook would show it in red.
        where = {"file": sys.stdout, "mininterval": 5}
        self.bar = tqdm(total=trainer.max_epochs, initial=trainer.current_epoch, unit="epoch", **where)
        self.saved = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, learner: Pretraining) -> None:
        self.began, self.losses, learner.waited = time.perf_counter(), [], 0.0
        learner.seen.clear()

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Pretraining, outputs: dict, *_) -> None:
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Pretraining) -> None:
        loss = float(torch.stack(self.losses).mean())  # waits for the device
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss of {self.values['method']} is {loss} in epoch {trainer.current_epoch}; try a smaller "
                "learning rate or a larger batch"
            )
        seconds = time.perf_counter() - self.began
        a, b = (torch.cat(views) for views in zip(*learner.seen, strict=True))
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "loss": loss,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "views_per_second": 2 * len(learner.pixels) / seconds,
            "data_wait": learner.waited / seconds,
            **embed.geometry(a, b),
        }
        self.rows.append(row)
        told = f"loss {loss:.3f}, {row['views_per_second']:.0f} views/s, effective rank {row['effective_rank']:.0f}"
        self.bar.set_postfix_str(told, refresh=False)
        self.bar.update()
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            with whole(self.checkpoint) as aside:
                trainer.save_checkpoint(aside)
            self.saved = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, learner: Pretraining) -> None:
        self.bar.close()

    def state_dict(self) -> dict:
        return {"rows": self.rows, "values": json.dumps(self.values)}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]

    def checkpoint_of_this_run(self) -> str | None:
        """The checkpoint to go on from: one that was made with the same values as this run."""
        if not self.checkpoint.exists():
            return None
        kept = torch.load(self.checkpoint, weights_only=True)["callbacks"][self.state_key]["values"]
        return str(self.checkpoint) if kept == json.dumps(self.values) else None

    def write_metrics(self) -> None:
        with whole(self.out / "metrics.csv") as aside:
            pd.DataFrame(self.rows, columns=METRICS).to_csv(aside, index=False)
