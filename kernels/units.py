"""Layers of which tasks change whole units (hidden units, heads), all tasks reading one input, in standard operators.

A task's activation is kept as (shared, changed columns) through the pointwise function or the attention and enters the
next product as a correction. No custom kernel: ONNX Runtime, TensorRT and torch.compile take it as it is.

With ``shared`` the base's input of a layer, ``changed`` the task's own values of its columns S and W, V the weights of
base and task, which differ in these columns only: x_t V^T - x_b W^T = [changed, shared[:, S]] [V[:, S], -W[:, S]]^T.
A packed layer of an attention has the rows [q, k, v] x heads x width of a head, as in nn.MultiheadAttention.
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


def correction(base: Layer, own: Layer, columns: Int64[Tensor, " p"]) -> Correction:
    """Return the correction of a task whose weight ``own`` differs from ``base`` in ``columns`` only; ValueError else.

    Its input may differ from the base's in these columns too.
    """
    if own.weight.shape != base.weight.shape or own.bias.shape != base.bias.shape:
        raise ValueError(
            f"a task's layer is {list(own.weight.shape)}, the base's {list(base.weight.shape)}; give equal shapes."
        )
    _check_rising(columns, base.weight.shape[1])
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


def widen(first: Layer, rows: Sequence[Layer], parts: int = 1) -> Layer:
    """Return the layer that computes the base's outputs and, behind those of each of its ``parts``, the tasks' rows.

    Queries, keys and values of a packed layer are three parts, hidden units one.
    """
    weight = torch.cat([one.weight.view(parts, -1, first.weight.shape[1]) for one in (first, *rows)], dim=1)
    bias = torch.cat([one.bias.view(parts, -1) for one in (first, *rows)], dim=1)
    return Layer(weight.flatten(0, 1), bias.flatten())


def padded_rows(rows: Layer, size: int, parts: int = 1) -> Layer:
    """Return the rows with zeros behind them, ``size`` in each part: GELU keeps zeros, zero values attend to zero."""
    extra = size - len(rows.weight) // parts
    weight = F.pad(rows.weight.view(parts, -1, rows.weight.shape[1]), (0, 0, 0, extra))
    return Layer(weight.flatten(0, 1), F.pad(rows.bias.view(parts, -1), (0, extra)).flatten())


def attend(packed: Float[Tensor, "batch n m"], width: int) -> Float[Tensor, "batch n m3"]:
    """Return softmax(q k^T / sqrt(width)) v of every head in ``packed``, heads side by side."""
    batch, tokens = packed.shape[:2]
    q, k, v = packed.view(batch, tokens, 3, -1, width).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def columns_of(heads: Int64[Tensor, " p"], width: int) -> Int64[Tensor, " columns"]:
    """Return the channels of ``heads``, which are the columns of the projection that read them."""
    return (heads.unsqueeze(1) * width + torch.arange(width, device=heads.device)).flatten()


def rows_of(heads: Int64[Tensor, " p"], count: int, width: int) -> Int64[Tensor, " rows"]:
    """Return the query, key and value rows of ``heads`` in a packed layer of ``count`` heads."""
    parts = torch.arange(3, device=heads.device).unsqueeze(1) * (count * width)
    return (parts + columns_of(heads, width)).flatten()


def _check_rising(columns: Int64[Tensor, " p"], count: int) -> None:
    """Raise ValueError unless ``columns`` are rising numbers below ``count``."""
    first_last = columns[[0, -1]].tolist() if len(columns) else []
    if not all(0 <= each < count for each in first_last) or not bool((columns.diff() > 0).all()):
        raise ValueError(
            f"the changed columns {columns.tolist()} are not rising numbers below {count}; sort and check them."
        )
