"""Encoder-decoder pretraining: the decoder learns without labels, too (Figueiras 2024; DeCon, Quetin 2025)."""

from collections.abc import Callable

from torch import Tensor, nn

from mednb import unet
from mednb.methods import METHODS
from mednb.methods.base import Method


class EncoderDecoder(Method):
    """Any method that looks at one vector per view, asked twice: of the encoder, and of a U-Net decoder behind it.

    The two losses are added up. The decoder is kept, so that a U-Net for segmentation can start from both halves. The
    projections and signs that are watched are those of the encoder's half.
    """

    def __init__(self, encoder: nn.Module, of: Callable[[nn.Module], Method]):
        super().__init__(encoder)
        self.decoder = unet.decoder(encoder)
        self.on_encoder = of(encoder)
        self.on_decoder = of(unet.DecoderAsEncoder(encoder, self.decoder))
        for recipe in ("batch_size", "lr", "weight_decay", "optimiser", "clip", "crops", "wants", "steady"):
            setattr(self, recipe, getattr(self.on_encoder, recipe))

    @staticmethod
    def check_method(of: type[Method]) -> None:
        """ValueError when the method needs more of its encoder than one vector per view."""
        if of.looks_at_maps:
            able = [name for name, each in METHODS.items() if each.pretrains and not each.looks_at_maps]
            raise ValueError(
                f"{of.__name__} looks at maps of its encoder, not only at one vector per view: no decoder can be asked "
                f"the same; with decoder=True choose one of {', '.join(able)}"
            )

    @property
    def head(self) -> nn.Module:
        return self.on_encoder.head

    @property
    def predictor(self) -> nn.Module:
        return self.on_encoder.predictor

    def loss(self, *views: Tensor, **wanted) -> Tensor:
        return self.on_encoder.loss(*views, **wanted) + self.on_decoder.loss(*views, **wanted)

    def after_step(self, step: int, steps: int) -> None:
        self.on_encoder.after_step(step, steps)
        self.on_decoder.after_step(step, steps)

    def signs(self) -> dict[str, float]:
        return self.on_encoder.signs()
