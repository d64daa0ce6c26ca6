"""How a delta node of fixed shapes is launched inside an engine: PTX, grid, shared memory and integers.

TensorRT gives a kernel its inputs' pointers, then integers, then its outputs', as the CUDA kernels take them. It
launches one kernel with the 48 KiB of shared memory that need no asking, so variants are chosen that do with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from slimtask.export.delta_nodes.functions import Layer, layers
from slimtask.kernels.cuda.calls import Buffer, Call, Extras, blocks_call, csr_call, vectors_call
from slimtask.kernels.cuda.compile import PTX_TARGET, compile_kernel
from slimtask.kernels.cuda.variants import TENSOR_CORE, Gpu

SHARED_LIMIT_BYTES = 48 * 1024
_CALLS: dict[str, Callable[..., Call]] = {
    "DeltaBlocks": blocks_call,
    "DeltaVectors": vectors_call,
    "DeltaCsr": csr_call,
}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The kernel's ``name`` in its ``ptx``, how many thread blocks, threads of each, and the ``integers`` it takes."""

    name: str
    ptx: str
    grid: int
    threads: int
    shared_bytes: int
    integers: tuple[int, ...]


def supported(names: Sequence[str], dtype: str) -> tuple[Layer, ...]:
    """Return the delta nodes among ``names`` that have a kernel for ``dtype`` ("float16", "float32", ...)."""
    return tuple(
        layer for layer in layers() if layer.name in names and (layer.kind == "DeltaCsr" or dtype in TENSOR_CORE)
    )


def launch_of(layer: Layer, inputs: Sequence[tuple[tuple[int, ...], str]], gpu: Gpu) -> Launch:
    """Return the launch of a node whose inputs, in its order, have these shapes and dtypes.

    Raises ValueError for shapes that do not fit together or a dtype without a kernel, RuntimeError without NVRTC.
    """
    by_name = {
        name: Buffer(pointer=0, shape=shape, dtype=dtype)
        for name, (shape, dtype) in zip(layer.inputs, inputs, strict=True)
    }
    call = _call(layer, by_name, replace(gpu, limit_bytes=SHARED_LIMIT_BYTES))
    if call.shared_bytes > SHARED_LIMIT_BYTES:
        raise ValueError(
            f"{call.variant.name} needs {call.shared_bytes} bytes of shared memory, a kernel in an engine gets "
            f"{SHARED_LIMIT_BYTES}; export without the plugin."
        )
    compiled = compile_kernel(call.variant, PTX_TARGET)
    # An engine finds kernels by name: two variants of one kernel must not share theirs.
    name = "slimtask_" + re.sub(r"\W", "_", call.variant.name)
    ptx, renamed = re.subn(rf"(\.entry\s+){re.escape(compiled.name)}(\s*\()", rf"\g<1>{name}\g<2>", compiled.ptx)
    if renamed != 1:
        raise RuntimeError(f"the PTX of {call.variant.name} has {renamed} entries named {compiled.name}, not one")
    return Launch(
        name=name,
        ptx=ptx,
        grid=call.grid,
        threads=call.variant.threads,
        shared_bytes=call.shared_bytes,
        integers=tuple(each for each in call.arguments if isinstance(each, int)),
    )


def output_shape(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return [T, N, M] of a node whose inputs, in its order, have these shapes."""
    by_name = dict(zip(layer.inputs, shapes, strict=True))
    tokens, outputs = by_name["base"]
    if layer.kind == "DeltaVectors":
        return by_name["column"][0], tokens, outputs
    height = by_name["value"][1] if layer.kind == "DeltaBlocks" else 1
    return (by_name["start"][0] - 1) // -(-outputs // height), tokens, outputs


def _call(layer: Layer, by_name: dict[str, Buffer], gpu: Gpu) -> Call:
    extras = Extras(
        delta_bias=by_name["delta_bias"] if layer.bias else None,
        gelu=layer.gelu,
        residual=by_name["residual"] if layer.residual else None,
    )
    shape = output_shape(layer, [buffer.shape for buffer in by_name.values()])
    y = Buffer(pointer=0, shape=shape, dtype=by_name["value"].dtype)
    arrays = [buffer for name, buffer in by_name.items() if name not in ("delta_bias", "residual")]
    return _CALLS[layer.kind](*arrays, y, extras=extras, gpu=gpu)
