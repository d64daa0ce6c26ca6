"""ONNX graphs under ONNX Runtime on the CPU with any number of inputs, writing into buffers made once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from slimtask.onnx_session import OnnxSession, open_session

Array = Shaped[np.ndarray, "..."]
BACKEND = "onnxruntime-cpu"


class Session:
    """A graph, in memory or in a file, with its inputs bound; ``call`` does one inference and nothing else."""

    def __init__(self, graph: bytes | Path, feeds: Mapping[str, Array], *, threads: int) -> None:
        """Open ``graph``; of ``feeds`` it takes those that it has as inputs."""
        import onnxruntime

        opened = (
            OnnxSession(graph, {}, what="the graph", threads=threads)
            if isinstance(graph, bytes)
            else open_session(graph, threads=threads)
        )
        self._session = opened.session
        self._binding = self._session.io_binding()
        self._values: dict[str, Any] = {}
        taken = {each.name: np.ascontiguousarray(feeds[each.name]) for each in self._session.get_inputs()}
        names = [each.name for each in self._session.get_outputs()]
        for name, array in taken.items():  # ONNX Runtime borrows these buffers, so they are kept
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0)
            self._binding.bind_ortvalue_input(name, self._values[name])
        for name, array in opened.run(taken).items():
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0)
            self._binding.bind_ortvalue_output(name, self._values[name])
        self.names = tuple(names)

    def call(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, Array]:
        """Return copies of the outputs of one run, by name."""
        self.call()
        return {name: self._values[name].numpy().copy() for name in self.names}
