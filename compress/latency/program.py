"""The integer program: how many channels every group keeps, for most importance within budgets.

Per group one count out of a few is chosen (one-hot). A layer's cost is a table over its input and output count, so over
pairs of choices; the product of two choices is linearised by a weight per pair whose row and column sums are the two
one-hot vectors (the transportation polytope, exact when both are one-hot). Layers between the same two groups share
their pair weights. An axis made of several groups (a concatenation) is a convex combination of grid counts instead.
A residual block is removed as a whole: count 0 of all its own groups at once, after which its layers cost nothing.
Follows the latency-aware program of MDP (CVPR 2025, arXiv 2504.02168, section 3.2), there with a mixed-integer
non-linear solver; several budgets, one per set of layers, are rows of the same program here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.specs import Axis, LayerSpec
from slimtask.errors import InputError

CostOf = Callable[[LayerSpec, Sequence[int], Sequence[int]], Float64[np.ndarray, "inputs outputs"]]
"""Returns a layer's cost for every pair of its input and output counts."""

_MIXED_POINTS = 6  # grid counts of an axis that is made of several groups


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A row of the program: ``constant`` plus the cost of ``modules`` (None: all) is at most ``at_most``."""

    cost: str
    at_most: float | int
    constant: float | int = 0.0
    modules: Collection[str] | None = None
    name: str = "the network"
    unit: str = "ms"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The program's answer: the kept count of every group, the sum of values, and the left side of every limit."""

    kept: tuple[int, ...]
    value: float
    spent: tuple[float, ...]


class Program:
    """Choices of counts, their values and costs, ready to be solved under different limits.

    ``counts[g]`` are the rising counts group g may keep, ``values[g]`` what each is worth, ``costs`` prices a layer.
    The groups of a block start with count 0, which all of them take or none: then the block is gone.
    """

    def __init__(
        self,
        specs: Sequence[LayerSpec],
        counts: Sequence[Sequence[int]],
        values: Sequence[Sequence[float]],
        costs: Mapping[str, CostOf],
        blocks: Sequence[Block] = (),
    ) -> None:
        self._specs, self._counts, self._costs = specs, counts, costs
        sizes = [len(mine) for mine in counts]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._integral, self._rows = [1] * sum(sizes), _Rows()
        self._value = np.concatenate([np.asarray(mine, dtype=np.float64) for mine in values])
        for group, size in enumerate(sizes):
            self._rows.add({int(self._first[group]) + i: 1.0 for i in range(size)}, 1.0, 1.0)
        self._mixed: dict[str, tuple[list[int], list[int]]] = {}
        self._pairs: dict[tuple[int, int], list[int]] = {}
        self._gates: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self._removed = {layer: self._gone(block) for block in blocks for layer in block.layers}
        self._terms = [self._spread(spec) for spec in specs]

    def solve(self, limits: Sequence[Limit], *, seconds: float | int = 20.0, gap: float = 0.01) -> Choice:
        """Return the choice of most value within all ``limits``.

        Optimal up to a relative ``gap``, or the best one found within ``seconds``. Raises InputError if no choice fits;
        it names the smallest reachable left side of the first limit that cannot hold on its own.
        """
        answer = self._milp(-self._padded(self._value), limits, seconds, gap)
        if answer is None:
            raise InputError(self._why_infeasible(limits, seconds, gap))
        kept = []
        for group, mine in enumerate(self._counts):
            chosen = answer[self._first[group] : self._first[group + 1]]
            kept.append(int(mine[int(chosen.argmax())]))
        spent = tuple(float(limit.constant + self._row(limit.cost, limit.modules) @ answer) for limit in limits)
        return Choice(kept=tuple(kept), value=float(self._padded(self._value) @ answer), spent=spent)

    def _milp(
        self, objective: Float64[np.ndarray, " variables"], limits: Sequence[Limit], seconds: float | int, gap: float
    ) -> Float64[np.ndarray, " variables"] | None:
        from scipy.optimize import Bounds, LinearConstraint, milp

        lines = [self._row(limit.cost, limit.modules) for limit in limits]
        constraints = [LinearConstraint(*self._rows.matrix(len(objective)))]
        for line, limit in zip(lines, limits, strict=True):
            # Rows of very different size (milliseconds, FLOPs) are brought to one scale for the solver's tolerances.
            scale = max(float(np.abs(line).max(initial=0.0)), 1e-12)
            constraints.append(LinearConstraint(line[None] / scale, -np.inf, (limit.at_most - limit.constant) / scale))
        size = max(float(np.abs(objective).max(initial=0.0)), 1e-12)
        result = milp(
            objective / size,
            constraints=constraints,
            integrality=np.asarray(self._integral),
            bounds=Bounds(0.0, 1.0),
            options={"time_limit": float(seconds), "mip_rel_gap": gap},
        )
        return None if result.x is None else np.asarray(result.x, dtype=np.float64)

    def _why_infeasible(self, limits: Sequence[Limit], seconds: float | int, gap: float) -> str:
        for limit in limits:
            least = self._milp(self._row(limit.cost, limit.modules), (), seconds, gap)
            if least is not None:
                reachable = limit.constant + float(self._row(limit.cost, limit.modules) @ least)
                if reachable > limit.at_most:
                    return (
                        f"{limit.name} cannot be brought to {limit.at_most:.4g} {limit.unit}: the smallest reachable "
                        f"is {reachable:.4g} {limit.unit}; give a larger budget or let groups keep fewer channels."
                    )
        return "no choice of channel counts meets all budgets together; relax one of them or allow more counts."

    def _row(self, cost: str, modules: Collection[str] | None) -> Float64[np.ndarray, " variables"]:
        """Return the coefficients of every variable in the cost of the layers on a path."""
        row = np.zeros(len(self._integral))
        for spec, (variables, inputs, outputs) in zip(self._specs, self._terms, strict=True):
            if modules is None or spec.module in modules:
                prices = priced(self._costs[cost], spec, sorted(set(inputs)), sorted(set(outputs)))
                rows, columns = (np.searchsorted(sorted(set(axis)), axis) for axis in (inputs, outputs))
                np.add.at(row, variables, prices[rows, columns])
        return row

    def _spread(self, spec: LayerSpec) -> tuple[list[int], list[int], list[int]]:
        """Return the variables that carry a layer's cost, with the input and output count each stands for."""
        variables, inputs, outputs = self._carried(spec)
        if spec.module in self._removed and min(inputs) > 0 and min(outputs) > 0:
            variables = self._gate(variables, self._removed[spec.module])
        return variables, inputs, outputs

    def _gone(self, block: Block) -> int:
        """Return the variable that is 1 where the block is removed: the first choice, 0, of its first group."""
        first, *others = (int(self._first[group]) for group in block.groups)
        for other in others:
            self._rows.add({first: 1.0, other: -1.0})
        return first

    def _gate(self, variables: list[int], removed: int) -> list[int]:
        """Return variables that equal ``variables`` (whose sum is one), or nothing where ``removed`` is 1.

        For the layers of a block that no count of its own brings to zero, e.g. a depthwise one on the residual stream.
        """
        key = tuple(variables), removed
        if key not in self._gates:
            gates = self._new(len(variables))
            for gate, variable in zip(gates, variables, strict=True):
                self._rows.add({gate: 1.0, variable: -1.0}, -1.0, 0.0)
            self._rows.add({**dict.fromkeys(gates, 1.0), removed: 1.0}, 1.0, 1.0)
            self._gates[key] = gates
        return self._gates[key]

    def _carried(self, spec: LayerSpec) -> tuple[list[int], list[int], list[int]]:
        """Return what ``_spread`` does of a layer that no block takes with it.

        A cost that depends on nothing is carried by the choices of the first group, of which exactly one is 1.
        """
        outputs, out_counts = self._points(spec.outputs)
        inputs, in_counts = self._points(Axis(fixed=1) if spec.shape.one_axis else spec.inputs)
        if inputs and outputs and inputs != outputs:
            pairs = self._pair(inputs, outputs)
            return pairs, [n for n in in_counts for _ in outputs], out_counts * len(inputs)
        if inputs == outputs and inputs:
            return inputs, in_counts, out_counts
        variables = inputs or outputs or list(range(int(self._first[1])))
        return variables, _repeated(in_counts, len(variables)), _repeated(out_counts, len(variables))

    def _points(self, axis: Axis) -> tuple[list[int], list[int]]:
        """Return the variables whose sum is one and that choose this axis' count, with the count each stands for."""
        free = {group: entries for group, entries in axis.parts.items() if len(self._counts[group]) > 1}
        least = axis.count([mine[0] for mine in self._counts])
        if not free:
            return [], [least]
        if len(free) == 1:
            ((group, entries),) = free.items()
            first = int(self._first[group])
            counts = [least + entries * (count - self._counts[group][0]) for count in self._counts[group]]
            return list(range(first, first + len(counts))), counts
        return self._mix(axis, free, least)

    def _mix(self, axis: Axis, free: Mapping[int, int], least: int) -> tuple[list[int], list[int]]:
        key = str(sorted(axis.parts.items())) + str(axis.fixed)
        if key not in self._mixed:
            counts = self._grid(axis, least)
            weights = self._new(len(counts))
            self._rows.add(dict.fromkeys(weights, 1.0), 1.0, 1.0)
            if least == 0:  # all of it goes with its block, or nothing: between 0 and the rest lies no straight line
                self._rows.add({weights[0]: 1.0, int(self._first[min(free)]): -1.0})
            total = {weight: float(count - least) for weight, count in zip(weights, counts, strict=True)}
            for group, entries in free.items():
                for i, count in enumerate(self._counts[group]):
                    total[int(self._first[group]) + i] = -float(entries * (count - self._counts[group][0]))
            self._rows.add(total, 0.0, 0.0)
            self._mixed[key] = weights, counts
        return self._mixed[key]

    def _grid(self, axis: Axis, least: int) -> list[int]:
        """Return the rising counts that a mixed axis is interpolated between; 0 on its own if it may vanish."""
        most = axis.count([mine[-1] for mine in self._counts])
        if least > 0:
            return sorted({round(n) for n in np.linspace(least, most, _MIXED_POINTS)})
        smallest = axis.count([next(count for count in mine if count > 0) for mine in self._counts])
        return [0, *sorted({round(n) for n in np.linspace(smallest, most, _MIXED_POINTS)})]

    def _pair(self, inputs: list[int], outputs: list[int]) -> list[int]:
        """Return the pair weights of two axes, inputs first; made once for both directions."""
        if (outputs[0], inputs[0]) in self._pairs:
            known = self._pairs[outputs[0], inputs[0]]
            return [known[j * len(inputs) + i] for i in range(len(inputs)) for j in range(len(outputs))]
        if (inputs[0], outputs[0]) not in self._pairs:
            weights = self._new(len(inputs) * len(outputs))
            for i, variable in enumerate(inputs):
                self._rows.add({**dict.fromkeys(weights[i * len(outputs) :][: len(outputs)], 1.0), variable: -1.0})
            for j, variable in enumerate(outputs):
                self._rows.add({**dict.fromkeys(weights[j :: len(outputs)], 1.0), variable: -1.0})
            self._pairs[inputs[0], outputs[0]] = weights
        return self._pairs[inputs[0], outputs[0]]

    def _new(self, count: int) -> list[int]:
        first = len(self._integral)
        self._integral += [0] * count
        return list(range(first, first + count))

    def _padded(self, row: Float64[np.ndarray, " some"]) -> Float64[np.ndarray, " variables"]:
        return np.pad(row, (0, len(self._integral) - len(row)))


class _Rows:
    """Sparse constraint rows, collected one by one."""

    def __init__(self) -> None:
        self._rows: list[tuple[dict[int, float], float, float]] = []

    def add(self, row: dict[int, float], low: float = 0.0, high: float = 0.0) -> None:
        self._rows.append((row, low, high))

    def matrix(self, variables: int) -> tuple[Any, list[float], list[float]]:
        """Return the sparse matrix [rows, variables] with the lower and upper bound of every row."""
        from scipy.sparse import csr_array

        entries = [(value, i, j) for i, (row, _, _) in enumerate(self._rows) for j, value in row.items()]
        values, rows, columns = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self._rows), variables))
        return matrix, [low for _, low, _ in self._rows], [high for _, _, high in self._rows]


def priced(
    cost: CostOf, spec: LayerSpec, inputs: Sequence[int], outputs: Sequence[int]
) -> Float64[np.ndarray, "inputs outputs"]:
    """Return the cost of a layer for every pair of counts: nothing where it reads or writes no channel."""
    there = np.outer(np.asarray(inputs) > 0, np.asarray(outputs) > 0)
    prices = cost(spec, [max(1, count) for count in inputs], [max(1, count) for count in outputs])
    return np.where(there, prices, 0.0)


def _repeated(counts: list[int], length: int) -> list[int]:
    return counts * length if len(counts) == 1 else counts
