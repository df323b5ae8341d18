"""Encoders: what is pretrained, kept and used afterwards. One maps images (N, C, H, W) to embeddings `h` (N, D)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mednb.files import whole

ENCODERS = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
}


def build(name: str = "resnet18", channels: int = 1, seed: int | None = None) -> nn.Module:
    """A randomly initialised encoder from torchvision, without its classifier.

    `channels` is the number of channels of its images: grey images stay grey. The parameters' names are torchvision's.
    `seed` fixes the random initialisation and leaves torch's own generator as it was. The attribute `width` is D.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder '{name}' is unknown; choose one of {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        encoder = ENCODERS[name]()
        if channels != 3:
            encoder.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder.width = encoder.fc.in_features
    encoder.fc = nn.Identity()
    # Convolutions on the processor and on tensor cores are faster with the channels last.
    return encoder.to(memory_format=torch.channels_last)


def save_encoder(network: nn.Module, path: str | Path, card: dict) -> None:
    """Write a network that `build(encoder)` made to a safetensors file, with its model card as metadata.

    The card is any values that JSON holds; `encoder`, the network's name, must be among them.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    card = {**card, "channels": network.conv1.in_channels}
    with whole(path) as aside:
        aside.write_bytes(save(state, metadata={"mednb": json.dumps(card, default=str)}))


def model_card(path: str | Path) -> dict:
    """The model card that was saved with an encoder."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads((file.metadata() or {})["mednb"])
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no encoder at {path}; 03_pretrain writes one") from None
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not an encoder that mednb saved ({error})") from None


def load(path: str | Path) -> nn.Module:
    """The encoder in a run's `encoder.safetensors`, in eval mode."""
    facts = model_card(path)
    encoder = build(facts["encoder"], channels=facts["channels"], seed=0)
    encoder.load_state_dict(weights(path))
    return encoder.eval()


def weights(path: str | Path, channels: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors in `path` under torchvision's names.

    With `channels=3` the first layer of a grey encoder is spread over three channels so that a grey image repeated
    thrice gives the same response: `torchvision.models.resnet18().load_state_dict(weights(path, 3), strict=False)`.
    """
    with safe_open(str(path), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no dict)
    if channels is not None and state["conv1.weight"].shape[1] != channels:
        state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True).repeat(1, channels, 1, 1) / channels
    return state
