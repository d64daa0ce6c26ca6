"""Calls of the CUDA kernels: which variant, which grid, which arguments. Plain numbers, no CUDA and no torch.

Every kernel takes its inputs' pointers, then 32-bit integers, then its output's pointer: the order in which TensorRT
hands them to kernels compiled ahead of time. A pointer that a flag switches off is never read. N tokens, M outputs,
K inputs, T sub-tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from slimtask.kernels.cuda.variants import (
    SIDE,
    TENSOR_CORE,
    Gpu,
    Variant,
    blocks_variant,
    csr_variant,
    vectors_variant,
)

GELU, DELTA_BIAS, RESIDUAL, SKIP_EMPTY = 1, 2, 4, 8
HEIGHTS = (32, 64)
PITCH = 8  # a transposed input's rows are a multiple of this long
_LIMIT = 2**31


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A contiguous array where a kernel can reach it: address, shape, dtype ("int32", "float32", "bfloat16", ...)."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """One launch: buffers are passed as pointers, integers as 32-bit integers."""

    variant: Variant
    grid: int
    shared_bytes: int
    arguments: tuple[Buffer | int, ...]


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What the epilogue adds: ``delta_bias`` [T, M], the exact GELU, then ``residual`` [N, M].

    ``skip_empty`` leaves the output alone where a tile of a sub-task has no delta; blocks and csr.
    """

    delta_bias: Buffer | None = None
    gelu: bool = False
    residual: Buffer | None = None
    skip_empty: bool = False

    @property
    def flags(self) -> int:
        """The kernels' integer for it."""
        chosen = {GELU: self.gelu, DELTA_BIAS: self.delta_bias, RESIDUAL: self.residual, SKIP_EMPTY: self.skip_empty}
        return sum(flag for flag, on in chosen.items() if on)


def blocks_call(
    start: Buffer, column: Buffer, value: Buffer, x: Buffer, base: Buffer, y: Buffer, *, extras: Extras, gpu: Gpu
) -> Call:
    """Return the launch of `blocks.cu`: BlockLayout's arrays, x [N, K], base [N, M], y [T, N, M].

    Raises:
        ValueError: shapes or dtypes that do not fit together, blocks that are not 64 x 64, a float32 input.
    """
    (tokens, inputs), (tasks, _, outputs) = _two(x, "x"), _output(y)
    _tensor_core(x)
    _shape("column", column, (len_of(column),))
    _shape("value", value, (len_of(column), SIDE, SIDE))
    _shape("start", start, (tasks * -(-outputs // SIDE) + 1,))
    _common(x, base, y, extras, tokens, value=value, start=start, column=column)
    variant = blocks_variant(
        element=x.dtype, base=base.dtype, tokens=tokens, inputs=inputs, blocks=len_of(column), gpu=gpu
    )
    arguments = (start, column, value, x, *_epilogue(base, extras), tasks, tokens, outputs, inputs, extras.flags, y)
    return _call(variant, arguments, tokens, tasks * -(-outputs // SIDE), inputs, gpu)


def vectors_call(
    column: Buffer, value: Buffer, x_t: Buffer, base: Buffer, y: Buffer, *, extras: Extras, gpu: Gpu
) -> Call:
    """Return the launch of `vectors.cu`: VectorLayout's arrays, x transposed [K, pitch], base [N, M], y [T, N, M].

    Raises:
        ValueError: shapes or dtypes that do not fit together, a height other than 32 or 64, a float32 input.
    """
    tasks, tokens, outputs = _output(y)
    _tensor_core(x_t)
    if len(value.shape) != 4 or value.shape[2] not in HEIGHTS or value.shape[3] % 16:
        raise ValueError(
            f"value has shape {list(value.shape)}; the kernel takes [T, tiles, 32 or 64, a multiple of 16]: pack with "
            "such a height."
        )
    height, length = value.shape[2:]
    _shape("column", column, (tasks, -(-outputs // height), length))
    _shape("value", value, (*column.shape[:2], height, length))
    _shape("x transposed", x_t, (len_of(x_t), pitch(tokens)))
    if extras.skip_empty:
        raise ValueError("vectors have no empty tiles to skip; leave skip_empty off.")
    _common(x_t, base, y, extras, tokens, value=value, column=column)
    variant = vectors_variant(element=x_t.dtype, base=base.dtype, tokens=tokens, height=height, gpu=gpu)
    sizes = (tasks, tokens, outputs, pitch(tokens), length)
    arguments = (column, value, x_t, *_epilogue(base, extras), *sizes, extras.flags, y)
    return _call(variant, arguments, tokens, tasks * column.shape[1], len_of(x_t), gpu)


def csr_call(
    start: Buffer, column: Buffer, value: Buffer, x_t: Buffer, base: Buffer, y: Buffer, *, extras: Extras, gpu: Gpu
) -> Call:
    """Return the launch of `csr.cu`: CsrLayout's arrays, x transposed [K, pitch], base [N, M], y [T, N, M].

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """
    tasks, tokens, outputs = _output(y)
    _shape("column", column, (len_of(column),))
    _shape("value", value, (len_of(column),))
    _shape("start", start, (tasks * outputs + 1,))
    _shape("x transposed", x_t, (len_of(x_t), pitch(tokens)))
    _common(x_t, base, y, extras, tokens, value=value, start=start, column=column)
    inputs = len_of(x_t)
    variant = csr_variant(element=x_t.dtype, base=base.dtype, tokens=tokens, inputs=inputs, gpu=gpu)
    sizes = (tasks, tokens, outputs, inputs, pitch(tokens))
    arguments = (start, column, value, x_t, *_epilogue(base, extras), *sizes, extras.flags, y)
    return _call(variant, arguments, tokens, tasks * -(-outputs // 16), inputs, gpu)


def transpose_call(x: Buffer, x_t: Buffer) -> Call:
    """Return the launch of `transpose.cu`: x [N, K] to x_t [K, pitch], with zeros beyond N."""
    tokens, inputs = _two(x, "x")
    _shape("x transposed", x_t, (inputs, pitch(tokens)))
    _dtypes(x, x_t=x_t)
    variant = Variant(kernel="transpose", element=x.dtype, base=x.dtype)
    grid = -(-tokens // SIDE) * -(-inputs // SIDE)
    arguments = (x, tokens, inputs, pitch(tokens), x_t)
    return Call(variant=variant, grid=grid, shared_bytes=variant.shared_bytes(inputs), arguments=arguments)


def pitch(tokens: int) -> int:
    """Return how long the rows of a transposed input are: 16-byte copies need a multiple of eight."""
    return -(-tokens // PITCH) * PITCH


def len_of(buffer: Buffer) -> int:
    """Return the first length of a buffer, 0 if it has none."""
    return buffer.shape[0] if buffer.shape else 0


def _call(
    variant: Variant, arguments: tuple[Buffer | int, ...], tokens: int, units: int, inputs: int, gpu: Gpu
) -> Call:
    """Return the call with one thread block for every place on the GPU, whole tiles of tokens to equally many."""
    shared = variant.shared_bytes(inputs)
    tiles = -(-tokens // variant.rows)
    places = gpu.blocks_at_once(shared, variant.per_multiprocessor)
    grid = places // tiles * tiles if tiles <= places else places
    return Call(variant=variant, grid=min(grid, tiles * units), shared_bytes=shared, arguments=arguments)


def _epilogue(base: Buffer, extras: Extras) -> tuple[Buffer, Buffer, Buffer]:
    return base, extras.delta_bias or base, extras.residual or base


def _common(
    x: Buffer, base: Buffer, y: Buffer, extras: Extras, tokens: int, *, value: Buffer, **integers: Buffer
) -> None:
    tasks, _, outputs = y.shape
    _shape("y", y, (tasks, tokens, outputs))
    _shape("base", base, (tokens, outputs))
    if base.dtype not in (x.dtype, "float32"):
        raise ValueError(f"base is {base.dtype} but x is {x.dtype}; give the base in that dtype or in float32.")
    floats = {"value": value, "y": y}
    if extras.delta_bias is not None:
        _shape("delta_bias", extras.delta_bias, (tasks, outputs))
        floats["delta_bias"] = extras.delta_bias
    if extras.residual is not None:
        _shape("residual", extras.residual, (tokens, outputs))
        floats["residual"] = extras.residual
    _dtypes(x, **floats)
    for what, buffer in integers.items():
        if buffer.dtype != "int32":
            raise ValueError(f"{what} is {buffer.dtype}; give int32.")
    if value.pointer % 16:
        raise ValueError("value does not start on 16 bytes; copy it to memory of its own.")
    sizes = {"x": prod(x.shape), "base": prod(base.shape), "value": prod(value.shape)}
    for what, size in sizes.items():
        if size >= _LIMIT:
            raise ValueError(f"{what} has {size} elements; a launch takes fewer than {_LIMIT}.")


def _two(buffer: Buffer, what: str) -> tuple[int, int]:
    if len(buffer.shape) != 2:
        raise ValueError(f"{what} has shape {list(buffer.shape)}; give it two dimensions.")
    return buffer.shape[0], buffer.shape[1]


def _output(y: Buffer) -> tuple[int, int, int]:
    if len(y.shape) != 3 or 0 in y.shape:
        raise ValueError(f"y has shape {list(y.shape)}; give [T, N, M], none of them 0.")
    return y.shape[0], y.shape[1], y.shape[2]


def _tensor_core(x: Buffer) -> None:
    if x.dtype not in TENSOR_CORE:
        raise ValueError(f"x is {x.dtype}; the tensor cores' kernels take {' or '.join(TENSOR_CORE)}.")


def _shape(what: str, buffer: Buffer, expected: tuple[int, ...]) -> None:
    if buffer.shape != expected:
        raise ValueError(f"{what} has shape {list(buffer.shape)}; the other arguments ask for {list(expected)}.")


def _dtypes(x: Buffer, **others: Buffer) -> None:
    if x.dtype not in (*TENSOR_CORE, "float32"):
        raise ValueError(f"x is {x.dtype}; give {', '.join(TENSOR_CORE)} or float32.")
    for what, buffer in others.items():
        if buffer.dtype != x.dtype:
            raise ValueError(f"{what} is {buffer.dtype} but x is {x.dtype}; give both alike.")
