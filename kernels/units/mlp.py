"""An MLP of which every task changes whole hidden units: one wide product, one shared product, small corrections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from slimtask.kernels.units.correction import Layer, Outputs, check_units, correct, correct_batched, correction, padded


def hidden_unit_mlp(
    x: Float[Tensor, "*batch n k"],
    first: Layer,
    second: Layer,
    units: Sequence[Int64[Tensor, " _"]],
    firsts: Sequence[Layer],
    seconds: Sequence[Layer],
    *,
    batched: bool = False,
) -> Outputs:
    """Return the base's MLP of ``x`` and what every task's differs from it, linear - GELU (erf) - linear.

    Task t changes the hidden ``units[t]``: ``firsts[t]`` holds their new rows [p, k] and biases [p], ``seconds[t]`` its
    whole second layer [m, h], which differs from the base's in these columns and in the bias. ``batched`` computes the
    corrections by one batched product, padded to the largest p. Raises ValueError for units out of order or range.
    """
    for own, rows in zip(units, firsts, strict=True):
        check_units(own, len(first.weight), "hidden units")
        if len(rows.weight) != len(own):
            raise ValueError(
                f"{len(own)} hidden units change, but there are {len(rows.weight)} new rows; give one each."
            )
    corrections = [correction(second, own, which) for own, which in zip(seconds, units, strict=True)]
    if batched:
        size = max(len(which) for which in units)
        corrections = [padded(one, size) for one in corrections]
        firsts = [padded_rows(rows, size) for rows in firsts]
    wide = widen(first, firsts)
    active = F.gelu(F.linear(x, *wide))
    shared, *changed = torch.split(active, [len(first.weight), *(len(rows.weight) for rows in firsts)], dim=-1)
    if batched:
        differences = correct_batched(shared, changed, corrections).unbind(0)
    else:
        differences = tuple(correct(shared, own, one) for own, one in zip(changed, corrections, strict=True))
    return Outputs(F.linear(shared, *second), differences)


def widen(first: Layer, rows: Sequence[Layer]) -> Layer:
    """Return the layer that computes the base's outputs and, behind them, every task's changed ones."""
    return Layer(
        torch.cat([first.weight, *(one.weight for one in rows)]), torch.cat([first.bias, *(one.bias for one in rows)])
    )


def padded_rows(rows: Layer, size: int) -> Layer:
    """Return the rows with zero rows behind them, ``size`` in all: GELU keeps zeros."""
    extra = size - len(rows.weight)
    return Layer(F.pad(rows.weight, (0, 0, 0, extra)), F.pad(rows.bias, (0, extra)))
