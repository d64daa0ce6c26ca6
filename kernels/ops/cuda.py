"""Which kernel an operator takes on a CUDA device: looked up at the first call, so that nothing is imported before.

Every function here takes what its operator takes and returns the result, or None if no kernel fits, or the GPU is older
than compute capability 8.0: the operator then runs in standard operators. `chosen` tells which it is on a GPU that has
them, without one and without launching anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimtask.kernels.checks import Size
from slimtask.kernels.ops.tensors import Shared, blocks_of
from slimtask.kernels.triton.tiles import GPUS, block_tile

STANDARD = "standard operators"
_CUDA, _TRITON_BLOCKS, _TRITON_ROWS = (
    f"slimtask.kernels.{name}" for name in ("cuda.launch", "triton.blocks", "triton.rows")
)
_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (*_HALVES, torch.float32)
Found = tuple[str, Callable[..., Tensor]]  # module and launch function
_SIDE = 64  # of the blocks that the CUDA kernel is written for
_OLDEST = (8, 0)  # compute capability: bfloat16, asynchronous copies


@cache
def kernel(module: str, name: str) -> Callable[..., Tensor] | None:
    """Return a launch function, or None where what it needs (triton, or cuda.bindings) is not installed."""
    try:
        if module == _CUDA:  # which imports the driver only when it launches
            importlib.import_module("cuda.bindings.driver")
            importlib.import_module("cuda.bindings.nvrtc")
        found: Callable[..., Tensor] | None = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found


def chosen(operator: str, dtype: torch.dtype, *, height: int = _SIDE, width: int = _SIDE) -> str:
    """Return the module whose kernel ``operator`` launches for ``dtype`` (and blocks of that size), or STANDARD."""
    found = _find(operator, dtype, height, width)
    return STANDARD if found is None else found[0]


def blocks(start: Tensor, column: Tensor, value: Tensor, *shared: Any, **named: Any) -> Tensor | None:
    """Return `delta_blocks` by CUDA C++ for blocks of 64 x 64 in half precision, by Triton for others."""
    height, width = value.shape[1:]
    x, base, *_ = of = Shared(*shared, **named)
    tasks = (start.shape[0] - 1) // blocks_of(base.shape[1], height)
    return _launched(_found("delta_blocks", x, height, width), (start, column, value), of, tasks=tasks)


def vectors(column: Tensor, value: Tensor, *shared: Any, **named: Any) -> Tensor | None:
    """Return `delta_vectors` by CUDA C++ for lists of 32 or 64 outputs in half precision."""
    of = Shared(*shared, **named)
    return _launched(_found("delta_vectors", of.x, value.shape[2]), (column, value), of)


def csr(start: Tensor, column: Tensor, value: Tensor, *shared: Any, **named: Any) -> Tensor | None:
    """Return `delta_csr` by CUDA C++."""
    of = Shared(*shared, **named)
    tasks = (start.shape[0] - 1) // of.base.shape[1]
    return _launched(_found("delta_csr", of.x), (start, column, value), of, tasks=tasks)


def rows(
    index: Tensor,
    count: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
    gather: bool = False,
) -> Tensor | None:
    """Return `delta_rows` by Triton."""
    found = _found("delta_rows", x)
    if found is None:
        return None
    index, count, weight, x, bias, residual = _packed(index, count, weight, x, bias, residual)
    return found[1](index, count, weight, x, bias_TM=bias, residual=residual, gelu=gelu, compact=not gather)


def overwriting(x: Tensor) -> Callable[..., Tensor] | None:
    """Return the kernel that writes changed rows into whole outputs in place, like those of ``x``; None without one.

    It is `triton.rows.launch_rows` with ``out_TNM``: for callers to whom the outputs belong, since operators copy.
    """
    found = _found("delta_rows", x) if x.device.type == "cuda" else None
    return None if found is None else found[1]


def _found(operator: str, x: Tensor, height: Size = 1, width: Size = 1) -> Found | None:
    """Return the kernel of ``operator`` that runs on the GPU of ``x``."""
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < _OLDEST:
        return None
    return _find(operator, x.dtype, int(height), int(width))


def _find(operator: str, dtype: torch.dtype, height: int, width: int) -> Found | None:
    candidates = {
        "delta_blocks": [
            (_CUDA, "launch_blocks", dtype in _HALVES and height == width == _SIDE),
            (_TRITON_BLOCKS, "launch_blocks", dtype in _FLOATS and _streamable(height, width, 8 * dtype.itemsize)),
        ],
        "delta_vectors": [(_CUDA, "launch_vectors", dtype in _HALVES and height in (32, 64))],
        "delta_csr": [(_CUDA, "launch_csr", dtype in _FLOATS)],
        "delta_rows": [(_TRITON_ROWS, "launch_rows", dtype in _FLOATS)],
    }
    for module, name, fits in candidates[operator]:
        launch = kernel(module, name) if fits else None
        if launch is not None:
            return module, launch
    return None


def _launched(found: Found | None, arrays: tuple[Tensor, ...], of: Shared, **sizes: Size) -> Tensor | None:
    if found is None:
        return None
    delta_bias, residual = _packed(of.delta_bias, of.residual)
    rest = {"delta_bias_TM": delta_bias, "residual_NM": residual, "gelu": of.gelu}
    return found[1](*_packed(*arrays, of.x, of.base), **sizes, **rest)


@cache
def _streamable(height: int, width: int, bits: int) -> bool:
    """Return whether Triton's kernel takes such blocks: sides are powers of two that fit into every GPU's memory."""
    if any(side < 16 or side & (side - 1) for side in (height, width)):
        return False
    tiles = {sm: block_tile(sm, height=height, width=width, bits=bits) for sm in GPUS}
    return all(tile.shared_bytes(sm, bits) <= GPUS[sm].shared_bytes for sm, tile in tiles.items())


def _packed(*tensors: Tensor | None) -> list[Any]:
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]
