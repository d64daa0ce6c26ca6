"""The rules of operators that treat every channel by itself: element-wise ones, normalisations, pools, resizing."""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Shaped

from slimtask.compress.onnx.flow import Constants, Flow, Mixes, Value
from slimtask.compress.onnx.network import Network, attributes, described
from slimtask.compress.onnx.scalars import evaluate


def elementwise(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through an operator that combines its operands index by index, with broadcasting."""
    if any(node.output[1:]):
        raise Mixes("gives a second output")
    rank = len(flow.dims(node.output[0]))
    tracked = {name: flow.values[name] for name in node.input if name in flow.values}
    axes = {value.axis + rank - len(flow.dims(name)) for name, value in tracked.items()}
    if len(axes) != 1:
        raise Mixes("combines channels that lie on different axes")
    (axis,) = axes
    wide = max(tracked.values(), key=lambda value: len(value.labels))
    operands = [_operand(flow, node, name, axis, rank, wide) if name else None for name in node.input]
    _tie_constants(flow, node, axis, rank, wide)
    constant = evaluate(node.op_type, attributes(node), operands, len(wide.labels))
    flow.values[node.output[0]] = Value(axis=axis, labels=wide.labels, constant=constant)


def dropout(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a Dropout that does nothing."""
    training = flow.network.weights.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if any(node.output[1:]) or training is None or training.any():
        raise Mixes("drops at random")
    flow.values[node.output[0]] = flow.values[node.input[0]]


def batchnorm(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through BatchNormalization with fixed statistics."""
    x = flow.values[node.input[0]]
    if flow.attribute(node, "training_mode", 0) or x.axis != 1:
        raise Mixes("takes its statistics from the batch")
    scale, shift, mean, variance = (flow.weight(name).astype(np.float64) for name in node.input[1:5])
    for name in node.input[1:5]:
        flow.tie(name, 0, x.labels)
    slope = scale / np.sqrt(variance + flow.attribute(node, "epsilon", 1e-5))
    constant = np.where(slope == 0, shift, (x.constant - mean) * slope + shift)
    flow.values[node.output[0]] = Value(axis=1, labels=x.labels, constant=constant)


def instancenorm(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through InstanceNormalization, which turns a constant into its shift."""
    x = flow.values[node.input[0]]
    if x.axis != 1:
        raise Mixes("mixes its channels")
    scale, shift = flow.weight(node.input[1]), flow.weight(node.input[2]).astype(np.float64)
    for name in node.input[1:3]:
        flow.tie(name, 0, x.labels)
    constant = np.where((scale == 0) | ~np.isnan(x.constant), shift, np.nan)
    flow.values[node.output[0]] = Value(axis=1, labels=x.labels, constant=constant)


def pool(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a pool over the axes from the second on."""
    x = flow.values[node.input[0]]
    if x.axis > 1 or any(node.output[1:]):
        raise Mixes("pools over its channels")
    padded = any(flow.attribute(node, "pads", [])) or flow.attribute(node, "auto_pad", b"NOTSET").startswith(b"SAME")
    zeros_count = node.op_type == "AveragePool" and flow.attribute(node, "count_include_pad", 0)
    blurred = zeros_count and (padded or flow.attribute(node, "ceil_mode", 0))
    flow.values[node.output[0]] = _only_zero(x) if blurred else x


def pad(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Pad on other axes; a constant survives if it is padded with itself."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    pads = flow.integers(node, 1, "pads") or []
    axes = [axis % rank for axis in flow.integers(node, 3, "axes") or range(rank)]
    sides = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if any(sides.get(x.axis, ())):
        raise Mixes("pads the axis of its channels")
    constant = x.constant
    if flow.attribute(node, "mode", b"constant") == b"constant" and any(map(any, sides.values())):
        given = len(node.input) > 2 and node.input[2]
        value = float(flow.weight(node.input[2]).reshape(-1)[0]) if given else 0.0
        constant = np.where(constant == value, constant, np.nan)
    flow.values[node.output[0]] = Value(axis=x.axis, labels=x.labels, constant=constant)


def resize(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through an interpolation over other axes, whose weights sum to one."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    axes = [axis % rank for axis in flow.attribute(node, "axes", range(rank))]
    sizes = node.input[3] if len(node.input) > 3 else ""
    size = flow.dims(node.output[0])[x.axis]
    if size != len(x.labels) and (not sizes or isinstance(size, int)):
        raise Mixes("resizes the axis of its channels")
    if sizes and x.axis in axes:
        place = _where_written(flow, index, 3, axes.index(x.axis))
        if place is not None:  # else it is read off a tensor at run time, and follows that
            flow.refits.append(lambda network, keep: set_entry(network, *place, int(keep(x.labels).sum())))
    crops = flow.attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize"
    flow.values[node.output[0]] = _only_zero(x) if crops else x


def _where_written(flow: Flow, index: int, slot: int, entry: int) -> tuple[int, int, int] | None:
    """Return the (node, input, entry) of the constant that gives one number of a shape, None if it is computed."""
    nodes = flow.network.nodes
    name = nodes[index].input[slot]
    if name in flow.network.weights:
        return index, slot, entry
    made = next((number for number, node in enumerate(nodes) if name in node.output), None)
    if made is None or nodes[made].op_type not in ("Concat", "Cast", "Identity"):
        return None
    for part, source in enumerate(nodes[made].input):
        (length,) = flow.dims(source)
        if isinstance(length, str):
            return None
        if entry < length:
            return _where_written(flow, made, part, entry)
        entry -= length
    return None


def reduce(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a reduction over other axes."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    axes = flow.integers(node, 1, "axes")
    if not axes and flow.attribute(node, "noop_with_empty_axes", 0):
        flow.values[node.output[0]] = x
        return
    gone = {axis % rank for axis in axes or range(rank)}
    if x.axis in gone:
        raise Mixes("mixes its channels")
    shift = 0 if flow.attribute(node, "keepdims", 1) else sum(axis < x.axis for axis in gone)
    keeps = node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin")
    flow.values[node.output[0]] = (x if keeps else _only_zero(x)).moved(x.axis - shift)


def normalised(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a Softmax or the like over another axis."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    if flow.attribute(node, "axis", -1) % rank == x.axis:
        raise Mixes("mixes its channels")
    varies = np.full(len(x.labels), np.nan)
    flow.values[node.output[0]] = Value(axis=x.axis, labels=x.labels, constant=varies)


def set_entry(network: Network, index: int, slot: int, entry: int, value: int) -> None:
    """Set one number of the constant that a node reads at ``slot``."""
    node = network.model.graph.node[index]
    changed = network.weights[node.input[slot]].copy()
    changed[entry] = value
    network.set_constant(node, slot, changed)


def _tie_constants(flow: Flow, node: onnx.NodeProto, axis: int, rank: int, wide: Value) -> None:
    """Cut the constant operands that have an entry per channel together with the channels."""
    for name in node.input:
        array = flow.network.weights.get(name)
        position = axis - rank + array.ndim if array is not None else -1
        if array is not None and position >= 0 and array.shape[position] == len(wide.labels) > 1:
            flow.tie(name, position, wide.labels)


def _operand(flow: Flow, node: onnx.NodeProto, name: str, axis: int, rank: int, wide: Value) -> Constants:
    """Return the constants that one operand contributes per channel, coupling it to the channels of ``wide``."""
    entries = len(wide.labels)
    if name in flow.network.weights:
        return _constant_operand(flow, name, axis, rank, entries)
    value = flow.values.get(name)
    if value is None:
        dims = flow.dims(name)
        position = axis - rank + len(dims)
        if position >= 0 and dims[position] != 1:
            raise Mixes(f"combines its channels with some that have to stay ({flow.lost.get(name, 'unknown')})")
        return np.full(entries, np.nan)
    if len(value.labels) == entries:
        flow.labels.join(value.labels, wide.labels)
        return value.constant
    if len(value.labels) != 1:
        raise Mixes("combines different numbers of channels")
    flow.labels.hold(value.labels, f"{described(node)} spreads one channel over many")
    return np.broadcast_to(value.constant, (entries,)).copy()


def _constant_operand(flow: Flow, name: str, axis: int, rank: int, entries: int) -> Constants:
    array: Shaped[np.ndarray, "..."] = flow.network.weights[name]
    position = axis - rank + array.ndim
    if position < 0 or array.shape[position] == 1:
        rows = array.reshape(1, -1)
    elif array.shape[position] == entries:
        rows = np.moveaxis(array, position, 0).reshape(entries, -1)
    else:
        raise Mixes("spreads one channel over many")
    same = (rows == rows[:, :1]).all(axis=1)
    return np.broadcast_to(np.where(same, rows[:, 0].astype(np.float64), np.nan), (entries,)).copy()


def _only_zero(x: Value) -> Value:
    return Value(axis=x.axis, labels=x.labels, constant=np.where(x.constant == 0, 0.0, np.nan))
