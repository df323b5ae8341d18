"""A U-Net decoder can be pretrained with the encoder, by any loss on one vector per view, and 06_segment takes it."""

import pandas as pd
import pytest
import torch
from tiny_methods import views, wanted

from mednb import encoders, pretrain, segment
from mednb.datasets import load
from mednb.methods import METHODS
from mednb.methods.byol import BYOL
from mednb.methods.encoder_decoder import EncoderDecoder
from mednb.methods.simclr import SimCLR
from mednb.methods.swav import SwAV

WITH_MAPS = ("densecl", "vicregl")
ABLE = [name for name, method in METHODS.items() if method.pretrains and name not in (*WITH_MAPS, "spark")]


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


@pytest.mark.parametrize("name", ABLE)
def test_every_method_that_looks_at_one_vector_per_view_takes_a_decoder(encoder, name):
    method = EncoderDecoder(encoder, METHODS[name])
    every = views(method.crops, n=4)
    assert method.loss(*every, **wanted(method, every)).isfinite()


@pytest.mark.parametrize("name", WITH_MAPS)
def test_a_method_that_looks_at_maps_is_refused_with_those_that_do_not(tmp_path, name):
    images = load("phantoms", size=32, limit=30)
    with pytest.raises(
        ValueError, match=r"looks at maps.* with decoder=True choose one of supervised, simclr, .*spark"
    ):
        pretrain.fit(images, name, decoder=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_spark_has_its_own_decoder_already(tmp_path):
    images = load("phantoms", size=32, limit=30)
    ends = [pretrain.fit(images.take(range(4)), "spark", epochs=1, decoder=d, out=tmp_path / str(d)) for d in (0, 1)]
    assert all(torch.equal(*pair) for pair in zip(*(end.state_dict().values() for end in ends), strict=True))
    assert (tmp_path / "1" / "decoder.safetensors").exists()


def test_the_projections_and_signs_of_the_encoders_half_are_watched(encoder, tmp_path):
    method = EncoderDecoder(encoder, SwAV)
    assert method.head is method.on_encoder.head
    assert method.signs() == method.on_encoder.signs() != {}
    images = load("phantoms", size=32, limit=30)
    pretrain.fit(images.take(range(4)), "moco", epochs=1, decoder=True, out=tmp_path)
    assert pd.read_csv(tmp_path / "metrics.csv")["projection_spread"].notna().all()


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
