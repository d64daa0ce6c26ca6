"""The cut: constants move into biases or carriers, initialisers lose their dead entries, shapes are refitted."""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Float64, Shaped

from slimtask.compress.onnx.dead import Decision, EntryMask, gone
from slimtask.compress.onnx.flow import Classes, Entries, Flow, Keep, Reader
from slimtask.compress.onnx.network import Network

Lost = Float64[np.ndarray, "_"]


def cut(flow: Flow, classes: Classes, decision: Decision) -> Network:
    """Return the network without the classes that go; the given one is left as it is."""
    smaller = flow.network.copy()

    def keep(labels: Entries) -> EntryMask:
        kept: EntryMask = ~decision.removed[classes.of[labels]]
        return kept

    for tie in flow.ties:
        kept = keep(tie.labels)
        if not kept.all():
            smaller.weights[tie.weight] = np.compress(kept, smaller.weights[tie.weight], axis=tie.axis)
    for refit in flow.refits:
        refit(smaller, keep)
    added = []
    for reader, carrier in zip(flow.readers, decision.carriers, strict=True):
        node = _absorb(flow, classes, decision, smaller, reader, carrier, keep)
        if node is not None:
            added.append((reader.node + 1, node))
    for position, node in reversed(added):
        smaller.model.graph.node.insert(position, node)
    del smaller.model.graph.value_info[:]
    return smaller


def _absorb(
    flow: Flow, classes: Classes, decision: Decision, smaller: Network, reader: Reader, carrier: int | None, keep: Keep
) -> onnx.NodeProto | None:
    """Give a reader, in ``smaller``, the constants it loses; return the node this adds to the graph, if any."""
    _, lost = gone(reader, classes, decision.removed)
    if not lost.any():
        return None
    rows = keep(reader.out)
    matrix = np.moveaxis(flow.network.weights[reader.weight], (reader.out_axis, reader.in_axis), (0, 1))
    taps = matrix[rows][:, lost].astype(np.float64)
    amount = np.einsum("oi...,i->o...", taps, reader.seen.constant[lost])
    if carrier is None:
        amount = amount.reshape(len(amount), -1).sum(axis=1)
        return _add_to_bias(smaller, reader, amount * reader.scale)
    column = int(keep(reader.seen.labels[:carrier]).sum())
    changed = smaller.weights[reader.weight].copy()
    view = np.moveaxis(changed, (reader.out_axis, reader.in_axis), (0, 1))
    view[:, column] += (amount / reader.seen.constant[carrier]).astype(changed.dtype)
    smaller.weights[reader.weight] = changed
    return None


def _add_to_bias(smaller: Network, reader: Reader, amount: Lost) -> onnx.NodeProto | None:
    """Add ``amount`` to a reader's bias; a MatMul has none, so it takes that of the Add behind it or a new Add."""
    node = smaller.model.graph.node[reader.node]
    slot = 2
    if node.op_type == "MatMul":
        behind = _add_behind(smaller, node, len(amount))
        if behind is None:
            return _new_add(smaller, node, amount.astype(smaller.weights[reader.weight].dtype))
        node, slot = behind
    given = len(node.input) > slot and bool(node.input[slot])
    bias = smaller.weights[node.input[slot]] if given else np.zeros(len(amount), smaller.weights[reader.weight].dtype)
    smaller.set_constant(node, slot, (bias.astype(np.float64) + amount).astype(bias.dtype))
    return None


def _add_behind(smaller: Network, node: onnx.NodeProto, outputs: int) -> tuple[onnx.NodeProto, int] | None:
    """Return the Add, and its slot, by which alone a MatMul's result gets a constant per output."""
    name = node.output[0]
    readers = [other for other in smaller.nodes if name in other.input]
    if len(readers) != 1 or readers[0].op_type != "Add" or name in {value.name for value in smaller.model.graph.output}:
        return None
    slot = 1 - list(readers[0].input).index(name)
    bias = smaller.weights.get(readers[0].input[slot])
    if bias is None or bias.ndim == 0 or bias.shape[-1] != outputs or bias.size != outputs:
        return None
    return readers[0], slot


def _new_add(smaller: Network, node: onnx.NodeProto, amount: Shaped[np.ndarray, "_"]) -> onnx.NodeProto:
    """Return an Add of ``amount`` that takes over the name of a node's output."""
    name = node.output[0]
    node.output[0] = smaller.fresh_name(f"{name}.before_bias")
    added = onnx.helper.make_node("Add", [node.output[0]], [name], name=f"{node.name or name}.bias")
    smaller.set_constant(added, 1, amount)
    return added
