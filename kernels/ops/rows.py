"""Operators for changed rows (B): dense merged weights on the rows of an activation that a sub-task changes.

The result stays compact, [T, R, M], or overwrites these rows in a copy of what the others have. Shapes are static: R is
a budget, and `RowLayout` fills lists up with rows they already have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimtask.kernels import checks
from slimtask.kernels.ops import cuda
from slimtask.kernels.ops.register import operator
from slimtask.kernels.ops.tensors import finished, settled, wide


def rows(
    index: Tensor,
    count: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
    gather: bool = False,
) -> Tensor:
    """Return act(x_t W_t^T + b_t) + residual on the changed rows of every sub-task, [T, R, M] in the dtype of ``x``.

    Args:
        index: the arrays of a RowLayout: the numbers of the rows [T, R], and
        count: how many of them count [T]; what comes after is computed as well.
        x: the sub-tasks' inputs at these rows [T, R, K], or, with ``gather``, at all rows [T, N, K].
        weight: merged weights W + D_t [T, M, K].
        bias: merged biases b + db_t [T, M].
        residual: [N, M] of all sub-tasks or [T, N, M], taken at these rows.
        gelu: whether act is GELU (with erf) or nothing.
        gather: what ``x`` holds.
    """
    _check(index, count, x, weight, bias, residual, gelu, gather)
    if gather:
        checks.below("index", index, x.shape[1])
        x = _taken(x, index)
    total = torch.bmm(x.to(wide(x.dtype)), weight.to(wide(x.dtype)).transpose(1, 2))
    if residual is not None:
        checks.below("index", index, residual.shape[-2])
        residual = _taken(residual.expand(len(index), *residual.shape[-2:]), index)
    return finished(total, None if bias is None else bias[:, None], residual, gelu=gelu, dtype=x.dtype)


def scatter(index: Tensor, count: Tensor, rows: Tensor, base: Tensor) -> Tensor:
    """Return ``base`` [N, M] or [T, N, M] with the changed rows of every sub-task in place, [T, N, M].

    ``rows`` [T, R, M] is what `delta_rows` returns; nothing is taken from it beyond a sub-task's ``count``.
    """
    _check_scatter(index, count, rows, base)
    checks.below("index", index, base.shape[-2])
    whole = base.to(rows.dtype).expand(len(index), *base.shape[-2:])
    place = index.long()[:, :, None].expand_as(rows)
    rows = torch.where(count[:, None, None] > 0, settled(rows, count, 1), whole.gather(1, place))
    return whole.scatter(1, place, rows).contiguous()


def _taken(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.gather(1, index.long()[:, :, None].expand(-1, -1, tensor.shape[2]))


def _check(
    index: Tensor,
    count: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
    gather: bool = False,
) -> None:
    checks.alike(x, weight=weight, bias=bias, residual=residual)
    checks.indices(x, index=index, count=count)
    checks.shape("index", index, None, None)
    tasks, budget = index.shape
    checks.shape("count", count, tasks)
    checks.shape("weight", weight, tasks, None, None)
    outputs, inputs = weight.shape[1:]
    checks.shape("x", x, tasks, None if gather else budget, inputs)
    checks.shape("bias", bias, tasks, outputs)
    tokens = x.shape[1] if gather else None
    if residual is not None:
        checks.shape("residual", residual, *([tasks] if residual.ndim == 3 else []), tokens, outputs)
        tokens = residual.shape[-2]
    if tokens is not None and budget > tokens:
        raise ValueError(f"the row budget is {budget} of only {tokens} rows; give an index of at most {tokens}.")


def _check_scatter(index: Tensor, count: Tensor, rows: Tensor, base: Tensor) -> None:
    checks.alike(rows, base)
    checks.indices(rows, index=index, count=count)
    checks.shape("index", index, None, None)
    tasks, budget = index.shape
    checks.shape("count", count, tasks)
    checks.shape("rows", rows, tasks, budget, None)
    checks.shape("base", base, *([tasks] if base.ndim == 3 else []), None, rows.shape[2])
    if budget > base.shape[-2]:
        raise ValueError(f"the row budget is {budget} of only {base.shape[-2]} rows; give an index of at most those.")


def _fake_rows(index: Tensor, count: Tensor, x: Tensor, weight: Tensor, *rest: object) -> Tensor:
    _check(index, count, x, weight, *rest)  # type: ignore[arg-type]
    return x.new_empty(*index.shape, weight.shape[1])


def _fake_scatter(index: Tensor, count: Tensor, rows: Tensor, base: Tensor) -> Tensor:
    _check_scatter(index, count, rows, base)
    return rows.new_empty(len(index), *base.shape[-2:])


delta_rows = operator(
    "delta_rows(Tensor index, Tensor count, Tensor x, Tensor weight, Tensor? bias=None, Tensor? residual=None, "
    "bool gelu=False, bool gather=False) -> Tensor",
    rows,
    fake=_fake_rows,
    launch=cuda.rows,
)
scatter_rows = operator(
    "scatter_rows(Tensor index, Tensor count, Tensor rows, Tensor base) -> Tensor", scatter, fake=_fake_scatter
)
