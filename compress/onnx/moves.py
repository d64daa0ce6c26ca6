"""The rules of operators that move channels: Concat, Split, Slice, Gather, Transpose, Reshape and its kin, Expand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx

from slimtask.compress.onnx.flow import Flow, Keep, Mixes, Value
from slimtask.compress.onnx.labels import Entries
from slimtask.compress.onnx.network import Network, described
from slimtask.compress.onnx.pointwise import set_entry


def concat(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Concat, on their own axis or (then they are coupled) on another one."""
    rank = len(flow.dims(node.output[0]))
    axes = {value.axis for value in flow.tracked(node.input)}
    if len(axes) != 1:
        raise Mixes("combines channels that lie on different axes")
    (axis,) = axes
    if flow.attribute(node, "axis", 0) % rank == axis:
        parts = [flow.values.get(name) or _untracked_part(flow, node, name, axis) for name in node.input]
        labels = np.concatenate([part.labels for part in parts])
        constant = np.concatenate([part.constant for part in parts])
    else:
        parts = flow.tracked(node.input)
        if len(parts) != len(node.input):
            raise Mixes("combines its channels with some that have to stay")
        labels, constant = parts[0].labels, parts[0].constant
        for part in parts[1:]:
            flow.labels.join(labels, part.labels)
            constant = np.where(constant == part.constant, constant, np.nan)
    flow.values[node.output[0]] = Value(axis=axis, labels=labels, constant=constant)


def split(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Split; on their own axis each part keeps what is left of it."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    if flow.attribute(node, "axis", 0) % rank != x.axis:
        for name in node.output:
            flow.values[name] = x
        return
    sizes = flow.integers(node, 1, "split")
    if sizes is None:
        size = -(-len(x.labels) // len(node.output))
        sizes = [min(size, len(x.labels) - start) for start in range(0, len(x.labels), size)]
    bounds = np.cumsum([0, *sizes])
    parts = [Value(axis=x.axis, labels=x.labels[a:b], constant=x.constant[a:b]) for a, b in pairwise(bounds.tolist())]
    for name, part in zip(node.output, parts, strict=True):
        flow.values[name] = part
    flow.refits.append(lambda network, keep: _resplit(network, keep, index, [part.labels for part in parts]))


def slice_(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Slice; on their own axis only whole runs of them."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    axes = flow.integers(node, 3, "axes")
    count = len(flow.dims(node.input[1])) and flow.dims(node.input[1])[0]
    axes = [axis % rank for axis in (range(int(count)) if axes is None else axes)]
    if x.axis not in axes:
        flow.values[node.output[0]] = x
        return
    entry, size = axes.index(x.axis), len(x.labels)
    starts, ends, steps = (flow.integers(node, slot, what) for slot, what in ((1, "starts"), (2, "ends"), (4, "steps")))
    if starts is None or ends is None or (steps is not None and steps[entry] != 1):
        raise Mixes("takes every so many of its channels")
    start, end, _ = slice(starts[entry], ends[entry]).indices(size)
    part = slice(start, max(start, end))
    flow.values[node.output[0]] = Value(axis=x.axis, labels=x.labels[part], constant=x.constant[part])
    flow.refits.append(lambda network, keep: _reslice(network, keep, index, entry, x.labels, part))


def gather(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Gather with constant indices, on their own axis a selection of them."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    axis = flow.attribute(node, "axis", 0) % rank
    chosen = flow.network.weights.get(node.input[1])
    width = len(flow.dims(node.input[1]))
    if axis != x.axis:
        flow.values[node.output[0]] = x.moved(x.axis if axis > x.axis else x.axis + width - 1)
        return
    if chosen is None or chosen.ndim != 1:
        raise Mixes("picks single channels")
    picks = chosen % len(x.labels)
    flow.values[node.output[0]] = Value(axis=axis, labels=x.labels[picks], constant=x.constant[picks])
    flow.refits.append(lambda network, keep: _regather(network, keep, index, x.labels, picks))


def transpose(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels to the axis that Transpose moves them to."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    order = list(flow.attribute(node, "perm", range(rank - 1, -1, -1)))
    flow.values[node.output[0]] = x.moved(order.index(x.axis))


def reshape(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a change of shape that keeps their axis or merges it with others of known size."""
    x, before = flow.values[node.input[0]], flow.dims(node.input[0])
    after = _resolved(before, flow.dims(node.output[0]))
    old, new = _segment(before, after, x.axis)
    sizes = [size for axis in old if isinstance(size := before[axis], int)]
    targets = [axis for axis in new if after[axis] != 1] or new[:1]
    if len(targets) != 1 or len(sizes) != len(old):
        raise Mixes("splits the axis of its channels")
    shape = [1] * len(old)
    shape[old.index(x.axis)] = len(x.labels)
    labels, constant = (
        np.broadcast_to(entries.reshape(shape), sizes).reshape(-1).copy() for entries in (x.labels, x.constant)
    )
    flow.values[node.output[0]] = Value(axis=targets[0], labels=labels, constant=constant)
    if node.op_type == "Reshape":
        _refit_reshape(flow, index, before, after, targets[0], labels)


def expand(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through Expand over other axes."""
    x, rank = flow.values[node.input[0]], len(flow.dims(node.input[0]))
    target = flow.network.weights.get(node.input[1])
    if target is None:
        raise Mixes("computes its shape at run time")
    out_rank = max(rank, len(target))
    axis, entry = x.axis + out_rank - rank, x.axis + len(target) - rank
    if entry >= 0 and target[entry] not in (1, len(x.labels)):
        raise Mixes("spreads one channel over many")
    flow.values[node.output[0]] = x.moved(axis)
    if entry >= 0:
        flow.refits.append(lambda network, keep: set_entry(network, index, 1, entry, 1))


def _untracked_part(flow: Flow, node: onnx.NodeProto, name: str, axis: int) -> Value:
    """Return channels that must stay for a part of a Concat that has none."""
    size = flow.dims(name)[axis]
    if isinstance(size, str):
        raise Mixes("appends an unknown number of channels")
    labels = flow.labels.fresh(size, f"'{name}'")
    flow.labels.hold(labels, flow.lost.get(name) or f"{described(node)} appends constants")
    return Value(axis=axis, labels=labels, constant=np.full(size, np.nan))


def _resolved(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return ``after`` with its one unknown size named as the one unknown size of ``before``, if the rest agrees."""
    unknown = [size for size in before if isinstance(size, str)]
    missing = [axis for axis, size in enumerate(after) if isinstance(size, str) and size not in before]
    known = [np.prod([size for size in dims if isinstance(size, int)], dtype=np.int64) for dims in (before, after)]
    if len(unknown) == len(missing) == 1 and known[0] == known[1]:
        return tuple(unknown[0] if axis == missing[0] else size for axis, size in enumerate(after))
    return after


def _segment(before: tuple[int | str, ...], after: tuple[int | str, ...], axis: int) -> tuple[list[int], list[int]]:
    """Return the smallest runs of axes, around ``axis`` of ``before``, that hold the same elements on both sides."""
    left = _boundaries(before, after)
    starts = [(i, j) for i, j in left if i <= axis]
    ends = [(i, j) for i, j in left if i > axis]
    if not starts or not ends:
        raise Mixes("changes a shape that is not known")
    (first, new_first), (last, new_last) = max(starts), min(ends)
    return list(range(first, last)), list(range(new_first, new_last))


def _boundaries(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> list[tuple[int, int]]:
    """Return the pairs of positions before which both shapes hold the same number of elements."""
    marks = {_product(after[:j]): j for j in range(len(after), -1, -1)}
    marks[_product(())] = 0
    found = [(i, marks[key]) for i in range(len(before)) if (key := _product(before[:i])) in marks]
    return [*found, (len(before), len(after))]


def _product(dims: tuple[int | str, ...]) -> tuple[int, tuple[str, ...]]:
    number = 1
    for size in dims:
        number *= size if isinstance(size, int) else 1
    return number, tuple(sorted(size for size in dims if isinstance(size, str)))


def _refit_reshape(
    flow: Flow, index: int, before: tuple[int | str, ...], after: tuple[int | str, ...], axis: int, labels: Entries
) -> None:
    """Arrange for the target shape to be written anew, with 0 (as before) or -1 where a size is not known."""
    target: list[int] = []
    for position, size in enumerate(after):
        same = position < len(before) and before[position] == size
        target.append(size if isinstance(size, int) else 0 if same else -1)
    if target.count(-1) > 1 or 0 in after:
        raise Mixes("changes a shape that is not known")

    def refit(network: Network, keep: Keep) -> None:
        shape = np.array(target, dtype=np.int64)
        shape[axis] = keep(labels).sum()
        changed = network.model.graph.node[index]
        network.set_constant(changed, 1, shape)
        for attribute in [one for one in changed.attribute if one.name == "allowzero"]:
            changed.attribute.remove(attribute)  # our 0 means "as before"

    flow.refits.append(refit)


def _resplit(network: Network, keep: Keep, index: int, parts: list[Entries]) -> None:
    node = network.model.graph.node[index]
    for attribute in [one for one in node.attribute if one.name == "num_outputs"]:
        node.attribute.remove(attribute)
    network.set_constant(node, 1, np.array([keep(part).sum() for part in parts], dtype=np.int64))


def _reslice(network: Network, keep: Keep, index: int, entry: int, labels: Entries, part: slice) -> None:
    start = int(keep(labels[: part.start]).sum())
    set_entry(network, index, 1, entry, start)
    set_entry(network, index, 2, entry, start + int(keep(labels[part]).sum()))


def _regather(network: Network, keep: Keep, index: int, labels: Entries, picks: Entries) -> None:
    kept = keep(labels)
    position = np.cumsum(kept) - 1
    network.set_constant(network.model.graph.node[index], 1, position[picks[kept[picks]]].astype(np.int64))
