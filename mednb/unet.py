"""The U-Net around an encoder (Ronneberger et al. 2015), by segmentation-models-pytorch."""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from mednb import encoders

WIDTHS = (256, 128, 64, 32, 16)  # channels of the decoder's maps at strides 16 to 1


def widths(encoder: nn.Module) -> list[int]:
    """Channels of the image and of the encoder's maps at strides 2, 4, 8, 16 and 32."""
    channels = encoders.first_layer(encoder).in_channels
    if hasattr(encoder, "stages"):
        return [channels, 0, *(stage.blocks[-1].conv_dw.out_channels for stage in encoder.stages)]
    stages = (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)
    last = ((stage[-1].conv3 if hasattr(stage[-1], "conv3") else stage[-1].conv2) for stage in stages)
    return [channels, encoder.conv1.out_channels, *(convolution.out_channels for convolution in last)]


def decoder(encoder: nn.Module) -> nn.Module:
    """A randomly initialised decoder: maps [x, stride 2, ..., stride 32] -> (N, 16, H, W)."""
    made = UnetDecoder(widths(encoder), WIDTHS)
    smp.base.initialization.initialize_decoder(made)
    return made


class DecoderAsEncoder(nn.Module):
    """An encoder with a decoder behind it, as one network from images to vectors: the mean of the decoder's last map.

    So every contrastive loss can be taken on what the decoder says, too (figueiras2024; DeCon: Quetin et al. 2025).
    """

    width = WIDTHS[-1]

    def __init__(self, encoder: nn.Module, made: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, made

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder([x, *encoders.features(self.encoder, x)]).mean((2, 3))  # (N, 16)


def build(path: str | Path, classes: int = 1) -> nn.Module:
    """A U-Net whose encoder is the one saved at `path`, with a decoder from torch's generator."""
    card = encoders.model_card(path)
    convnext = card["encoder"].startswith("convnext")
    name = f"tu-{card['encoder']}" if convnext else card["encoder"]
    network = smp.Unet(name, encoder_weights=None, in_channels=card["channels"], classes=classes)
    state = encoders.weights(path)
    if convnext:  # timm gives the stages of a feature extractor flat names
        state = {f"model.{key.replace('.', '_', 1)}": value for key, value in state.items() if key[:4] != "head"}
    network.encoder.load_state_dict(state)
    return network
