"""One tape's labels, operation by operation, and what a coupling tells of them once everything is tied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from slimtask.compress.graph.axes import MOVES, Array, Mixed, move, varies, varying
from slimtask.compress.graph.labels import Ints, Labels, Layers
from slimtask.compress.graph.operands import operands
from slimtask.compress.network.tape import Operation, Ref, Tape


@dataclass(frozen=True, kw_only=True)
class Reading:
    """An operand that is summed up, normalised or contracted along ``axis``, over the channels ``labels`` [size]."""

    tape: int
    operation: Operation
    operand: int
    axis: int
    labels: Ints


@dataclass(kw_only=True)
class Coupling:
    """The labels of every value of the tapes, and which of them are tied in the end, ``classes`` [atoms]."""

    labels: Labels
    tapes: tuple[Tape, ...]
    values: list[dict[int, Layers]] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    classes: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def shape(self, tape: int, ref: Ref, kept: Array) -> tuple[int, ...]:
        """Return the shape that a value has once only the atoms stay where ``kept`` [atoms] is true."""
        sizes = list(ref.shape)
        for layer in self.values[tape].get(ref.number, []):
            mask = kept[layer]
            for axis in varying(layer):
                if axis < len(sizes) and layer.shape[axis] == sizes[axis]:
                    others = tuple(i for i in range(mask.ndim) if i != axis)
                    sizes[axis] = int(mask.any(axis=others).sum())
        return tuple(sizes)

    def counts(self, tape: int, ref: Ref, kept: Array) -> dict[int, tuple[int, int]]:
        """Return by axis how many channels lie along it, and how many of them stay, where some go."""
        found = {}
        for layer in self.values[tape].get(ref.number, []):
            for axis in varying(layer):
                others = tuple(i for i in range(layer.ndim) if i != axis)
                mask = np.asarray(kept[layer].any(axis=others))
                lines = np.moveaxis(layer, axis, 0).reshape(layer.shape[axis], -1)
                first = np.unique(lines, axis=0, return_index=True)[1]
                if not mask.all():
                    found[axis] = (len(first), int(mask[first].sum()))
        return found

    def kept_along(self, tape: int, ref: Ref, axis: int, kept: Array) -> Array | None:
        """Return which indices of ``axis`` stay, boolean [size]; None if the axis has no label, so that all do."""
        for layer in self.values[tape].get(ref.number, []):
            if axis < layer.ndim and varies(layer, axis):
                mask: Array = np.asarray(kept[layer].any(axis=tuple(i for i in range(layer.ndim) if i != axis)))
                return mask
        return None


class Coupler:
    """One tape's labels, operation by operation."""

    def __init__(self, index: int, tape: Tape, coupling: Coupling, leaves: dict[str, Layers]) -> None:
        self.tape = tape
        self.labels = coupling.labels
        self.values: dict[int, Layers] = {}
        self._index, self._readings = index, coupling.readings
        self._leaves = leaves
        self._weights: set[int] = set(tape.leaves)  # values computed from parameters alone
        self._leaf_views: set[int] = set(tape.leaves)  # values that are parameters, laid out anew at most
        self.read_numbers = {ref.number for op in tape.operations for ref in operands(op)}
        self.read_numbers |= {ref.number for ref in tape.outputs.values()}

    def run(self) -> None:
        """Label every value of the tape."""
        for op in self.tape.operations:
            self.labels.module = op.module
            results = self._apply(op)
            for place, output in enumerate(op.outputs):
                self.values[output.number] = results[place] if place < len(results) else []
            inputs = operands(op)
            if inputs and all(ref.number in self._weights for ref in inputs):
                self._weights |= {output.number for output in op.outputs}
                if op.name in _SAME_ENTRIES and inputs[0].number in self._leaf_views:
                    self._leaf_views |= {output.number for output in op.outputs}
        self.labels.module = ""
        for name, output in self.tape.outputs.items():
            for layer in self.of(output):
                self.labels.pin(layer, f"they are channels of the network's output '{name}'")

    def of(self, ref: Ref) -> Layers:
        """Return the labels of a value; those of a parameter are made when it is first met."""
        if ref.number not in self.values:
            name = self.tape.leaves.get(ref.number)
            if name is not None and name not in self._leaves:
                self._leaves[name] = self.labels.leaf(name, ref.shape)
            self.values[ref.number] = [] if name is None else self._leaves[name]
        return self.values[ref.number]

    def is_weight(self, ref: Ref) -> bool:
        """Return whether the value is a parameter, or computed from parameters alone."""
        return ref.number in self._weights

    def is_leaf(self, ref: Ref) -> bool:
        """Return whether the value is a parameter itself, laid out anew at most."""
        return ref.number in self._leaf_views

    def read(self, op: Operation, operand: int, axis: int, labels: Array) -> None:
        """Note that ``op`` sums over the channels ``labels`` of its operand, along ``axis``."""
        self.labels.note_read(labels)
        self._readings.append(
            Reading(tape=self._index, operation=op, operand=operand, axis=axis, labels=labels.ravel())
        )

    def elementwise(self, op: Operation) -> list[Layers]:
        """Return the labels of an element-wise result for each output of ``op``."""
        layers = self.labels.elementwise([(self.of(ref), ref.shape) for ref in operands(op)])
        return [layers for _ in op.outputs]

    def moved(self, op: Operation, source: Ref, layers: Sequence[Array]) -> list[Layers]:
        """Return where ``op`` moves the ``layers`` of its source; what it mixes is pinned."""
        results: list[Layers] = [[] for _ in op.outputs]
        for layer in layers:
            try:
                moved = move(op, layer, source)
            except Mixed:
                self.labels.pin(layer, f"'{op.name.strip('_')}' runs over them")
                continue
            for result, array in zip(results, moved or [], strict=False):
                if varying(array):
                    result.append(array)
        return [self._apart(result) for result in results]

    def _apply(self, op: Operation) -> list[Layers]:
        """Return the labels of each output of ``op``."""
        rule = RULES.get(op.name)
        if rule is not None:
            return rule(self, op)
        if op.name in MOVES and op.args and isinstance(op.args[0], Ref):
            return self.moved(op, op.args[0], self.of(op.args[0]))
        if op.pointwise:
            return self.elementwise(op)
        self.pin_all(op, f"'{op.name.strip('_')}' mixes them")
        return []

    def alike(self, one: Ref, other: Ref) -> None:
        """Tie the labels of two values of which the code makes one as large as the other."""
        self.labels.elementwise([(self.of(one), one.shape), (self.of(other), other.shape)])

    def pin_all(self, op: Operation, why: str) -> None:
        """Pin every label that ``op`` reads."""
        for ref in operands(op):
            for layer in self.of(ref):
                self.labels.pin(layer, why)

    def _apart(self, layers: Layers) -> Layers:
        """Return the layers that share no axis with another; a view that lays one over another pins both.

        Places (taps of a kernel, copies along an expanded axis) stay whole beside channels.
        """
        layers = sorted(layers, key=self.labels.is_weak)
        lost: set[int] = set()
        for index, layer in enumerate(layers):
            for before, other in enumerate(layers[:index]):
                if not varying(layer) & varying(other):
                    continue
                self.labels.pin(layer, "they are flattened with others")
                lost.add(index)
                if not self.labels.is_weak(layer):
                    self.labels.pin(other, "they are flattened with others")
                    lost.add(before)
        return [layer for index, layer in enumerate(layers) if index not in lost]


_SAME_ENTRIES = frozenset(("t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "detach", "alias"))
"""Operations by which a parameter stays itself."""

Rule = Callable[[Coupler, Operation], list[Layers]]
RULES: dict[str, Rule] = {}
"""What labels an operation gives its outputs, by its name; the modules of rules enter theirs."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Return a decorator that enters a function as the rule of the operations called ``names``."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter
