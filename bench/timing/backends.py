"""What runs an artifact: each backend opens one and gives a callable that does one complete inference.

All feed the same fixed random input and write into buffers made once, so a call is the network and nothing else. ONNX
Runtime's worker threads do not spin while idle: with several sessions alive they would steal each other's cores and a
smaller network could look slower than a large one.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from slimtask.bench.timing.environment import gpus, usable_cores
from slimtask.bench.timing.measure import Conditions
from slimtask.errors import InputError, Unsupported, nearest
from slimtask.export.precision import graph_precision
from slimtask.measured import cpu_name, version_of
from slimtask.onnx_file import open_onnx
from slimtask.onnx_session import PROVIDERS, open_session


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An artifact ready to be timed: ``call`` returns when one inference is complete."""

    call: Callable[[], object]
    conditions: Conditions


@runtime_checkable
class Backend(Protocol):
    """One way to run an artifact. ``open`` raises Unsupported where ``why_unavailable`` gives a reason."""

    @property
    def name(self) -> str:
        """Its key in ``BACKENDS`` and in reports."""
        ...

    def why_unavailable(self) -> str | None:
        """Return why this backend cannot run here, None if it can."""
        ...

    def open(
        self, artifact: Any, *, shape: Sequence[int] | None = None, threads: int | None = None, seed: int = 0
    ) -> Opened:
        """Return the artifact ready to be timed on a random input of ``shape`` (batch first)."""
        ...


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime on one execution provider; the artifact is the path of an ONNX file."""

    name: str
    device: str  # in ONNX Runtime's terms: "cpu" or "cuda"

    @property
    def provider(self) -> str:
        """Its execution provider."""
        return PROVIDERS[self.name]

    def why_unavailable(self) -> str | None:
        """Return why this backend cannot run here, None if it can."""
        try:
            import onnxruntime
        except ImportError:
            return "onnxruntime is not installed"
        if self.provider not in onnxruntime.get_available_providers():
            return f"the installed onnxruntime has no {self.provider}"
        if self.device == "cuda" and not cuda_devices():
            return "there is no NVIDIA GPU with a working driver"
        return None

    def open(
        self, artifact: Any, *, shape: Sequence[int] | None = None, threads: int | None = None, seed: int = 0
    ) -> Opened:
        """Return an ONNX file ready to be timed; ``shape`` is needed only where the graph's own is not fixed."""
        _refuse_unavailable(self)
        import onnxruntime

        path, threads = _existing(artifact), threads or usable_cores()
        opened = open_session(path, backend=self.name, threads=threads)
        session = opened.session
        if self.provider not in session.get_providers():
            raise Unsupported("the benchmark", self.name, f"{self.provider} did not start", "use onnxruntime-cpu")
        feed = _random_feed(session.get_inputs(), shape, np.random.default_rng(seed), path)
        binding = session.io_binding()
        kept = []  # ONNX Runtime borrows these buffers: they must live as long as the callable
        for name, array in feed.items():
            kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array, self.device, 0))
            binding.bind_ortvalue_input(name, kept[-1])
        for output, array in zip(session.get_outputs(), opened.run(feed).values(), strict=True):
            kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array, self.device, 0))
            binding.bind_ortvalue_output(output.name, kept[-1])

        def call(_keep: object = kept) -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        first = next(iter(feed.values()))
        version, precision = str(onnxruntime.__version__), graph_precision(open_onnx(path).model)
        return Opened(call=call, conditions=self._conditions(version, threads, precision, first.shape))

    def _conditions(self, version: str, threads: int, precision: str, shape: tuple[int, ...]) -> Conditions:
        return Conditions(
            backend=self.name,
            backend_version=version,
            device=cpu_name() if self.device == "cpu" else _gpu_name(),
            precision=precision,
            threads=threads,
            batch=shape[0] if shape else 1,
            shape=tuple(shape[1:]),
        )


@dataclass(frozen=True, kw_only=True)
class PyTorchCpu:
    """PyTorch eager on the CPU; the artifact is a module, timed in eval mode without gradients."""

    name: str = "pytorch-cpu"

    def why_unavailable(self) -> str | None:
        """Return why this backend cannot run here, None if it can."""
        return None if version_of("torch") else "torch is not installed"

    def open(
        self, artifact: Any, *, shape: Sequence[int] | None = None, threads: int | None = None, seed: int = 0
    ) -> Opened:
        """Return a module ready to be timed; it is put into eval mode, on the CPU, and stays the caller's."""
        _refuse_unavailable(self)
        import torch

        if not isinstance(artifact, torch.nn.Module) or shape is None or len(shape) < 2 or min(shape) < 1:
            raise InputError("pytorch-cpu times a torch.nn.Module; give one, and its input's shape, e.g. 1x3x96x128.")
        module, threads = artifact.eval(), threads or usable_cores()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(*shape, generator=generator)

        def call() -> None:
            before = torch.get_num_threads()
            if before != threads:
                torch.set_num_threads(threads)
            try:
                with torch.inference_mode():
                    module(x)
            finally:
                if before != threads:
                    torch.set_num_threads(before)

        names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
        kinds = {names.get(p.dtype, str(p.dtype)) for p in module.parameters() if p.is_floating_point()}
        conditions = Conditions(
            backend=self.name,
            backend_version=str(torch.__version__),
            device=cpu_name(),
            precision="+".join(sorted(kinds)) or "fp32",
            threads=threads,
            batch=x.shape[0],
            shape=tuple(x.shape[1:]),
        )
        return Opened(call=call, conditions=conditions)


_MOST_ELEMENTS = 2**27  # of an input

BACKENDS: dict[str, Backend] = {
    "onnxruntime-cpu": OnnxRuntime(name="onnxruntime-cpu", device="cpu"),
    "onnxruntime-cuda": OnnxRuntime(name="onnxruntime-cuda", device="cuda"),
    "pytorch-cpu": PyTorchCpu(),
}


def backend(name: str) -> Backend:
    """Return the backend called ``name``; InputError gives the nearest known name, Unsupported why it cannot run."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'{nearest(name, BACKENDS)}")
    _refuse_unavailable(BACKENDS[name])
    return BACKENDS[name]


def _refuse_unavailable(one: Backend) -> None:
    reason = one.why_unavailable()
    if reason is not None:
        runs = [name for name, other in BACKENDS.items() if other.why_unavailable() is None]
        raise Unsupported("the benchmark", one.name, reason, f"here {', '.join(runs) or 'nothing'} can be measured")


def _existing(artifact: Any) -> Path:
    if not isinstance(artifact, str | Path) or not Path(artifact).is_file():
        raise InputError(f"ONNX file '{artifact}' does not exist; give the path of an exported graph.")
    return Path(artifact)


def _random_feed(
    inputs: Sequence[Any], shape: Sequence[int] | None, rng: np.random.Generator, path: Path
) -> dict[str, np.ndarray]:
    """Return a random array per graph input; free dimensions take their size from ``shape``."""
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    feed = {}
    for value in inputs:
        fixed = list(value.shape)
        if shape is not None and len(shape) == len(fixed):
            fixed = [
                given if not isinstance(size, int) or size == given else -1
                for size, given in zip(fixed, shape, strict=True)
            ]
        if value.type not in types or not all(isinstance(size, int) and size > 0 for size in fixed):
            raise InputError(
                f"input '{value.name}' of '{path}' has type {value.type} and shape {value.shape}, asked for "
                f"{shape and tuple(shape)}; give a shape that the graph accepts, of a floating type."
            )
        if math.prod(fixed) > _MOST_ELEMENTS:
            raise InputError(f"input '{value.name}' of '{path}' has the shape {fixed}, which is too large to be made.")
        feed[value.name] = rng.standard_normal(fixed).astype(types[value.type])
    return feed


def _gpu_name() -> str:
    found = gpus()
    return found[0]["name"] if found else "NVIDIA GPU"


def cuda_devices() -> int:
    """Return the number of GPUs the CUDA driver sees, without creating a context."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
