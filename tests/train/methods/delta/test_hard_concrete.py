"""Hard-concrete gates: closed forms against samples, manual gradients against autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.train.methods.delta.hard_concrete import (
    deterministic,
    log_open_probability,
    open_probability,
    sample,
)

STRETCH = (-1.5, 1.5)


def test_at_the_start_a_gate_is_open_with_probability_0_993() -> None:
    alpha = torch.full((400_000,), 5.0, dtype=torch.float64)
    noise = torch.rand(alpha.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 1 / (1 + math.exp(-5))
    assert float(open_probability(alpha[:1], stretch=STRETCH)) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.9933, abs=1e-4)
    opened = float((sample(alpha, noise, stretch=STRETCH) > 0).double().mean())
    assert opened == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("alpha", "stretch", "temperature"), [(0.3, (-0.1, 1.1), 0.5), (-1.0, (-1.5, 1.2), 1.0)])
def test_the_probability_is_that_of_samples_for_any_stretch(
    alpha: float, stretch: tuple[float, float], temperature: float
) -> None:
    alphas = torch.full((400_000,), alpha, dtype=torch.float64)
    noise = torch.rand(alphas.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = sample(alphas, noise, stretch=stretch, temperature=temperature)
    expected = float(open_probability(alphas[:1], stretch=stretch, temperature=temperature))
    assert float((drawn > 0).double().mean()) == pytest.approx(expected, abs=3e-3)
    assert drawn.min() == 0
    assert drawn.max() <= 1


def test_the_manual_gradients_are_those_of_autograd() -> None:
    """With g = dL/dW: dDelta = g z_e z_g, dalpha = g Delta z_g dz_e, dalpha_g = sum g Delta z_e dz_g."""
    torch.manual_seed(0)
    shape = (7, 5)
    base, delta, alpha = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    group = torch.tensor([0.2], dtype=torch.float64)
    u, v = torch.rand(shape, dtype=torch.float64), torch.tensor([0.55], dtype=torch.float64)
    for leaf in (delta, alpha, group):
        leaf.requires_grad_()
    z_e, z_g = sample(alpha, u, stretch=STRETCH), sample(group, v, stretch=STRETCH)
    g = torch.randn(shape, dtype=torch.float64)
    ((base + z_e * z_g * delta) * g).sum().backward()

    def slope(logit: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        s = 1 / (1 + torch.exp(-(torch.log(noise / (1 - noise)) + logit)))
        t = 3 * s - 1.5
        return 3 * s * (1 - s) * ((t > 0) & (t < 1))

    with torch.no_grad():
        assert torch.allclose(delta.grad, g * z_e * z_g, rtol=1e-12)
        assert torch.allclose(alpha.grad, g * delta * z_g * slope(alpha, u), rtol=1e-10, atol=1e-14)
        assert torch.allclose(group.grad, (g * delta * z_e).sum() * slope(group, v), rtol=1e-10)
        closed = z_e == 0
        assert closed.any()
        assert (alpha.grad[closed] == 0).all()


def test_the_median_gate_is_a_function_of_alpha_alone_and_opens_at_zero() -> None:
    alpha = torch.tensor([-5.0, -1e-3, 1e-3, 0.5, 5.0], dtype=torch.float64)
    gate = deterministic(alpha, stretch=STRETCH)
    assert (gate > 0).tolist() == [False, False, True, True, True]
    assert gate[-1] == 1
    half = torch.full_like(alpha, 0.5)
    assert torch.allclose(gate, sample(alpha, half, stretch=STRETCH), rtol=0, atol=1e-12)


def test_the_log_of_the_chance_is_exact_where_the_chance_rounds_to_one() -> None:
    alpha = torch.tensor([-3.0, 0.2, 4.0, 80.0])
    logs = log_open_probability(alpha, stretch=(-1.0, 2.0), temperature=0.5)
    shift = 0.5 * math.log(0.5)
    expected = [-math.log1p(math.exp(-(a - shift))) for a in alpha.tolist()]
    assert logs.tolist() == pytest.approx(expected, rel=1e-9)
    chances = open_probability(alpha, stretch=(-1.0, 2.0), temperature=0.5)
    assert torch.allclose(logs[:3].exp().float(), chances[:3])
