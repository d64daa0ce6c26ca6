from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimtask.train.sparsity.prox import newton_step, weighted_group_prox


def _problem(seed: int, groups: int = 200, elements: int = 30, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, d, threshold: group scales over several decades, d log-normal, about half of the groups zero."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** torch.empty(groups, 1, dtype=torch.float64).uniform_(-4, 4, generator=generator)
    p = torch.randn(groups, elements, dtype=torch.float64, generator=generator) * scale
    d = torch.randn(groups, elements, dtype=torch.float64, generator=generator).mul(spread).exp() + 1e-6
    threshold = torch.rand(groups, dtype=torch.float64, generator=generator) * 2 * (d * p).norm(dim=1)
    return p, d, threshold


def _bisection(p: np.ndarray, d: np.ndarray, threshold: float) -> np.ndarray:
    """Return the prox of one group from sum p^2 / (theta + threshold / d)^2 = 1, bracketed and halved."""
    if np.linalg.norm(d * p) <= threshold:
        return np.zeros_like(p)
    low, high = 0.0, float(np.linalg.norm(p))
    for _ in range(200):
        middle = (low + high) / 2
        if np.sum((p / (middle + threshold / d)) ** 2) > 1:
            low = middle
        else:
            high = middle
    return np.asarray(p * d * low / (d * low + threshold))


def _kkt_residual(x: Tensor, p: Tensor, d: Tensor, threshold: Tensor) -> Tensor:
    """Return, per group, max_j |d_j (x_j - p_j) + t x_j / ||x|||, or how far the zero test fails."""
    norm = x.norm(dim=1, keepdim=True)
    alive = (d * (x - p) + threshold[:, None] * x / norm.clamp(min=1e-300)).abs().amax(1)
    dead = ((d * p).norm(dim=1) - threshold).clamp(min=0)
    return torch.where(norm[:, 0] > 0, alive, dead)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 5.0])
def test_stationarity_holds(spread: float) -> None:
    p, d, threshold = _problem(0, spread=spread)
    x = weighted_group_prox(p, d, threshold)
    assert 0.2 < float((x == 0).all(1).double().mean()) < 0.8
    scale = (d * p).norm(dim=1).clamp(min=1)
    assert float((_kkt_residual(x, p, d, threshold) / scale).max()) < 1e-12


def test_unit_scale_meets_the_absolute_figure() -> None:
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(500, 64, dtype=torch.float64, generator=generator)
    d = torch.rand(500, 64, dtype=torch.float64, generator=generator) + 1e-3
    threshold = torch.rand(500, dtype=torch.float64, generator=generator) * 6
    assert float(_kkt_residual(weighted_group_prox(p, d, threshold), p, d, threshold).max()) < 1e-6


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_equals_bisection(spread: float) -> None:
    p, d, threshold = _problem(2, groups=60, spread=spread)
    x = weighted_group_prox(p, d, threshold)
    for row in range(len(p)):
        expected = torch.from_numpy(_bisection(p[row].numpy(), d[row].numpy(), float(threshold[row])))
        assert float((x[row] - expected).norm()) <= 1e-10 * float(p[row].norm())


def test_zero_threshold_is_the_identity_and_small_ones_approach_it() -> None:
    p, d, threshold = _problem(3)
    assert torch.equal(weighted_group_prox(p, d, torch.zeros_like(threshold)), p)
    torch.testing.assert_close(weighted_group_prox(p, d, threshold * 1e-12), p, rtol=1e-6, atol=0)


def test_constant_metric_is_group_soft_thresholding() -> None:
    p, _, threshold = _problem(4)
    d = torch.full_like(p, 0.37)
    norm = p.norm(dim=1, keepdim=True)
    expected = p * (1 - threshold[:, None] / (0.37 * norm)).clamp(min=0)
    dead = 0.37 * norm[:, 0] <= threshold
    assert torch.equal((weighted_group_prox(p, d, threshold) == 0).all(1), dead)
    close = weighted_group_prox(p, d, threshold)[~dead] / p[~dead]
    torch.testing.assert_close(close, expected[~dead] / p[~dead], rtol=1e-9, atol=1e-12)


def test_all_zero_groups_tiny_metrics_and_the_zero_test() -> None:
    p = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [1e-3, 1e-3]], dtype=torch.float64)
    d = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 1.0], [1e-8, 1e-8]], dtype=torch.float64)
    x = weighted_group_prox(p, d, torch.tensor([0.0, 5.0, 4.999, 1e-12], dtype=torch.float64))
    assert torch.equal(x[:2], torch.zeros(2, 2, dtype=torch.float64))
    assert float(x[2].norm()) == pytest.approx(0.001, rel=1e-9)
    torch.testing.assert_close(x[3], p[3] * (1 - 1e-12 / (1e-8 * p[3].norm())), rtol=1e-9, atol=0)


def test_float32_agrees_with_float64() -> None:
    p, d, threshold = _problem(5, spread=1.0)
    keep = ((d * p).norm(dim=1) / threshold - 1).abs() > 1e-4  # away from the kink both precisions see the same side
    x = weighted_group_prox(p[keep], d[keep], threshold[keep])
    x32 = weighted_group_prox(p[keep].float(), d[keep].float(), threshold[keep].float())
    assert x32.dtype == torch.float32
    assert float(((x32 - x).norm(dim=1) / (p[keep].norm(dim=1))).max()) < 1e-5


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    elements=st.integers(1, 40),
    spread=st.floats(0, 6),
    strength=st.floats(1e-9, 3),
)
def test_properties(seed: int, elements: int, spread: float, strength: float) -> None:
    p, d, _ = _problem(seed, groups=20, elements=elements, spread=spread)
    norm_dp = (d * p).norm(dim=1)
    threshold = norm_dp * strength
    x = weighted_group_prox(p, d, threshold)
    assert torch.equal((x == 0).all(1), norm_dp <= threshold)
    assert bool((x.abs() <= p.abs()).all())
    assert bool((x * p >= 0).all())
    assert float((_kkt_residual(x, p, d, threshold) / norm_dp).max()) < 1e-9
    larger = weighted_group_prox(p, d, threshold * 1.5)
    assert bool((larger.norm(dim=1) <= x.norm(dim=1) * (1 + 1e-12)).all())


def _step(p: Tensor, d: Tensor, threshold: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    r = d + (threshold / norm)[:, None]
    moments = torch.stack([((p * d / r).square() / r**power).sum(1) for power in range(3)])
    return newton_step(norm, threshold, moments)


@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("factor", [1e-6, 0.1, 0.4, 0.7, 0.95, 0.999, 1.001, 1.05, 1.3, 10.0, 1e6])
def test_a_step_converges_from_anywhere_and_its_error_bound_holds(factor: float, spread: float) -> None:
    p, d, threshold = _problem(6, groups=400, spread=spread)
    alive = (d * p).norm(dim=1) > threshold * 1.001
    p, d, threshold = p[alive], d[alive], threshold[alive]
    root = weighted_group_prox(p, d, threshold).norm(dim=1)
    updated, error = _step(p, d, threshold, root * factor)
    true_error = (updated - root).abs() / root
    assert bool((updated > 0).all())
    assert bool((true_error <= max(factor, 1 / factor)).all())
    small = error < 0.1
    assert bool((true_error[small] <= 1.5 * error[small] + 1e-12).all())
    for _ in range(25):
        updated, error = _step(p, d, threshold, updated)
    assert float(((updated - root).abs() / root).max()) < 1e-11
    if abs(factor - 1) < 0.1 and spread < 2:
        _, first = _step(p, d, threshold, root * factor)
        assert float(first.median()) < abs(factor - 1) ** 3  # cubic, with a small constant
