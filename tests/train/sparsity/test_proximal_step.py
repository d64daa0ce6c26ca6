"""The blocked, warm-started solver against the plain reference: same weights, whatever the path and the layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.train.sparsity.proximal_adamw import ProximalAdamW


def _optimizer(values: dict[str, Tensor], layout: Any, **settings: Any) -> ProximalAdamW:
    for value in values.values():
        value.requires_grad_()
    return ProximalAdamW(list(values.items()), layout, **settings)


def _gradients(values: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return noise plus a pull towards zero, of a scale of its own in every parameter, and set it as gradient."""
    gradients = {}
    for index, (name, value) in enumerate(values.items()):
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        gradients[name] = ((noise + 0.3 * value.detach()) * 3.0 ** (index % 3 - 2)).to(value.dtype)
        value.grad = gradients[name].clone()
    return gradients


@pytest.fixture(params=["default", "small", "torch"])
def _blocks(request: pytest.FixtureRequest) -> None:
    if request.param == "small":
        request.getfixturevalue("small_blocks")
    if request.param == "torch":
        request.getfixturevalue("no_compiler")


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
def test_equals_the_reference_over_a_changing_penalty(
    reference: Any, network: Any, dtype: torch.dtype, tolerance: float
) -> None:
    values, layout = network(dtype)
    generator = torch.Generator().manual_seed(1)
    slow = reference(values, layout)
    fast = _optimizer(values, layout)
    zeros = []
    for step in range(24):
        lr = 2e-2 * (1 - step / 40)
        fast.param_groups[0]["lr"] = lr
        fast.strength = 0.0 if step in {0, 1, 15} else 0.02 * (step % 7)
        gradients = _gradients(values, generator)
        critical = slow.step(gradients, lr=lr, strength=fast.strength)
        fast.step()
        zeros.append(int(fast.zero_groups().sum()))
        for name, value in values.items():
            error = np.abs(value.detach().double().numpy() - slow.p[name]).max()
            assert error <= tolerance * max(1e-2, np.abs(slow.p[name]).max()), (step, name)
        if fast.strength > 0:
            np.testing.assert_allclose(fast.critical_strengths().numpy(), critical, rtol=100 * tolerance)
    assert 0 < zeros[-1] < len(layout)
    assert min(zeros[2:]) < max(zeros[2:])  # groups die, and some come back


def test_zeros_are_those_of_the_zero_test(network: Any) -> None:
    values, layout = network(torch.float32)
    generator = torch.Generator().manual_seed(2)
    optimizer = _optimizer(values, layout, lr=1e-2, strength=0.05)
    for _ in range(10):
        _gradients(values, generator)
        optimizer.step()
        assert torch.equal(optimizer.zero_groups(), optimizer.critical_strengths() <= 0.05)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_the_gradients_changes_nothing_else(network: Any, reference: Any, scale: float) -> None:
    values, layout = network(torch.float64)
    generator = torch.Generator().manual_seed(3)
    slow = reference(values, layout)
    optimizer = _optimizer(values, layout, lr=1e-2, strength=0.05 * scale)
    for _ in range(4):
        gradients = {name: gradient * scale for name, gradient in _gradients(values, generator).items()}
        for name, value in values.items():
            value.grad = gradients[name]
        slow.step(gradients, lr=1e-2, strength=0.05 * scale)
        optimizer.step()
    for name, value in values.items():
        np.testing.assert_allclose(value.detach().numpy(), slow.p[name], rtol=1e-8, atol=1e-10)


def test_the_limit_sees_critical_strengths_and_sets_the_strength(network: Any, reference: Any) -> None:
    values, layout = network(torch.float64)
    generator = torch.Generator().manual_seed(4)
    slow = reference(values, layout)
    optimizer = _optimizer(values, layout, lr=1e-2)
    used = []

    def three_more(critical: Tensor) -> float:
        used.append(float(critical.sort().values[: 3 * (len(used) + 1)][-1]))
        return used[-1]

    optimizer.limit = three_more
    for step in range(5):
        gradients = _gradients(values, generator)
        optimizer.step()
        slow.step(gradients, lr=1e-2, strength=used[-1])
        assert int(optimizer.zero_groups().sum()) == 3 * (step + 1)
    for name, value in values.items():
        np.testing.assert_allclose(value.detach().numpy(), slow.p[name], rtol=1e-7, atol=1e-9)


def test_not_a_number_stays_where_it_is_and_stops_nothing(network: Any) -> None:
    values, layout = network(torch.float32)
    generator = torch.Generator().manual_seed(5)
    optimizer = _optimizer(values, layout, lr=1e-2, strength=0.05)
    _gradients(values, generator)
    gradient = values["wide.weight"].grad
    assert gradient is not None
    gradient[:, 0] = torch.nan
    optimizer.step()
    broken = values["wide.weight"].isnan().flatten(2).any(2).any(0)
    assert broken.tolist() == [True] + [False] * 39
