"""Design B: the changed rows of every sub-task through its merged weights, all sub-tasks in one launch.

A grouped GEMM over gathered rows. Sub-task t multiplies only the R rows of its input that differ from the base's, with
dense weights W_t = W + D_t, and either returns them compactly or overwrites those rows of a full output. Where the rest
of that output comes from `blocks.launch_blocks`, run that first: it writes every row, this one overwrites.
"""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import no_type_check

import triton
from jaxtyping import Float, Int32
from torch import Tensor
from triton import language as tl

from slimtask.kernels.triton import checks
from slimtask.kernels.triton.epilogue import gelu, multiply
from slimtask.kernels.triton.tiles import Tile, row_tile


@triton.jit
@no_type_check
def rows_kernel(
    x,  # COMPACT: [T, R, K], else [T, N, K]
    index,  # [T, R] int32, padded by repeating a valid index
    count,  # [T] int32; read only when SCATTER
    weight,  # [T, M, K]
    bias,  # [T, M]
    residual,  # [N, M] or [T, N, M]: residual_step is 0 or N * M
    out,  # SCATTER: [T, N, M], else [T, R, M]
    N,
    R,
    K,
    M,
    residual_step,
    COMPACT: tl.constexpr,
    SCATTER: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write one tile of BLOCK_R changed rows by BLOCK_M outputs of one sub-task; grid (row tiles, output tiles, T).

    Row tiles vary fastest, so that programs running together share a tile of weights in L2. Only the reduction is
    masked on loading: rows and outputs past the end are computed from row 0 and never stored.
    """
    task = tl.program_id(2).to(tl.int64)
    slot = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    output = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inner = tl.arange(0, BLOCK_K)
    used = R
    if SCATTER:
        used = tl.load(count + task)
    if tl.program_id(0) * BLOCK_R < used:
        stored = slot < used
        row = tl.load(index + task * R + slot, mask=slot < R, other=0)
        if COMPACT:
            x_tile = x + task * R * K + tl.where(slot < R, slot, 0)[:, None] * K + inner[None, :]
        else:
            x_tile = x + task * N * K + row[:, None] * K + inner[None, :]
        weight_tile = weight + task * M * K + tl.where(output < M, output, 0)[:, None] * K + inner[None, :]
        total = tl.zeros((BLOCK_R, BLOCK_M), dtype=tl.float32)
        for start in range(0, K, BLOCK_K):
            inside = inner[None, :] < K - start
            a = tl.load(x_tile + start, mask=inside, other=0.0)
            b = tl.load(weight_tile + start, mask=inside, other=0.0)
            total = multiply(a, tl.trans(b), total, PRECISION, INTERPRETED)
        stored = stored[:, None] & (output < M)[None, :]
        if BIAS:
            total += tl.load(bias + task * M + output, mask=output < M, other=0.0).to(tl.float32)[None, :]
        if GELU:
            total = gelu(total)
        if RESIDUAL:
            at = residual + task * residual_step + row[:, None] * M + output[None, :]
            total += tl.load(at, mask=stored, other=0.0).to(tl.float32)
        if SCATTER:
            at = out + task * N * M + row[:, None] * M + output[None, :]
        else:
            at = out + task * R * M + slot[:, None] * M + output[None, :]
        tl.store(at, total.to(out.dtype.element_ty), mask=stored)


def launch_rows(
    index_TR: Int32[Tensor, "..."],
    count_T: Int32[Tensor, "..."],
    weight_TMK: Float[Tensor, "..."],
    x: Float[Tensor, "..."],
    *,
    bias_TM: Float[Tensor, "..."] | None = None,
    gelu: bool = False,
    residual: Float[Tensor, "..."] | None = None,
    out_TNM: Float[Tensor, "..."] | None = None,
    compact: bool = False,
    tokens: int | None = None,
    tile: Tile | None = None,
) -> Float[Tensor, "..."]:
    """Return act(x_t W_t^T + b_t) + residual on the changed rows: [T, R, M], or ``out_TNM`` with them overwritten.

    Args:
        index_TR: changed rows of every sub-task, padded by repeating a valid one (`RowLayout.index`), each below N.
        count_T: how many of them are real; with ``out_TNM`` the padding is not written, else it is computed as well.
        weight_TMK: merged weights W + D_t.
        x: the sub-tasks' inputs [T, N, K], or only their changed rows [T, R, K] with ``compact``.
        bias_TM: merged bias b + db_t.
        gelu: apply the exact GELU before the residual.
        residual: [N, M] for all sub-tasks or [T, N, M], read at the changed rows.
        out_TNM: written in place on the changed rows; its other rows stay.
        compact: what ``x`` holds.
        tokens: N; needed only with ``compact`` when neither ``residual`` nor ``out_TNM`` tells it.
        tile: the tile to use instead of the table's.

    Raises:
        ValueError: shapes, dtypes, devices that do not fit together. Indices are validated where they are packed
            (`RowLayout`): to look at them here would wait for the GPU.
    """
    tokens = checks.rows(index_TR, count_T, weight_TMK, x, bias_TM, residual, out_TNM, compact=compact, tokens=tokens)
    tasks, budget = index_TR.shape
    outputs, inputs = weight_TMK.shape[1:]
    result = x.new_empty(tasks, budget, outputs) if out_TNM is None else out_TNM
    if 0 in (tasks, budget, outputs):
        return result
    tile = tile or row_tile(checks.sm(x), tasks=tasks, rows=budget, outputs=outputs, inputs=inputs, bits=8 * x.itemsize)
    grid = (triton.cdiv(budget, tile.rows), triton.cdiv(outputs, tile.outputs), tasks)
    with checks.on(x):
        rows_kernel[grid](
            x,
            index_TR,
            count_T,
            weight_TMK,
            bias_TM,
            residual,
            result,
            tokens,
            budget,
            inputs,
            outputs,
            tokens * outputs if residual is not None and residual.ndim == 3 else 0,
            COMPACT=compact,
            SCATTER=out_TNM is not None,
            BIAS=bias_TM is not None,
            GELU=gelu,
            RESIDUAL=residual is not None,
            BLOCK_R=tile.rows,
            BLOCK_M=tile.outputs,
            BLOCK_K=tile.inputs,
            PRECISION=checks.precision(x.dtype),
            INTERPRETED=checks.interpreted(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return result
