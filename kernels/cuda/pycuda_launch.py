"""Launches of the same CUDA kernels on PyCUDA's arrays, without torch: what a deployed runtime uses.

bfloat16 arrays have ml_dtypes' dtype, or uint16 for their bits. Nothing is allocated here, so that a caller may capture
its launches in a CUDA graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slimtask.kernels.cuda.calls import Buffer, Call, Extras, blocks_call, csr_call, transpose_call, vectors_call
from slimtask.kernels.cuda.compile import compile_kernel, image_in
from slimtask.kernels.cuda.variants import Gpu, Variant


class PycudaKernels:
    """The kernels in PyCUDA's current context; every array is a contiguous ``GPUArray``.

    ``folder`` holds what ``python -m slimtask.kernels.cuda.aot`` wrote; without one NVRTC compiles a variant when
    it is first launched.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._functions: dict[Variant, tuple[Any, Any]] = {}
        self._gpu = _current_gpu()

    def blocks(
        self, start: Any, column: Any, value: Any, x: Any, base: Any, y: Any, *, stream: Any = None, **extras: Any
    ) -> None:
        """Write act(base + x D_t^T + db_t) + residual into y [T, N, M]; arrays as of `calls.blocks_call`.

        ``extras`` are those of `calls.Extras`: delta_bias, gelu, residual, skip_empty.
        """
        arrays = map(_buffer, (start, column, value, x, base, y))
        self._run(blocks_call(*arrays, extras=_extras(**extras), gpu=self._gpu), stream)

    def vectors(
        self, column: Any, value: Any, x_t: Any, base: Any, y: Any, *, stream: Any = None, **extras: Any
    ) -> None:
        """Do the same for the arrays of `VectorLayout`; ``x_t`` is made by `transpose`."""
        arrays = map(_buffer, (column, value, x_t, base, y))
        self._run(vectors_call(*arrays, extras=_extras(**extras), gpu=self._gpu), stream)

    def csr(
        self, start: Any, column: Any, value: Any, x_t: Any, base: Any, y: Any, *, stream: Any = None, **extras: Any
    ) -> None:
        """Do the same for the arrays of `CsrLayout`; ``x_t`` is made by `transpose`."""
        arrays = map(_buffer, (start, column, value, x_t, base, y))
        self._run(csr_call(*arrays, extras=_extras(**extras), gpu=self._gpu), stream)

    def transpose(self, x: Any, x_t: Any, *, stream: Any = None) -> None:
        """Write x [N, K] into x_t [K, `calls.pitch` (N)], zeros beyond N."""
        self._run(transpose_call(_buffer(x), _buffer(x_t)), stream)

    def _run(self, call: Call, stream: Any) -> None:
        import pycuda.driver as cuda

        function = self._function(call.variant)
        function.set_attribute(cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, call.shared_bytes)
        values = [np.int32(each) if isinstance(each, int) else np.uintp(each.pointer) for each in call.arguments]
        block = (call.variant.threads, 1, 1)
        function(*values, block=block, grid=(call.grid, 1), shared=call.shared_bytes, stream=stream)

    def _function(self, variant: Variant) -> Any:
        if variant not in self._functions:
            import pycuda.driver as cuda

            module = cuda.module_from_buffer(self._image(variant))
            self._functions[variant] = module.get_function(variant.kernel), module  # the module must outlive it
        return self._functions[variant][0]

    def _image(self, variant: Variant) -> bytes:
        if self._folder is None:
            return compile_kernel(variant, f"sm_{self._gpu.sm}").image
        return image_in(self._folder, variant, self._gpu.sm)


def _current_gpu() -> Gpu:
    import pycuda.driver as cuda

    device, attribute = cuda.Context.get_device(), cuda.device_attribute
    major, minor = device.compute_capability()
    return Gpu(
        sm=10 * major + minor,
        multiprocessors=device.get_attribute(attribute.MULTIPROCESSOR_COUNT),
        shared_bytes=device.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
    )


def _buffer(array: Any) -> Buffer:
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {list(array.shape)} is not contiguous; copy it to one that is.")
    name = np.dtype(array.dtype).name
    dtype = "bfloat16" if name == "uint16" else name
    return Buffer(pointer=int(array.ptr), shape=tuple(map(int, array.shape)), dtype=dtype)


def _extras(delta_bias: Any = None, gelu: bool = False, residual: Any = None, skip_empty: bool = False) -> Extras:
    return Extras(
        delta_bias=None if delta_bias is None else _buffer(delta_bias),
        gelu=gelu,
        residual=None if residual is None else _buffer(residual),
        skip_empty=skip_empty,
    )
