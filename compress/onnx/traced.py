"""An ONNX graph as a Tape: one pass in PyTorch's operations (``operators.py``), on tensors without memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from slimtask.compress.network.tape import Operation, Ref, Tape
from slimtask.compress.network.trace import Recorder
from slimtask.compress.onnx.call import Call, Unknown
from slimtask.compress.onnx.network import DOMAINS, Dims, Network, captured
from slimtask.compress.onnx.normalise import constant, infer_shapes
from slimtask.compress.onnx.operators import OPERATORS
from slimtask.compress.onnx.proof import input_shapes

INSIDE = "inside"
"""The name of what reads a value in a graph inside a node."""
_MOST_ENTRIES = 1 << 24  # along one axis
_FAILURES = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The tape of a graph, whose ``module`` is the number of the node; its values by name; how many nodes failed."""

    tape: Tape
    values: dict[str, Ref]
    numbers: dict[str, np.ndarray]
    failures: int


def trace(network: Network) -> Traced:
    """Return the Traced of ``network`` at the sizes, of those that the proof looks at, that most nodes take."""
    best: Traced | None = None
    for shapes in input_shapes(network):
        traced = _Run(network, shapes).run()
        if best is None or traced.failures < best.failures:
            best = traced
        if not best.failures:
            break
    assert best is not None
    return best


class _Nodes:
    """Tells a recorder which node is running."""

    module = ""

    def counted(self, what: str) -> int:
        return 0

    def count(self, what: str) -> int:
        return 0


class _Run:
    """The values of a graph while it is run, see ``call.Values``."""

    def __init__(self, network: Network, inputs: Mapping[str, tuple[int, ...]]) -> None:
        self._network, self._shapes = network, infer_shapes(network, inputs)
        self._numbers = {name: array for name, array in network.weights.items() if array.dtype.kind != "f"}
        self._weights = {n: self.blank(array.shape) for n, array in network.weights.items() if n not in self._numbers}
        self._tensors = dict(self._weights)
        for value in network.model.graph.input:
            with contextlib.suppress(RuntimeError):  # of a size that no tensor has; ONNX Runtime says so
                self._tensors[value.name] = self.blank(inputs[value.name], _dtype(value.type.tensor_type.elem_type))
        self._nodes, self._failures = _Nodes(), 0
        self._recorder = Recorder(self._weights, self._nodes)

    def run(self) -> Traced:
        """Return the tape of the whole graph."""
        with torch.no_grad(), self._recorder:
            for index, node in enumerate(self._network.nodes):
                self._nodes.module = str(index)
                self._mixed(INSIDE, captured(node), ())
                self._visit(node)
        tape, values = self._recorder.tape, {n: self._recorder.ref(tensor) for n, tensor in self._tensors.items()}
        tape.outputs = {v.name: values[v.name] for v in self._network.model.graph.output if v.name in values}
        return Traced(tape=tape, values=values, numbers=self._numbers, failures=self._failures)

    def tensor(self, name: str) -> Tensor:
        """Return a value as a tensor."""
        if name not in self._tensors and name in self._numbers:
            array = self._numbers[name]
            self._tensors[name] = self.blank(array.shape, torch.from_numpy(np.zeros(0, array.dtype)).dtype)
        if name not in self._tensors:
            raise Unknown
        return self._tensors[name]

    def weight(self, name: str) -> Tensor:
        """Return a constant of floats as a tensor."""
        if name not in self._weights:
            raise Unknown
        return self._weights[name]

    def numbers(self, name: str) -> np.ndarray:
        """Return a constant, or what was computed from shapes."""
        if name in self._numbers:
            return self._numbers[name]
        if name not in self._weights:
            raise Unknown
        return self._network.weights[name]

    def constant(self, name: str) -> np.ndarray | None:
        """Return a constant of the graph, None for any other value."""
        return self._network.weights.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the inferred shape of a value."""
        shape = tuple(size for size in self._shapes.get(name, ("?",)) if isinstance(size, int))
        if len(shape) != len(self._shapes.get(name, ("?",))) or max(shape, default=0) > _MOST_ENTRIES:
            raise Unknown
        return shape

    def taken(self, x: Tensor, axis: int, picks: Sequence[int]) -> Tensor:
        """Return ``x`` at the indices ``picks`` of an axis, as an operation that says which they are."""
        made = self.blank([len(picks) if place == axis else size for place, size in enumerate(x.shape)], x.dtype)
        self._note("take", (self._recorder.ref(x), axis, tuple(picks)), (made,))
        return made

    def _likely_shape(self, output: str, inputs: Sequence[str] | set[str]) -> tuple[int, ...]:
        """Return the inferred shape of what cannot be followed or, where it is open, that of an input of its rank."""
        try:
            return self.shape(output)
        except Unknown:
            shape = self._shapes.get(output)
            for name in inputs:
                if shape is not None and len(self.tensor(name).shape) == len(shape):
                    return tuple(self.tensor(name).shape)
            raise

    def _note(self, name: str, args: tuple[Any, ...], made: Sequence[Tensor]) -> None:
        """Put an operation on the tape that is none of PyTorch's."""
        outputs = tuple(self._recorder.ref(tensor) for tensor in made)
        self._recorder.tape.operations.append(
            Operation(name=name, pointwise=False, args=args, kwargs={}, outputs=outputs, module=self._nodes.module)
        )

    def blank(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor of which nothing is known; one made in sight of the recorder would be taken for code's."""
        with _disable_current_modes():
            return torch.empty(tuple(shape), dtype=dtype, device="meta")

    def _visit(self, node: onnx.NodeProto) -> None:
        number = self._number(node)
        if number is not None:
            self._numbers[node.output[0]] = number
            return
        operator = OPERATORS.get(node.op_type) if node.domain in DOMAINS else None
        try:
            if operator is None:
                raise Unknown
            results = operator(Call(node, self))
            tensors = [results] if isinstance(results, Tensor) else list(results)
            names = [name for name in node.output if name]
            for name, tensor in zip(names, tensors, strict=True):
                if not _fits(tensor, self._shapes.get(name)):
                    raise Unknown
        except (Unknown, *_FAILURES):
            self._failures += operator is not None
            self._mixed(node.op_type, [name for name in node.input if name], node.output)
        else:
            self._tensors.update(zip(names, tensors, strict=True))

    def _number(self, node: onnx.NodeProto) -> Any:
        """Return what a node computes from shapes and integers alone, None for any other node."""
        if node.domain not in DOMAINS:
            return None
        if node.op_type == "Shape" and node.input[0] in self._tensors:
            given = Call(node, self)
            shape = np.array(self._tensors[node.input[0]].shape, np.int64)
            return shape[given.attribute("start", 0) : given.attribute("end")]
        return constant(node, self._numbers, self._network.opset) if node.input else None

    def _mixed(self, name: str, inputs: Sequence[str] | set[str], outputs: Sequence[str]) -> None:
        """Record that what cannot be followed reads ``inputs``; its outputs have channels of a fixed number."""
        refs = tuple(self._recorder.ref(self._tensors[name]) for name in inputs if name in self._tensors)
        for output in outputs:
            with contextlib.suppress(Unknown, RuntimeError):
                self._tensors[output] = self.blank(self._likely_shape(output, inputs))
        if refs:
            self._note(f"onnx {name}", refs, [self._tensors[one] for one in outputs if one in self._tensors])


def _fits(tensor: Tensor, shape: Dims | None) -> bool:
    """Return whether a tensor has the inferred shape, as far as that is known."""
    if max(tensor.shape, default=0) > _MOST_ENTRIES:
        return False
    return shape is None or (
        len(shape) == tensor.ndim
        and all(isinstance(size, str) or size == own for size, own in zip(shape, tensor.shape, strict=True))
    )


def _dtype(kind: int) -> torch.dtype:
    try:
        return torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(kind))).dtype
    except (KeyError, TypeError):  # ONNX Runtime says so
        return torch.float32
