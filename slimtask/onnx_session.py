"""The one way an ONNX Runtime session is made: of bytes that were checked, with no file in reach and no line printed.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimtask.errors import InputError
from slimtask.onnx_bytes import scan, unreadable

LOOP_SECONDS = 8
PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


class TooLong(InputError):
    """A graph that repeats itself did not end in time."""


class OnnxSession:
    """A graph that ONNX Runtime runs: ``run`` for everybody, ``session`` for bindings and facts."""

    def __init__(
        self,
        graph: bytes,
        data: Mapping[str, bytes],
        *,
        what: str,
        backend: str = "onnxruntime-cpu",
        threads: int | None = None,
        seconds: float | int = LOOP_SECONDS,
    ) -> None:
        """Load ``graph`` with its external ``data`` (location -> content); ``what`` names it in the InputErrors.

        It runs on ``backend``, a key of PROVIDERS, and on ``threads`` (None: all cores), in the same way where it is
        timed as where it is deployed; whether the device started, ``session.get_providers()`` says. A run of a graph
        with a Loop or Scan ends after ``seconds``. Raises InputError for what ``scan`` refuses, for external data that
        is not in ``data`` or not an initialiser's, and where ONNX Runtime refuses.
        """
        import onnxruntime

        self._what, self._seconds = what, seconds
        contents = scan(graph, what)
        contents.check_files({location: len(content) for location, content in data.items()})
        for tensor in contents.external:
            if tensor.inside:
                raise unreadable(what, tensor.name, "only an initialiser can lie in a file")
        self._repeats = contents.repeats
        onnxruntime.set_default_logger_severity(4)
        options = session_options(threads)
        # An empty entry keeps the table in force for a graph that should have no external data at all.
        files = dict(data) or {"": b""}
        options.add_external_initializers_from_files_in_memory(
            list(files), list(files.values()), [len(content) for content in files.values()]
        )
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=_providers(backend))
        except Exception as error:  # onnxruntime's own exceptions share no base besides Exception
            raise InputError(f"ONNX Runtime cannot load {what} ({_reason(error)}); export it again.") from None
        self.outputs: tuple[str, ...] = tuple(output.name for output in self.session.get_outputs())

    def run(self, feed: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the named ``outputs`` (all for None) for the inputs in ``feed``; InputError where it does not run."""
        import onnxruntime

        names = list(self.outputs if outputs is None else outputs)
        settings = onnxruntime.RunOptions()
        settings.log_severity_level = 4
        watch = threading.Timer(self._seconds, lambda: setattr(settings, "terminate", True))
        watch.daemon = True
        if self._repeats:
            watch.start()
        try:
            return dict(zip(names, self.session.run(names, dict(feed), settings), strict=True))
        except Exception as error:  # as above
            if settings.terminate:
                raise TooLong(
                    f"{self._what} repeats itself (Loop, Scan) for more than {self._seconds:g} s; give one that ends."
                ) from None
            raise InputError(f"ONNX Runtime cannot run {self._what} ({_reason(error)}); export it again.") from None
        finally:
            watch.cancel()


def open_session(path: Path | str, *, backend: str = "onnxruntime-cpu", threads: int | None = None) -> OnnxSession:
    """Return the OnnxSession of the ONNX file at ``path``, read by ``open_onnx``; its InputErrors name the file."""
    from slimtask.onnx_file import open_onnx

    file = open_onnx(path)
    return OnnxSession(file.runnable(), file.data, what=f"'{path}'", backend=backend, threads=threads)


def session_options(threads: int | None = None) -> Any:
    """Return ONNX Runtime options that keep idle threads from spinning, which steals cores from other sessions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(backend: str) -> list[Any]:
    """Return what runs a graph, in order; on CUDA float32 is float32, as it is in the engines: no TF32."""
    import onnxruntime

    if PROVIDERS[backend] == "CPUExecutionProvider":
        return ["CPUExecutionProvider"]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that came with torch
    return [(PROVIDERS[backend], {"use_tf32": "0"}), "CPUExecutionProvider"]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
