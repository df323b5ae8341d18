"""Encoders keep torchvision's names, travel in safetensors, and come back the same."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file

from mednb import encoders, unet


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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny"])
def test_feature_maps_are_those_of_a_unets_encoder_and_pool_to_the_embedding(name, tmp_path):
    encoder = encoders.build(name, seed=0).eval()
    x = torch.randn(2, 1, 64, 64)
    maps = encoders.features(encoder, x)
    assert [len(x) and x.shape[-1] // each.shape[-1] for each in maps] == [2, 4, 8, 16, 32]
    torch.testing.assert_close(encoders.pooled(encoder, maps[-1]), encoder(x))
    encoders.save_encoder(encoder, tmp_path / "encoder.safetensors", {"encoder": name})
    network = unet.build(tmp_path / "encoder.safetensors").eval()
    assert unet.widths(encoder) == [1, *(each.shape[1] for each in maps)]
    for ours, theirs in zip(maps, network.encoder(x)[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_unet_takes_images_of_as_many_channels_as_its_encoder(tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save_encoder(encoders.build("resnet18", channels=3, seed=0), path, {"encoder": "resnet18"})
    assert unet.build(path, classes=2)(torch.zeros(2, 3, 32, 32)).shape == (2, 2, 32, 32)


def test_timm_takes_the_weights_of_resnets_and_convnexts(tmp_path):
    for name in ("resnet18", "convnext_tiny"):
        encoder = encoders.build(name, seed=1).eval()
        encoders.save_encoder(encoder, tmp_path / "encoder.safetensors", {"encoder": name})
        theirs = timm.create_model(name, num_classes=0, in_chans=1).eval()
        theirs.load_state_dict(encoders.weights(tmp_path / "encoder.safetensors"))
        x = torch.randn(2, 1, 64, 64)
        torch.testing.assert_close(theirs(x), encoder(x), atol=1e-4, rtol=1e-4)


PUBLISHED = {  # how the released checkpoints of Wolf et al. (2023) and others wrap a ResNet's weights
    "MoCo": lambda state: {"state_dict": {f"encoder_q.{k}": v for k, v in state.items()}, "epoch": 3},
    "BYOL": lambda state: {
        "state_dict": {f"online_network.encoder.{k}": v for k, v in state.items()}
        | {f"target_network.encoder.{k}": torch.zeros_like(v) for k, v in state.items()}
    },
    "SwAV": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()} | {"model.prototypes.weight": ONE}
    },
    "SparK": lambda state: {"module": dict(state)},
    "several devices": lambda state: {f"module.encoder_q.{k}": v for k, v in state.items()},
    "MAE": lambda state: {"model": {f"encoder.{k}": v for k, v in state.items()}, "epoch": 3},
    "DINO": lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": ONE}},
    "before torch counted batches": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "bare, with a classifier": lambda state: dict(state) | {"fc.weight": ONE, "fc.bias": ONE},
}
ONE = torch.ones(1)


@pytest.mark.parametrize("wrapping", PUBLISHED)
def test_published_checkpoints_load_by_the_same_call(wrapping, tmp_path):
    colour = torchvision.models.resnet18()
    state = {key: value for key, value in colour.state_dict().items() if not key.startswith("fc.")}
    torch.save(PUBLISHED[wrapping](state), tmp_path / "theirs.ckpt")
    encoder = encoders.load(tmp_path / "theirs.ckpt", encoder="resnet18")
    colour.fc = torch.nn.Identity()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(encoder(x), colour.eval()(x.repeat(1, 3, 1, 1)), atol=1e-4, rtol=1e-4)


def test_a_published_convnext_comes_without_its_classifier(tmp_path):
    theirs = timm.create_model("convnext_tiny", num_classes=10).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    encoder = encoders.load(tmp_path / "theirs.pth", encoder="convnext_tiny", channels=3)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs.head.fc(encoder(x)), theirs(x), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"state_dict": {}, "hyper": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match=r"trap\.ckpt cannot be read without running code"):
        encoders.load(tmp_path / "trap.ckpt", encoder="resnet18")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("wrapping", ["state_dict", "teacher"])
def test_a_checkpoint_with_pickled_classes_says_how_to_take_its_weights(wrapping, tmp_path, monkeypatch):
    """Lightning's of older versions hold hyperparameters as classes, DINO's what was said on the command line."""
    from argparse import Namespace

    state = {f"encoder_q.{k}": v for k, v in encoders.build("resnet18", channels=3, seed=4).state_dict().items()}
    torch.save({wrapping: state, "hyper_parameters": Namespace(lr=0.1)}, tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match="Where you trust it, save its weights alone: ") as refused:
        encoders.load(tmp_path / "theirs.ckpt", encoder="resnet18")
    monkeypatch.chdir(tmp_path)
    exec(str(refused.value).partition("alone: ")[2], {"torch": torch})
    taken = encoders.load("weights.pth", encoder="resnet18", channels=3).state_dict()
    assert all(torch.equal(taken[k.removeprefix("encoder_q.")], v) for k, v in state.items())


def test_foreign_weights_that_do_not_fit_name_what_is_wrong(tmp_path):
    state = encoders.build("resnet18", seed=0).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("layer4.1.")}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"short\.pth lacks layer4\.1\."):
        encoders.load(tmp_path / "short.pth", encoder="resnet18")
    torch.save(state | {"layer1.0.conv1.weight": torch.zeros(3, 3)}, tmp_path / "bent.pth")
    with pytest.raises(ValueError, match=r"bent\.pth: layer1\.0\.conv1\.weight is 3 x 3, but this encoder has 64 x 64"):
        encoders.load(tmp_path / "bent.pth", encoder="resnet18")
    torch.save({"a": 1}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"empty\.pth holds no weights"):
        encoders.load(tmp_path / "empty.pth", encoder="resnet18")


OTHERS = {  # networks that have all names of the one that is asked for, and more
    "resnet34": ("resnet18", lambda: torchvision.models.resnet34()),
    "resnet101": ("resnet50", lambda: torchvision.models.resnet101()),
    "seresnet18": ("resnet18", lambda: timm.create_model("seresnet18")),
    "convnext_small": ("convnext_tiny", lambda: timm.create_model("convnext_small")),
}


@pytest.mark.parametrize("theirs", OTHERS)
def test_the_weights_of_a_larger_network_are_refused(theirs, tmp_path):
    asked, build = OTHERS[theirs]
    torch.save({f"module.{k}": v for k, v in build().state_dict().items()}, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=rf"theirs\.pth holds (layer|stages).* more that {asked} does not have"):
        encoders.load(tmp_path / "theirs.pth", encoder=asked, channels=3)


BROKEN = {
    "empty.pth": lambda whole: b"",
    "cut.pth": lambda whole: whole[: len(whole) // 2],
    "page.pth": lambda whole: b"<!DOCTYPE html><html>not found</html>",
    "empty.safetensors": lambda whole: b"",
    "page.safetensors": lambda whole: b"<!DOCTYPE html><html>not found</html>",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_of_weights_is_said_to_be_one_and_nobody_is_told_to_run_it(name, tmp_path):
    torch.save(encoders.build("resnet18", seed=0).state_dict(), tmp_path / "whole.pth")
    (tmp_path / name).write_bytes(BROKEN[name]((tmp_path / "whole.pth").read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is damaged, or no file of weights \(.+\): download it") as refused:
        encoders.load(tmp_path / name, encoder="resnet18")
    assert "trust" not in str(refused.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1j])
def test_weights_that_are_no_real_numbers_are_refused(bad, tmp_path):
    state = encoders.build("resnet18", seed=0).state_dict()
    torch.save(state | {"bn1.weight": state["bn1.weight"] * bad}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: bn1\.weight holds numbers that are not finite, or not real"):
        encoders.load(tmp_path / "bad.pth", encoder="resnet18")


def test_a_moving_average_that_is_not_finite_is_found_too():
    encoder = encoders.build("resnet18", seed=0)
    encoders.assert_finite(encoder, "it")
    encoder.layer1[0].bn2.running_var[3] = torch.inf
    with pytest.raises(
        FloatingPointError, match=r"layer1\.0\.bn2\.running_var holds numbers that are not finite in it"
    ):
        encoders.assert_finite(encoder, "it")


def test_the_smallest_images_that_a_convnext_makes_something_of_are_let_through():
    encoders.assert_large_enough("convnext_tiny", 32)
    assert encoders.build("convnext_tiny", seed=0)(torch.zeros(1, 1, 32, 32)).isfinite().all()
    with pytest.raises(ValueError, match="needs images of 32 pixels or more"):
        encoders.assert_large_enough("convnext_tiny", 31)


def test_what_is_no_encoder_of_ours_is_a_sentence(tmp_path):
    encoder = encoders.build("resnet18", seed=0)
    encoders.save_weights(encoder.layer1, tmp_path / "decoder.safetensors", {"encoder": "resnet18"})
    with pytest.raises(ValueError, match=r"decoder\.safetensors lacks conv1\.weight and"):
        encoders.load(tmp_path / "decoder.safetensors")
    encoders.save_weights(encoder, tmp_path / "e.safetensors", {"encoder": "resnet34", "channels": 1})
    with pytest.raises(ValueError, match=r"e\.safetensors lacks layer1\.2\."):
        encoders.load(tmp_path / "e.safetensors")
    for told in ("no JSON", "[1, 2]", "3"):
        save_file({"a": ONE}, tmp_path / "told.safetensors", metadata={"mednb": told})
        with pytest.raises(ValueError, match=r"told\.safetensors is not an encoder that mednb saved"):
            encoders.load(tmp_path / "told.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no encoder at"):
        encoders.load(tmp_path)


def test_imagenets_weights_come_from_torchs_cache_or_a_file_and_are_never_downloaded(tmp_path, monkeypatch):
    from mednb.methods.imagenet import ImageNet

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("MEDNB_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match=r"needs the weights of resnet18 at .*f37072fd\.pth: run torchvision"):
        ImageNet(encoders.build("resnet18", seed=0))
    theirs = torchvision.models.resnet18()
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints/resnet18-f37072fd.pth")
    cached = ImageNet(encoders.build("resnet18", seed=0)).encoder
    torch.testing.assert_close(cached.conv1.weight[:, 0], theirs.conv1.weight.sum(1))
    assert torch.equal(cached.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    monkeypatch.setenv("MEDNB_IMAGENET", str(tmp_path / "mine.pth"))
    assert torch.equal(ImageNet(encoders.build("resnet18", seed=1)).encoder.bn1.weight, theirs.bn1.weight)


def test_what_is_said_of_a_convnexts_absent_weights_puts_them_where_they_are_looked_for(tmp_path, monkeypatch):
    import os
    from types import SimpleNamespace

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "a cache that nobody has made"))
    monkeypatch.delenv("MEDNB_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError) as refused:
        encoders.imagenet_file("convnext_tiny")
    downloaded = SimpleNamespace(create_model=lambda name, pretrained: SimpleNamespace(state_dict=lambda: {"a": ONE}))
    said = str(refused.value).partition(": run ")[2].partition(" once with a network")[0]
    exec(said, {"os": os, "torch": torch, "timm": downloaded})
    assert encoders.imagenet("convnext_tiny") == {"a": ONE}


def test_a_file_of_imagenets_weights_that_is_not_there_is_named_as_what_was_asked_for(tmp_path, monkeypatch):
    """What is in torch's cache would not help: the file that was named comes first."""
    monkeypatch.setenv("MEDNB_IMAGENET", str(tmp_path / "mispelt.pth"))
    with pytest.raises(FileNotFoundError, match=r"MEDNB_IMAGENET names .*mispelt\.pth, and there is no such file$"):
        encoders.imagenet_file("resnet18")
