"""Small ONNX graphs of linear layers, written node by node, and any graph under ONNX Runtime on the CPU.

Opset 20, IR 10, standard operators only; a session writes into buffers made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from slimtask.onnx_session import OnnxSession, open_session

Array = Shaped[np.ndarray, "..."]
BACKEND = "onnxruntime-cpu"


class Graph:
    """A graph under construction; values are named by strings."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, array: Array) -> str:
        """Return the name of ``array`` as an initializer."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Return the name (``to`` or a new one) of the only output of a new node."""
        from onnx import helper

        name = to or f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def linear(self, x: str, weight_MK: Array, bias_M: Array, *, to: str | None = None) -> str:
        """Return x W^T + b for a matrix ``x``."""
        return self.node("Gemm", x, self.constant(weight_MK), self.constant(bias_M), to=to, transB=1)

    def serialised(self, inputs: Mapping[str, Array], outputs: Mapping[str, Sequence[int]]) -> bytes:
        """Return the checked model; inputs are given by an example, outputs (float32) by their shapes."""
        import onnx
        from onnx import TensorProto, helper

        def info(name: str, kind: int, shape: Sequence[int]) -> Any:
            return helper.make_tensor_value_info(name, kind, list(shape))

        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
        graph = helper.make_graph(
            self._nodes,
            "delta",
            [info(name, kinds[name], array.shape) for name, array in inputs.items()],
            [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            initializer=self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content


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
