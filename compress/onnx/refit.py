"""What a graph states in numbers of its channels, to be told anew after a cut: target shapes, parts, places, groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.network.tape import Ref
from slimtask.compress.onnx.flow import Keep, Refit
from slimtask.compress.onnx.network import Network, attributes
from slimtask.compress.onnx.traced import Traced

_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""The input that states the shape of the output."""


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The coupling's answers about values of the graph, for what a cut keeps."""

    coupling: Coupling
    values: Mapping[str, Ref]

    def kept(self, keep: Keep) -> Any:
        """Return which atoms stay, boolean [atoms]."""
        return keep(np.arange(len(self.coupling.classes)))

    def shape(self, name: str, keep: Keep) -> tuple[int, ...]:
        """Return the shape that a value has."""
        return self.coupling.shape(0, self.values[name], self.kept(keep))

    def along(self, name: str, axis: int, keep: Keep) -> Any:
        """Return which indices of an axis stay, boolean [size]; None if all do."""
        found = self.coupling.kept_along(0, self.values[name], axis, self.kept(keep))
        return None if found is None or found.all() else found


def refits(network: Network, traced: Traced, coupling: Coupling) -> Iterator[Refit]:
    """Yield, for each node that states numbers of channels, what sets them to those that a cut keeps."""
    sizes = _Sizes(coupling=coupling, values=traced.values)
    for index, node in enumerate(network.nodes):
        if not all(name in traced.values for name in (*node.input[:1], *node.output)):
            continue
        rule = _RULES.get(node.op_type)
        if rule is not None:
            yield lambda cut, keep, rule=rule, index=index: rule(network, cut, index, sizes, keep)  # type: ignore[misc]


def _shape(network: Network, cut: Network, index: int, sizes: _Sizes, keep: Keep) -> None:
    """State the sizes of the output that became smaller."""
    node = network.nodes[index]
    slot = _SHAPES[node.op_type]
    if len(node.input) <= slot or not node.input[slot]:
        return
    before, after = sizes.values[node.output[0]].shape, sizes.shape(node.output[0], keep)
    axes = attributes(node).get("axes", range(len(before))) if node.op_type == "Resize" else range(len(before))
    for entry, axis in enumerate(axes):
        place = _written(network, index, slot, entry) if before[axis] != after[axis] else None
        if place is not None and cut.weights[cut.nodes[place[0]].input[place[1]]][place[2]] == before[axis]:
            _set_entry(cut, *place, after[axis])


def _written(network: Network, index: int, slot: int, entry: int) -> tuple[int, int, int] | None:
    """Return the (node, input, entry) of the constant that gives one number of a shape, None if it is computed."""
    nodes = network.nodes
    name = nodes[index].input[slot]
    if name in network.weights:
        return index, slot, entry
    maker = next((number for number, node in enumerate(nodes) if name in node.output), None)
    if maker is None or nodes[maker].op_type not in ("Concat", "Cast", "Identity"):
        return None
    for part, source in enumerate(nodes[maker].input):
        (length,) = network.shapes.get(source, ("?",))
        if isinstance(length, str):
            return None
        if entry < length:
            return _written(network, maker, part, entry)
        entry -= length
    return None


def _split(network: Network, cut: Network, index: int, sizes: _Sizes, keep: Keep) -> None:
    node, changed = network.nodes[index], cut.model.graph.node[index]
    axis = attributes(node).get("axis", 0)
    if sizes.along(node.input[0], axis % len(sizes.values[node.input[0]].shape), keep) is None:
        return
    for attribute in [one for one in changed.attribute if one.name == "num_outputs"]:
        changed.attribute.remove(attribute)
    cut.set_constant(changed, 1, np.array([sizes.shape(name, keep)[axis] for name in node.output], dtype=np.int64))


def _slice(network: Network, cut: Network, index: int, sizes: _Sizes, keep: Keep) -> None:
    """Count the places from and to which channels are taken among those that stay."""
    node = network.nodes[index]
    shape = sizes.values[node.input[0]].shape
    starts, ends = (network.weights.get(name) for name in node.input[1:3])
    if starts is None or ends is None:
        return
    axes = network.weights[node.input[3]].tolist() if len(node.input) > 3 and node.input[3] else range(len(starts))
    for entry, axis in enumerate(axes):
        kept = sizes.along(node.input[0], axis % len(shape), keep)
        if kept is not None:
            start, end, _ = slice(int(starts[entry]), int(ends[entry])).indices(len(kept))
            _set_entry(cut, index, 1, entry, int(kept[:start].sum()))
            _set_entry(cut, index, 2, entry, int(kept[: max(start, end)].sum()))


def _gather(network: Network, cut: Network, index: int, sizes: _Sizes, keep: Keep) -> None:
    """Number the channels that are chosen anew."""
    node = network.nodes[index]
    chosen = network.weights.get(node.input[1])
    axis = attributes(node).get("axis", 0) % len(sizes.values[node.input[0]].shape)
    kept = sizes.along(node.input[0], axis, keep)
    if kept is None or chosen is None or chosen.ndim > 1:
        return
    picks = chosen % len(kept)
    numbers = (np.cumsum(kept) - 1)[picks[kept[picks]] if picks.ndim else picks]
    cut.set_constant(cut.model.graph.node[index], 1, np.asarray(numbers, dtype=np.int64))


def _conv(network: Network, cut: Network, index: int, sizes: _Sizes, keep: Keep) -> None:
    """Count the groups that stay."""
    node = network.nodes[index]
    groups = int(attributes(node).get("group", 1))
    before, after = sizes.values[node.output[0]].shape[1], sizes.shape(node.output[0], keep)[1]
    if groups > 1 and before != after:
        attribute = next(one for one in cut.model.graph.node[index].attribute if one.name == "group")
        attribute.i = groups * after // before


def _set_entry(network: Network, index: int, slot: int, entry: int, value: int) -> None:
    """Set one number of the constant that a node reads at ``slot``."""
    node: onnx.NodeProto = network.model.graph.node[index]
    changed = network.weights[node.input[slot]].copy()
    changed[entry] = value
    network.set_constant(node, slot, changed)


_RULES: dict[str, Any] = {
    **dict.fromkeys(_SHAPES, _shape),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
