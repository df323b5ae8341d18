"""SparK: nothing of a hidden pixel reaches the encoder, and what it learns loads into the dense network."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from mednb import encoders, unet
from mednb.masked import at, batch_norm, masked_features, weighted_batch_norm
from mednb.methods.spark import SparK, cell_of, cells
from mednb.views import key

ENCODERS = ["resnet18", "resnet50", "convnext_tiny"]
KEYS = torch.arange(2)


@pytest.fixture(scope="module", params=ENCODERS)
def spark(request):
    torch.manual_seed(0)
    return SparK(encoders.build(request.param, seed=0))


class Painting(nn.Module):
    """A decoder that paints the same picture whatever it is given."""

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def forward(self, maps):
        return self.picture


@pytest.fixture
def small():
    torch.manual_seed(0)
    return SparK(encoders.build("resnet18", seed=0))


def statistics(network):
    return [module.running_mean.clone() for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(("size", "cell"), [(64, 8), (64, 16), (64, 32), (144, None)])
def test_changing_hidden_pixels_changes_no_output_and_no_batch_norm_statistic(spark, size, cell):
    x = torch.randn(3, 1, size, size)
    cell = cell or cell_of(size)
    visible = spark.mask(torch.arange(3), size // cell)
    hidden = visible.logical_not().repeat_interleave(cell, 2).repeat_interleave(cell, 3)  # what is to be painted
    other = torch.where(hidden, 100 * torch.randn_like(x), x)
    outcomes = []
    for image in (x, other):
        fresh = deepcopy(spark).train()
        outcomes.append((fresh.encode(image, visible), statistics(fresh.encoder)))
    for a, b in zip(*(maps + norms for maps, norms in outcomes), strict=True):
        assert torch.equal(a, b)


def test_with_everything_visible_it_is_the_dense_network(spark):
    x, encoder = torch.randn(2, 1, 64, 64), spark.encoder
    everything = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    for training in (False, True):
        encoder.train(training)
        for a, b in zip(masked_features(encoder, x, everything), encoders.features(encoder, x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_hidden_positions_are_zero_at_every_stage(spark):
    x = torch.randn(2, 1, 128, 128)
    visible = spark.mask(torch.arange(2), 4)
    for each in spark.encode(x, visible):
        assert not each.masked_select(~at(visible, each)).any()
        assert each.shape[1] == 0 or each.masked_select(at(visible, each)).any()


def test_every_convolution_finds_zeros_where_nothing_is_visible(spark):
    """Also where a position of the next map is made of visible and hidden ones, and whatever a norm adds to zeros."""
    mixed, found, encoder = spark.mask(torch.arange(2), 4), [], deepcopy(spark.encoder).train()
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.ones_(module.bias)
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    x = torch.randn(2, 1, 64, 64)
    masked_features(encoder, x * at(mixed, x), mixed)
    assert len(found) > 15
    assert not any(each.masked_select(~at(mixed, each)).any() for each in found)


@pytest.mark.parametrize("size", [144, 200, 240, 250])
def test_what_the_loss_asks_for_is_what_was_hidden_at_any_size(small, size):
    """A painting of the cells that are asked for moves the loss, one of the cells that were shown does not."""
    x = torch.randn(2, 1, size, size)
    visible = small.mask(KEYS, size // cell_of(size))
    small.paint, shown = nn.Identity(), at(visible, x)
    painted, lost = [torch.zeros_like(x), torch.where(shown, 1e3, 0.0), torch.where(shown, 0.0, 1e3)], []
    for picture in painted:
        small.decoder = Painting(picture)
        lost.append(small.loss(x, KEYS).item())
    assert lost[1] == lost[0] < 1.1
    assert lost[2] > 1e5


def test_cells_are_the_largest_that_fit_in_without_a_rest():
    sizes = (32, 64, 128, 224, 256, 28, 144, 200, 240, 250)
    assert [cell_of(size) for size in sizes] == [8, 16, 32, 32, 32, 7, 24, 25, 30, 25]
    assert [cell_of(64, wanted) for wanted in (8, 10)] == [8, 8]


@pytest.mark.parametrize("size", [127, 148, 4])
def test_a_size_that_cannot_be_cut_into_cells_is_a_sentence(small, size):
    with pytest.raises(ValueError, match=f"no cells of .* fill images of {size}: take a multiple of 32"):
        small.loss(torch.zeros(2, 1, size, size), KEYS)


@pytest.mark.parametrize("size, cell, kept", [(224, 32, 20), (256, 32, 26), (128, 32, 6), (64, 16, 6), (32, 32, 1)])
def test_the_papers_number_of_cells_stays_visible_in_each_image(small, size, cell, kept):
    visible = small.mask(torch.arange(5), size // cell)
    assert visible.flatten(1).sum(1).tolist() == [kept] * 5


@pytest.mark.parametrize("hidden", [0.01, 0.12, 0.99])
def test_a_mask_hides_one_cell_at_least_and_shows_one(small, hidden):
    small.hidden = hidden
    visible = small.mask(torch.arange(5), 2)
    assert ((visible.sum((1, 2, 3)) > 0) & (visible.sum((1, 2, 3)) < 4)).all()


def test_a_mask_is_its_images_own_whatever_else_is_in_the_batch(small):
    keys = key(0, 0, torch.arange(200))
    whole = small.mask(keys, 4)
    torch.manual_seed(1)
    assert torch.equal(small.mask(keys[[7, 3]], 4), whole[[7, 3]])
    assert len(whole.flatten(1).unique(dim=0)) > 190
    torch.testing.assert_close(whole.float().mean(0), torch.full((1, 4, 4), 6 / 16), atol=0.12, rtol=0)


def test_batch_norm_counts_visible_positions_only(small):
    norm = nn.BatchNorm2d(3).train()
    x = torch.randn(4, 3, 8, 8) * 5 + 2
    visible = small.mask(torch.arange(4), 4)
    y = batch_norm(norm, x * at(visible, x), visible)
    seen = y.movedim(1, -1)[at(visible, y)[:, 0]]
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.movedim(1, -1)[at(visible, x)[:, 0]].mean(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_batch_norm_is_that_of_its_formula(small, layout):
    visible, weight = small.mask(torch.arange(4), 4), torch.randn(4, 3, 8, 8)

    def by_formula(norm, x, visible):
        seen = at(visible, x)
        mean = (x * seen).sum((0, 2, 3), keepdim=True) / seen.sum()
        var = ((x - mean).square() * seen).sum((0, 2, 3), keepdim=True) / seen.sum()
        y = (x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        return torch.where(seen, y, 0)

    x, found = torch.randn(4, 3, 8, 8).contiguous(memory_format=layout), []

    def on_a_gpu(norm, x, visible):
        return weighted_batch_norm(norm, x, at(visible, x))

    for of in (by_formula, batch_norm, on_a_gpu):
        norm, given = nn.BatchNorm2d(3), x.clone().requires_grad_()
        y = of(norm, given, visible)
        (y * weight).sum().backward()
        found.append((y, given.grad, norm.weight.grad, norm.bias.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=1e-4)


def test_batch_norm_on_a_gpu_keeps_the_same_statistics_and_uses_them(small):
    visible, norms = small.mask(torch.arange(4), 4), [nn.BatchNorm2d(3, momentum=0.3) for _ in range(2)]
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8) * 5 + 2
        found = batch_norm(norms[0], x, visible), weighted_batch_norm(norms[1], x, at(visible, x))
    torch.testing.assert_close(norms[1].state_dict(), norms[0].state_dict())
    assert norms[1].num_batches_tracked == 3
    found = batch_norm(norms[0].eval(), x, visible), weighted_batch_norm(norms[1].eval(), x, at(visible, x))
    torch.testing.assert_close(*found)


def test_the_loss_sees_hidden_cells_only_and_is_one_for_a_painting_of_zeros(small):
    x = torch.randn(2, 1, 64, 64) * 3 + 1
    visible = small.mask(KEYS, 4)
    small.paint = nn.Identity()
    shown = torch.zeros_like(x)
    small.decoder = Painting(shown)
    n = 16 * 16
    assert small.loss(x, KEYS).item() == pytest.approx((n - 1) / n, abs=1e-4)  # the variance is the unbiased one
    small.decoder = Painting(torch.where(at(visible, x), 1e3, shown))
    assert small.loss(x, KEYS).item() == pytest.approx((n - 1) / n, abs=1e-4)
    small.decoder = Painting(torch.where(at(visible, x), shown, 1e3))
    assert small.loss(x, KEYS).item() > 1e5


def test_a_painting_of_the_normalised_cells_costs_nothing(small):
    x = torch.randn(2, 1, 64, 64)
    target = cells(x, 16)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    perfect = nn.functional.fold(target.transpose(1, 2), 64, 16, stride=16)
    small.paint = nn.Identity()
    small.decoder = Painting(perfect)
    assert small.loss(x, KEYS).item() == pytest.approx(0, abs=1e-10)


def test_cells_are_cut_as_the_mask_lies():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    visible = torch.tensor([[True, False], [False, False]])[None, None]
    first = cells(x, 4)[0, 0].view(4, 4)
    assert torch.equal(first, x[0, 0, :4, :4])
    assert torch.equal(at(visible, x)[0, 0, :4, :4], torch.ones(4, 4, dtype=torch.bool))
    assert at(visible, x).sum() == 16


def test_a_position_of_a_coarse_map_is_visible_when_any_of_its_cells_is():
    visible = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    visible[0, 0, 0, 3] = True
    assert at(visible, torch.zeros(1, 1, 2, 2)).flatten().tolist() == [False, True, False, False]


def test_hidden_positions_are_filled_with_a_token_and_visible_ones_keep_what_they_show(small):
    with torch.no_grad():
        for part in (*small.tokens, *(p for norm in small.norms for p in norm.parameters())):
            part.normal_()
    visible = small.mask(torch.arange(3), 4)
    maps = small.encode(torch.randn(3, 1, 64, 64), visible)
    filled = small.filled(maps, visible)
    for i, (x, norm, token, project) in enumerate(zip(maps, small.norms, small.tokens, small.projections, strict=True)):
        shown = at(visible, x)
        seen = x.movedim(1, -1)[shown[:, 0]]  # (M, C)
        seen = (seen - seen.mean(0)) * (seen.var(0, correction=0) + norm.eps).rsqrt() * norm.weight + norm.bias
        expected = token.expand(len(x), -1, *x.shape[2:]).movedim(1, -1).clone()  # (N, h, w, C)
        expected[shown[:, 0]] = seen
        torch.testing.assert_close(filled[i], project(expected.movedim(-1, 1)), atol=1e-4, rtol=1e-4)


def test_it_learns_to_paint(small):
    torch.manual_seed(0)
    rough = torch.randn(8, 1, 4, 4)
    x = nn.functional.interpolate(rough, size=(32, 32), mode="bilinear")
    optimiser = torch.optim.AdamW(small.parameters(), 1e-3)
    losses = []
    for step in range(20):
        loss = small.loss(x, key(0, step, torch.arange(8)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.4)
    assert sum(losses[-5:]) / 5 < 0.9 * sum(losses[:5]) / 5


def test_its_encoder_loads_into_torchvisions_resnet_and_its_decoder_into_a_unet(small, tmp_path):
    import torchvision

    path = tmp_path / "encoder.safetensors"
    encoders.save_encoder(small.encoder, path, {"encoder": "resnet18"})
    missing = torchvision.models.resnet18().load_state_dict(encoders.weights(path, 3), strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == ["fc.weight", "fc.bias"]
    network = unet.build(path).eval()
    network.decoder.load_state_dict(small.decoder.state_dict())
    small.eval()
    x = torch.randn(2, 1, 64, 64)
    here = small.decoder([x, *encoders.features(small.encoder, x)])
    torch.testing.assert_close(network.decoder(network.encoder(x)), here, atol=1e-3, rtol=1e-4)
