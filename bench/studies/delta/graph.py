"""Small ONNX graphs of linear layers, written node by node: opset 20, IR 10, standard operators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

Array = Shaped[np.ndarray, "..."]


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
