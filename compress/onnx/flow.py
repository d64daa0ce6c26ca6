"""What the walk over the graph collects: the channels of every value, who makes them, who reads them, what to refit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from jaxtyping import Bool, Float64, Int64, Shaped

from slimtask.compress.onnx.labels import Entries, Labels
from slimtask.compress.onnx.network import Dims, Network, attributes, described

Constants = Float64[np.ndarray, "_"]
Keep = Callable[[Entries], Bool[np.ndarray, "_"]]
Refit = Callable[[Network, Keep], None]


class Mixes(Exception):
    """Raised by a rule that cannot follow the channels through its node; the message completes "Softmax 'x' ..."."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """The channels of one tensor: its channel axis, the label of each index, and the constant it holds (NaN: varies).

    A constant means that the whole slice at that index has this one value, whatever the graph's inputs are.
    """

    axis: int
    labels: Int64[np.ndarray, " entries"]
    constant: Float64[np.ndarray, " entries"]

    def moved(self, axis: int) -> Value:
        """Return the same channels on another axis."""
        return Value(axis=axis, labels=self.labels, constant=self.constant)


@dataclass(frozen=True, kw_only=True)
class Tie:
    """``axis`` of the constant ``weight`` is indexed by channels: entry i goes with the channel of ``labels[i]``."""

    weight: str
    axis: int
    labels: Entries


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A linear map over all channels of its input, which can absorb constants: Conv, ConvTranspose, Gemm, MatMul.

    ``padded``: its response to a constant is not the same everywhere (zero padding), so a bias cannot absorb it.
    ``scale`` multiplies what it adds to its bias (Gemm's alpha / beta). ``reads[o, i]`` says that output o's weights on
    input i are not all zero.
    """

    node: int
    weight: str
    in_axis: int
    out_axis: int
    seen: Value
    out: Entries
    padded: bool
    scale: float
    reads: Bool[np.ndarray, "outputs inputs"]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The channels of a network. ``lost`` says why a value that is not in ``values`` has none that can be followed.

    ``makers`` are the values that new channels were made for, as their makers leave them.
    """

    network: Network
    labels: Labels = field(default_factory=Labels)
    values: dict[str, Value] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    makers: list[Value] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    refits: list[Refit] = field(default_factory=list)

    def dims(self, name: str) -> Dims:
        """Return the shape of a value; Mixes if shape inference does not know it."""
        if name not in self.network.shapes:
            raise Mixes("handles a tensor whose shape is not known")
        return self.network.shapes[name]

    def weight(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Return a constant; Mixes if ``name`` is computed by the graph."""
        if name not in self.network.weights:
            raise Mixes("takes its weights from the graph, not from an initialiser")
        return self.network.weights[name]

    def integers(self, node: onnx.NodeProto, slot: int, attribute: str) -> list[int] | None:
        """Return integers given by an input or, in older operator sets, an attribute; None if absent."""
        given = attributes(node).get(attribute)
        if given is not None:
            return [int(item) for item in given] if isinstance(given, Sequence) else [int(given)]
        if len(node.input) <= slot or not node.input[slot]:
            return None
        if node.input[slot] not in self.network.weights:
            raise Mixes(f"computes its {attribute} at run time")
        return [int(item) for item in self.network.weights[node.input[slot]].reshape(-1)]

    def tracked(self, names: Sequence[str]) -> list[Value]:
        """Return those of the named values whose channels are known."""
        return [self.values[name] for name in names if name in self.values]

    def tie(self, weight: str, axis: int, labels: Entries) -> None:
        """Index ``axis`` of a constant by channels."""
        self.ties.append(Tie(weight=weight, axis=axis, labels=labels))

    def hold(self, names: Sequence[str], reason: str) -> None:
        """Keep all channels of the named values."""
        for value in self.tracked(names):
            self.labels.hold(value.labels, reason)

    def lose(self, node: onnx.NodeProto, reason: str) -> None:
        """Keep the channels that ``node`` reads and follow none through it."""
        why = f"{described(node)} {reason}"
        self.hold(list(node.input), why)
        for name in node.output:
            self.lost[name] = why

    def attribute(self, node: onnx.NodeProto, name: str, default: Any) -> Any:
        """Return one attribute of a node."""
        return attributes(node).get(name, default)
