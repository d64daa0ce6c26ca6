"""An ONNX graph in the form the rest works on: constants apart from the nodes, one for every use, shapes known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from jaxtyping import Shaped
from onnx import helper

Dims = tuple[int | str, ...]
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A graph without initialisers (``model``), its constants by name, and the shapes of its values where known.

    Every (node, input) has a constant of its own, so that each can be cut alone; ``origin`` says which were one in the
    file. ``aliases`` of one origin that are still equal become one again when the graph is assembled.
    """

    model: onnx.ModelProto
    weights: dict[str, Shaped[np.ndarray, "..."]]
    origin: dict[str, str]
    shapes: dict[str, Dims] = field(default_factory=dict)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes in topological order."""
        return list(self.model.graph.node)

    @property
    def opset(self) -> int:
        """Return the version of the standard operators."""
        return int(next(entry.version for entry in self.model.opset_import if entry.domain in DOMAINS))

    def copy(self) -> Network:
        """Return a copy whose nodes and table of constants can be changed; the arrays are shared."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return Network(model=model, weights=dict(self.weights), origin=dict(self.origin), shapes=self.shapes)

    def set_constant(self, node: onnx.NodeProto, slot: int, value: Shaped[np.ndarray, "..."]) -> None:
        """Make ``value`` the constant that ``node`` reads at ``slot``, adding inputs as needed."""
        node.input.extend([""] * (slot + 1 - len(node.input)))
        if node.input[slot] not in self.weights:
            node.input[slot] = self.fresh_name(f"{node.output[0]}.{slot}")
        self.weights[node.input[slot]] = value
        self.origin.setdefault(node.input[slot], node.input[slot])

    def fresh_name(self, wish: str) -> str:
        """Return ``wish`` or the first of its numbered forms that the graph does not use."""
        taken = set(self.weights) | {name for node in self.nodes for name in (*node.input, *node.output)}
        candidates = (f"{wish}.cut{index}" for index in range(len(taken) + 1))
        return next(name for name in candidates if name not in taken)


def assemble(
    network: Network, *, inline_below_bytes: float | int = math.inf
) -> tuple[onnx.ModelProto, dict[str, bytes]]:
    """Return the graph with its initialisers, and location -> content of those too large to be inline."""
    model, data = onnx.ModelProto(), dict[str, bytes]()
    model.CopyFrom(network.model)
    renamed, kept = _tie_again(network)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = renamed.get(name, name)
    read = {name for graph in graphs(model.graph) for node in graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    for name in (name for name in kept if name in read):
        array = network.weights[name]
        if array.nbytes < inline_below_bytes or array.dtype.kind not in "fiub":
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
            continue
        location = f"tensor{len(data)}"
        data[location] = array.tobytes()
        model.graph.initializer.append(external(name, array, location, 0))
    return model, data


def external(name: str, array: Shaped[np.ndarray, "..."], location: str, offset: int) -> onnx.TensorProto:
    """Return an initialiser whose content lies at ``offset`` of the file ``location``."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name; strings as bytes, tensors as protos."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def described(node: onnx.NodeProto) -> str:
    """Return a node as messages name it: ``Conv 'node_12'``, by its first output if it has no name."""
    return f"{node.op_type} '{node.name or next(filter(None, node.output), '')}'"


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph inside its nodes."""
    yield graph
    for inner in (g for node in graph.node for g in subgraphs(node)):
        yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that are attributes of ``node`` (the branches of an If, the body of a Loop)."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def captured(node: onnx.NodeProto) -> set[str]:
    """Return the names that the graphs inside ``node`` may read from outside."""
    inner = [graph for one in subgraphs(node) for graph in graphs(one)]
    read = {name for graph in inner for one in graph.node for name in one.input}
    return read | {value.name for graph in inner for value in graph.output}


def _tie_again(network: Network) -> tuple[dict[str, str], list[str]]:
    """Return alias -> name for constants that are (still) one, and the names that remain."""
    firsts: dict[str, list[str]] = {}
    renamed: dict[str, str] = {}
    for name, array in network.weights.items():
        same = firsts.setdefault(network.origin[name], [])
        twin = next((first for first in same if _equal(network.weights[first], array)), None)
        if twin is None:
            same.append(name)
        else:
            renamed[name] = twin
    return renamed, [name for names in firsts.values() for name in names]


def _equal(a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."]) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b)))
