"""The controller reaches its target from below and passes it by at most one group."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.train.sparsity.controller import TargetController, strongest
from slimtask.train.sparsity.layout import GroupLayout, Member
from slimtask.train.sparsity.structure import SparseStructure

LAYERS = (40, 60)


def structure() -> SparseStructure:
    """Two layers of equal-sized groups, sparsity counted in groups."""
    total = sum(LAYERS)
    member = Member(parameter="w", axis=0, groups=torch.arange(total))
    return SparseStructure(
        layout=GroupLayout(members=[member], shapes={"w": (total, 5)}),
        layer_names=("one", "two"),
        layer_of=torch.cat([torch.full((size,), layer) for layer, size in enumerate(LAYERS)]),
        parameters_left=lambda counts: counts.double().sum(dim=-1),
        measure="parameters",
    )


def simulate(target: float, steps: int, *, regrow: float, seed: int = 0) -> list[float]:
    """Return the sparsity after every step of a toy in which a penalty shrinks norms and gradients restore them."""
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(sum(LAYERS), generator=generator).double() ** 2 + 0.01
    norms, controller, trace = wanted.clone(), TargetController(structure(), target=target, ramp_steps=steps), []
    for _ in range(2 * steps):
        norms = norms + regrow * (wanted - norms) * (norms > 0)
        strength = controller.limit(norms.clone())
        norms = torch.where(norms <= strength, 0.0, norms - strength)
        zero = norms == 0
        trace.append(float(zero.double().mean()))
        if controller.reached(zero):
            break
    return trace


@pytest.mark.parametrize("target", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("regrow", [0.0, 0.02, 0.3])
def test_the_target_is_reached_from_below(target: float, regrow: float) -> None:
    steps = 200
    trace = simulate(target, steps, regrow=regrow)
    curve = [target * min(1.0, (step + 1) / steps) for step in range(len(trace))]
    assert all(now <= allowed + 1 / sum(LAYERS) + 1e-9 for now, allowed in zip(trace, curve, strict=True))
    assert target <= trace[-1] <= target + 1 / sum(LAYERS)
    assert len(trace) <= 1.5 * steps


def test_the_cap_holds_when_every_group_would_die_at_once() -> None:
    controller = TargetController(structure(), target=0.5, ramp_steps=10)
    critical = torch.linspace(1.0, 1.001, sum(LAYERS)).double()
    controller.strength, controller.step = 1e6, 1
    strength = controller.limit(critical)
    assert int((critical <= strength).sum()) == math.ceil(0.5 * 2 / 10 * sum(LAYERS))


def test_exempt_groups_are_never_counted_on() -> None:
    controller = TargetController(structure(), target=0.9, ramp_steps=10)
    critical = torch.ones(sum(LAYERS)).double()
    critical[:50] = torch.inf
    controller.step, controller.strength = 10, 5.0
    assert math.isfinite(controller.limit(critical))


def test_resuming_continues_the_same_curve() -> None:
    one = TargetController(structure(), target=0.5, ramp_steps=10)
    critical = torch.linspace(0.1, 1, sum(LAYERS)).double()
    for _ in range(4):
        one.limit(critical)
    two = TargetController(structure(), target=0.5, ramp_steps=10)
    two.load_state(one.state())
    assert [one.limit(critical) for _ in range(3)] == [two.limit(critical) for _ in range(3)]


def test_each_layer_keeps_its_strongest() -> None:
    critical = torch.arange(sum(LAYERS)).double()
    kept = strongest(critical, structure(), 0.05).nonzero().flatten().tolist()
    assert kept == [38, 39, 97, 98, 99]
