"""Statistics against closed forms, teaching that converges, and what must not be touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.compress.tuning import finetune, output_distance, recalibrate_batchnorm, zeros_held
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

NetMaker = Callable[..., MultiTaskNet]


def with_dropout() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1)
    return nn.Sequential(nn.Dropout(0.9), conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).train()


def test_statistics_are_the_average_over_the_batches() -> None:
    model = with_dropout()
    model[0].eval()
    model[2].momentum = 0.3
    model[2].running_mean.fill_(100.0)
    batches = [torch.randn(4, 3, 5, 5) * scale for scale in (1, 3)]
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    assert recalibrate_batchnorm(model, iter([batches[0], (batches[1], "targets")])) == 2
    seen = [model[1](batch).detach() for batch in batches]
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
    variances = torch.stack([x.var(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
    torch.testing.assert_close(model[2].running_mean, means)
    torch.testing.assert_close(model[2].running_var, variances)
    assert model[2].momentum == 0.3
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())


def test_an_error_gives_the_old_statistics_back() -> None:
    model = with_dropout()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="no batch"):
        recalibrate_batchnorm(model, [])
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(model, [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model[2].momentum == 0.1
    with pytest.raises(InputError, match="tuple that starts with one"):
        recalibrate_batchnorm(model, [("a", "b")])


def test_the_distance_does_not_depend_on_the_unit() -> None:
    metres = {"depth": torch.tensor([1.0, 3.0]), "logits": torch.tensor([2.0])}
    wrong = {"depth": torch.tensor([2.0, 3.0]), "logits": torch.tensor([1.0])}
    assert float(output_distance(wrong, metres)) == pytest.approx((0.5 / 5 + 1 / 4) / 2)
    millimetres, wrong_mm = ({**x, "depth": x["depth"] * 1000} for x in (metres, wrong))
    assert float(output_distance(wrong_mm, millimetres)) == pytest.approx(float(output_distance(wrong, metres)))
    with pytest.raises(InputError, match="differ from the teacher's"):
        output_distance({"depth": torch.ones(2)}, metres)


def test_a_damaged_student_learns_the_teachers_outputs(small_net: NetMaker) -> None:
    teacher = small_net().train()
    student = copy.deepcopy(teacher)
    torch.manual_seed(1)
    for head in student.heads.parameters():
        head.data.add_(0.05 * torch.randn_like(head))
    frozen = next(student.trunk.parameters()).requires_grad_(False)
    kept, theirs = frozen.clone(), copy.deepcopy(teacher.state_dict())
    batches = [(torch.randn(2, 3, 32, 32), "no targets")]
    student.eval()
    history = finetune(student, batches, steps=12, lr=2e-3, teacher=teacher)
    assert len(history) == 12
    assert history[-1] < 0.5 * history[0]
    assert not student.training
    assert teacher.training
    assert torch.equal(frozen, kept)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_alpha_weighs_the_distance_against_the_own_loss() -> None:
    teacher, student = nn.Linear(2, 1), nn.Linear(2, 1)
    batches = [(torch.randn(8, 2), torch.zeros(8, 1))]

    def own(outputs: Any, batch: Any) -> torch.Tensor:
        return (outputs - batch[1]).square().mean()

    with torch.no_grad():
        distance = float(output_distance(student(batches[0][0]), teacher(batches[0][0])))
        task = float(own(student(batches[0][0]), batches[0]))
    (mixed,) = finetune(copy.deepcopy(student), batches, steps=1, lr=1e-3, loss=own, teacher=teacher, alpha=0.25)
    assert mixed == pytest.approx(0.25 * distance + 0.75 * task)
    (alone,) = finetune(copy.deepcopy(student), batches, steps=1, lr=1e-3, teacher=teacher)
    assert alone == pytest.approx(distance)
    (own_alone,) = finetune(copy.deepcopy(student), batches, steps=1, lr=1e-3, loss=own)
    assert own_alone == pytest.approx(task)
    away = finetune(student, batches, steps=200, lr=0.1, loss=own, teacher=teacher, alpha=0.0)
    assert away[-1] < 1e-3


def test_the_rate_rises_then_falls_to_zero() -> None:
    """Adam's first step is as long as its learning rate, whatever the gradient, so the weight tells the rate."""
    model, weights = nn.Linear(1, 1, bias=False), []
    model.weight.data.fill_(100.0)

    def constant_slope(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        weights.append(model.weight.item())
        return outputs.sum()

    finetune(model, [torch.ones(1, 1)], steps=40, lr=0.5, loss=constant_slope)
    moved = [before - after for before, after in pairwise([*weights, model.weight.item()])]
    assert moved[:3] == [pytest.approx(x, rel=1e-3) for x in (0.5 / 3, 1.0 / 3, 0.5)]
    assert all(before >= after for before, after in pairwise(moved[2:]))
    assert 0 < moved[-1] < 0.01


def test_progress_is_told_and_modes_come_back() -> None:
    model, told = with_dropout(), []
    model[2].eval()
    modes = [module.training for module in model.modules()]
    batches = [torch.randn(2, 3, 4, 4)]
    finetune(
        model, batches, steps=2, lr=0.1, loss=lambda y, _: y.square().mean(), progress=lambda *args: told.append(args)
    )
    assert [(done, steps) for done, steps, _ in told] == [(1, 2), (2, 2)]
    assert modes == [module.training for module in model.modules()]


class Detector(nn.Linear):
    """Wants targets in training mode, as detectors do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training, "targets should not be none when in training mode"
        return super().forward(x)


def test_zeros_of_weights_stay_and_all_else_moves() -> None:
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), [torch.randn(4, 3, 5, 5)]
    model[0].weight.data[::2], model[0].bias.data[0] = 0, 0
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    how = {"lr": 0.1, "loss": lambda outputs, batch: (outputs - 1).square().mean()}
    with zeros_held(model):
        finetune(model, batches, steps=3, **how)
    for name, parameter in model.named_parameters():
        held = before[name] == 0 if parameter.ndim > 1 else torch.zeros_like(parameter, dtype=torch.bool)
        assert torch.equal(parameter == before[name], held), name
    finetune(model, batches, steps=1, **how)
    assert bool((model[0].weight != 0).all())  # held inside only


def test_bad_input_is_refused() -> None:
    teacher, student = nn.Linear(2, 1), nn.Linear(2, 1)
    batches = [torch.ones(1, 2)]
    with pytest.raises(InputError, match="at least one step"):
        finetune(student, batches, steps=0, lr=0.1, teacher=teacher)
    with pytest.raises(InputError, match="something to aim at"):
        finetune(student, batches, steps=1, lr=0.1)
    with pytest.raises(InputError, match="learning rate above 0"):
        finetune(student, batches, steps=1, lr=0.0, teacher=teacher)
    with pytest.raises(InputError, match="ended after 2"):
        finetune(student, iter(batches * 2), steps=3, lr=0.1, teacher=teacher)
    with pytest.raises(InputError, match="every parameter of the network is frozen"):
        finetune(copy.deepcopy(student).requires_grad_(False), batches, steps=1, lr=0.1, teacher=teacher)
    with pytest.raises(InputError, match=r"does not run in training mode .*targets should not be none"):
        finetune(Detector(2, 1), batches, steps=1, lr=0.1, teacher=teacher)
    with pytest.raises(InputError, match="no BatchNorm with running statistics"):
        recalibrate_batchnorm(student, batches)
    with pytest.raises(InputError, match="take larger batches"):
        recalibrate_batchnorm(nn.BatchNorm2d(2), [torch.ones(1, 2, 1, 1)])
    student.weight.data.fill_(float("inf"))
    with pytest.raises(InputError, match="the loss of step 0 is not finite"):
        finetune(student, batches, steps=1, lr=0.1, teacher=teacher)


def test_batches_of_the_cpu_reach_a_network_elsewhere(small_net: NetMaker, other_device: torch.device) -> None:
    net, teacher = small_net().to(other_device), small_net(seed=1).to(other_device)
    batches = [torch.randn(2, 3, 32, 32), (torch.randn(2, 3, 32, 32), {})]
    assert recalibrate_batchnorm(net, batches) == 2
    assert len(finetune(net, batches, steps=3, lr=1e-3, teacher=teacher)) == 3
