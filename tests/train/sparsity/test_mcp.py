"""Group MCP: against its definition in float64, closed forms and brute force; large groups are not shrunk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.sparsity.layout import GroupLayout, Member, output_channel_layout
from slimtask.train.sparsity.mcp import relief
from slimtask.train.sparsity.prox import weighted_group_prox
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW


def mcp(norm: float, slope: float, gamma: float) -> float:
    """Return the penalty of a group of ``norm``, by its definition."""
    if norm >= gamma * slope:
        return gamma * slope**2 / 2
    return slope * norm - norm**2 / (2 * gamma)


@pytest.fixture(params=["default", "small", "torch"])
def _blocks(request: pytest.FixtureRequest) -> None:
    if request.param == "small":
        request.getfixturevalue("small_blocks")
    if request.param == "torch":
        request.getfixturevalue("no_compiler")


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
def test_equals_the_reference(reference: Any, network: Any, dtype: torch.dtype, tolerance: float) -> None:
    values, layout = network(dtype)
    generator = torch.Generator().manual_seed(1)
    for name in ("stem.weight", "stem.gamma", "stem.beta"):
        values[name] *= 0.02
    slow, gamma = reference(values, layout), 2.5
    fast = ProximalAdamW(
        [(name, value.requires_grad_()) for name, value in values.items()], layout, lr=1e-2, gamma=gamma
    )
    slopes, zeros = [], []
    for step in range(14):
        fast.strength = 0.0 if step in {0, 9} else 0.15 * (step % 5)
        gradients = {}
        for name, value in values.items():
            gradients[name] = torch.randn(value.shape, generator=generator).to(dtype) + 0.2 * value.detach()
            value.grad = gradients[name].clone()
        slopes.append(fast.strength * layout.group_sizes.sqrt().numpy() - slow.norms() / gamma)
        critical = slow.step(gradients, lr=1e-2, strength=fast.strength, gamma=gamma)
        fast.step()
        for name, value in values.items():
            error = np.abs(value.detach().double().numpy() - slow.p[name]).max()
            assert error <= tolerance * max(1e-2, np.abs(slow.p[name]).max()), (step, name)
        if fast.strength > 0:
            np.testing.assert_allclose(fast.critical_strengths().numpy(), critical, rtol=100 * tolerance)
        zeros.append(int(fast.zero_groups().sum()))
    assert 0 < max(zeros) < len(layout)
    assert (np.stack(slopes)[-1] < 0).any()  # some are let go
    assert (np.stack(slopes)[-1] > 0).any()


def test_the_tangents_lead_to_the_minimum_found_by_brute_force() -> None:
    """Repeated tangent steps minimise 1/2 sum d (x - a)^2 + MCP, here strictly convex: gamma > 1 / min d."""
    from scipy.optimize import minimize

    generator = torch.Generator().manual_seed(2)
    a = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    d = torch.rand(12, 3, generator=generator, dtype=torch.float64) + 0.5
    slope, gamma = 0.8, 2.5
    x = a.clone()
    ones = torch.ones(12, dtype=torch.float64)
    for _ in range(300):
        threshold = (slope - relief(x.norm(dim=1), ones, ones, gamma)).clamp(min=0)
        x = weighted_group_prox(a, d, threshold)
    zeros = 0
    for row in range(len(a)):
        target, metric = a[row].numpy(), d[row].numpy()

        def objective(z: np.ndarray, target: np.ndarray = target, metric: np.ndarray = metric) -> float:
            return float(0.5 * (metric * (z - target) ** 2).sum()) + mcp(float(np.linalg.norm(z)), slope, gamma)

        starts = [target, 0.1 * target, np.zeros(3)]
        runs = [
            minimize(objective, z, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000})
            for z in starts
        ]
        best = min(runs, key=lambda run: run.fun)
        assert objective(x[row].numpy()) <= best.fun + 1e-9
        np.testing.assert_allclose(x[row].numpy(), best.x, atol=1e-4)
        zeros += int(not x[row].any())
    assert 0 < zeros < 12


def _quadratic(a: Tensor, gamma: float, strength: float, steps: int = 1000) -> Tensor:
    """Return what the optimiser makes of 1/2 ||x - a||^2 plus the penalty, groups being rows."""
    x = torch.nn.Parameter(a.clone())
    layout = GroupLayout(members=[Member(parameter="x", axis=0, groups=torch.arange(len(a)))], shapes={"x": a.shape})
    weights = torch.ones(len(a), dtype=torch.float64)
    optimizer = ProximalAdamW(
        [("x", x)], layout, betas=(0.9, 0.99), weight_decay=0.0, gamma=gamma, strength=strength, weights=weights
    )
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps) ** 2
        x.grad = x.detach() - a
        optimizer.step()
    return x.detach()


def test_training_ends_at_firm_thresholding_and_leaves_large_groups_alone() -> None:
    """min 1/2 ||x - a||^2 + MCP(||x||) has the closed form of firm thresholding (Gao & Bruce, 1997)."""
    generator = torch.Generator().manual_seed(3)
    norms = torch.tensor([0.1, 0.5, 0.8, 1.2, 1.5, 2.0, 2.6, 4.0, 6.0], dtype=torch.float64)
    a = torch.randn(len(norms), 4, generator=generator, dtype=torch.float64)
    a = a / a.norm(dim=1, keepdim=True) * norms[:, None]
    slope, gamma = 1.0, 2.5
    firm = torch.where(
        norms <= slope, 0.0, torch.where(norms <= gamma * slope, (norms - slope) / (1 - 1 / gamma), norms)
    )
    x = _quadratic(a, gamma, slope)
    torch.testing.assert_close(x.norm(dim=1), firm, atol=4e-3, rtol=0)
    assert torch.equal((x == 0).all(1), norms < slope)
    torch.testing.assert_close(x[norms > gamma], a[norms > gamma], atol=4e-3, rtol=0)
    soft = _quadratic(a, math.inf, slope).norm(dim=1)
    torch.testing.assert_close(soft, (norms - slope).clamp(min=0), atol=4e-3, rtol=0)


def _net_after(steps: int, **settings: Any) -> tuple[list[Tensor], ProximalAdamW]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3))
    layout = output_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()], optimizer


def test_an_endless_gamma_is_the_l1_penalty() -> None:
    one, _ = _net_after(6, strength=0.05)
    two, optimizer = _net_after(6, strength=0.05, gamma=1e30)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert bool(optimizer.zero_groups().any())


def test_the_strength_asked_for_zeroes_exactly_the_groups_it_should() -> None:
    _, optimizer = _net_after(3, strength=0.0, gamma=30.0)
    assert bool(optimizer.critical_strengths().isfinite().all())  # also without a penalised step before
    optimizer.limit = lambda critical: float(critical.sort().values[4])
    for p in (p for settings in optimizer.param_groups for p in settings["params"]):
        p.grad = torch.full_like(p, 1e-3)
    optimizer.step()
    assert int(optimizer.zero_groups().sum()) == 5


def test_gamma_must_be_positive() -> None:
    with pytest.raises(InputError, match="gamma of the penalty is 0"):
        _net_after(1, gamma=0.0)
