"""The quick gradient of a convolution's weights is the gradient, and nothing of it stays in the network."""

import pytest
import torch
from torch import nn

from mednb import encoders, unet
from mednb.convolution import FEW, Convolution, OfSmallMap, quick_gradients

CASES = {  # kernel, stride, padding, image
    "3 x 3": (3, 1, 1, (4, 4)),
    "3 x 3 with stride 2 on odd sides": (3, 2, 1, (5, 7)),
    "7 x 7 with stride 2": (7, 2, 3, (8, 6)),
    "wide and unpadded": ((1, 3), 1, 0, (4, 5)),
    "other along than across": ((3, 2), (2, 1), (1, 0), (5, 4)),
    "one position": (3, 2, 1, (1, 1)),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_finite_differences(case):
    kernel, stride, padding, sides = CASES[case]
    layer = nn.Conv2d(2, 3, kernel, stride, padding, bias=False, dtype=torch.float64)
    x = torch.randn(2, 2, *sides, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OfSmallMap.apply, (x, layer.weight, layer.stride, layer.padding))


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_resnet_has_the_same_outputs_and_gradients_inside(side, channels_last):
    network = encoders.build("resnet18", seed=0)
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    images = torch.randn(4, 1, side, side, generator=torch.Generator().manual_seed(1))

    def learnt():
        network.zero_grad()
        h = network(images)
        h.square().mean().backward()
        return h.detach(), {name: weight.grad for name, weight in network.named_parameters()}

    outside, wanted = learnt()
    with quick_gradients(network):
        inside, found = learnt()
    assert torch.equal(inside, outside)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-5 * float(wanted[name].abs().max()))


def test_small_maps_only_go_the_other_way(monkeypatch):
    sides = []
    plain = OfSmallMap.forward

    def forward(ctx, x, *others):
        out = plain(ctx, x, *others)
        sides.append(out.shape[2] * out.shape[3])
        return out

    monkeypatch.setattr(OfSmallMap, "forward", staticmethod(forward))
    network = encoders.build("resnet18", seed=0)
    with quick_gradients(network):
        network(torch.randn(2, 1, 64, 64)).sum().backward()
        with torch.no_grad():
            network(torch.randn(2, 1, 64, 64))
    assert sides == [FEW] * 4 + [4] * 4


def test_in_sixteen_bits_the_weights_get_the_gradients_that_torch_gives_them():
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1, bias=False)), torch.randn(4, 8, 4, 4)

    def learnt():
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        out.float().square().sum().backward()
        return out.detach(), layer[0].weight.grad

    outside, wanted = learnt()
    with quick_gradients(layer):
        inside, found = learnt()
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, outside)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2 * float(wanted.abs().max()))


def test_afterwards_the_network_is_torchs_again_whatever_happens(tmp_path):
    encoders.save_encoder(encoders.build("resnet18", seed=0), tmp_path / "e.safetensors", {"encoder": "resnet18"})
    network = unet.build(tmp_path / "e.safetensors")
    before = [type(module) for module in network.modules()]
    with pytest.raises(KeyboardInterrupt), quick_gradients(network):
        assert sum(type(module) is Convolution for module in network.modules()) > 20
        assert network.state_dict().keys() == unet.build(tmp_path / "e.safetensors").state_dict().keys()
        raise KeyboardInterrupt
    assert [type(module) for module in network.modules()] == before


def test_nothing_changes_on_a_machine_with_a_gpu(monkeypatch):
    network = encoders.build("resnet18", seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with quick_gradients(network):
        assert not any(isinstance(module, Convolution) for module in network.modules())


def test_what_it_cannot_stand_for_stays():
    others = [
        nn.Conv2d(4, 4, 3, bias=True),
        nn.Conv2d(4, 4, 3, bias=False, groups=2),
        nn.Conv2d(4, 4, 3, bias=False, dilation=2),
        nn.Conv2d(4, 4, 3, bias=False, padding="same"),
        nn.Conv2d(4, 4, 3, bias=False, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1, bias=False),
    ]
    network = nn.Sequential(*others)
    with quick_gradients(network):
        assert not any(isinstance(module, Convolution) for module in network.modules())
