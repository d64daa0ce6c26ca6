"""Launches of the CUDA kernels on torch tensors, on torch's current stream, through the driver.

Changed rows are not known here: every row gets the shared input's delta, and a launch that comes after may overwrite
the rows whose input differs.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from slimtask.kernels import checks
from slimtask.kernels.cuda import calls
from slimtask.kernels.cuda.calls import Buffer, Call, Extras
from slimtask.kernels.cuda.compile import compile_kernel
from slimtask.kernels.cuda.variants import Gpu, Variant


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
    out: Float[Tensor, "..."] | None = None,
    skip_empty: bool = False,
) -> Float[Tensor, "..."]:
    """Return act(base + x D_t^T + db_t) + residual for every sub-task, [T, N, M] in the dtype of x.

    Args:
        start, column, value: the arrays of `BlockLayout` with blocks of 64 x 64.
        x_NK: the input all sub-tasks share, bfloat16 or float16.
        base_NM: x W^T + b *before* activation and residual, in x's dtype or in float32, which saves one rounding.
        tasks: T.
        delta_bias_TM: what each sub-task adds to the bias.
        gelu: apply the exact GELU before the residual.
        residual_NM: added last.
        out: where to write.
        skip_empty: leave ``out`` as it is where 64 outputs of a sub-task have no block.

    Raises:
        ValueError: shapes, dtypes, devices that do not fit together. Indices are validated where they are packed.
    """
    y = _output(x_NK, base_NM, tasks, out, skip_empty)
    if y.numel():
        extras = _extras(x_NK, y, delta_bias_TM, gelu, residual_NM, skip_empty)
        arrays = _buffers(x_NK, start=start, column=column, value=value, x=x_NK, base=base_NM, y=y)
        run(calls.blocks_call(*arrays, extras=extras, gpu=gpu_of(x_NK)), x_NK.device)
    return y


def launch_vectors(
    column: Int32[Tensor, "..."],
    value: Float[Tensor, "..."],
    x_NK: Float[Tensor, "..."],
    base_NM: Float[Tensor, "..."],
    *,
    delta_bias_TM: Float[Tensor, "..."] | None = None,
    gelu: bool = False,
    residual_NM: Float[Tensor, "..."] | None = None,
    out: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """Return the same as `launch_blocks` for the arrays of `VectorLayout` with a height of 32 or 64.

    Raises:
        ValueError: as `launch_blocks`.
    """
    y = _output(x_NK, base_NM, column.shape[0] if column.ndim else 0, out)
    if y.numel():
        extras = _extras(x_NK, y, delta_bias_TM, gelu, residual_NM)
        x_t = _transposed(x_NK)
        arrays = _buffers(x_NK, column=column, value=value, x=x_t, base=base_NM, y=y)
        run(calls.vectors_call(*arrays, extras=extras, gpu=gpu_of(x_NK)), x_NK.device)
    return y


def launch_csr(
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
    out: Float[Tensor, "..."] | None = None,
    skip_empty: bool = False,
) -> Float[Tensor, "..."]:
    """Return the same as `launch_blocks` for the arrays of `CsrLayout`, float32 too.

    ``skip_empty`` leaves ``out`` as it is where 16 outputs of a sub-task, from a multiple of 16 on, have no entry.

    Raises:
        ValueError: as `launch_blocks`.
    """
    y = _output(x_NK, base_NM, tasks, out, skip_empty)
    if y.numel():
        extras = _extras(x_NK, y, delta_bias_TM, gelu, residual_NM, skip_empty)
        x_t = _transposed(x_NK)
        arrays = _buffers(x_NK, start=start, column=column, value=value, x=x_t, base=base_NM, y=y)
        run(calls.csr_call(*arrays, extras=extras, gpu=gpu_of(x_NK)), x_NK.device)
    return y


def _output(x: Tensor, base: Tensor, tasks: int, out: Tensor | None, skip_empty: bool = False) -> Tensor:
    if x.ndim != 2 or base.ndim != 2:
        raise ValueError(f"x has shape {list(x.shape)} and base {list(base.shape)}; give [N, K] and [N, M].")
    if out is not None:
        return out
    if skip_empty:
        raise ValueError("skip_empty leaves parts of the output alone; give the output to leave alone as out.")
    return x.new_empty(tasks, *base.shape)


def _extras(
    x: Tensor, y: Tensor, delta_bias: Tensor | None, gelu: bool, residual: Tensor | None, skip_empty: bool = False
) -> Extras:
    given = {"delta_bias": delta_bias, "residual": residual}
    present = {name: tensor for name, tensor in given.items() if tensor is not None}
    buffers = dict(zip(present, _buffers(x, **present), strict=True))
    return Extras(gelu=gelu, skip_empty=skip_empty, **buffers)


def _transposed(x_NK: Tensor) -> Tensor:
    """Return x^T [K, pitch], zeros beyond N."""
    x_t = x_NK.new_empty(x_NK.shape[1], calls.pitch(x_NK.shape[0]))
    run(calls.transpose_call(*_buffers(x_NK, x=x_NK, x_t=x_t)), x_NK.device)
    return x_t


def _buffers(like: Tensor, **tensors: Tensor) -> tuple[Buffer, ...]:
    """Return where the tensors lie; ValueError unless all are contiguous and on one device."""
    for what, tensor in tensors.items():
        if tensor.device != like.device:
            raise ValueError(f"{what} is on {tensor.device} but x is on {like.device}; give both on one device.")
    checks.contiguous(**tensors)
    return tuple(
        Buffer(pointer=tensor.data_ptr(), shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for tensor in tensors.values()
    )


def gpu_of(x: Tensor) -> Gpu:
    """Return the GPU on which ``x`` lies; ValueError if it lies elsewhere."""
    if x.device.type != "cuda":
        raise ValueError(f"x is on {x.device}, where CUDA kernels do not run; move it to a CUDA device.")
    properties: Any = torch.cuda.get_device_properties(x.device)
    return Gpu(
        sm=10 * properties.major + properties.minor,
        multiprocessors=properties.multi_processor_count,
        shared_bytes=properties.shared_memory_per_block_optin,
    )


def run(call: Call, device: torch.device) -> None:
    """Launch a call on the device's current stream; sizes are fixed, so that it may be captured in a CUDA graph."""
    from cuda.bindings import driver

    with torch.cuda.device(device):
        function = _function(call.variant, torch.cuda.current_device())
        shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, shared, call.shared_bytes))
        values = tuple(each if isinstance(each, int) else each.pointer for each in call.arguments)
        types = tuple(ctypes.c_int if isinstance(each, int) else ctypes.c_void_p for each in call.arguments)
        stream = torch.cuda.current_stream().cuda_stream
        block = (call.variant.threads, 1, 1)
        launched = driver.cuLaunchKernel(
            function, call.grid, 1, 1, *block, call.shared_bytes, stream, (values, types), 0
        )
        _checked(launched)


@cache
def _function(variant: Variant, device: int) -> Any:
    """Return the variant's function in the device's primary context, which torch keeps for the process's life."""
    from cuda.bindings import driver

    torch.cuda.current_stream()  # makes the context
    major, minor = torch.cuda.get_device_capability(device)
    compiled = compile_kernel(variant, f"sm_{10 * major + minor}")
    module = _checked(driver.cuModuleLoadData(compiled.image))
    return _checked(driver.cuModuleGetFunction(module, compiled.name.encode()))


def _checked(result: Any) -> Any:
    status, *values = result
    if status:
        raise RuntimeError(f"the CUDA driver answers {status.name}")
    return values[0] if values else None
