"""The phases of a sparse run, step by step: dense, a look at who is strongest, the penalty, zeros held."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.errors import InputError
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW
from slimtask.train.sparsity.schedule import SparsitySchedule

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1))


def run(config: SparsityConfig, steps: int = 60) -> tuple[SparsitySchedule, ProximalAdamW, list[tuple[float, int]]]:
    """Train to any outputs and return (strength, zero groups) after every step."""
    model = network()
    schedule = SparsitySchedule.of(model, EXAMPLE, config, steps)
    optimizer = ProximalAdamW(list(model.named_parameters()), schedule.structure.layout, lr=0.02)
    trace = []
    for step in range(steps):
        model.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        schedule.before(step, optimizer)
        optimizer.step()
        schedule.after(step, optimizer)
        trace.append((schedule.report(optimizer)["strength"], int(optimizer.zero_groups().sum())))
    return schedule, optimizer, trace


def test_a_target_is_dense_then_ramped_then_held() -> None:
    config = SparsityConfig(scope="", groups="output-channel", measure="groups", target=0.5, min_keep=0.2)
    schedule, _, trace = run(config)
    assert all(zero == 0 for _, zero in trace[: schedule.warm_up])
    assert schedule.held
    assert schedule.settled
    assert schedule.reached
    zeros = [zero for _, zero in trace]
    assert zeros == sorted(zeros)
    assert zeros[-1] >= 0.5 * 18
    first = zeros.index(zeros[-1])
    assert set(zeros[first:]) == {zeros[-1]}  # held
    other = SparsitySchedule.of(network(), EXAMPLE, config, 60)
    model = network()
    optimizer = ProximalAdamW(list(model.named_parameters()), other.structure.layout, lr=0.02)
    other.load_state(*schedule.state(), optimizer)
    assert (other.held, other.settled) == (True, True)


def test_a_fixed_strength_spares_the_strongest_of_each_layer() -> None:
    config = SparsityConfig(scope="", groups="output-channel", strength=50.0, min_keep=0.25)
    schedule, optimizer, trace = run(config)
    assert not schedule.held
    assert schedule.settled
    assert schedule.reached
    assert trace[schedule.warm_up - 1][0] == 0.0
    assert trace[-1][0] == 50.0
    zero = optimizer.zero_groups()
    alive = [int((~zero[schedule.structure.layer_of == layer]).sum()) for layer in range(2)]
    assert alive == [4, 1]  # a quarter of 16, and of 2


def test_a_target_beyond_what_must_stay_is_refused() -> None:
    config = SparsityConfig(scope="", groups="output-channel", measure="groups", target=0.9, min_keep=0.5)
    with pytest.raises(InputError, match=r"sparsity\.target 0\.9 is out of reach: with min_keep 0\.5 at most 0\.500"):
        SparsitySchedule.of(network(), EXAMPLE, config, 10)
