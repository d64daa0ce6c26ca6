"""Corrections: what a task adds to a layer's output when some columns of the layer's input are its own.

With ``shared`` the base's input of the layer, ``changed`` the task's own values of its columns S and W, V the weights
of base and task, which differ in these columns only: x_t V^T - x_b W^T = [changed, shared[:, S]] [V[:, S], -W[:, S]]^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


class Layer(NamedTuple):
    """Weight [out, in] and bias [out] of a linear layer."""

    weight: Float[Tensor, "_ _"]
    bias: Float[Tensor, " _"]


class Correction(NamedTuple):
    """The columns that one task changes, [own | minus the base's] columns of the weight, own minus the base's bias."""

    column: Int64[Tensor, " _"]
    weight: Float[Tensor, "_ _"]
    bias: Float[Tensor, " _"]


class Joined(NamedTuple):
    """Corrections of several tasks that change equally many columns: those task by task, weights [in, out], biases."""

    column: Int64[Tensor, " tasksp"]
    weight: Float[Tensor, "tasks p2 m"]
    bias: Float[Tensor, "tasks 1 m"]


class Outputs(NamedTuple):
    """The base's output and, per task, what is to be added to it to get the task's."""

    base: Float[Tensor, "*batch n m"]
    differences: tuple[Float[Tensor, "*batch n m"], ...]


def correction(base: Layer, own: Layer, columns: Int64[Tensor, " p"]) -> Correction:
    """Return the correction of a task whose weight ``own`` differs from ``base`` in ``columns`` only; ValueError else.

    Its input may differ from the base's in these columns too.
    """
    if own.weight.shape != base.weight.shape or own.bias.shape != base.bias.shape:
        raise ValueError(
            f"a task's layer is {list(own.weight.shape)}, the base's {list(base.weight.shape)}; give equal shapes."
        )
    check_units(columns, base.weight.shape[1], "columns")
    elsewhere = (own.weight != base.weight).any(dim=0).index_fill(0, columns, False)
    if bool(elsewhere.any()):
        raise ValueError(
            f"a task's weight differs in column {int(elsewhere.nonzero()[0])}, which is none of its changed ones; name "
            "every column that changes."
        )
    weight = torch.cat([own.weight[:, columns], -base.weight[:, columns]], dim=1)
    return Correction(columns, weight, own.bias - base.bias)


def padded(made: Correction, size: int) -> Correction:
    """Return the correction with ``size`` columns: column 0 with weight 0 is repeated, which adds nothing."""
    extra = size - len(made.column)
    own, base = made.weight.chunk(2, dim=1)
    weight = torch.cat([F.pad(own, (0, extra)), F.pad(base, (0, extra))], dim=1)
    return Correction(F.pad(made.column, (0, extra)), weight, made.bias)


def correct(
    shared: Float[Tensor, "*batch n k"], changed: Float[Tensor, "*batch n p"], made: Correction
) -> Float[Tensor, "*batch n m"]:
    """Return the difference that one task's ``changed`` columns of ``shared`` make to the layer's output."""
    if not len(made.column):
        return made.bias.expand(*shared.shape[:-1], -1)
    return F.linear(torch.cat([changed, shared.index_select(-1, made.column)], dim=-1), made.weight, made.bias)


def correct_batched(
    shared: Float[Tensor, "*batch n k"], changed: Sequence[Float[Tensor, "*batch n _"]], made: Sequence[Correction]
) -> Float[Tensor, "tasks *batch n m"]:
    """Return the differences of several tasks that change equally many columns (``padded``), by one batched product."""
    return correct_joined(shared, torch.cat(list(changed), dim=-1), joined(made))


def joined(made: Sequence[Correction]) -> Joined:
    """Return corrections of equally many columns (``padded``) as one."""
    weight = torch.stack([one.weight.T for one in made])
    return Joined(torch.cat([one.column for one in made]), weight, torch.stack([one.bias for one in made])[:, None])


def correct_joined(
    shared: Float[Tensor, "*batch n k"], changed: Float[Tensor, "*batch n tasksp"], made: Joined
) -> Float[Tensor, "tasks *batch n m"]:
    """Return the differences of several tasks; ``changed`` are their own columns of ``shared``, task by task."""
    tasks, size = len(made.weight), len(made.column) // len(made.weight)
    there = shared.index_select(-1, made.column)
    rows = shared.shape[:-1].numel()
    both = torch.cat([part.reshape(rows, tasks, size) for part in (changed, there)], dim=-1)
    out = torch.baddbmm(made.bias, both.transpose(0, 1), made.weight)
    return out.view(tasks, *shared.shape[:-1], -1)


def check_units(units: Int64[Tensor, " p"], count: int, what: str) -> None:
    """Raise ValueError unless ``units`` are rising numbers below ``count``."""
    if len(units) and not (int(units[0]) >= 0 and int(units[-1]) < count and bool((units.diff() > 0).all())):
        raise ValueError(
            f"the changed {what} {units.tolist()} are not rising numbers below {count}; sort and check them."
        )
