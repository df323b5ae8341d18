"""Pretraining: one method, one set of images, one budget -> an encoder."""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import time
import warnings
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from lightly.utils import dist
from lightly.utils.scheduler import CosineWarmupScheduler
from timm.optim import Lars
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mednb import encoders, processes
from mednb.convolution import quick_gradients
from mednb.datasets import Images
from mednb.datasets.mixes import epoch_order
from mednb.files import assert_writable
from mednb.graphs import Recorded
from mednb.machine import memory_kept
from mednb.methods import accepted
from mednb.methods import method as named_method
from mednb.methods import options as all_options
from mednb.methods.base import OPTIMISERS, Method
from mednb.methods.encoder_decoder import EncoderDecoder
from mednb.pairs import same_image, strategy
from mednb.results import made_by
from mednb.views import key
from mednb.views import policy as named_policy
from mednb.watch import PlainCheckpoints, Seen, Watch

ROUND = 1.0  # seconds, about; see `Pretraining`
COUNTS = {"batch_size": 1, "epochs": 0, "seed": 0, "images_seen": 0, "accumulate": 1, "devices": 1}  # their least


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
    *,
    images_seen: int | None = None,
    val: Images | None = None,
    accumulate: int = 1,
    devices: int = 1,
    decoder: bool = False,
    stop_on_collapse: bool = False,
    options: dict | None = None,
    replay: bool = True,
) -> nn.Module:
    """Pretrain an encoder on `images` without looking at their labels, and return it.

    Each epoch shows every image once, as the views that the method wants, in even batches of about `batch_size` images;
    None takes the method's own. Methods which want small batches and methods which want large ones see equally many
    images. A mix shows each image as often as its weight says.

    images_seen: the budget in images, instead of `epochs`; no epoch shows more than all images, all epochs show equally
        many. Exact on one device; several leave out up to devices - 1 images of each epoch, so that all have equally
        many.
    val: images with labels, for the column `knn`: how well nearest neighbours among `images` tell their classes, ten
        times in a training. Only watched: nothing is chosen by it.
    accumulate: compute each batch in this many parts, for machines with little memory. The gradients are the whole
        batch's but for batch norms, which see a part each (see `Pretraining.in_parts`); ValueError when the method's
        loss is no function of projections.
    devices: GPUs, or processes on the processor, that share every batch. The gradients are those of one device but for
        the last digits, and but for moco and densecl, which normalise keys in halves of what a device has.
    decoder: pretrain a U-Net decoder with the encoder (`methods.encoder_decoder`); spark has one anyway.
    stop_on_collapse: end the training when it has collapsed; otherwise the verdict is only told.
    options: the method's own values, such as {"temperature": 0.1, "lr": 5e-4}; `methods.options` lists them.
    replay: on a GPU, record views and steps once and replay them (`graphs`), which is up to several times as fast, and
        compile the encoder when half an hour or more is before it; False has every kernel launched anew, for those who
        look for a fault or are short of the GPU's memory.

    Writes `encoder.safetensors`, whose card holds the verdict, and `metrics.csv` into `out`, and `decoder.safetensors`
    where a decoder learnt too; from time to time a checkpoint, from which an interrupted call goes on when it is made
    again with the same values.

    Raises ValueError for an unknown name, an option that the method does not have, a batch that is larger than the set
    or too small for its parts, or images that the method cannot learn from.
    """
    given = {**locals(), "out": Path(out)}
    given |= {name: count(name, given[name]) for name in COUNTS}
    batch_size, epochs, seed, images_seen, accumulate, devices = (given[name] for name in COUNTS)
    strategy(pairs), named_policy(views, images.table)
    learns, options = named_method(method), accepted(method, options or {})
    decoder = decoder and learns.pretrains and not learns.has_decoder
    batch_size = min(learns.batch_size, len(images)) if batch_size is None else batch_size
    seen = epochs * len(images) if images_seen is None else images_seen
    if learns.pretrains:
        check_budget(EncoderDecoder if decoder else learns, len(images), batch_size, seen, accumulate, devices)
        learns.check(images, **options)
        if decoder:
            EncoderDecoder.check_method(learns)
    if val is not None and val.classes != images.classes:
        raise ValueError(f"val has the classes {', '.join(val.classes)}, images have {', '.join(images.classes)}")
    if val is not None and val.channels != images.channels:
        raise ValueError(f"val has images of {val.channels} channels, and images of {images.channels}: load both alike")
    if devices > 1 and learns.pretrains and not processes.launched():
        encoders.build(encoder)
        processes.call(fit, devices, **given)
        return encoders.load(Path(out) / "encoder.safetensors")

    values = {"method": method, "pairs": pairs, "views": views, "encoder": encoder, "batch_size": batch_size}
    values |= {"epochs": -(-seen // len(images)), "images_seen": seen, "accumulate": accumulate, "devices": devices}
    values |= {"seed": seed, "size": images.size, "fingerprint": images.fingerprint, "split_hash": images.split_hash}
    values |= {"images": len(images), "decoder": decoder}
    values |= {"options": options} if options else {}
    learner = Pretraining(images, values, replay)
    assert_writable(out)
    watch = Watch(Path(out), values, checkpoint_minutes, images, val, stop_on_collapse, identity(values, images))
    try:
        if learner.method.pretrains and seen > 0:
            with torch.random.fork_rng(devices=[]):
                train(learner, learner.steps, [watch], watch.checkpoint_of_this_run(), devices, learner.side)
    finally:
        learner.stop_hearing()
    watch.raise_if_interrupted()
    encoders.assert_finite(learner.method.encoder, f"the encoder that {method} trained; try a smaller learning rate")
    if learner.global_rank == 0:
        watch.write_metrics()
        said = {"images_seen": watch.images_seen, "verdict": watch.verdict}
        said |= {"dataset": images.name, "pretrained_on": images.name if learns.pretrains else ""}
        card = {**values, **said, "licence": images.card.licence, **made_by()}
        # First: an encoder must never lie beside another run's decoder.
        (Path(out) / "decoder.safetensors").unlink(missing_ok=True)
        encoders.save_encoder(learner.method.encoder, Path(out) / "encoder.safetensors", card)
        if hasattr(learner.method, "decoder"):
            encoders.save_weights(learner.method.decoder, Path(out) / "decoder.safetensors", card)
        watch.checkpoint.unlink(missing_ok=True)
    return learner.method.encoder.cpu().eval()


def count(name: str, value: object) -> int | None:
    """A value of `COUNTS` as Python's own number, also where it is numpy's; ValueError where it can be none."""
    if value is None and name in ("batch_size", "images_seen"):
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it is a whole number") from None
    if not COUNTS[name] <= number < 2**63:
        raise ValueError(f"{name} is {number}; it is {COUNTS[name]} or more, and below 2^63")
    return number


def identity(values: dict, images: Images) -> str:
    """What a checkpoint must have been made with for a training to go on from it.

    That is, besides the values, what the method has of itself, and which images of the dataset they are.
    """
    own = {name: option.default for name, option in all_options(values["method"]).items()}
    columns = [name for name in ("image_id", "label", "modality", "weight") if name in images.table]
    table = hashlib.sha256(images.table[columns].to_csv(index=False).encode()).hexdigest()
    return json.dumps({**values, "options": own | values.get("options", {}), "table": table})


def check_budget(method: type[Method], n: int, batch_size: int, seen: int, accumulate: int, devices: int) -> None:
    """ValueError when batches of this size cannot be made, or not be cut."""
    if not 2 <= batch_size <= n:
        raise ValueError(f"batch_size must be between 2 and the number of images, {n}; it is {batch_size}")
    if 0 < seen < batch_size:
        raise ValueError(f"images_seen is {seen}, which is less than one batch of {batch_size}")
    if accumulate > 1 and not hasattr(method, "contrast"):
        raise ValueError(
            f"accumulate is {accumulate}, but the loss of {method.__name__} needs more than the projections of a "
            "batch, so that it cannot be taken in parts: take a smaller batch_size"
        )
    if batch_size < 2 * accumulate * devices:
        raise ValueError(
            f"batch_size {batch_size} is too small for {accumulate} parts on each of {devices} devices: a part needs "
            "two images"
        )
    smallest = seen // max(1, -(-seen // n))  # epoch: all are cut to about one length
    if 0 < smallest < 2 * accumulate * devices:
        raise ValueError(
            f"images_seen is {seen}, that is {-(-seen // n)} epochs of {smallest} images, too few for {accumulate} "
            f"parts on each of {devices} devices: a part needs two images"
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise ValueError(f"devices is {devices}, but this machine has {torch.cuda.device_count()} GPUs")


def train(
    learner: pl.LightningModule,
    epochs: int,
    callbacks: list[pl.Callback],
    checkpoint: str | None = None,
    devices: int = 1,
    side: int = 32,
) -> None:
    """Lightning's loop for at most `epochs` epochs, on the best device here, in the precision that is native to it.

    Without torch.compile on a processor: it took 88 s to start and was slower afterwards. On GPUs: `Pretraining.fuse`.
    side: of the smallest image that the encoder is shown, in pixels.
    With several `devices`, this is called in as many processes (`processes.call`, or torchrun).
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no lines about devices that are not used
    with warnings.catch_warnings(), memory_kept(), quick_gradients(learner):
        # The rows of a batch come from memory: workers would only add to the work.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # Lightning 2.6 asks torch 2.15 about trees in the old way.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        # What torch's compiler says of torch itself.
        warnings.filterwarnings("ignore", module=r"torch\.(_dynamo|_functorch|_inductor|jit)\b")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=devices,
            strategy=processes.Together() if devices > 1 else "auto",
            sync_batchnorm=devices > 1 and torch.cuda.is_available(),
            precision=precision(side),
            callbacks=callbacks,
            plugins=[PlainCheckpoints()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # each process takes its part of every batch itself
            reload_dataloaders_every_n_epochs=1,  # the order of the images is drawn from (seed, epoch)
        )
        try:
            trainer.fit(learner, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C would end a notebook's kernel
            raise KeyboardInterrupt from stop


def precision(side: int = 32) -> str:
    """bfloat16 where this machine computes in it rather than imitating it, float16 on older GPUs, else 32 bits."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if side < 32:
        # A feature map of one pixel enters the last stage of a ResNet: oneDNN 3's gradient of that convolution (3 x 3,
        # stride 2) is made of memory that nobody wrote, in bfloat16 only.
        return "32-true"
    can = torch.cpu.get_capabilities()
    return "bf16-mixed" if can.get("avx512_bf16", False) or can.get("amx_bf16", False) else "32-true"


class Pixels:
    """The pixels of images, on the device if they take at most half of its free memory, else read batch by batch."""

    def __init__(self, images: Images, device: torch.device):
        self.device, self.stored = device, images.stored_pixels
        self.rows = np.arange(len(images)) if images.rows is None else images.rows
        self.here = None
        if self.nbytes() <= free_memory(device) // 2:
            self.here = torch.from_numpy(self.stored[self.rows]).to(device)

    def nbytes(self) -> int:
        return len(self.rows) * int(np.prod(self.stored.shape[1:])) * self.stored.dtype.itemsize

    def __getitem__(self, rows: Tensor) -> Tensor:
        """(N, H, W) or (N, C, H, W) uint8 or uint16 of these rows (N,), on the device."""
        if self.here is not None:
            return self.here.index_select(0, rows)
        read = torch.from_numpy(self.stored[self.rows[rows.cpu().numpy()]])
        return read.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else read


def free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


class Pretraining(pl.LightningModule):
    """A method, its images, and the recipe of its optimiser, as Lightning wants them.

    What Lightning calls an epoch is here a round of about a second: between rounds a training can be saved, stopped and
    told of. Where it stands follows from the number of steps alone.
    """

    def __init__(self, images: Images, values: dict, replay: bool = True):
        super().__init__()
        self.automatic_optimization, self.replay = False, replay
        self.seed, self.batch_size, self.accumulate = values["seed"], values["batch_size"], values["accumulate"]
        self.images, self.seen, self.epochs = images, values["images_seen"], values["epochs"]
        smallest = self.seen // max(1, self.epochs)  # epoch
        cuts = round(smallest / self.batch_size), smallest // (2 * self.accumulate * values["devices"])
        self.batches = max(1, min(cuts))  # in an epoch
        self.steps = self.epochs * self.batches
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = encoders.build(values["encoder"], images.channels, self.seed)
            made = partial(named_method(values["method"]).made, **values.get("options", {}))
            self.method: Method = EncoderDecoder(encoder, made) if values["decoder"] else made(encoder)
        self.method.to(memory_format=torch.channels_last)
        self.side = min(round(crops.size * images.size) for crops in self.method.crops)
        encoders.assert_large_enough(values["encoder"], self.side)
        self.partner, self.policy = strategy(values["pairs"]), named_policy(values["views"], images.table)
        self.labels = torch.from_numpy(np.where(images.has_label, images.labels, -1))
        self.pixels, self.pace, self.dealt = None, None, None
        self.losses: list[Tensor] = []
        self.shown, self.waited = 0, 0.0  # images, seconds
        self.embedded: deque[Seen | None] = deque(maxlen=max(1, 512 // self.batch_size))
        self.calls: list[tuple] = []
        heard = [(name, getattr(self.method, name, None)) for name in ("encoder", "head", "predictor")]
        heard = [(name, part) for name, part in heard if isinstance(part, nn.Module)]
        self.hooks = [part.register_forward_hook(self.overhear(name)) for name, part in heard]

    def setup(self, stage: str) -> None:
        self.pixels = Pixels(self.images, self.device)
        self.labels, self.policy = self.labels.to(self.device), self.policy.to(self.device)
        self.make_views, self.learn = self.views_of, self.gradients_and_seen
        if self.device.type != "cuda" or not self.replay:
            return
        if self.pixels.here is not None:
            self.make_views = Recorded(self.views_of)
        # What waits for other processes, or scales gradients by what they turn out to be, cannot be replayed.
        alone = self.accumulate == 1 and dist.world_size() == 1 and self.trainer.precision != "16-mixed"
        if self.method.steady and alone:
            self.learn = Recorded(self.gradients_and_seen, self.method.parameters())

    def fuse(self) -> None:
        """Have torch.compile make few kernels of many in the encoder and its moving averages, where steps are replayed.

        On an H100 a ResNet-18 then takes 0.70 to 0.80 of the time for a step. Only while it trains, since evaluation
        has batches of many lengths. Where torch.compile does not work, as without a C compiler, a warning says so and
        nothing changes.
        """
        of_maps = self.method.looks_at_maps or hasattr(self.method, "decoder")  # they ask for parts of the encoder
        if of_maps or not isinstance(self.learn, Recorded):
            return
        print("compiling the encoder, which takes some 20 seconds for each length of batch")
        views, _ = self.views(self.dealt[1][0])
        trial = deepcopy(self.method.encoder)
        try:
            with self.trainer.precision_plugin.train_step_context():
                torch.compile(trial.forward, dynamic=False)(views[0]).float().sum().backward()
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(f"torch.compile does not work here, so training goes on without it: {said[0]}", stacklevel=2)
            return
        for network in self.networks():
            network.forward = in_training(network, torch.compile(network.forward, dynamic=False))

    def networks(self) -> list[nn.Module]:
        """The encoder, and every other network of its kind in the method."""
        return [part for part in self.method.modules() if type(part) is type(self.method.encoder)]

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to."""
        return self.global_step // self.batches

    # -------------------- which images

    def train_dataloader(self) -> DataLoader:
        """The batches of the next round, as positions in the order of the epoch. A round ends with its epoch."""
        done = self.global_step % self.batches
        fit_in = 1 if self.pace is None else max(1, int(ROUND / self.pace))
        fit_in = self.trainer.strategy.broadcast(fit_in)  # of one mind with the other processes
        return DataLoader(self.deal(self.epoch)[done : done + fit_in], batch_size=None)

    def deal(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch: positions (N,) in `self.order`, this process's part of each, nearly even."""
        if self.dealt is None or self.dealt[0] != epoch:
            n, table = len(self.images), self.images.table
            shown = self.seen * (epoch + 1) // self.epochs - self.seen * epoch // self.epochs
            order = epoch_order(table["weight"] if "weight" in table else np.ones(n), self.seed, epoch)[:shown]
            self.order = torch.from_numpy(order).to(self.device)
            # A mix may draw an image several times in an epoch: each time it has other views.
            times = pd.Series(order).groupby(order).cumcount().to_numpy(copy=True)
            self.times = torch.from_numpy(times).to(self.device)
            partners = self.partner(table, self.seed, epoch)
            self.partners = torch.from_numpy(partners).to(self.device)
            world, rank = dist.world_size(), dist.rank()
            # On the device, so that no step waits for them.
            positions = torch.arange(shown // world * world, device=self.device).view(-1, world)
            groups = positions.tensor_split(self.batches)
            self.dealt = epoch, [batch.flatten().tensor_split(world)[rank] for batch in groups]
        return self.dealt[1]

    def views(self, positions: Tensor) -> tuple[list[Tensor], dict]:
        """The views that the method wants of a batch, each (N, C, h, w), and what else its loss asks for by name."""
        rows = self.order[positions]
        epoch = torch.full((), self.dealt[0], device=rows.device)
        return self.make_views(epoch, rows, self.partners[rows], self.times[positions])

    @torch.no_grad()
    def views_of(self, epoch: Tensor, rows: Tensor, partners: Tensor, times: Tensor) -> tuple[list[Tensor], dict]:
        """The same of the images in these rows (N,), which have come up so many `times` (N,) in this epoch ()."""
        of = rows, partners
        pixels = [self.pixels[rows]] * 2 if self.partner is same_image else [self.pixels[each] for each in of]
        views, grids, labels, all_views = [], [], [], sum(crops.n for crops in self.method.crops)
        for crops in self.method.crops:
            size = round(crops.size * self.images.size)
            for n in range(crops.n):
                policy = self.policy.of(of[n % 2]).of_crops(crops)
                keys = key(self.seed, epoch, rows, len(views) + all_views * times)
                views.append(policy(pixels[n % 2], keys, size))
                labels.append(self.labels[of[n % 2]])
                if "grids" in self.method.wants:
                    grids.append(policy.grid(keys, size))
        own = key(self.seed, epoch, rows, -1 - times)  # of no view
        wanted = {"labels": labels, "rows": rows, "partners": of[1], "keys": own, "grids": grids}
        return views, {name: wanted[name] for name in self.method.wants}

    # -------------------- one step

    def training_step(self, positions: Tensor, _: int) -> None:
        began = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):  # geometry needs the digits
            views, wanted = self.views(positions)
        self.waited += time.perf_counter() - began  # on a GPU, which works behind: until the work is handed over
        optimiser, schedule = self.optimizers(), self.lr_schedulers()
        optimiser.zero_grad()
        self.draw_anew()
        loss, seen = self.learn(views, wanted)
        self.losses.append(loss)
        self.embedded.append(seen)
        self.shown += len(positions) * dist.world_size()
        if dist.world_size() > 1:
            processes.average(self.method.parameters())
        optimiser.step()
        schedule.step()
        self.method.after_step(self.global_step, self.steps)

    def draw_anew(self) -> None:
        """Random numbers follow from (seed, step, process): nothing of them is to be kept in a checkpoint."""
        number = int(key(self.seed, self.global_step, torch.tensor([dist.rank()])))
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(number)

    def gradients_and_seen(self, views: list[Tensor], wanted: dict) -> tuple[Tensor, Seen | None]:
        """The method's own `gradients`, and the embeddings on the way to them."""
        return self.gradients(self.method, views, wanted), self.heard(views[:2])

    def gradients(self, method: Method, views: list[Tensor], wanted: dict) -> Tensor:
        """Give the parameters of `method` the gradients of its loss on this batch; returns the loss."""
        self.calls.clear()
        if self.accumulate > 1:
            return self.in_parts(method, views, wanted)
        loss = method.loss(*views, **wanted)
        self.manual_backward(loss)
        return loss.detach()

    def in_parts(self, method: Method, views: list[Tensor], wanted: dict) -> Tensor:
        """The same with the memory of a part: cached gradients (GradCache: Gao et al., RepL4NLP 2021).

        First all projections without what a backward pass would need, then the loss of all of them and its gradient in
        each, then every part again with its share of that gradient. Adding up the gradients of the parts' own losses
        would compare images with those of their part only. Exact where images do not mix before the loss: batch norm
        takes the statistics of a part, and its running averages see each part twice.
        """
        parts = [view.tensor_split(self.accumulate) for view in views]
        with torch.no_grad():
            z = [torch.cat([method.project(part) for part in of_view]).float() for of_view in parts]
        for of_view in z:
            of_view.requires_grad_()
        loss = method.contrast(*z, **wanted)
        self.manual_backward(loss)
        for of_view, all_z in zip(parts, z, strict=True):
            for part, gradient in zip(of_view, all_z.grad.tensor_split(self.accumulate), strict=True):
                again = method.project(part)
                again.backward(gradient.to(again.dtype))
        return loss.detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.method.clip is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.method.clip)

    def configure_optimizers(self) -> tuple[list, list]:
        """The method's optimiser; a tenth of the training to warm up, then a cosine down to a thousandth.

        The learning rate is for a batch of 256. It grows with the batch for SGD and LARS (Goyal et al. 2017), with its
        square root for AdamW (Krizhevsky 2014). Norms, biases and other vectors do not decay, nor does LARS scale them.
        """
        learnt = [p for p in self.method.parameters() if p.requires_grad]
        matrices = [p for p in learnt if sum(n > 1 for n in p.shape) > 1]
        vectors = [p for p in learnt if sum(n > 1 for n in p.shape) <= 1]
        groups = [{"params": matrices, "weight_decay": self.method.weight_decay}]
        groups += [{"params": vectors, "weight_decay": 0.0}]
        name, share = self.method.optimiser, self.batch_size / 256
        if name == "adamw":
            # Fused, it would undo the scaling of float16 itself, later than a gradient is clipped.
            fused = self.trainer.precision != "16-mixed"
            optimiser = torch.optim.AdamW(groups, lr=self.method.lr * share**0.5, fused=fused)
        elif name in ("sgd", "lars"):
            # lightly's LARS asks a GPU for the norms of each layer, in every step.
            kind = {"sgd": torch.optim.SGD, "lars": Lars}[name]
            groups[0] |= {"always_adapt": True} if name == "lars" else {}  # also where nothing decays
            optimiser = kind(groups, lr=self.method.lr * share, momentum=0.9)
        else:
            raise ValueError(f"optimiser '{name}' is unknown; choose one of {', '.join(OPTIMISERS)}")
        schedule = CosineWarmupScheduler(optimiser, warmup_epochs=max(1, self.steps // 10), max_epochs=self.steps)
        return [optimiser], [schedule]

    # -------------------- what is seen of the embeddings

    def overhear(self, name: str):
        return lambda module, given, out: self.calls.append((name, given[0], out))

    def stop_hearing(self) -> None:
        """An encoder that goes on hearing would keep the images and all networks of the training in memory."""
        for hook in self.hooks:
            hook.remove()
        for network in self.networks():
            vars(network).pop("forward", None)  # what `fuse` put there

    def heard(self, views: list[Tensor]) -> Seen | None:
        """The embeddings that the method itself made of two whole views; None when it did not call the encoder so."""

        def said(name: str, of: list[Tensor]) -> list[Tensor]:
            """What this part made of these tensors, or of parts of them."""
            return [out for part, x, out in self.calls if part == name and any(x is t or x._base is t for t in of)]

        h, z, p = [], [], []
        for view in views:
            embedded = said("encoder", [view])
            projected = said("head", embedded)
            for found, parts in ((h, embedded), (z, projected), (p, said("predictor", projected))):
                if parts:
                    found.append(torch.cat(parts)[: len(view)].detach().float())
        self.calls.clear()
        return Seen(*h, *(of_views[0] if of_views else None for of_views in (z, p))) if len(h) == 2 else None

    @torch.no_grad()
    def look(self) -> list[Seen]:
        """The same of the first batches of this epoch, by an own pass as in training, which leaves no trace."""
        names = ("encoder", "head", "predictor")
        encoder, head, predictor = (deepcopy(getattr(self.method, name, None)) for name in names)
        epoch, batches = self.dealt
        found = []
        for positions in batches[: self.embedded.maxlen]:
            rows = self.order[positions]
            policy, pixels = self.policy.of(rows), self.pixels[rows]
            h = [encoder(policy(pixels, key(self.seed, epoch, rows, view))).float() for view in (0, 1)]
            z = None if head is None else head(h[0])
            found.append(Seen(*h, z, None if z is None or predictor is None else predictor(z)))
        self.calls.clear()
        return found


def in_training(network: nn.Module, fused: Callable) -> Callable:
    """The network's forward pass: `fused` while it trains, else as it comes."""
    plain = network.forward
    return lambda x: fused(x) if network.training else plain(x)
