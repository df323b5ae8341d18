"""Each method's loss is what its paper says, and what is to stay fixed gets no gradient."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mednb import methods
from mednb.methods import METHODS
from mednb.methods.base import InFloat32


class Tiny(nn.Sequential):
    """An encoder that trains in no time."""

    width = 8

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, self.width))


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 1, 4, 4, generator=generator)
    return a, a + 0.1 * torch.randn(a.shape, generator=generator)


def build(name, **options):
    torch.manual_seed(0)
    return METHODS[name](Tiny(), **options)


def test_a_methods_key_is_its_files_name():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert set(METHODS) == files
    for key, method in METHODS.items():
        assert method.__module__ == f"mednb.methods.{key}"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.pretrains])
def test_a_loss_is_one_number_that_reaches_the_encoder(name, views):
    method = build(name)
    loss = method.loss(*views)
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.dim() > 1)


def test_random_initialisation_does_not_pretrain():
    assert not METHODS["none"].pretrains
    with pytest.raises(TypeError, match="RandomInitialisation has no loss"):
        build("none").loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match="method 'simcrl' is unknown; choose one of none, simclr, byol"):
        methods.method("simcrl")


def test_simclr_is_nt_xent_written_out(views):
    method = build("simclr", temperature=0.3)
    z = nn.functional.normalize(torch.cat([method.project(x) for x in views]), dim=1).double()
    n = len(z) // 2
    similarity = (z @ z.T / 0.3).fill_diagonal_(-math.inf)
    partner = torch.arange(2 * n).roll(n)
    expected = (similarity.logsumexp(1) - similarity[torch.arange(2 * n), partner]).mean()
    assert method.loss(*views).item() == pytest.approx(expected.item(), abs=1e-5)


def test_simclr_at_chance_is_the_log_of_the_number_of_candidates():
    method = build("simclr")
    same = torch.ones(6, 1, 4, 4)
    method.head = nn.Identity()  # batch norm would blow up the rounding of equal rows
    assert method.loss(same, same).item() == pytest.approx(math.log(2 * 6 - 1), abs=1e-5)


def test_simclr_falls_when_partners_come_closer(views):
    a, b = views
    method = build("simclr")
    assert method.loss(a, b) < method.loss(a, torch.randn(b.shape, generator=torch.Generator().manual_seed(1)))


def test_byol_is_two_minus_two_cosines_of_both_directions(views):
    method = build("byol")
    a, b = views
    p = [method.predictor(method.head(method.encoder(x))) for x in (a, b)]
    z = [method.target(x) for x in (a, b)]
    cosine = nn.functional.cosine_similarity
    expected = ((2 - 2 * cosine(p[0], z[1])).mean() + (2 - 2 * cosine(p[1], z[0])).mean()) / 2
    assert method.loss(a, b).item() == pytest.approx(expected.item(), abs=1e-5)


def test_byols_target_has_no_gradient_and_moves_only_by_its_average(views):
    method = build("byol")
    method.loss(*views).backward()
    assert all(p.grad is None for p in method.target.parameters())
    before = [p.clone() for p in method.target.parameters()]
    online = list(nn.Sequential(method.encoder, method.head).parameters())
    with torch.no_grad():
        for p in online:
            p.add_(1.0)
    method.after_step(0, 100)  # at the start tau is its first value
    for old, new, now in zip(before, method.target.parameters(), online, strict=True):
        torch.testing.assert_close(new, method.tau * old + (1 - method.tau) * now.detach())


def test_byols_target_stands_still_at_the_end(views):
    method = build("byol")
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        method.encoder[1].weight.add_(1.0)
    method.after_step(100, 100)
    assert all(torch.equal(old, new) for old, new in zip(before, method.target.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.pretrains])
def test_a_method_learns_to_match_its_views(name, views):
    method = build(name)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(30):
        loss = method.loss(*views)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(step, 30)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_loss_is_taken_in_32_bits_whatever_the_networks_run_in():
    seen = []

    class Spy(nn.Module):
        def forward(self, a, b):
            seen.append((a.dtype, (a @ b.T).dtype))
            return a.sum()

    with torch.autocast("cpu", torch.bfloat16):
        InFloat32(Spy())(torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(2, 2, dtype=torch.bfloat16))
    assert seen == [(torch.float32, torch.float32)]
