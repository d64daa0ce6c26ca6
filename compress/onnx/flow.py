"""What is known of a graph's channels: those of every value, who makes them, who reads them, what to refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from slimtask.compress.onnx.network import Network

Entries = Int64[np.ndarray, "_"]  # labels, as many as an axis has entries
Keep = Callable[[Entries], Bool[np.ndarray, "_"]]
Refit = Callable[[Network, Keep], None]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The tied labels: ``of[label]`` is its class, and a class is one channel, to be kept or removed everywhere.

    The last class stands for all that is no channel of a linear map, and stays. ``held[c]`` is the index in ``reasons``
    of what keeps class c whatever its weights are, -1 if nothing does. Classes made by the same nodes form a group,
    ``group[c]``, -1 for the last; ``groups`` names the nodes of each.
    """

    of: Int64[np.ndarray, " labels"]
    held: Int64[np.ndarray, " classes"]
    reasons: tuple[str, ...]
    group: Int64[np.ndarray, " classes"]
    groups: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """Return the number of classes, the last one included."""
        return len(self.held)

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return len(self) - 1

    def any_of(
        self, labels: Int64[np.ndarray, " entries"], where: Bool[np.ndarray, " entries"]
    ) -> Bool[np.ndarray, " classes"]:
        """Return which classes have a label among ``labels[where]``."""
        found = np.zeros(len(self), dtype=bool)
        found[self.of[labels[where]]] = True
        return found


@dataclass(frozen=True, kw_only=True)
class Value:
    """The channels of one tensor: its channel axis, the label of each index, and the constant it holds (NaN: varies).

    A constant means that the whole slice at that index has this one value, whatever the graph's inputs are.
    """

    axis: int
    labels: Int64[np.ndarray, " entries"]
    constant: Float64[np.ndarray, " entries"]


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
    """The channels of a network; ``makers`` are the values that linear maps make, before their channels meet others."""

    network: Network
    classes: Classes
    values: dict[str, Value] = field(default_factory=dict)
    makers: list[Value] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    refits: list[Refit] = field(default_factory=list)
