"""Graphs whose weights are kept as the base's and what differs, and back to whole weights.

Every runtime puts them together when it loads; builders of engines do not: TensorRT-RTX computes nothing before a run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from slimtask.export.delta_nodes.functions import DOMAIN
from slimtask.export.weights.coding import Coding, Pool
from slimtask.export.weights.store import write_graphs

_FROM_BYTES = 1024  # smaller weights are not worth a node
_EVERYTHING = 2**62  # bytes


def share_base(graphs: Sequence[ir.Model], base: Mapping[str, np.ndarray]) -> None:
    """Change ``graphs`` in place: weights told by ``base`` (or by a graph before) become nodes that make them of it.

    ``base`` are the parameters of the base network by name, in the graphs' dtype. Standard operators on constants, of
    opset 20, which ONNX Runtime computes once when it loads. The values are the same to the bit.
    """
    known = _Known()
    for name, array in base.items():
        known.add(f"base.{name}", _matrix(array))
    for model in graphs:
        made = _Made(model, known)
        for value in list(model.graph.initializers.values()):
            made.code(value)
        made.insert()


def write_whole(graph: Path, folder: Path, *, keep: Collection[str] = ()) -> Path:
    """Return the path of a copy of an ONNX file in ``folder``, in which what depends on weights alone is computed.

    Bodies take the place of their delta nodes, but for those that ``keep`` names, which are marked for kernels compiled
    ahead of time.
    """
    made = whole(ir.load(graph), keep=keep)
    write_graphs({graph.name: made}, folder)
    return folder / graph.name


def whole(model: ir.Model, *, keep: Collection[str] = ()) -> ir.Model:
    """Return the copy of ``write_whole`` of a graph in memory."""
    import onnxscript.optimizer
    from onnx_ir.passes.common import (
        InlinePass,
        RemoveUnusedFunctionsPass,
        RemoveUnusedNodesPass,
        RemoveUnusedOpsetsPass,
    )

    made = model.clone()
    for node in made.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type in keep:
            node.attributes["aot"] = ir.AttrInt64("aot", 1)
    InlinePass(criteria=lambda function: function.name not in keep)(made)
    onnxscript.optimizer.fold_constants(
        made, input_size_limit=_EVERYTHING, output_size_limit=_EVERYTHING, should_fold=_keeps_no_zeros
    )
    for tidy in (RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass):
        tidy()(made)
    return made


def _keeps_no_zeros(node: ir.Node) -> bool | None:
    """Return True for what the folding would leave for its size, None where it decides itself."""
    return True if node.op_type == "ConstantOfShape" else None


def delta_nodes(graph: Path) -> tuple[str, ...]:
    """Return the names of the delta nodes in an ONNX file, each once."""
    nodes = ir.load(graph).graph.all_nodes()
    return tuple(dict.fromkeys(node.op_type for node in nodes if node.domain == DOMAIN))


@dataclass
class _Known:
    """What weights are told by: the base's, and what was new in the graphs so far."""

    pool: Pool = field(default_factory=Pool)
    names: list[str] = field(default_factory=list)
    tensors: list[ir.TensorProtocol] = field(default_factory=list)

    def add(self, name: str, matrix: np.ndarray) -> None:
        self.pool.add(matrix)
        self.names.append(name)
        self.tensors.append(ir.tensor(matrix, name=name))


class _Made:
    """The nodes that make the weights of one graph."""

    def __init__(self, model: ir.Model, known: _Known) -> None:
        self.graph, self.known = model.graph, known
        self.nodes: list[ir.Node] = []
        self.sources: dict[tuple[int, bool], ir.Value] = {}

    def code(self, value: ir.Value) -> None:
        """Replace an initializer by nodes if that is shorter."""
        tensor = value.const_value
        floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        if tensor is None or tensor.dtype not in floats or tensor.nbytes < _FROM_BYTES or len(tensor.shape) < 2:
            return
        array = tensor.numpy()
        matrix = _matrix(array)
        coding = self.known.pool.code(matrix)
        if coding is None:
            if any(use.node.domain == DOMAIN for use in value.uses()):
                self.known.add(f"{value.name}.delta", matrix)  # another graph may have it beside other tasks' values
            return
        if coding.same:
            return  # the very tensor is stored once anyway
        made = self._reshaped(self._decoded(coding, value.name or ""), matrix.shape, array.shape, value.name or "")
        name, shape, kind = value.name, value.shape, value.type
        ir.convenience.replace_all_uses_with(value, made)
        self.graph.initializers.pop(value.name or "")
        made.name, made.shape, made.type = name, shape, kind

    def insert(self) -> None:
        """Put the nodes in front of the graph's own."""
        if self.nodes:
            self.graph.insert_before(self.graph[0], self.nodes)

    def _decoded(self, coding: Coding, name: str) -> ir.Value:
        read = [self._source(*source) for source in coding.sources]
        if coding.places is not None:
            made = self._overwritten(read[0], coding, name)
        else:
            made = self._gathered(read, coding, name)
        if not coding.transposed:
            return made
        return self._node("Transpose", [made], made.shape[::-1], name, perm=[1, 0])  # type: ignore[index]

    def _overwritten(self, read: ir.Value, coding: Coding, name: str) -> ir.Value:
        shape = tuple(read.shape.numpy())  # type: ignore[union-attr]
        if coding.places is None or not len(coding.places):
            return read
        new = self._stored(f"{name}.delta", coding.new)
        if coding.flat:
            places = self._stored(f"{name}.places", coding.places)
            flat = self._reshaped(read, shape, (math.prod(shape),), name)
            made = self._node("ScatterElements", [flat, places, new], flat.shape, name, axis=0)
            return self._reshaped(made, (math.prod(shape),), shape, name)
        rows = self._stored(f"{name}.rows", coding.places.reshape(-1, 1))
        wide = self._node("Cast", [rows], rows.shape, name, ir.DataType.INT64, to=int(ir.DataType.INT64))
        return self._node("ScatterND", [read, wide, new], shape, name)

    def _gathered(self, read: Sequence[ir.Value], coding: Coding, name: str) -> ir.Value:
        parts = list(read)
        if len(coding.new):
            self.known.add(f"{name}.delta", coding.new)  # another graph may need the same
            parts.append(self._source(len(self.known.names) - 1, False))
        width = parts[0].shape[1]  # type: ignore[index]
        rows = sum(part.shape[0] for part in parts)  # type: ignore[index, misc]
        made = parts[0] if len(parts) == 1 else self._node("Concat", parts, (rows, width), name, axis=0)
        if coding.index is not None:
            index = self._stored(f"{name}.index", coding.index)
            made = self._node("Gather", [made, index], (len(coding.index), width), name, axis=0)
        if coding.sign is not None:
            made = self._node("Mul", [made, self._stored(f"{name}.sign", coding.sign)], made.shape, name)
        return made

    def _source(self, number: int, transposed: bool) -> ir.Value:
        if (number, transposed) not in self.sources:
            if transposed:
                read = self._source(number, False)
                made = self._node("Transpose", [read], read.shape[::-1], self.known.names[number], perm=[1, 0])  # type: ignore[index]
            else:
                made = self._initializer(self.known.names[number], self.known.tensors[number])
            self.sources[number, transposed] = made
        return self.sources[number, transposed]

    def _reshaped(self, value: ir.Value, before: Sequence[int], after: Sequence[int], name: str) -> ir.Value:
        if tuple(before) == tuple(after):
            return value
        shape = self._stored(f"{name}.shape", np.array(after, np.int64))
        return self._node("Reshape", [value, shape], after, name)

    def _stored(self, name: str, array: np.ndarray) -> ir.Value:
        return self._initializer(name, ir.tensor(np.ascontiguousarray(array), name=name))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        unique, number = name, 1
        while unique in self.graph.initializers:
            number += 1
            unique = f"{name}_{number}"
        value = ir.Value(name=unique, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        self.graph.initializers[unique] = value
        return value

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        shape: object,
        name: str,
        dtype: ir.DataType | None = None,
        **more: Any,
    ) -> ir.Value:
        number = len(self.nodes)
        node = ir.node(op, inputs, attributes=more or None, name=f"{name}/{op}_{number}")
        made = node.outputs[0]
        made.name, made.shape = f"{name}:{op}_{number}", ir.Shape(tuple(shape))  # type: ignore[arg-type]
        made.type = inputs[0].type if dtype is None else ir.TensorType(dtype)
        self.nodes.append(node)
        return made


def _matrix(array: np.ndarray) -> np.ndarray:
    """Return a weight as a matrix: outputs by everything else, or the one matrix it holds."""
    if array.ndim == 3 and array.shape[0] == 1:
        return np.ascontiguousarray(array[0])
    return np.ascontiguousarray(array.reshape(array.shape[0], -1))
