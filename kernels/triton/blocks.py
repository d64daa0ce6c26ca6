"""Design C, streamed from L2: block-sparse deltas of every sub-task on one shared input, in one launch.

Every sub-task sees the base's input, so task t's pre-activation is the base's plus x D_t^T, and only the nonzero blocks
of D_t are multiplied. Every row of every output is written; rows whose input differs from the base's are wrong until
`rows.launch_rows` overwrites them, which therefore runs after this one.
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
from slimtask.kernels.triton.tiles import Tile, aligned, block_tile


@triton.jit
@no_type_check
def blocks_kernel(
    start,  # [T * block rows + 1] int32
    column,  # [nnzb] int32: which block of inputs
    value,  # [nnzb, HEIGHT, WIDTH], zero padded at the edges
    x,  # [N, K]
    base,  # [N, M]: the base's pre-activation, in any float dtype
    delta_bias,  # [T, M]
    residual,  # [N, M]
    out,  # [T, N, M]
    N,
    K,
    M,
    DELTA_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write BLOCK_N tokens by HEIGHT outputs of one sub-task; grid (token tiles, block rows, T).

    Token tiles vary fastest, so that programs running together read the same blocks of values from L2.
    """
    task = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    output = tl.program_id(1) * HEIGHT + tl.arange(0, HEIGHT)
    inner = tl.arange(0, WIDTH)
    x_tile = x + tl.where(token < N, token, 0)[:, None] * K + inner[None, :]
    block_row = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    begin = tl.load(start + block_row)
    value_tile = value + begin.to(tl.int64) * (HEIGHT * WIDTH)
    value_tile += tl.arange(0, HEIGHT)[:, None] * WIDTH + inner[None, :]
    total = tl.zeros((BLOCK_N, HEIGHT), dtype=tl.float32)
    for block in range(begin, tl.load(start + block_row + 1)):
        first = tl.load(column + block) * WIDTH
        a = tl.load(x_tile + first, mask=inner[None, :] < K - first, other=0.0)
        total = multiply(a, tl.trans(tl.load(value_tile)), total, PRECISION, INTERPRETED)
        value_tile += HEIGHT * WIDTH
    inside = (token < N)[:, None] & (output < M)[None, :]
    at = token[:, None] * M + output[None, :]
    total += tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    if DELTA_BIAS:
        total += tl.load(delta_bias + task * M + output, mask=output < M, other=0.0).to(tl.float32)[None, :]
    if GELU:
        total = gelu(total)
    if RESIDUAL:
        total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + task * N * M + at, total.to(out.dtype.element_ty), mask=inside)


def launch_blocks(
    start: Int32[Tensor, "..."],
    column: Int32[Tensor, "..."],
    value: Float[Tensor, "..."],
    x_NK: Float[Tensor, "..."],
    base_NM: Float[Tensor, "..."],
    *,
    tasks: int,
    delta_bias_TM: Float[Tensor, "..."] | None = None,
    gelu: bool = False,
    residual_NM: Float[Tensor, "..."] | None = None,
    tile: Tile | None = None,
) -> Float[Tensor, "..."]:
    """Return act(base + x D_t^T + db_t) + residual for every sub-task, [T, N, M] in the dtype of x.

    Args:
        start, column, value: the arrays of `BlockLayout`.
        x_NK: the input all sub-tasks share.
        base_NM: x W^T + b *before* activation and residual; float32 here saves the delta form one rounding.
        tasks: T.
        delta_bias_TM: what each sub-task adds to the bias.
        gelu: apply the exact GELU before the residual.
        residual_NM: added last.
        tile: the tile to use instead of the table's; its outputs and inputs must be the height and width of a block.

    Raises:
        ValueError: shapes, dtypes, devices that do not fit together. Indices are validated where they are packed.
    """
    checks.blocks(start, column, value, x_NK, base_NM, delta_bias_TM, residual_NM, tasks=tasks)
    (tokens, inputs), outputs = x_NK.shape, base_NM.shape[1]
    height, width = value.shape[1:]
    result = x_NK.new_empty(tasks, tokens, outputs)
    if 0 in (tasks, tokens, outputs):
        return result
    even, bits = aligned(inputs, outputs), 8 * x_NK.itemsize
    tile = tile or block_tile(checks.sm(x_NK), height=height, width=width, bits=bits, even=even)
    grid = (triton.cdiv(tokens, tile.rows), triton.cdiv(outputs, height), tasks)
    with checks.on(x_NK):
        blocks_kernel[grid](
            start,
            column,
            value,
            x_NK,
            base_NM,
            delta_bias_TM,
            residual_NM,
            result,
            tokens,
            inputs,
            outputs,
            DELTA_BIAS=delta_bias_TM is not None,
            GELU=gelu,
            RESIDUAL=residual_NM is not None,
            BLOCK_N=tile.rows,
            HEIGHT=height,
            WIDTH=width,
            PRECISION=checks.precision(x_NK.dtype),
            INTERPRETED=checks.interpreted(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return result
