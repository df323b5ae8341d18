"""SwAV and DINO: which prototype, and which class without a name."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss.swav_loss import sinkhorn
from tiny_methods import build, loss, train, views
from torch import nn

from mednb.methods.base import Crops
from mednb.methods.swav import balanced


def test_sinkhorns_rows_and_columns_add_up():
    scores = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) * 0.2
    q = sinkhorn(scores, iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(60))
    torch.testing.assert_close(q.sum(0), torch.full((6,), 10.0), rtol=1e-3, atol=1e-3)


def test_swavs_assignments_are_balanced_where_the_prototypes_are_not():
    method = build("swav", prototypes=4)
    z = F.normalize(method.prototypes.weight[:1] + 0.2 * torch.randn(200, 128), dim=1)  # all near the first
    assert method.prototypes(z).argmax(1).bincount(minlength=4)[0] > 190
    q = method.codes(z, z[:0])
    torch.testing.assert_close(q.sum(1), torch.ones(200))
    assert q.sum(0).min() > 0.8 * 200 / 4
    assert not q.requires_grad


@pytest.mark.parametrize(("temperature", "epsilon"), [(0.1, 0.02), (0.3, 0.1)])
def test_swav_predicts_the_code_of_the_other_view(temperature, epsilon):
    method = build("swav", temperature=temperature, epsilon=epsilon)
    every = views()
    z = [method.project(x) for x in every]
    q = [balanced(method.prototypes(x), epsilon) for x in z]
    p = [method.prototypes(x) / temperature for x in z]
    expected = -((q[0] * F.log_softmax(p[1], 1)).sum(1).mean() + (q[1] * F.log_softmax(p[0], 1)).sum(1).mean()) / 2
    torch.testing.assert_close(method.loss(*every), expected)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_small_crops_are_small(name):
    assert build(name, small_crops=4).crops == (Crops(2), Crops(4, 0.5, (0.05, 0.3)))


def test_swavs_small_crops_only_predict():
    method = build("swav", small_crops=4)
    every = views(method.crops)
    seen = []
    method.codes = lambda z, queue: seen.append(z) or torch.full((len(z), 256), 1 / 256)
    method.loss(*every)
    assert len(every) == 6 and len(seen) == 2
    torch.testing.assert_close(seen[0], method.project(every[0]))


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_small_crops_have_no_part_in_the_averages_of_the_batch_norms(name):
    found = []
    for crops in (4, 0):
        method = build(name, small_crops=crops)
        method.encoder.layer3.append(nn.BatchNorm2d(16))
        if name == "dino":
            method.teacher[0].layer3.append(nn.BatchNorm2d(16))
        method.loss(*views(build(name, small_crops=4).crops)[: 2 + crops])
        found.append(method.encoder.layer3[-1].running_mean.clone())
        assert method.encoder.layer3[-1].momentum == 0.1
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_swavs_codes_are_numbers_however_sharp_they_are():
    method = build("swav", epsilon=0.005)
    z = F.normalize(method.prototypes.weight[:12].detach(), dim=1)  # each at a prototype
    torch.testing.assert_close(method.codes(z, z[:0]).sum(1), torch.ones(12))


def test_swavs_queue_joins_in_later_and_holds_the_last_projections():
    method = build("swav", queue=30)
    asked = []
    codes = method.codes
    method.codes = lambda z, queue: asked.append(queue.clone()) or codes(z, queue)
    loss(method)
    method.after_step(1, 2)
    for _ in range(3):
        loss(method)
    # No more than there have been: what the queue began with is of no image.
    assert [len(queue) for queue in asked] == [0, 0, 12, 12, 24, 24, 30, 30]
    torch.testing.assert_close(asked[2], method.project(views()[0]))
    torch.testing.assert_close(method.queues[0].rows[:12], method.project(views()[0]))


def test_no_direction_is_equally_far_from_all_of_swavs_prototypes():
    towards = F.normalize(build("swav").prototypes.weight, dim=1)
    assert torch.linalg.matrix_rank(towards[1:] - towards[0]) == towards.shape[1]


def test_swavs_prototypes_are_frozen_at_first():
    method = build("swav")
    loss(method).backward()
    assert method.prototypes.weight.grad.abs().max() == 0
    method.after_step(1, 10)
    loss(method).backward()
    assert method.prototypes.weight.grad.abs().max() > 0


def test_swavs_sign_is_the_number_of_prototypes_in_use():
    method = build("swav", prototypes=8)
    assert method.signs() == {"prototypes_in_use": pytest.approx(8)}
    train(method, 20)
    assert 2 < method.signs()["prototypes_in_use"] <= 8


def test_dino_is_the_cross_entropy_of_the_students_and_the_teachers_balanced_classes():
    method = build("dino", width=16, small_crops=1)
    every = views(method.crops)
    q = [balanced(method.teacher(x), 0.02) for x in every[:2]]
    s = [(method.student()(x) / 0.1).log_softmax(1) for x in every]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    expected = -sum((q[v] * s[w]).sum(1).mean() for v, w in pairs) / 4
    torch.testing.assert_close(method.loss(*every), expected)
    assert method.signs()["classes_of_all"] == pytest.approx(12, abs=5) and not q[0].requires_grad


def test_dino_is_the_cross_entropy_of_student_and_teacher_across_views():
    method = build("dino", width=16, epsilon=None)
    method.crops = (Crops(2),)
    method.distillation.loss.center.normal_()
    every = views()
    centre = method.distillation.loss.center[0].clone()
    t = [((method.teacher(x) - centre) / 0.04).softmax(1) for x in every]
    s = [(method.student()(x) / 0.1).log_softmax(1) for x in every]
    expected = -((t[0] * s[1]).sum(1).mean() + (t[1] * s[0]).sum(1).mean()) / 2
    torch.testing.assert_close(method.loss(*every), expected)


def test_dino_at_chance_is_the_log_of_the_number_of_classes():
    method = build("dino", width=16)
    say = torch.zeros(12, 16)
    value = method.distillation([say, say], [say, say, say], teacher_temp=0.04)
    assert value.item() == pytest.approx(math.log(16), abs=1e-5)


def test_dinos_teacher_gets_no_gradient_and_sees_large_crops_only():
    method = build("dino", small_crops=4)
    seen = []
    method.teacher.register_forward_hook(lambda teacher, x, out: seen.append(x[0].shape[-1]))
    loss(method).backward()
    assert seen == [32, 32]
    assert all(p.grad is None for p in method.teacher.parameters())


HALFWAY = 1 - 0.05 * (1 + math.cos(math.pi * 50 / 99))  # as lightly counts steps


@pytest.mark.parametrize(("step", "kept"), [(0, 0.9), (50, HALFWAY), (100, 1.0)])
def test_dinos_teacher_is_a_moving_average_that_comes_to_rest(step, kept):
    method = build("dino")
    with torch.no_grad():
        for p in method.student().parameters():
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step(step, 100)
    for old, new, now in zip(before, method.teacher.parameters(), method.student().parameters(), strict=True):
        torch.testing.assert_close(new, kept * old + (1 - kept) * now.detach())


def test_dinos_centre_is_a_moving_average_of_what_the_teacher_says():
    method = build("dino", width=16, epsilon=None)
    every = views(method.crops)
    said = torch.stack([method.teacher(x) for x in every[:2]]).mean((0, 1))
    method.loss(*every)
    torch.testing.assert_close(method.distillation.loss.center[0, 0], 0.1 * said)


def test_dinos_teacher_grows_warmer_and_its_last_layer_is_frozen_at_first():
    method = build("dino")
    assert method.temperature() == pytest.approx(0.04)
    loss(method).backward()
    assert method.last.weight.grad.abs().max() == 0
    method.after_step(15, 100)
    assert method.temperature() == pytest.approx(0.055)
    loss(method).backward()
    assert method.last.weight.grad.abs().max() > 0
    method.after_step(60, 100)
    assert method.temperature() == pytest.approx(0.07)


class Says(nn.Module):
    """A teacher that says what it is told to."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def test_dinos_signs_tell_the_two_collapses_apart():
    method = build("dino", width=16, epsilon=None)
    every = views(method.crops)
    method.teacher = Says(lambda x: torch.zeros(len(x), 16))  # says nothing
    method.loss(*every)
    assert method.signs() == {"classes_of_one": pytest.approx(16), "classes_of_all": pytest.approx(16)}
    method.distillation.loss.center.zero_()
    method.teacher = Says(lambda x: F.one_hot(torch.zeros(len(x), dtype=torch.int64), 16).float())  # the same of all
    method.loss(*every)
    assert method.signs() == {"classes_of_one": pytest.approx(1), "classes_of_all": pytest.approx(1)}
    method.distillation.loss.center.zero_()
    method.teacher = Says(lambda x: F.one_hot(torch.arange(len(x)), 16).float())  # of each something else
    method.loss(*every)
    assert method.signs() == {"classes_of_one": pytest.approx(1), "classes_of_all": pytest.approx(12)}
