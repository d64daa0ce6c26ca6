"""Scores from the loss against finite differences and closed forms, task by task; the network stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.score.importance import score_channels, score_channels_per_task
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet
from tests.compress.score.chain import by_name, chain

EXAMPLE = torch.zeros(1, 3, 32, 32)


NetMaker = Callable[..., MultiTaskNet]


def quadratic(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def test_taylor_is_the_slope_of_the_loss_when_a_slice_shrinks() -> None:
    model, example = chain().double(), torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    batch = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    groups = find_groups(model, example)
    raw = score_channels(model, groups, "taylor", calibration=[batch], loss=quadratic, normalise=None)
    scores = by_name(model, raw, example)["0"]

    def slope(*slices: torch.Tensor) -> float:
        sides = []
        for scale in (1 + 1e-6, 1 - 1e-6):
            kept = [part.clone() for part in slices]
            for part in slices:
                part.mul_(scale)
            sides.append(float(quadratic(model, batch)))
            for part, old in zip(slices, kept, strict=True):
                part.copy_(old)
        return abs(sides[0] - sides[1]) / 2e-6

    with torch.no_grad():
        for channel in range(6):
            filters = slope(model[0].weight[channel], model[0].bias[channel])
            gate = slope(model[1].weight[channel], model[1].bias[channel])
            reader = slope(model[3].weight[:, channel])
            assert float(scores[channel]) == pytest.approx(filters + gate + reader, rel=1e-5)


def test_snip_in_closed_form_and_averaged_over_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)).double()
    batches = [torch.randn(1, 3, dtype=torch.float64) for _ in range(3)]

    def loss(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return network(x).sum()

    groups = find_groups(model, torch.zeros(1, 3, dtype=torch.float64))
    raw = score_channels(model, groups, "snip", calibration=iter(batches), loss=loss, normalise=None)
    first, second = model[0].weight.detach(), model[1].weight.detach()
    expected = torch.zeros(4, dtype=torch.float64)
    for x in batches:  # the loss is bilinear, so its gradients are products
        hidden = model[0](x).detach()[0]
        expected += (first * second.sum(dim=0).unsqueeze(1) * x).abs().sum(dim=1)
        expected += (second * hidden).abs().sum(dim=0)
    torch.testing.assert_close(by_name(model, raw, torch.zeros(1, 3, dtype=torch.float64))["0"], expected / 3)


def multitask_loss(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    return {task: output.square().mean() for task, output in model(batch).items()}


def test_each_task_scores_the_trunk_and_its_own_head_only(small_net: NetMaker) -> None:
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    calibration = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))]
    per_task = score_channels_per_task(model, groups, "snip", calibration=calibration, loss=multitask_loss)
    assert set(per_task) == set(model(EXAMPLE))
    for task, scores in per_task.items():
        for group, score in zip(groups, scores, strict=True):
            writers = {member.module for member in group.producers}
            foreign = all(name.startswith("heads.") and not name.startswith(f"heads.{task}.") for name in writers)
            assert bool(score.any()) != foreign, (task, group.name)
    total = score_channels(
        model, groups, "taylor", calibration=calibration, loss=lambda m, b: sum(multitask_loss(m, b).values())
    )
    summed = score_channels(model, groups, "taylor", calibration=calibration, loss=multitask_loss)
    for one, other in zip(total, summed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_it_was(fails: bool, small_net: NetMaker) -> None:
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    model.train()
    model.trunk.layer1[0].eval()
    frozen = next(model.trunk.parameters()).requires_grad_(False)
    multitask_loss(model, torch.randn(2, 3, 32, 32))["depth"].backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]

    def loss(network: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        assert next(network.trunk.parameters()).requires_grad
        assert not frozen.requires_grad  # a copy is what the loss is given
        assert not network.training
        if fails:
            raise RuntimeError("out of memory")
        return multitask_loss(network, batch)

    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            score_channels(model, groups, "taylor", calibration=[EXAMPLE], loss=loss)
    else:
        with torch.no_grad():  # gradients are taken whatever the caller's mode is
            score_channels(model, groups, "taylor", calibration=[EXAMPLE], loss=loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, parameter in model.named_parameters():
        old = gradients[name]
        assert (parameter.grad is None) == (old is None)
        assert old is None or torch.equal(parameter.grad, old)
    assert modes == [module.training for module in model.modules()]
    assert not frozen.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "tailor"}, "did you mean 'taylor'"),
        ({"criterion": "taylor"}, "needs calibration batches and a loss"),
        ({"criterion": "snip", "calibration": [], "loss": quadratic}, "no calibration batch"),
        ({"criterion": "snip", "calibration": [1], "loss": lambda m, b: {}}, "returned no task"),
        ({"criterion": "snip", "calibration": [1], "loss": lambda m, b: torch.ones(1)}, "depends on the weights"),
        ({"criterion": "snip", "calibration": [1], "loss": lambda m, b: m[0].bias}, "must be one finite number"),
        ({"criterion": "snip", "calibration": [1], "loss": lambda m, b: m[0].bias[0] / 0}, "must be one finite"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = chain()
    groups = find_groups(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=message):
        score_channels(model, groups, arguments.pop("criterion"), **arguments)
    with pytest.raises(InputError, match="one scalar per task"):
        score_channels_per_task(model, groups, "snip", calibration=[torch.ones(1, 3, 8, 8)], loss=quadratic)
