"""A U-Net decoder can be pretrained with the encoder, by any loss on one vector per view, and 06_segment takes it."""

import pytest
import torch

from mednb import encoders, segment
from mednb.methods.byol import BYOL
from mednb.methods.encoder_decoder import EncoderDecoder
from mednb.methods.simclr import SimCLR


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return encoders.build("resnet18", seed=0)


@pytest.mark.parametrize("of", [SimCLR, BYOL])
def test_the_loss_reaches_encoder_and_decoder(encoder, of):
    method = EncoderDecoder(encoder, of)
    method.loss(torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32)).backward()
    for part in (method.encoder, method.decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert method.encoder.layer4[1].conv2.weight.grad.abs().sum() > 0
    assert method.decoder.blocks[-1].conv2[0].weight.grad.abs().sum() > 0


def test_the_loss_is_the_sum_of_the_methods_on_both(encoder):
    method = EncoderDecoder(encoder, SimCLR).eval()
    a, b = torch.randn(2, 4, 1, 32, 32)
    both = method.on_encoder.loss(a, b) + method.on_decoder.loss(a, b)
    assert method.loss(a, b).item() == pytest.approx(both.item())


def test_both_momentum_networks_move(encoder):
    method = EncoderDecoder(encoder, BYOL)
    before = [next(each.target.parameters()).clone() for each in (method.on_encoder, method.on_decoder)]
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    method.after_step(1, 10)
    for each, was in zip((method.on_encoder, method.on_decoder), before, strict=True):
        assert not torch.equal(next(each.target.parameters()), was)


def test_the_recipe_is_the_methods_own(encoder):
    method = EncoderDecoder(encoder, BYOL)
    assert (method.batch_size, method.lr, method.crops) == (BYOL.batch_size, BYOL.lr, BYOL.crops)


def test_a_unet_starts_from_both_halves(encoder, tmp_path):
    method = EncoderDecoder(encoder, SimCLR)
    path = tmp_path / "encoder.safetensors"
    encoders.save_encoder(method.encoder, path, {"encoder": "resnet18"})
    with pytest.raises(FileNotFoundError, match=r"no .*decoder\.safetensors: pretrain with decoder=True"):
        segment.build(path, initialise="encoder-decoder")
    encoders.save_weights(method.decoder, path.with_name("decoder.safetensors"), {})
    whole = segment.build(path, seed=1, initialise="encoder-decoder").decoder.state_dict()
    half = segment.build(path, seed=1).decoder.state_dict()
    assert all(torch.equal(whole[key], value) for key, value in method.decoder.state_dict().items())
    assert not torch.equal(half["blocks.0.conv1.0.weight"], whole["blocks.0.conv1.0.weight"])
    with pytest.raises(ValueError, match="initialise is 'decoder'; choose one of encoder, encoder-decoder"):
        segment.build(path, initialise="decoder")
