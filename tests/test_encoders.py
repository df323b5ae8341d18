"""Encoders keep torchvision's names, travel in safetensors, and come back the same."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision

from mednb import encoders


@pytest.fixture
def saved(tmp_path):
    network = encoders.build("resnet18", seed=3)
    encoders.save_encoder(network, tmp_path / "encoder.safetensors", {"encoder": "resnet18", "method": "none"})
    return network.eval(), tmp_path / "encoder.safetensors"


@pytest.mark.parametrize("name, width", [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)])
def test_an_encoder_maps_grey_images_to_embeddings(name, width):
    encoder = encoders.build(name, seed=0).eval()
    assert encoder.width == width
    assert encoder(torch.zeros(2, 1, 32, 32)).shape == (2, width)


def test_the_same_seed_builds_the_same_encoder_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (encoders.build(seed=seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_an_encoder_comes_back_as_it_was_saved(saved):
    network, path = saved
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(encoders.load(path)(x), network(x))
    assert encoders.model_card(path) == {"encoder": "resnet18", "method": "none", "channels": 1}


def test_torchvision_takes_the_weights_and_answers_the_same_to_grey(saved):
    network, path = saved
    theirs = torchvision.models.resnet18()
    missing = theirs.load_state_dict(encoders.weights(path, channels=3), strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == ["fc.weight", "fc.bias"]
    theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(theirs.eval()(x.repeat(1, 3, 1, 1)), network(x), atol=1e-4, rtol=1e-4)


def test_segmentation_models_takes_the_weights(saved):
    network, path = saved
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
    unet.encoder.load_state_dict(encoders.weights(path))
    assert torch.equal(unet.encoder.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def test_an_unknown_encoder_names_the_known_ones():
    with pytest.raises(ValueError, match="encoder 'resnet19' is unknown; choose one of resnet18"):
        encoders.build("resnet19")


def test_a_missing_encoder_says_who_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no encoder at .*; 03_pretrain writes one"):
        encoders.load(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04 a pickle, say", b"\x00" * 64])
def test_a_file_that_is_no_encoder_is_refused_by_name(tmp_path, content):
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.safetensors is not an encoder that mednb saved"):
        encoders.load(path)
