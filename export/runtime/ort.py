"""ONNX Runtime session over a graph held in memory: it can reach no file but the weights given to it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slimtask.errors import InputError, Unsupported
from slimtask.onnx_session import PROVIDERS, OnnxSession


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

        Raises InputError as OnnxSession does and Unsupported if the device is not there.
        """
        import onnxruntime

        provider = PROVIDERS[backend]
        if provider not in onnxruntime.get_available_providers():
            raise _no_device(backend, f"this onnxruntime has no {provider}")
        made = OnnxSession(graph, data, what=name, backend=backend, threads=threads)
        if made.session.get_providers()[0] != provider:
            raise _no_device(backend, "CUDA could not be initialised and ONNX Runtime fell back to the CPU")
        inputs = [value.name for value in made.session.get_inputs()]
        if len(inputs) != 1:
            raise InputError(f"{name} takes {len(inputs)} inputs, not one image; it is no graph of a bundle.")
        self._session: OnnxSession | None = made
        self.input, self.outputs = inputs[0], made.outputs

    def run(self, image: np.ndarray, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named ``outputs`` (all for None) for ``image`` float32 [N, 3, H, W]; InputError if it cannot."""
        session = self._session  # which stays while it runs, though another thread closes it
        if session is None:
            raise InputError("the session is closed; open the bundle again.")
        return session.run({self.input: image}, outputs)

    def close(self) -> None:
        """Free the session's memory."""
        self._session = None


def _no_device(backend: str, reason: str) -> Unsupported:
    return Unsupported(f"backend '{backend}'", "this machine", reason, "use onnxruntime-cpu")
