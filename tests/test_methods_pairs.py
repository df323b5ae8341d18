"""Methods that compare two views: their losses are what their papers say."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import build, loss, train, views, wanted
from torch import nn

from mednb import embed
from mednb.methods.base import Keys
from mednb.methods.moco import info_nce


def orthogonal(n, width):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0][:n]


# SimCLR


def test_simclr_is_nt_xent_written_out():
    method = build("simclr", temperature=0.3)
    every = views()
    z = F.normalize(torch.cat([method.project(x) for x in every]), dim=1).double()
    n = len(z) // 2
    similarity = (z @ z.T / 0.3).fill_diagonal_(-math.inf)
    partner = torch.arange(2 * n).roll(n)
    expected = (similarity.logsumexp(1) - similarity[torch.arange(2 * n), partner]).mean()
    assert method.loss(*every).item() == pytest.approx(expected.item(), abs=1e-5)


def test_simclr_at_chance_is_the_log_of_the_number_of_candidates():
    same = torch.ones(6, 8)
    assert build("simclr").contrast(same, same).item() == pytest.approx(math.log(2 * 6 - 1), abs=1e-5)


def test_simclr_of_equal_views_of_orthogonal_images():
    z, t = orthogonal(6, 8), 0.2
    expected = math.log(math.exp(1 / t) + 2 * 6 - 2) - 1 / t
    assert build("simclr", temperature=t).contrast(z, z).item() == pytest.approx(expected, abs=1e-5)


def test_simclr_falls_when_partners_come_closer():
    method = build("simclr")
    a, b = views()
    assert method.loss(a, b) < method.loss(a, b.flip(0))


def written_out(z, shows, t):
    """NT-Xent of unit vectors z, the views a and then b of N pairs, view by view; `shows` says what each shows."""
    n, losses = len(z) // 2, []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [j for j in range(2 * n) if shows[j] not in (shows[i], shows[partner])]
        positive = (z[i] @ z[partner] / t).exp()
        losses.append(-(positive / (positive + sum((z[i] @ z[j] / t).exp() for j in others))).log())
    return sum(losses) / (2 * n)


@pytest.mark.parametrize("temperature", [0.2, 0.5])
@pytest.mark.parametrize(
    ("rows", "partners"),
    [
        ([4, 2, 4, 3, 4, 2], [4, 2, 4, 3, 4, 2]),  # a balanced mix has drawn images 4 and 2 again
        ([0, 1, 2, 3, 4, 5], [1, 0, 7, 7, 0, 6]),  # partners that are in the batch themselves
        ([5, 5, 5, 5, 5, 5], [5, 5, 5, 5, 5, 5]),
    ],
)
def test_other_views_of_what_a_pair_shows_are_neither_its_positives_nor_its_negatives(rows, partners, temperature):
    a, b = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = written_out(F.normalize(torch.cat([a, b]), dim=1).double(), rows + partners, temperature)
    found = build("simclr", temperature=temperature).contrast(a, b, torch.tensor(rows), torch.tensor(partners))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_image_that_comes_twice_does_not_repel_itself():
    """Closed form: all four views of the image are one point, those of two other images are orthogonal to it."""
    z, t = orthogonal(3, 8)[[0, 0, 1, 2]], 0.2
    twins, others = (math.log(1 + n * math.exp(-1 / t)) for n in (4, 6))
    rows = torch.tensor([7, 7, 1, 2])
    assert build("simclr").contrast(z, z, rows, rows).item() == pytest.approx((twins + others) / 2, abs=1e-5)


def test_without_repeats_simclr_computes_nt_xent_to_the_last_bit():
    from lightly.loss import NTXentLoss

    gradients = []
    for of in (lambda a, b: build("simclr").contrast(a, b, torch.arange(9), torch.arange(9)), NTXentLoss(0.2)):
        z = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = of(*z)
        gradients.append((value.detach(), torch.autograd.grad(value, z)[0]))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ["simclr", "nnclr"])
def test_the_loss_of_an_image_that_comes_twice_is_another(name):
    every = views()
    apart, twice = (
        build(name).loss(*every, rows=rows, partners=rows) for rows in (torch.arange(12), torch.arange(12) // 2)
    )
    assert twice < apart  # fewer negatives


# MoCo and DenseCL


def test_info_nce_at_chance_is_the_log_of_the_number_of_candidates():
    assert info_nce(torch.ones(5), torch.ones(5, 9), 0.2).item() == pytest.approx(math.log(10))


def test_info_nce_of_orthogonal_negatives():
    expected = math.log(math.exp(1 / 0.2) + 9) - 1 / 0.2
    assert info_nce(torch.ones(5), torch.zeros(5, 9), 0.2).item() == pytest.approx(expected, abs=1e-6)


def test_a_queue_begins_with_unit_vectors():
    torch.testing.assert_close(Keys(6, 64).keys.rows.norm(dim=1), torch.ones(6))


def test_what_is_left_out_is_no_candidate():
    negatives = torch.tensor([[0.3, -math.inf, 0.1]])
    torch.testing.assert_close(info_nce(torch.ones(1), negatives, 0.2), info_nce(torch.ones(1), negatives[:, ::2], 0.2))


def test_mocos_loss_is_info_nce_of_queries_keys_and_queue():
    method = build("moco", queue=20)
    every = views()
    q = [F.normalize(method.head(method.encoder(x)), dim=1) for x in every]
    k = [F.normalize(method.momentum(x), dim=1) for x in every]
    queue = method.queue.keys.rows.clone()
    expected = 0
    for s in (0, 1):
        positive = (q[s] * k[1 - s]).sum(1, keepdim=True)
        logits = torch.cat([positive, q[s] @ queue.T], 1).double() / 0.2
        expected += (logits.logsumexp(1) - logits[:, 0]).mean() / 2
    assert method.loss(*every, **wanted(method, every)).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_keys_come_from_the_momentum_network_and_carry_no_gradient(name):
    method = build(name)
    a = views()[0]
    before = method.key(a)
    with torch.no_grad():
        for p in method.parameters():
            if p.requires_grad:
                p.add_(0.1)
    after = method.key(a)
    tensors = [before, after] if name == "moco" else [before[0], after[0]]
    assert torch.equal(*tensors) and not tensors[0].requires_grad
    with torch.no_grad():
        for p in method.momentum.parameters():
            p.add_(torch.randn_like(p))
    changed = method.key(a) if name == "moco" else method.key(a)[0]
    assert (changed - tensors[0]).abs().max() > 0.01
    loss(method).backward()
    assert all(p.grad is None for p in method.momentum.parameters())


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_batch_norm_sees_keys_in_halves_of_the_batch_and_queries_whole(name):
    method, seen = build(name), []
    for encoder in (method.encoder, method.momentum[0]):
        norm = nn.BatchNorm2d(32)
        norm.register_forward_pre_hook(lambda norm, x: seen.append((norm, len(x[0]))))
        encoder.layer4.append(norm)
    loss(method)
    keys, queries = (
        [n for norm, n in seen if norm is each.layer4[-1]] for each in (method.momentum[0], method.encoder)
    )
    assert (keys, queries) == ([6] * 4, [12] * 2)


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_changing_the_momentum_network_changes_the_loss(name):
    method, other = build(name), build(name)
    assert torch.equal(loss(method), loss(other))
    other = build(name)
    with torch.no_grad():
        for p in other.momentum[-1].parameters():  # of DenseCL this is the head of the cells
            p.add_(torch.randn_like(p))
    assert abs(loss(build(name)) - loss(other)) > 0.01


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_momentum_networks_are_moving_averages(name):
    method = build(name, m=0.9)
    before = [p.clone() for p in method.momentum.parameters()]
    heads = method.head if name == "moco" else method.heads
    online = [*method.encoder.parameters(), *heads.parameters()]
    with torch.no_grad():
        for p in online:
            p.add_(1.0)
    method.after_step(1, 100)
    for old, new, now in zip(before, method.momentum.parameters(), online, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * now.detach())


def test_mocos_queue_holds_the_last_keys_in_order():
    method = build("moco", queue=40)
    first, second = views(n=12), views(n=12, step=1)
    keys = [torch.cat([method.key(x) for x in each]) for each in (first, second)]
    for each, rows in ((first, torch.arange(12)), (second, torch.arange(12, 24))):
        method.loss(*each, rows=rows, partners=rows)
    assert torch.equal(method.queue.keys.rows, torch.cat([keys[1], keys[0]])[:40])
    assert method.queue.of.rows.tolist() == [*range(12, 24), *range(12, 24), *range(12), *range(4)]


def test_cells_are_matched_by_the_features_of_the_backbone():
    method = build("densecl", stride=8, dense=1.0, queue=1)
    x = views(n=12)[0]
    method.momentum.load_state_dict(nn.ModuleList([method.encoder, *method.heads]).state_dict())
    rows = torch.arange(12)
    q, k = method.look(x, method.encoder, *method.heads), method.key(x)
    swapped = tuple(t if t.dim() == 2 else t.flip(1) for t in k)
    # The same view: each cell finds itself wherever it lies, and nothing is as similar to it.
    torch.testing.assert_close(method.both(q, k, rows), method.both(q, swapped, rows))
    assert method.both(q, k, rows) < method.both(q, (k[0], k[1], k[2].flip(1)), rows)


def test_densecls_share_of_cells():
    whole, cells, both = (loss(build("densecl", dense=share)) for share in (0.0, 1.0, 0.5))
    torch.testing.assert_close(both, (whole + cells) / 2)
    assert abs(whole - cells) > 1e-3


# NNCLR


def test_a_friend_is_the_nearest_of_other_images():
    method = build("nnclr", width=4, support=3)
    support = torch.eye(4)[:3]
    method.support.push(support, torch.tensor([0, 1, 2]))
    z = torch.tensor([[3.0, 2.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])
    friends, rows = method.friend(z, torch.tensor([5, 0]))
    assert torch.equal(friends, support[:2])  # image 0 must look further than itself
    assert rows.tolist() == [0, 1]
    assert not friends.requires_grad


def test_nnclr_is_nt_xent_between_friends_and_predictions():
    method = build("nnclr", support=30)
    every = views()
    rows, partners = torch.arange(12), torch.arange(12).roll(1)
    z = [method.head(method.encoder(x)) for x in every]
    p = [method.predictor(x) for x in z]
    method.support.push(F.normalize(torch.cat([x.detach() for x in z]), dim=1), torch.cat([rows, partners]))
    (f_a, of_a), (f_b, of_b) = method.friend(z[0], rows), method.friend(z[1], partners)
    assert (of_a != rows).all() and (of_b != partners).all()
    expected = (method.nt_xent(f_a, p[1], of_a, partners) + method.nt_xent(f_b, p[0], of_b, rows)) / 2
    torch.testing.assert_close(method.loss(*every, rows=rows, partners=partners), expected)
    assert torch.equal(method.support.keys.rows[:12], F.normalize(z[0].detach(), dim=1))


def test_a_friend_does_not_repel_other_views_of_its_own_image():
    """Here all friends are images of the same batch, whose predictions must be none of their negatives."""
    method, rows = build("nnclr", support=12), torch.arange(12)
    every = views()
    z = [method.head(method.encoder(x)) for x in every]
    p = [method.predictor(x) for x in z]
    method.support.push(F.normalize(z[0].detach(), dim=1), rows)
    (f_a, of_a), (f_b, of_b) = (method.friend(x, rows) for x in z)
    assert (of_a != rows).all() and (of_b != rows).all()
    told = (method.nt_xent(f_a, p[1], of_a, rows) + method.nt_xent(f_b, p[0], of_b, rows)) / 2
    untold = (method.nt_xent(f_a, p[1], rows, rows) + method.nt_xent(f_b, p[0], rows, rows)) / 2
    assert told < untold - 0.01
    torch.testing.assert_close(method.loss(*every, rows=rows, partners=rows), told)


# BYOL and SimSiam


def test_byol_is_two_minus_two_cosines_of_both_directions():
    method = build("byol")
    a, b = views()
    p = [method.predictor(method.head(method.encoder(x))) for x in (a, b)]
    z = [method.target(x) for x in (a, b)]
    cosine = F.cosine_similarity
    expected = ((2 - 2 * cosine(p[0], z[1])).mean() + (2 - 2 * cosine(p[1], z[0])).mean()) / 2
    assert method.loss(a, b).item() == pytest.approx(expected.item(), abs=1e-5)


def test_byols_target_has_no_gradient_and_moves_only_by_its_average():
    method = build("byol")
    loss(method).backward()
    assert all(p.grad is None for p in method.target.parameters())
    before = [p.clone() for p in method.target.parameters()]
    online = list(nn.Sequential(method.encoder, method.head).parameters())
    with torch.no_grad():
        for p in online:
            p.add_(1.0)
    method.after_step(0, 100)  # at the start tau is its first value
    for old, new, now in zip(before, method.target.parameters(), online, strict=True):
        torch.testing.assert_close(new, method.tau * old + (1 - method.tau) * now.detach())


def test_byols_tau_rises_as_half_a_cosine():
    """The paper's 1 - (1 - tau) (cos(pi k / K) + 1) / 2."""
    method = build("byol", tau=0.9)
    for share in (0.25, 0.5, 0.75):
        before = next(method.target.parameters()).clone()
        with torch.no_grad():
            next(method.encoder.parameters()).copy_(before + 1)
        method.after_step(round(share * 1000), 1001)
        moved = (next(method.target.parameters()) - before).mean().item()
        assert moved == pytest.approx(0.1 * (math.cos(math.pi * share) + 1) / 2, abs=1e-5)


def test_byols_target_stands_still_at_the_end():
    method = build("byol")
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1.0)
    method.after_step(100, 100)
    assert all(torch.equal(old, new) for old, new in zip(before, method.target.parameters(), strict=True))


def test_simsiam_is_minus_the_cosine_to_a_projection_without_gradient():
    method = build("simsiam")
    a, b = views()
    z = [method.head(method.encoder(x)) for x in (a, b)]
    p = [method.predictor(x) for x in z]
    expected = -(F.cosine_similarity(p[0], z[1].detach()) + F.cosine_similarity(p[1], z[0].detach())).mean() / 2
    value = method.loss(a, b)
    torch.testing.assert_close(value, expected)
    found, sought = (torch.autograd.grad(x, method.encoder.conv1.weight)[0] for x in (value, expected))
    torch.testing.assert_close(found, sought)


HEADS = {  # the papers' layers, with the widths here; a batch norm "of no scale" has no parameters
    "simsiam": (["32-512", "norm", "512-512", "norm", "512-512", "norm of no scale"], ["512-128", "norm", "128-512"]),
    "byol": (["32-1024", "norm", "1024-256"], ["256-1024", "norm", "1024-256"]),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_the_papers_but_narrower(name):
    """SimSiam's predictor is a bottleneck of a quarter, and its projection ends with a batch norm; BYOL's does not."""

    def layers(head):
        for layer in head.layers:
            if isinstance(layer, nn.Linear):
                yield f"{layer.in_features}-{layer.out_features}"
            elif isinstance(layer, nn.BatchNorm1d):
                yield "norm" if layer.affine else "norm of no scale"

    method = build(name)
    assert tuple(list(layers(head)) for head in (method.head, method.predictor)) == HEADS[name]


def compared(method):
    """Geometry of what is compared: BYOL's targets, SimSiam's projections, of views that the training has not seen."""
    a, b = views(n=32, noise=4.0, step=-1)
    projection = method.target if hasattr(method, "target") else nn.Sequential(method.encoder, method.head)
    with torch.no_grad():
        return embed.geometry(projection(a), projection(b))


@pytest.fixture(scope="module")
def healthy():
    found = {}
    for name, options in SMALL.items():
        found[name] = build(name, **options)
        train(found[name], 200, n=32, noise=4.0)
    return found


SMALL = {"byol": {"width": 32, "hidden": 64, "tau": 0.9}, "simsiam": {"width": 32}}


@pytest.mark.parametrize("broken", ["no predictor", "no stop-gradient"])
def test_byol_collapses_without_predictor_or_stop_gradient_and_else_does_not(healthy, broken):
    method = build("byol", **SMALL["byol"], stop_gradient=broken != "no stop-gradient")
    if broken == "no predictor":
        method.predictor = nn.Identity()
    losses = train(method, 200, n=32, noise=4.0)
    assert losses[-1] < 0.01  # a perfect answer, and a worthless one
    assert compared(method)["spread"] < 0.1
    assert compared(healthy["byol"])["spread"] > 0.7


@pytest.mark.parametrize("broken", ["no predictor", "no stop-gradient"])
def test_simsiam_collapses_without_predictor_or_stop_gradient_and_else_does_not(healthy, broken):
    """Its last batch norm keeps every dimension's variance up, with a few images at one end: the rank tells."""
    method = build("simsiam", **SMALL["simsiam"], stop_gradient=broken != "no stop-gradient")
    if broken == "no predictor":
        method.predictor = nn.Identity()
    train(method, 200, n=32, noise=4.0)
    assert compared(method)["effective_rank"] < 0.6 * compared(healthy["simsiam"])["effective_rank"]
    assert compared(healthy["simsiam"])["spread"] > 0.8


# Barlow Twins and VICReg


def whitened(n, width):
    """(n, width) with mean 0, standard deviation 1 and no correlation."""
    z = torch.randn(n, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(n)).float()


def test_barlow_twins_is_zero_for_equal_views_of_uncorrelated_dimensions():
    z = whitened(40, 6)
    assert build("barlowtwins").contrast(z, z).item() == pytest.approx(0, abs=1e-6)


def test_barlow_twins_terms():
    z, method = whitened(40, 6), build("barlowtwins", redundancy=0.1)
    assert method.contrast(z, -z).item() == pytest.approx(6 * 2**2, abs=1e-3)  # each correlation is -1, not 1
    rolled = z.roll(1, dims=1)  # no agreement in place, all of it off the diagonal
    assert method.contrast(z, rolled).item() == pytest.approx(6 * 1 + 0.1 * 6, abs=1e-3)
    same = z[:, :1].expand(-1, 6).contiguous()  # six dimensions that say the same
    assert method.contrast(same, same).item() == pytest.approx(0.1 * 6 * 5, abs=1e-3)


def test_barlow_twins_does_not_see_scale_or_shift():
    z, method = whitened(40, 6), build("barlowtwins")
    torch.testing.assert_close(method.contrast(5 * z + 3, z), method.contrast(z, z), atol=1e-4, rtol=0)


def test_vicregs_terms():
    z, method = whitened(40, 6) * math.sqrt(39 / 40), build("vicreg")  # its variance divides by n - 1
    assert method.contrast(z, z).item() == pytest.approx(0, abs=1e-2)
    assert method.contrast(z, z + 2).item() == pytest.approx(25 * 2**2, rel=1e-3)  # invariance alone
    point = torch.zeros(40, 6)
    assert method.contrast(point, point).item() == pytest.approx(25 * (1 - math.sqrt(1e-4)), rel=1e-3)  # variance alone
    same = z[:, :1].expand(-1, 6)
    # covariance alone: 6 x 5 entries of 1, over 6 dimensions, of both views
    assert method.contrast(same, same).item() == pytest.approx(2 * 5, rel=1e-2)


# VICRegL


def test_vicregls_cells_are_matched_by_place():
    """The loss is lowest when the grids say truly where the cells come from."""
    method = build("vicregl", alpha=0.0, stride=8)
    a = views()[0]
    y, x = torch.meshgrid(*[torch.linspace(-0.875, 0.875, 32)] * 2, indexing="ij")
    grid = torch.stack([x, y], -1).expand(12, -1, -1, -1)
    with torch.no_grad():
        assert method.loss(a, a, grids=[grid, grid]) < method.loss(a, a, grids=[grid, grid.flip(1)])


def test_vicregl_gives_each_views_cells_with_their_own_places_and_the_authors_shares_of_matches(monkeypatch):
    method, asked = build("vicregl", stride=8), {}

    class Asked(nn.Module):
        def __init__(self, **how):
            super().__init__()
            asked.update(how)

        def forward(self, views, grids):
            asked.update(views=views, grids=grids)
            return views[0][0].sum()

    monkeypatch.setattr("mednb.methods.vicregl.VICRegLLoss", Asked)
    every = views()
    grids = [torch.full((12, 32, 32, 2), value) for value in (-0.5, 0.25)]
    method.loss(*every, grids=grids)
    assert asked["num_matches"] == (6, 1)  # of 4 x 4 cells 40 and 8 %
    assert asked["alpha"] == method.alpha and asked["gather_distributed"]
    for z, grid, x, value in zip(asked["views"], asked["grids"], every, (-0.5, 0.25), strict=True):
        torch.testing.assert_close(z[0], method.project(x)[0])
        torch.testing.assert_close(grid, torch.full((12, 4, 4, 2), value))


def test_vicregl_of_the_whole_alone_is_vicreg():
    method = build("vicregl", alpha=1.0)
    every = views()
    z = [method.project(x)[0] for x in every]
    # VICRegL's covariance term is half of VICReg's, as in its authors' code.
    from lightly.loss import VICRegLoss

    expected = VICRegLoss(nu_param=0.5)(*z)
    torch.testing.assert_close(method.loss(*every, **wanted(method, every)), expected)
