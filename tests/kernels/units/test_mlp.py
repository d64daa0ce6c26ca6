"""Hidden-unit MLPs against plain dense MLPs with every task's own weights, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from slimtask.kernels.units.correction import Layer
from slimtask.kernels.units.mlp import hidden_unit_mlp

K, H, M = 12, 40, 10
UNITS = ([0, 7, 39], [], [5], [5, 6, 7, 8, 30])


def layer(outputs: int, inputs: int, dtype: torch.dtype) -> Layer:
    return Layer(torch.randn(outputs, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype))


def case(dtype: torch.dtype):
    """Return (x, first, second, units, tasks' whole first layers, tasks' second layers)."""
    torch.manual_seed(0)
    x, first, second = torch.randn(2, 9, K, dtype=dtype), layer(H, K, dtype), layer(M, H, dtype)
    units, firsts, seconds = [torch.tensor(u, dtype=torch.long) for u in UNITS], [], []
    for which in units:
        own = Layer(first.weight.clone(), first.bias.clone())
        own.weight[which] += torch.randn(len(which), K, dtype=dtype)
        own.bias[which] += 1
        after = Layer(second.weight.clone(), second.bias + torch.randn(M, dtype=dtype))
        after.weight[:, which] += torch.randn(M, len(which), dtype=dtype)
        firsts.append(own)
        seconds.append(after)
    return x, first, second, units, firsts, seconds


def rows(layers: list[Layer], units: list[torch.Tensor]) -> list[Layer]:
    return [Layer(own.weight[u], own.bias[u]) for own, u in zip(layers, units, strict=True)]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_it_is_every_tasks_dense_mlp(dtype: torch.dtype, close: float, batched: bool) -> None:
    x, first, second, units, firsts, seconds = case(dtype)
    made = hidden_unit_mlp(x, first, second, units, rows(firsts, units), seconds, batched=batched)
    wide = x.double()
    dense = [
        F.linear(F.gelu(F.linear(wide, a.weight.double(), a.bias.double())), b.weight.double(), b.bias.double())
        for a, b in zip([first, *firsts], [second, *seconds], strict=True)
    ]
    scale = dense[0].abs().max()
    assert (made.base - dense[0]).abs().max() < close * scale
    for difference, own in zip(made.differences, dense[1:], strict=True):
        assert (own - dense[0]).abs().max() > 0.1
        assert (made.base.double() + difference.double() - own).abs().max() < close * scale


def test_it_computes_only_what_changed() -> None:
    """(H + sum p) K + H M + sum 2 p M multiply-adds per row, and no product H x M of a task alone."""
    from torch.utils.flop_counter import FlopCounterMode

    x, first, second, units, firsts, seconds = case(torch.float32)
    with FlopCounterMode(display=False) as counter:
        hidden_unit_mlp(x, first, second, units, rows(firsts, units), seconds)
    p = sum(len(u) for u in UNITS)
    assert counter.get_total_flops() == 2 * 18 * ((H + p) * K + H * M + 2 * p * M)


def test_bad_units_are_named() -> None:
    x, first, second, units, firsts, seconds = case(torch.float32)
    new = rows(firsts, units)
    with pytest.raises(ValueError, match=r"hidden units \[40\] are not rising numbers below 40"):
        hidden_unit_mlp(x, first, second, [torch.tensor([H])], new[2:3], seconds[2:3])
    with pytest.raises(ValueError, match="not rising"):
        hidden_unit_mlp(x, first, second, [torch.tensor([7, 0, 39])], new[:1], seconds[:1])
    with pytest.raises(ValueError, match="column 39, which is none of its changed"):
        hidden_unit_mlp(x, first, second, [units[0][:2]], [Layer(*(t[:2] for t in new[0]))], seconds[:1])
    with pytest.raises(ValueError, match="3 hidden units change, but there are 1 new rows"):
        hidden_unit_mlp(x, first, second, units[:1], new[2:3], seconds[:1])


@pytest.mark.parametrize("batched", [False, True])
def test_a_changed_bias_alone_needs_no_unit(batched: bool) -> None:
    torch.manual_seed(0)
    x, none = torch.randn(2, 3, 4), torch.zeros(0, dtype=torch.long)
    first, second = Layer(torch.randn(8, 4), torch.randn(8)), Layer(torch.randn(4, 8), torch.randn(4))
    own = [Layer(second.weight, second.bias + step) for step in (1.0, 2.0)]
    empty = [Layer(torch.zeros(0, 4), torch.zeros(0))] * 2
    made = hidden_unit_mlp(x, first, second, [none, none], empty, own, batched=batched)
    for step, difference in zip((1.0, 2.0), made.differences, strict=True):
        torch.testing.assert_close(difference, torch.full_like(x, step))
