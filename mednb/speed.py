"""How fast pretraining is, how fast others are, and how fast it could be at best.

The same images, network, loss and batch go through several pipelines, in turns, several times: what else runs on the
machine then slows all of them. A pipeline is an endless stream of batches of two views; the network is trained on it.

- `lightly`: as documented: `LightlyDataset` on a folder, `SimCLRTransform`, a DataLoader with a worker for each core.
- `torchvision`: the same recipe by torchvision's transforms v2 on tensors, in the same workers.
- `kornia`: the same recipe by kornia, a batch at once, on the device.
- `mednb`: `pretrain.fit` as it is, in the precision that it chooses.
- `mednb, compiled`: on a GPU, the same in a training of more than half an hour, for which it compiles the encoder.
- `model alone`: the network in the same precision, on views that are already there: the limit of a loop as one writes
  it.
- `model alone, 32 bits`: the limit of those above, which compute in 32 bits as their documentation does.
- `model alone, replayed`: on a GPU, the same steps recorded and replayed (`graphs`) as `pretrain.fit` does: its limit.

lightly reads PNG files of the views' size, which the system keeps in memory: this is in its favour.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from mednb import encoders, pretrain, views, watch
from mednb.convolution import quick_gradients
from mednb.datasets import Images
from mednb.graphs import AS_THEY_COME, Recorded
from mednb.machine import memory_kept, usable_cores
from mednb.methods import METHODS

OURS, COMPILED = "mednb", "mednb, compiled"
LIMIT, LIMIT_32, REPLAYED = "model alone", "model alone, 32 bits", "model alone, replayed"
ON_GPUS = (COMPILED, REPLAYED)
VERSIONED = ("torch", "torchvision", "lightly", "kornia")


@dataclass(frozen=True)
class Setting:
    """What is the same for all pipelines."""

    images: Images
    batch_size: int = 64
    encoder: str = "resnet18"
    policy: str = "ultrasound"  # mednb's; the others have SimCLR's recipe
    workers: int = field(default_factory=usable_cores)  # processes of a DataLoader
    seconds: float = 5.0  # about so long is each measured

    def __post_init__(self) -> None:
        if self.images.channels > 1 or self.images.stored_pixels.dtype != np.uint8:
            raise ValueError(f"{self.images.name}: others' pipelines are measured here on grey images of 8 bits only")

    @property
    def warm_up(self) -> int:
        """Steps that do not count: on a GPU they are to be recorded by then."""
        return AS_THEY_COME + 2 if self.device.type == "cuda" else 2

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def batches(self) -> Iterator[Tensor]:
        """Random images (B, H, W) on the device, endlessly."""
        pixels = torch.from_numpy(np.array(self.images.pixels)).to(self.device)
        while True:
            yield pixels[torch.randint(len(pixels), (self.batch_size,), device=self.device)]


# -------------------- streams of two views (B, 1, H, W)


def loaded(setting: Setting, data: Dataset) -> Iterator[list[Tensor]]:
    """From a DataLoader whose workers never run out of images: the last ones would be alone on the machine."""
    sampler = RandomSampler(data, replacement=True, num_samples=10**9)
    loader = DataLoader(
        data, setting.batch_size, sampler=sampler, num_workers=setting.workers, pin_memory=setting.device.type == "cuda"
    )
    for views_of, *_ in loader:
        yield [view[:, :1].to(setting.device, non_blocking=True) for view in views_of]


def lightly(setting: Setting) -> Iterator[list[Tensor]]:
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    with tempfile.TemporaryDirectory() as folder:
        for row, pixels in enumerate(setting.images.pixels):
            Image.fromarray(pixels).save(f"{folder}/{row}.png")
        yield from loaded(setting, LightlyDataset(folder, transform=SimCLRTransform(input_size=setting.images.size)))


class TwoViews(Dataset):
    """Images (N, H, W) uint8 as tensors, and two views of each by one transform."""

    def __init__(self, pixels: np.ndarray, transform: Callable):
        self.pixels, self.transform = torch.from_numpy(pixels)[:, None], transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[list[Tensor]]:
        return ([self.transform(self.pixels[row]), self.transform(self.pixels[row])],)


def blur_kernel(size: int) -> int:
    """A tenth of the image, odd: what SimCLR's paper says."""
    return max(3, size // 20 * 2 + 1)


def torchvision(setting: Setting) -> Iterator[list[Tensor]]:
    from torchvision.transforms import v2

    size = setting.images.size
    recipe = [
        v2.RandomResizedCrop(size, scale=(0.08, 1)),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(blur_kernel(size), (0.1, 2.0))], p=0.5),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([views.MEAN], [views.STD]),
    ]
    return loaded(setting, TwoViews(np.array(setting.images.pixels), v2.Compose(recipe)))


def kornia(setting: Setting) -> Iterator[list[Tensor]]:
    import kornia.augmentation as K

    size = setting.images.size
    # Its colour jitter takes three channels only; these are the two parts of it that a grey image can have.
    recipe = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomBrightness((0.2, 1.8), p=0.8),
        K.RandomContrast((0.2, 1.8), p=0.8),
        K.RandomGaussianBlur((blur_kernel(size),) * 2, (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor([views.MEAN]), torch.tensor([views.STD])),
    ).to(setting.device)
    for pixels in setting.batches():
        images = pixels[:, None].float() / 255
        yield [recipe(images), recipe(images)]


def mednb(setting: Setting) -> Iterator[list[Tensor]]:
    policy = views.policy(setting.policy)
    rows = torch.arange(setting.batch_size, device=setting.device)
    for epoch, pixels in enumerate(setting.batches()):
        yield [policy(pixels, views.key(0, epoch, rows, view)) for view in (0, 1)]


def ready(setting: Setting) -> Iterator[list[Tensor]]:
    made = next(mednb(setting))
    while True:
        yield made


PIPELINES = {
    "lightly": lightly,
    "torchvision": torchvision,
    "kornia": kornia,
    OURS: mednb,
    COMPILED: mednb,
    LIMIT: ready,
    LIMIT_32: ready,
    REPLAYED: ready,
}


# -------------------- measuring


def measure(setting: Setting, repetitions: int = 3) -> pd.DataFrame:
    """Views per second of each pipeline, in training and by itself, in turns: one row for each number.

    Columns: `what` ("training", or "views" without a network), `size`, `pipeline`, `precision`, `repetition`,
    `views_per_second`, `gigabytes` (training: the peak, of a GPU if there is one, else of this process and its
    workers), `load` (the machine's, before), and those of `machine`.
    """
    rows, on_gpu = [], setting.device.type == "cuda"
    pipelines = [name for name in PIPELINES if on_gpu or name not in ON_GPUS]
    bar = tqdm(desc=f"{setting.images.size} pixels", total=repetitions * len(pipelines), delay=2, disable=None)
    for repetition in range(repetitions):
        steps = None
        # The limit comes first: from it follows how many steps fill the time.
        for pipeline in sorted(pipelines, key=lambda name: name != LIMIT):
            ours = pipeline in (OURS, COMPILED, LIMIT, REPLAYED)
            precision = pretrain.precision(setting.images.size) if ours else "32-true"
            said = {"size": setting.images.size, "pipeline": pipeline, "precision": precision}
            said |= {"repetition": repetition, "load": round(os.getloadavg()[0], 2)}
            with memory(setting.device) as taken:
                if pipeline in (OURS, COMPILED):
                    found = in_earnest(setting, steps, long=pipeline == COMPILED)
                else:
                    found, taken["workers"] = trained(setting, pipeline, precision, steps)
            steps = steps or max(3, math.ceil(setting.seconds * found / (2 * setting.batch_size)))
            rows.append({"what": "training", **said, "views_per_second": found, "gigabytes": sum(taken.values())})
            if PIPELINES[pipeline] is not ready and pipeline != COMPILED:
                found, _ = pace(setting, pipeline, lambda a, b: None, seconds=setting.seconds / 4)
                rows.append({"what": "views", **said, "precision": "32-true", "views_per_second": found})
            bar.update()
    bar.close()
    rows.sort(key=lambda row: (row["what"], list(PIPELINES).index(row["pipeline"])))
    return pd.DataFrame(rows).assign(**machine(setting))


def trained(setting: Setting, pipeline: str, precision: str, steps: int | None) -> tuple[float, float]:
    """The `pace` of training steps as one writes them: forward, backward, step. None: as many as fit in the time."""
    device = setting.device
    torch.manual_seed(0)
    method = METHODS["simclr"](encoders.build(setting.encoder, seed=0)).to(device).train()
    if precision != "32-true":
        method.to(memory_format=torch.channels_last)  # as pretraining does
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16

    def learn(a: Tensor, b: Tensor) -> None:
        with torch.autocast(device.type, half, enabled=precision != "32-true"):
            loss = method.loss(a, b)
        loss.backward()

    if pipeline == REPLAYED:
        learn = Recorded(learn, method.parameters())

    def step(a: Tensor, b: Tensor) -> None:
        optimiser.zero_grad()
        learn(a, b)
        optimiser.step()

    # What pretraining does for its own steps, the limit does too; the others keep what they come with.
    with contextlib.ExitStack() as also:
        if pipeline == LIMIT:
            also.enter_context(memory_kept())
            also.enter_context(quick_gradients(method))
        return pace(setting, pipeline, step, steps)


def pace(
    setting: Setting, pipeline: str, step: Callable, steps: int | None = None, seconds: float | None = None
) -> tuple[float, float]:
    """Views per second of `step(a, b)`, after some that do not count, and the gigabytes that workers hold at the end.

    It ends after `steps`, or else after these seconds, or else after the setting's.
    """
    seconds = math.inf if steps else seconds or setting.seconds
    done, began = -setting.warm_up, math.inf
    with contextlib.closing(PIPELINES[pipeline](setting)) as stream:
        for pair in stream:
            step(*pair)
            done += 1
            if done == 0:
                synchronise(setting.device)
                began = time.perf_counter()
            if done > 0 and (done == steps or time.perf_counter() - began > seconds):
                synchronise(setting.device)
                return 2 * setting.batch_size * done / (time.perf_counter() - began), held_by_workers()
    raise RuntimeError(f"{pipeline} ran out of images")


def in_earnest(setting: Setting, steps: int, long: bool = False) -> float:
    """Views per second of the second epoch of `pretrain.fit`, with all that it does between steps and epochs.

    long: as in a long training.
    """
    ended, usual = {}, watch.LONG

    class Timed(METHODS["simclr"]):
        def after_step(self, step: int, of: int) -> None:
            super().after_step(step, of)
            if step in (steps, 2 * steps):
                synchronise(setting.device)
                ended[step] = time.perf_counter()

    rows = np.resize(np.arange(len(setting.images)), steps * setting.batch_size)
    known = {"views": setting.policy, "encoder": setting.encoder, "batch_size": setting.batch_size}
    METHODS["timed"] = Timed
    watch.LONG = 0.0 if long else math.inf
    try:
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            pretrain.fit(setting.images.take(rows), "timed", **known, epochs=2, out=out)
    finally:
        del METHODS["timed"]
        watch.LONG = usual
    return 2 * setting.batch_size * steps / (ended[2 * steps] - ended[steps])


def held_by_workers() -> float:
    """Gigabytes of the processes that this one started, without what they share with it."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children()) / 2**30


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def memory(device: torch.device) -> Iterator[dict[str, float]]:
    """`here`: gigabytes at the peak of a block, of a GPU, else resident in this process; NaN where no one tells."""
    taken = {"here": math.nan}
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif told := os.access(reset, os.W_OK):
        reset.write_text("5")  # forget the peak so far: see proc(5)
    yield taken
    if device.type == "cuda":
        taken["here"] = torch.cuda.max_memory_allocated(device) / 2**30
    elif told:
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        taken["here"] = int(peak.split()[1]) / 2**20


def machine(setting: Setting) -> dict:
    """What the numbers depend on."""
    on_gpu = setting.device.type == "cuda"
    versions = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "workers": setting.workers,
        "dataset": setting.images.name,
        "images": len(setting.images),
        "encoder": setting.encoder,
        "batch_size": setting.batch_size,
        "policy": setting.policy,
        "python": platform.python_version(),
        **versions,
    }


def processor() -> str:
    """The processor's name."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        names = [line.split(":")[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")]
        return names[0] if names else platform.machine()
    return platform.processor() or platform.machine()


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times faster mednb is than each other pipeline: median, lowest and highest of the repetitions.

    Each repetition is compared with itself, because they differ in what else the machine did.
    """
    of = ["device", "batch_size", "what", "size"]
    wide = rows.pivot_table("views_per_second", [*of, "repetition"], "pipeline")
    times = wide.rdiv(wide[OURS], axis=0).drop(columns=OURS).melt(value_name="times", ignore_index=False)
    grouped = times.dropna().groupby([*of, "pipeline"])["times"]
    return grouped.agg(median="median", lowest="min", highest="max").reset_index()
