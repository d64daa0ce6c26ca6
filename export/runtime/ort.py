"""ONNX Runtime session over a graph held in memory: it can reach no file but the weights given to it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimtask.errors import InputError, Unsupported

_PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


class OrtSession:
    """One ONNX graph ready to run on the CPU or a CUDA device."""

    def __init__(
        self,
        graph: bytes,
        data: Mapping[str, bytes],
        *,
        backend: str = "onnxruntime-cpu",
        threads: int | None = None,
        name: str = "the graph",
    ) -> None:
        """Load ``graph`` with its external ``data`` (location -> content) on ``threads`` threads (None: all cores).

        Raises InputError if ONNX Runtime refuses the graph and Unsupported if the device is not there.
        """
        import onnxruntime

        provider = _PROVIDERS[backend]
        if provider not in onnxruntime.get_available_providers():
            raise _no_device(backend, f"this onnxruntime has no {provider}")
        # An empty entry keeps the table in force for a graph that should have no external data at all.
        files = dict(data) or {"": b""}
        options = session_options(threads)
        options.add_external_initializers_from_files_in_memory(
            list(files), list(files.values()), [len(content) for content in files.values()]
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=_providers(provider))
        except Exception as error:  # onnxruntime's own exceptions share no base besides Exception
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise InputError(f"ONNX Runtime cannot load {name} ({reason}); export it again.") from None
        if self._session.get_providers()[0] != provider:
            raise _no_device(backend, "CUDA could not be initialised and ONNX Runtime fell back to the CPU")
        self.input = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, image: np.ndarray, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named ``outputs`` (all for None) for ``image`` float32 [N, 3, H, W] of the graph's shape."""
        names = list(outputs) if outputs is not None else list(self.outputs)
        session = self._session  # which stays while it runs, though another thread closes it
        if session is None:
            raise InputError("the session is closed; open the bundle again.")
        return dict(zip(names, session.run(names, {self.input: image}), strict=True))

    def close(self) -> None:
        """Free the session's memory."""
        self._session = None


def session_options(threads: int | None = None) -> Any:
    """Return ONNX Runtime options that keep idle threads from spinning, which steals cores from other sessions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(provider: str) -> list[Any]:
    if provider == "CPUExecutionProvider":
        return [provider]
    return [(provider, {"use_tf32": "0"}), "CPUExecutionProvider"]


def _no_device(backend: str, reason: str) -> Unsupported:
    return Unsupported(f"backend '{backend}'", "this machine", reason, "use onnxruntime-cpu")
