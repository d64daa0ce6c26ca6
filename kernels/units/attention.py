"""Self-attention of which every task changes whole heads: the attention of all other heads is shared.

The rows of a packed layer are [q, k, v] x heads x width of a head, as in nn.MultiheadAttention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from slimtask.kernels.units.correction import Layer, Outputs, check_units, correct, correct_batched, correction, padded


def head_attention(
    x: Float[Tensor, "batch n k"],
    packed: Layer,
    projection: Layer,
    heads: Sequence[Int64[Tensor, " _"]],
    packeds: Sequence[Layer],
    projections: Sequence[Layer],
    *,
    width: int,
    batched: bool = False,
) -> Outputs:
    """Return the base's attention over the tokens ``x`` and what every task's differs from it.

    Task t changes the ``heads[t]``, of ``width`` channels each: ``packeds[t]`` holds their new query, key and value
    rows [3 p width, k] with biases, ``projections[t]`` its whole projection, which differs from the base's in these
    heads' columns and in the bias. ``batched`` computes the corrections by one batched product, padded to the largest
    p. Raises ValueError for heads out of order or range.
    """
    count = len(packed.weight) // (3 * width)
    for own, rows in zip(heads, packeds, strict=True):
        check_units(own, count, "heads")
        if len(rows.weight) != 3 * width * len(own):
            raise ValueError(
                f"{len(own)} heads of width {width} change, but there are {len(rows.weight)} new rows; give "
                f"{3 * width * len(own)}."
            )
    columns = [columns_of(own, width) for own in heads]
    corrections = [correction(projection, own, which) for own, which in zip(projections, columns, strict=True)]
    if batched:
        size = max(len(own) for own in heads)
        corrections = [padded(one, size * width) for one in corrections]
        packeds = [padded_heads(rows, size, width) for rows in packeds]
    mixed = attend(F.linear(x, *widen(packed, packeds, width)), width)
    shared, *changed = torch.split(mixed, [count * width, *(len(rows.weight) // 3 for rows in packeds)], dim=-1)
    if batched:
        differences = correct_batched(shared, changed, corrections).unbind(0)
    else:
        differences = tuple(correct(shared, own, one) for own, one in zip(changed, corrections, strict=True))
    return Outputs(F.linear(shared, *projection), differences)


def attend(packed: Float[Tensor, "batch n m"], width: int) -> Float[Tensor, "batch n m3"]:
    """Return softmax(q k^T / sqrt(width)) v of every head in ``packed``, heads side by side."""
    batch, tokens = packed.shape[:2]
    q, k, v = packed.view(batch, tokens, 3, -1, width).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def widen(packed: Layer, rows: Sequence[Layer], width: int) -> Layer:
    """Return the packed layer of the base's heads and, behind them, every task's changed heads."""
    parts = [packed, *rows]
    weight = torch.cat([one.weight.view(3, -1, width, packed.weight.shape[1]) for one in parts], dim=1)
    bias = torch.cat([one.bias.view(3, -1, width) for one in parts], dim=1)
    return Layer(weight.flatten(0, 2), bias.flatten())


def columns_of(heads: Int64[Tensor, " p"], width: int) -> Int64[Tensor, " columns"]:
    """Return the channels of ``heads``, which are the columns of the projection that read them."""
    return (heads.unsqueeze(1) * width + torch.arange(width, device=heads.device)).flatten()


def rows_of(heads: Int64[Tensor, " p"], count: int, width: int) -> Int64[Tensor, " rows"]:
    """Return the query, key and value rows of ``heads`` in a packed layer of ``count`` heads."""
    parts = torch.arange(3, device=heads.device).unsqueeze(1) * (count * width)
    return (parts + columns_of(heads, width)).flatten()


def padded_heads(rows: Layer, size: int, width: int) -> Layer:
    """Return the packed rows with zero heads behind theirs, ``size`` in all: zero values attend to zero."""
    extra = size * width - len(rows.weight) // 3
    weight = F.pad(rows.weight.view(3, -1, rows.weight.shape[1]), (0, 0, 0, extra))
    return Layer(weight.flatten(0, 1), F.pad(rows.bias.view(3, -1), (0, extra)).flatten())
