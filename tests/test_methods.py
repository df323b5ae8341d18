"""What holds of every method: its file, its page, its loss, its state."""

import ast
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_methods import Tiny, agreement, build, loss, train, views, wanted
from torch import nn

from mednb import encoders, methods
from mednb.methods import METHODS
from mednb.methods.base import Crops, InFloat32, Keys, Prototypes, Queue, with_map

# Those that train any encoder with the stages of a ResNet: masked images and decoders want a true one.
ANY_ENCODER = [
    "supervised",
    "simclr",
    "moco",
    "nnclr",
    "byol",
    "simsiam",
    "swav",
    "dino",
    "barlowtwins",
    "vicreg",
    "densecl",
    "vicregl",
]
PRETRAIN = [name for name, method in METHODS.items() if method.pretrains]


def moving(method):
    """What no gradient moves: momentum networks, queues, centres."""
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    state = {k: v for k, v in method.state_dict().items() if isinstance(v, torch.Tensor) and "running_" not in k}
    return {k: v.clone() for k, v in state.items() if k not in trained and "num_batches" not in k}


def test_a_methods_key_is_its_files_name():
    for key, method in METHODS.items():
        assert method.__module__ == f"mednb.methods.{key}"


def test_every_file_is_a_method():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__", "base", "encoder_decoder"}
    assert files == set(METHODS)


def test_the_registry_is_a_dict_that_can_be_read():
    tree = ast.parse(Path(methods.__file__).read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "METHODS"]
    assert isinstance(values[0], ast.Dict)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_page_that_names_its_paper(name):
    source = Path(methods.__file__).with_name(f"{name}.py").read_text()
    tree = ast.parse(source)
    described = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    words = [node.body[0] for node in described if ast.get_docstring(node)]
    prose = {line for each in words for line in range(each.lineno, each.end_lineno + 1)}
    code = [i for i, line in enumerate(source.splitlines(), 1) if line.strip() and i not in prose]
    assert len(code) <= 85, "a screen or two"
    assert METHODS[name].__doc__, "a method says what makes it work"
    said = " ".join(ast.get_docstring(node) or "" for node in described)
    assert name == "none" or re.search(r"\b(19|20)\d\d\b", said), "a method names its paper, with the year"


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_loss_takes_the_views_that_the_method_declares_and_is_one_number(name):
    method = METHODS[name](encoders.build("resnet18", seed=0))
    assert all(isinstance(crop, Crops) for crop in method.crops)
    value = loss(method, n=4, side=64)
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ANY_ENCODER)
def test_a_loss_reaches_all_that_is_trained(name):
    method = build(name)
    loss(method).backward()
    for key, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key  # processes wait for each other's gradients
    assert all(p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", ANY_ENCODER)
def test_a_method_learns_to_see_what_two_views_share(name):
    method = build(name)
    assert agreement(method) < 0.3
    train(method, 40, lr=3e-3, n=32, noise=2.0)
    assert agreement(method) > 0.5


@pytest.mark.parametrize("name", ANY_ENCODER)
def test_the_state_is_whole(name):
    """After a round trip through the state, the next two losses are the same to the last bit."""
    method, other = build(name), build(name)
    train(method, 3)
    other.load_state_dict(deepcopy(method.state_dict()))
    for _ in range(2):  # the second sees what the first has pushed
        assert torch.equal(loss(method), loss(other))
    assert other.progress == 1.0


@pytest.mark.parametrize("name", ANY_ENCODER)
def test_a_loss_can_be_taken_in_16_bits(name):
    method = build(name)
    full = loss(deepcopy(method))
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(method)
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.05, abs=0.05)


@pytest.mark.parametrize("name", ["byol", "moco", "densecl", "dino"])
def test_momentum_networks_move_after_a_step_and_only_then(name):
    method = build(name)
    own = {"byol": "target", "dino": "teacher"}.get(name, "momentum")
    before = moving(method.get_submodule(own))
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)
    loss(method).backward()
    optimiser.step()
    assert all(torch.equal(before[k], v) for k, v in moving(method.get_submodule(own)).items())
    method.after_step(1, 100)
    moved = [not torch.equal(before[k], v) for k, v in moving(method.get_submodule(own)).items()]
    assert sum(moved) >= len(moved) / 2


@pytest.mark.parametrize("name", PRETRAIN)
def test_signs_are_numbers_from_the_start(name):
    signs = METHODS[name](encoders.build("resnet18", seed=0)).signs()
    assert all(isinstance(value, float) for value in signs.values())


@pytest.mark.parametrize("name", ["simclr", "barlowtwins", "vicreg"])
def test_a_loss_of_projections_can_be_taken_part_by_part(name):
    method = build(name)
    every = views()
    more = wanted(method, every)
    assert torch.equal(method.loss(*every, **more), method.contrast(*map(method.project, every), **more))


def test_simsiam_keeps_its_papers_optimiser_and_all_others_have_adamw():
    assert {name: METHODS[name].optimiser for name in PRETRAIN} == dict.fromkeys(PRETRAIN, "adamw") | {"simsiam": "sgd"}


def test_random_initialisation_does_not_pretrain():
    assert not METHODS["none"].pretrains
    with pytest.raises(TypeError, match="RandomInitialisation has no loss"):
        build("none").loss(*views())


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match=r"method 'simcrl' is unknown; choose one of none, .*simclr, moco"):
        methods.method("simcrl")


@pytest.mark.parametrize("name", ["nnclr", "dino"])
def test_similarities_and_prototypes_are_compared_in_32_bits(name):
    """In bfloat16 the cosines of near neighbours are equal, and the first of them in the queue would be the nearest."""
    method, x = build(name), torch.randn(5, 256 if name == "nnclr" else 128)
    compare = (lambda: method.support.similarities(x, torch.arange(5))) if name == "nnclr" else lambda: method.last(x)
    exact = compare()
    with torch.autocast("cpu", torch.bfloat16):
        x = x.float()
        assert torch.equal(compare(), exact)


def test_supervised_pretraining_is_the_cross_entropy_of_both_views():
    method = build("supervised")
    every = views()
    labels = wanted(method, every)["labels"]
    labels[1] = labels[1].roll(1)  # the partner's may be others
    logits = [method.classifier(method.encoder(x)) for x in every]
    expected = sum(map(nn.functional.cross_entropy, logits, labels)) / 2
    torch.testing.assert_close(method.loss(*every, labels=labels), expected)


def test_supervised_pretraining_learns_nothing_from_images_without_a_label():
    method = build("supervised")
    every = views()
    labels = wanted(method, every)["labels"]
    some = [of.index_fill(0, torch.tensor([0]), -1) for of in labels]
    logits = torch.cat([method.classifier(method.encoder(x))[1:] for x in every])
    expected = nn.functional.cross_entropy(logits, torch.cat([of[1:] for of in labels]))
    torch.testing.assert_close(method.loss(*every, labels=some), expected)
    nothing = method.loss(*every, labels=[of * 0 - 1 for of in labels])
    nothing.backward()
    assert nothing == 0 and method.classifier.weight.grad.abs().max() == 0


def test_a_loss_is_taken_in_32_bits_whatever_the_networks_run_in():
    seen = []

    class Spy(nn.Module):
        def forward(self, a, more, last=None):
            seen.append((a.dtype, more[0][1].dtype, last, (a @ a.T).dtype))
            return a.sum()

    half = torch.ones(2, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        InFloat32(Spy())(half, [(half, half), (half, half)], last=0.5)
    assert seen == [(torch.float32, torch.float32, 0.5, torch.float32)]


def test_a_queue_holds_the_last_rows_the_newest_first():
    queue = Queue(torch.zeros(5))
    for rows in ([1, 2], [3], [4, 5, 6]):  # batches need not be even
        queue.push(torch.tensor(rows))
    assert queue.rows.tolist() == [4, 5, 6, 3, 1]
    queue.push(torch.arange(10, 20))
    assert queue.rows.tolist() == [10, 11, 12, 13, 14]


def test_a_key_of_the_image_that_asks_is_not_its_negative():
    keys = Keys(4, 2)
    keys.push(torch.eye(2), torch.tensor([7, 8]))
    similarities = keys.similarities(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([7, 9]))
    assert similarities[0, 0] == -torch.inf and similarities[0, 1] == 0
    assert similarities[1, :2].tolist() == [1, 0]
    assert torch.isfinite(similarities[:, 2:]).all()  # of no image: what the queue began with


def test_a_key_of_anything_that_a_pair_shows_is_not_its_negative():
    keys = Keys(2, 2)
    keys.push(torch.eye(2), torch.tensor([7, 8]))
    similarities = keys.similarities(torch.ones(3, 2), torch.tensor([7, 6, 9]), torch.tensor([8, 7, 9]))
    assert torch.isinf(similarities).tolist() == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_a_key_is_of_the_image_that_its_view_shows(name):
    method = build(name)
    every, rows = views(), torch.arange(12)
    method.loss(*every, rows=rows, partners=rows + 50)
    keys, of = method.key(every[1]), method.queue.of.rows.tolist()
    shown = [of.index(row) for row in range(50, 62)]
    assert sorted(of[:24]) == [*range(12), *range(50, 62)]
    assert torch.equal(method.queue.keys.rows[shown], keys if name == "moco" else keys[0])
    if name == "densecl":
        assert method.dense_queue.of.rows.tolist() == of
        assert torch.equal(method.dense_queue.keys.rows[shown], nn.functional.normalize(keys[2].mean(1), dim=1))


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_keys_of_the_image_and_of_its_partner_are_left_out(name):
    losses = []
    for before in ((7, 7), (7, 8), (8, 8), (5, 6)):  # the images that the keys are of; the next batch shows 7 and 8
        method = build(name)
        for step, shown in enumerate((before, (7, 8))):
            rows, partners = (torch.full((12,), row) for row in shown)
            loss = method.loss(*views(step=step), rows=rows, partners=partners)
        losses.append(loss.item())
    assert losses[0] == losses[1] == losses[2] < losses[3]


def test_prototypes_are_cosines_and_stand_still_while_frozen():
    prototypes = Prototypes(4, 3)
    z = torch.randn(5, 4)
    expected = nn.functional.cosine_similarity(z[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(z), expected)
    torch.testing.assert_close(prototypes(z, frozen=True), expected)
    prototypes(z, frozen=True).sum().backward()
    assert prototypes.weight.grad.abs().max() == 0  # a gradient, but of nothing
    prototypes(z).sum().backward()
    assert prototypes.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny"])
def test_feature_maps_come_from_the_pass_that_makes_the_embedding(name):
    encoder = encoders.build(name, seed=0).eval()
    seen = []
    encoder.register_forward_hook(lambda encoder, x, h: seen.append(h))  # as those who watch the training do
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        for stride, expected in zip((4, 8, 16, 32), encoders.features(encoder, x)[1:], strict=True):
            h, cells = with_map(encoder, x, stride)
            assert cells.shape == (2, encoder.width * stride // 32, 64 // stride, 64 // stride)
            torch.testing.assert_close(cells, expected)
            assert torch.equal(h, seen[-1])
    assert len(seen) == 4


def test_an_encoder_without_its_method_is_as_it_was():
    encoder = Tiny()
    names = list(encoder.state_dict())
    for name in ANY_ENCODER:
        METHODS[name](encoder)
    assert list(encoder.state_dict()) == names
