"""Operators for sparse deltas on an input that all sub-tasks share: blocks (C), vectors (D), single entries (G).

All return act(base + x D_t^T + db_t) + residual for every sub-task, [T, N, M] in the dtype of ``x``; base is
x W^T + b [N, M], before activation and residual, in that dtype or in float32. Sums are made in float32 (float64 for
float64) and rounded once. The functions are in standard operators, for any device, and never build D_t; the operators
made of them at the end take the kernels of `slimtask.kernels.ops.cuda` on CUDA devices. No gradients: for inference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slimtask.kernels import checks
from slimtask.kernels.checks import Size
from slimtask.kernels.ops import cuda
from slimtask.kernels.ops.register import operator
from slimtask.kernels.ops.tensors import Shared, blocks_of, finished, wide

_SHARED = "Tensor x, Tensor base, Tensor? delta_bias=None, Tensor? residual=None, bool gelu=False) -> Tensor"


def blocks(
    start: Tensor,
    column: Tensor,
    value: Tensor,
    x: Tensor,
    base: Tensor,
    delta_bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:
    """Return the sub-tasks' outputs [T, N, M]; ``start``, ``column``, ``value`` are the arrays of a BlockLayout."""
    tasks = _check_blocks(start, column, value, Shared(x, base, delta_bias, residual))
    (tokens, inputs), outputs, (height, width) = x.shape, base.shape[1], value.shape[1:]
    rows, columns = blocks_of(outputs, height), blocks_of(inputs, width)
    checks.below("column", column, columns)
    checks.rising("start", start, len(column))
    padded = torch.nn.functional.pad(x.to(wide(x.dtype)), (0, int(columns * width) - inputs))
    panels = padded.reshape(tokens, columns, width).transpose(0, 1)
    products = torch.bmm(panels.index_select(0, column), value.to(padded.dtype).transpose(1, 2))
    ends = torch.zeros(len(column) + 1, dtype=torch.int64, device=x.device)
    row = ends.index_add_(0, start[1:], torch.ones_like(start[1:], dtype=torch.int64)).cumsum(0)[:-1]
    sums = products.new_zeros(tasks * rows, tokens, height).index_add_(0, row, products)
    delta = sums.reshape(tasks, rows, tokens, height).transpose(1, 2).flatten(2)[:, :, :outputs]
    return _finished(delta, x, base, delta_bias, residual, gelu=gelu)


def vectors(
    column: Tensor,
    value: Tensor,
    x: Tensor,
    base: Tensor,
    delta_bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:
    """Return the sub-tasks' outputs [T, N, M]; ``column`` and ``value`` are the arrays of a VectorLayout."""
    _check_vectors(column, value, Shared(x, base, delta_bias, residual))
    checks.below("column", column, x.shape[1])
    inputs = x.to(wide(x.dtype)).t().index_select(0, column.flatten()).reshape(*column.shape, -1)
    delta = torch.matmul(value.to(inputs.dtype), inputs).flatten(1, 2)[:, : base.shape[1]]
    return _finished(delta.transpose(1, 2), x, base, delta_bias, residual, gelu=gelu)


def csr(
    start: Tensor,
    column: Tensor,
    value: Tensor,
    x: Tensor,
    base: Tensor,
    delta_bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:
    """Return the sub-tasks' outputs [T, N, M]; ``start``, ``column``, ``value`` are the arrays of a CsrLayout."""
    tasks = _check_csr(start, column, value, Shared(x, base, delta_bias, residual))
    checks.below("column", column, x.shape[1])
    checks.rising("start", start, len(column))
    inputs = x.to(wide(x.dtype)).t().contiguous()
    # A bag of weighted rows of x^T is a row of a sparse matrix times x^T, summed without storing the products.
    delta = torch.nn.functional.embedding_bag(
        column, inputs, start, mode="sum", per_sample_weights=value.to(inputs.dtype), include_last_offset=True
    )
    delta = delta.reshape(tasks, base.shape[1], x.shape[0]).transpose(1, 2)
    return _finished(delta, x, base, delta_bias, residual, gelu=gelu)


def _finished(
    delta_TNM: Tensor, x: Tensor, base: Tensor, delta_bias: Tensor | None, residual: Tensor | None, *, gelu: bool
) -> Tensor:
    total = base.to(delta_TNM.dtype) + delta_TNM
    bias = None if delta_bias is None else delta_bias[:, None]
    return finished(total, bias, residual, gelu=gelu, dtype=x.dtype)


def _check(tasks: Size, value: Tensor, of: Shared) -> Size:
    checks.alike(of.x, of.base, value=value, delta_bias=of.delta_bias, residual=of.residual)
    checks.shape("delta_bias", of.delta_bias, tasks, of.base.shape[1])
    checks.shape("residual", of.residual, *of.base.shape)
    return tasks


def _check_inputs(of: Shared) -> None:
    checks.shape("x", of.x, None, None)
    checks.shape("base", of.base, of.x.shape[0], None)


def _check_blocks(start: Tensor, column: Tensor, value: Tensor, of: Shared) -> Size:
    _check_inputs(of)
    checks.indices(of.x, start=start, column=column)
    checks.shape("column", column, None)
    checks.shape("value", value, column.shape[0], None, None)
    return _check(checks.tasks_of(start, blocks_of(of.base.shape[1], value.shape[1])), value, of)


def _check_vectors(column: Tensor, value: Tensor, of: Shared) -> Size:
    _check_inputs(of)
    checks.indices(of.x, column=column)
    checks.shape("column", column, None, None, None)
    tasks, tiles, length = column.shape
    checks.shape("value", value, tasks, tiles, None, length)
    height, outputs = value.shape[2], of.base.shape[1]
    if tiles != blocks_of(outputs, height):
        raise ValueError(f"column has {tiles} lists of {height} outputs, base {outputs} outputs; mend one.")
    return _check(tasks, value, of)


def _check_csr(start: Tensor, column: Tensor, value: Tensor, of: Shared) -> Size:
    _check_inputs(of)
    checks.indices(of.x, start=start, column=column)
    checks.shape("column", column, None)
    checks.shape("value", value, column.shape[0])
    return _check(checks.tasks_of(start, of.base.shape[1]), value, of)


def _fake_blocks(start: Tensor, column: Tensor, value: Tensor, *shared: Any) -> Tensor:
    of = Shared(*shared)
    return of.x.new_empty(_check_blocks(start, column, value, of), *of.base.shape)


def _fake_vectors(column: Tensor, value: Tensor, *shared: Any) -> Tensor:
    of = Shared(*shared)
    return of.x.new_empty(_check_vectors(column, value, of), *of.base.shape)


def _fake_csr(start: Tensor, column: Tensor, value: Tensor, *shared: Any) -> Tensor:
    of = Shared(*shared)
    return of.x.new_empty(_check_csr(start, column, value, of), *of.base.shape)


delta_blocks = operator(
    "delta_blocks(Tensor start, Tensor column, Tensor value, " + _SHARED, blocks, fake=_fake_blocks, launch=cuda.blocks
)
delta_vectors = operator(
    "delta_vectors(Tensor column, Tensor value, " + _SHARED, vectors, fake=_fake_vectors, launch=cuda.vectors
)
delta_csr = operator(
    "delta_csr(Tensor start, Tensor column, Tensor value, " + _SHARED, csr, fake=_fake_csr, launch=cuda.csr
)
