"""One node on the values that it reads: how the operators ask for their inputs and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor

from slimtask.compress.onnx.network import attributes


class Unknown(Exception):
    """Raised for a form of an operator that cannot be followed."""


class Values(Protocol):
    """The values of a graph while it is run, by name."""

    def tensor(self, name: str) -> Tensor:
        """Return a value as a tensor; Unknown if the run does not have it."""

    def weight(self, name: str) -> Tensor:
        """Return a constant of floats as a tensor; Unknown if ``name`` is none."""

    def numbers(self, name: str) -> np.ndarray:
        """Return a constant, or what the run has computed from shapes; Unknown if ``name`` is neither."""

    def constant(self, name: str) -> np.ndarray | None:
        """Return a constant of the graph, None for any other value."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the inferred shape of a value; Unknown if it has none."""

    def taken(self, x: Tensor, axis: int, picks: Sequence[int]) -> Tensor:
        """Return ``x`` at the indices ``picks`` of an axis."""

    def blank(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor of which nothing is known, made outside of what is recorded."""


class Call:
    """One node on the values that it reads."""

    def __init__(self, node: onnx.NodeProto, values: Values) -> None:
        self.node, self.values, self._given = node, values, attributes(node)

    def has(self, slot: int) -> bool:
        """Return whether an input is given."""
        return len(self.node.input) > slot and bool(self.node.input[slot])

    def x(self, slot: int = 0) -> Tensor:
        """Return an input as a tensor."""
        return self.values.tensor(self.node.input[slot])

    def all(self) -> list[Tensor]:
        """Return all inputs as tensors."""
        return [self.values.tensor(name) for name in self.node.input if name]

    def weight(self, slot: int) -> Tensor | None:
        """Return an input that must be a constant, None if it is not given."""
        return self.values.weight(self.node.input[slot]) if self.has(slot) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return one attribute of the node."""
        return self._given.get(name, default)

    def constant(self, slot: int) -> np.ndarray | None:
        """Return an input if it is a constant of the graph, and so will be told what a cut makes of it."""
        return self.values.constant(self.node.input[slot])

    def integers(self, slot: int, attribute: str = "") -> list[int] | None:
        """Return integers given by an input or, in older operator sets, an attribute; None if absent."""
        given = self._given.get(attribute)
        if given is not None:
            return [int(item) for item in np.asarray(given).reshape(-1)]
        if not self.has(slot):
            return None
        return [int(item) for item in self.values.numbers(self.node.input[slot]).reshape(-1)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the inferred shape of the first output."""
        return self.values.shape(self.node.output[0])

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute ``axis``, counted from the front."""
        axis = int(self.attribute("axis", default))
        if not -rank <= axis < rank:
            raise Unknown
        return axis % rank

    def alone(self) -> None:
        """Raise Unknown if more than the first output is wanted."""
        if any(self.node.output[1:]):
            raise Unknown
