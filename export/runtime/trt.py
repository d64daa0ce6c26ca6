"""TensorRT session over PyCUDA: one engine, its device buffers and a stream. No torch.

An engine executes on deserialising, so only bytes whose hash was checked may come here. Variables carry the
names of their TensorRT classes, as in :mod:`slimtask.export.engines`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from slimtask.errors import InputError, Unsupported, nearest

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


_MODULES = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}


def tensorrt_module(backend: str) -> ModuleType:
    """Return the module of ``backend`` ("tensorrt", "tensorrt-rtx"); Unsupported says how to install a missing one."""
    if backend not in _MODULES:
        raise InputError(f"unknown engine backend '{backend}'{nearest(backend, _MODULES)}")
    name, extra = _MODULES[backend]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise Unsupported(
            f"backend '{backend}'", "this installation", f"{error}", f"pip install slimtask[{extra}]"
        ) from None


class TrtSession:
    """One engine ready to run on the first CUDA device: static shapes, buffers allocated once."""

    def __init__(self, trt: ModuleType, plan: bytes, *, name: str = "the engine") -> None:
        """Deserialise ``plan``, which must come from a hash-checked bundle, and allocate its buffers.

        Raises Unsupported without PyCUDA or a GPU, and InputError if the engine is not for this GPU or version.
        """
        self._cuda, self._primary = _open_device()
        try:
            self._logger = trt.Logger(trt.Logger.ERROR)
            self._runtime = runtime = trt.Runtime(self._logger)
            self._engine = engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise InputError(
                    f"{name} cannot be loaded by TensorRT {trt.__version__} on this GPU; build it again here: slimtask "
                    "export with --to tensorrt."
                )
            self._context = engine.create_execution_context()
            self._stream = self._cuda.Stream()
            self._host: dict[str, np.ndarray] = {}
            self._device: dict[str, Any] = {}
            self._allocate(trt, engine)
        except BaseException:
            self._primary.pop()
            raise

    def _allocate(self, trt: ModuleType, engine: Any) -> None:
        context, names = self._context, [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            dtype = _NUMPY[engine.get_tensor_dtype(name).name]
            self._host[name] = self._cuda.pagelocked_empty(tuple(engine.get_tensor_shape(name)), dtype)
            self._device[name] = self._cuda.mem_alloc(self._host[name].nbytes)
            context.set_tensor_address(name, int(self._device[name]))
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self.input = next(name for name, mode in modes.items() if mode == trt.TensorIOMode.INPUT)
        self.outputs: tuple[str, ...] = tuple(name for name, mode in modes.items() if mode == trt.TensorIOMode.OUTPUT)

    def run(self, image: np.ndarray, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named ``outputs`` (all for None) for ``image`` float32 [N, 3, H, W] of the engine's shape."""
        names = list(outputs) if outputs is not None else list(self.outputs)
        np.copyto(self._host[self.input], image)
        self._cuda.memcpy_htod_async(self._device[self.input], self._host[self.input], self._stream)
        context = self._context
        if not context.execute_async_v3(self._stream.handle):
            raise Unsupported("running the engine", "this GPU", "TensorRT refused to enqueue it", "build it again here")
        for name in names:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
        self._stream.synchronize()
        return {name: self._host[name].copy() for name in names}

    def close(self) -> None:
        """Free the engine, its buffers and the hold on the device."""
        self._device.clear()
        self._host.clear()
        del self._context, self._engine, self._runtime
        self._primary.pop()


def _open_device() -> tuple[Any, Any]:
    """Return (pycuda.driver, the pushed primary context): the context that torch and other libraries share."""
    try:
        import pycuda.driver as cuda
    except ImportError:
        raise Unsupported(
            "running an engine", "this installation", "PyCUDA is missing", "pip install slimtask[gpu]"
        ) from None
    try:
        cuda.init()
        primary = cuda.Device(0).retain_primary_context()
    except cuda.Error as error:
        raise Unsupported("running an engine", "this machine", f"CUDA says: {error}", "use onnxruntime-cpu") from None
    primary.push()
    return cuda, primary
