"""Encoders: what is pretrained, kept and used afterwards. One maps images (N, C, H, W) to embeddings `h` (N, D)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mednb.files import whole


def convnext_tiny() -> nn.Module:
    """ConvNeXt-tiny (Liu et al., A ConvNet for the 2020s, CVPR 2022) with timm's names."""
    import timm

    return timm.create_model("convnext_tiny", num_classes=1000)


ENCODERS = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "convnext_tiny": convnext_tiny,
}

# Where torchvision keeps the weights that it has once loaded.
IMAGENET = {
    "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": torchvision.models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
}

# What published checkpoints write before the encoder's own names: MoCo's, BYOL's, SwAV's and SparK's of Wolf et al.
# (2023), Lightning's, and those of models trained on several devices.
PREFIXES = ("encoder_q.", "online_network.encoder.", "model.", "module.", "backbone.", "encoder.", "state_dict.")

# The entry of a checkpoint that holds the weights: Lightning's, timm's, SparK's, DINO's.
WRAPPINGS = ("state_dict", "model", "module", "teacher")


def build(name: str = "resnet18", channels: int = 1, seed: int | None = None) -> nn.Module:
    """A randomly initialised encoder from torchvision or timm, without its classifier.

    `channels` is the number of channels of its images: grey images stay grey. The parameters' names are torchvision's
    (timm has the same for ResNets; ConvNeXt's are timm's). `seed` fixes the random initialisation and leaves torch's
    own generator as it was. The attribute `width` is D.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder '{name}' is unknown; choose one of {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        encoder = ENCODERS[name]()
        first = first_layer(encoder)
        if channels != first.in_channels:
            shape = first.out_channels, first.kernel_size, first.stride, first.padding
            grey = nn.Conv2d(channels, *shape, bias=first.bias is not None)
            nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
            encoder.set_submodule(first_layer_name(encoder), grey)
    classifier = "fc" if hasattr(encoder, "fc") else "head.fc"
    encoder.name, encoder.width = name, encoder.get_submodule(classifier).in_features
    encoder.set_submodule(classifier, nn.Identity())
    # Convolutions on the processor and on tensor cores are faster with the channels last.
    return encoder.to(memory_format=torch.channels_last)


def first_layer_name(encoder: nn.Module) -> str:
    """The name of the convolution that sees the image."""
    return next(name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))


def first_layer(encoder: nn.Module) -> nn.Conv2d:
    """The convolution that sees the image."""
    return encoder.get_submodule(first_layer_name(encoder))


def assert_large_enough(name: str, side: int) -> None:
    """ValueError where an encoder makes nothing of images, or views, of this side in pixels."""
    if name.startswith("convnext") and side < 32:
        raise ValueError(f"{name} needs images of 32 pixels or more, small crops too; the smallest here have {side}")


def assert_finite(network: nn.Module, what: str) -> None:
    """FloatingPointError that says `what` holds a weight that is no finite number."""
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise FloatingPointError(f"{name} holds numbers that are not finite in {what}")


def features(encoder: nn.Module, x: Tensor) -> list[Tensor]:
    """The feature maps of images (N, C, H, W) at strides 2, 4, 8, 16 and 32, each (N, C_s, H / s, W / s).

    They are those that a U-Net of segmentation-models-pytorch takes. ConvNeXt has no map at stride 2: it is empty, with
    no channels. `pooled` makes the embedding of the last one.
    """
    if hasattr(encoder, "stages"):
        maps = [x.new_empty(len(x), 0, x.shape[2] // 2, x.shape[3] // 2)]
        x = encoder.stem(x)
        for stage in encoder.stages:
            x = stage(x)
            maps.append(x)
        return maps
    maps = [encoder.relu(encoder.bn1(encoder.conv1(x)))]
    x = encoder.maxpool(maps[0])
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def pooled(encoder: nn.Module, last: Tensor) -> Tensor:
    """The embedding (N, D) of the last feature map (N, D, H / 32, W / 32): what `encoder(x)` gives."""
    return encoder.head(last) if hasattr(encoder, "stages") else encoder.avgpool(last).flatten(1)


def save_encoder(network: nn.Module, path: str | Path, card: dict) -> None:
    """Write a network that `build(encoder)` made to a safetensors file, with its model card as metadata.

    The card is any values that JSON holds; `encoder`, the network's name, must be among them.
    """
    save_weights(network, path, {**card, "channels": first_layer(network).in_channels})


def save_weights(network: nn.Module, path: str | Path, card: dict) -> None:
    """Write the weights of any network to a safetensors file, with a card as metadata."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with whole(path) as aside:
        aside.write_bytes(save(state, metadata={"mednb": json.dumps(card, default=str)}))


def model_card(path: str | Path) -> dict:
    """The model card that was saved with an encoder."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no encoder at {path}; 03_pretrain writes one")
    try:
        with safe_open(str(path), framework="pt") as file:
            card = dict(json.loads((file.metadata() or {})["mednb"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not an encoder that mednb saved ({error})") from None
    return card


def load(path: str | Path, encoder: str | None = None, channels: int = 1) -> nn.Module:
    """The encoder in a file, in eval mode.

    path: a run's `encoder.safetensors`, which says itself what it is; or weights from elsewhere (.safetensors, .pth,
    .pt, .ckpt), such as the checkpoints of Wolf et al. (2023): then `encoder` names the network, and `channels` of its
    images. Prefixes of the names (`encoder_q.`, `online_network.encoder.`, `model.`, `module.`, ...) are dropped, heads
    and classifiers are left out. Files are read without running code from them.
    Raises ValueError when weights are missing, are not finite, have another shape or are of a larger network, naming
    the first of them.
    """
    if encoder is None:
        card = model_card(path)
        network = build(card.get("encoder"), channels=card.get("channels", 1), seed=0)
        take(network, weights(path), path)
    else:
        network = build(encoder, channels=channels, seed=0)
        take(network, foreign(path), path)
    return network.eval()


def weights(path: str | Path, channels: int | None = None) -> dict[str, Tensor]:
    """The tensors in `path` under torchvision's names.

    With `channels=3` the first layer of a grey encoder is spread over three channels so that a grey image repeated
    thrice gives the same response: `torchvision.models.resnet18().load_state_dict(weights(path, 3), strict=False)`.
    """
    state = load_file(str(path))
    first = "conv1.weight" if "conv1.weight" in state else "stem.0.weight"
    return state if channels is None else state | {first: spread(state[first], channels)}


def spread(kernel: Tensor, channels: int) -> Tensor:
    """A first layer (K, C, h, w) for another number of channels, with the same response to grey images."""
    if kernel.shape[1] == channels:
        return kernel
    return kernel.sum(1, keepdim=True).repeat(1, channels, 1, 1) / channels


def foreign(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that others saved, without any wrapping; ValueError when it holds anything that is code."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is not documented
        if code := re.search("Unsupported global: GLOBAL (\\S+)", str(error)):
            entries = f"torch.load('{path}', weights_only=False).items()"
            raise ValueError(
                f"{path} cannot be read without running code from it ({code[1]}). Where you trust it, save its weights "
                f"alone: torch.save({{k: v for k, v in {entries} if k in {WRAPPINGS}}}, 'weights.pth')"
            ) from error
        said = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is damaged, or no file of weights ({said[0]}): download it again") from error
    for wrapping in WRAPPINGS:
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    named = state.items() if isinstance(state, dict) else ()
    tensors = {key: value for key, value in named if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no weights: a checkpoint has a dict of tensors by name")
    return tensors


def take(network: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load foreign weights into an encoder: prefixes dropped, first layer spread over its channels, heads left out."""
    wanted = network.state_dict()
    found, others = best_prefixed(state, wanted)
    first = f"{first_layer_name(network)}.weight"
    if first in found and found[first].dim() == 4:
        found[first] = spread(found[first], first_layer(network).in_channels)
    wrong = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if wrong:
        few = ", ".join(list(state)[:3])
        raise ValueError(f"{source} lacks {wrong[0]} and {len(wrong) - 1} more of this encoder; it holds {few}, ...")
    bent = [key for key in found if found[key].shape != wanted[key].shape]
    if bent:
        shapes = [" x ".join(map(str, each[bent[0]].shape)) or "one number" for each in (found, wanted)]
        raise ValueError(f"{source}: {bent[0]} is {shapes[0]}, but this encoder has {shapes[1]}")
    # A deeper network has all names of a shallower one. What begins otherwise is a head.
    parts = {key.partition(".")[0] for key in wanted} - {"head"}
    more = [key for key in others if key.partition(".")[0] in parts]
    if more:
        raise ValueError(f"{source} holds {more[0]} and {len(more) - 1} more that {network.name} does not have")
    bad = [key for key, value in found.items() if value.is_complex() or not value.isfinite().all()]
    if bad:
        raise ValueError(f"{source}: {bad[0]} holds numbers that are not finite, or not real")
    network.load_state_dict(wanted | found)


def best_prefixed(state: dict[str, Tensor], wanted: dict) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors whose names fit `wanted` once a prefix, or several, are dropped: the one that fits most names.

    And the other names with that prefix, without it.
    """
    prefixes = {""}
    for key in state:
        match = re.match("|".join(f"(?:{re.escape(prefix)})" for prefix in PREFIXES), key)
        prefix = ""
        while match:
            prefix += match[0]
            prefixes.add(prefix)
            match = re.match("|".join(f"(?:{re.escape(each)})" for each in PREFIXES), key[len(prefix) :])
    fits = ({key[len(p) :]: value for key, value in state.items() if key.startswith(p)} for p in sorted(prefixes))
    best = max(fits, key=lambda each: len(each.keys() & wanted.keys()))
    return {k: v for k, v in best.items() if k in wanted}, [k for k in best if k not in wanted]


def imagenet(name: str) -> dict[str, Tensor]:
    """The weights that were trained with ImageNet's labels, from the file that `imagenet_file` names."""
    return foreign(imagenet_file(name))


def imagenet_file(name: str) -> Path:
    """Where the weights of ImageNet lie: in torch's cache, or the file in $MEDNB_IMAGENET.

    Nothing is downloaded: a study must not depend on a server. FileNotFoundError says how to get them.
    """
    given = os.environ.get("MEDNB_IMAGENET")
    known = IMAGENET.get(name)
    path = Path(given) if given else Path(torch.hub.get_dir(), "checkpoints", Path(known.url).name if known else name)
    if given and not path.is_file():
        raise FileNotFoundError(f"$MEDNB_IMAGENET names {path}, and there is no such file")
    if not path.is_file():
        once = f"run torchvision.models.{name}(weights='{known.name}') once with a network, or " if known else ""
        if name == "convnext_tiny":
            theirs = "timm.create_model('convnext_tiny.fb_in1k', pretrained=True).state_dict()"
            folder = f"os.makedirs('{path.parent}', exist_ok=True)"  # nothing else may have made it
            once = f"run {folder}; torch.save({theirs}, '{path}') once with a network, or "
        raise FileNotFoundError(
            f"method imagenet needs the weights of {name} at {path}: {once}name a file of them in $MEDNB_IMAGENET"
        )
    return path
