"""Keep masks for latency budgets: scores and a measured table in, counts from the integer program, masks out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from slimtask.compress.groups import Group
from slimtask.compress.latency.align import aligned_counts, allowed_counts, counts_around, spread_counts
from slimtask.compress.latency.program import Choice, CostOf, Limit, Program
from slimtask.compress.latency.specs import LayerSpec
from slimtask.compress.latency.table import LatencyTable
from slimtask.errors import InputError

Align = Literal["auto"] | int
_WHOLE = "the network"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which channels stay, and what the table predicts of it: milliseconds per path, kept share of all scores."""

    keep: tuple[Bool[Tensor, " _channels"], ...]
    predicted_ms: Mapping[str, float]
    importance: float

    @property
    def kept(self) -> tuple[int, ...]:
        """Return how many channels every group keeps."""
        return tuple(int(mask.sum()) for mask in self.keep)


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The last try of the closing loop: what was chosen, predicted and measured, and whether that met the budget."""

    chosen: Chosen
    measured_ms: float
    tries: int
    met: bool


class LatencyChooser:
    """Chooses channels of one network under one latency table; ``dense_ms`` is the uncut network, measured per path.

    ``paths`` names the modules of every path, e.g. from ``task_paths``; without it there is one, "the network". What
    a path takes beyond its layers in the table (pools, sums, activations) is spread over the elements of their outputs,
    so it shrinks with the channels; if the layers alone come out slower than the path, they are scaled down to it.
    ``align`` "auto" takes counts off the measured staircase, a number takes its multiples; ``smallest`` is the least
    count of every group, or one least count per group.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        specs: Sequence[LayerSpec],
        scores: Sequence[Float[Tensor, " _channels"]],
        table: LatencyTable,
        dense_ms: Mapping[str, float],
        *,
        paths: Mapping[str, Collection[str]] | None = None,
        align: Align = "auto",
        smallest: int | Sequence[int] = 1,
    ) -> None:
        self._groups, self._specs, self._paths = groups, specs, paths or {_WHOLE: {spec.module for spec in specs}}
        if set(self._paths) != set(dense_ms):
            raise InputError(f"the dense latency of every path is needed: give one for each of {sorted(self._paths)}.")
        least = [smallest] * len(groups) if isinstance(smallest, int) else list(smallest)
        self.counts = tuple(_counts(index, groups, specs, table, align, n) for index, n in enumerate(least))
        self._scores = [score.detach().double().cpu() for score in scores]
        self._worth = [
            torch.cat([score.new_zeros(1), score.sort(descending=True)[0].cumsum(0)]) for score in self._scores
        ]
        full = [group.channels for group in groups]
        self._costs = {
            name: path_cost([spec for spec in specs if spec.module in modules], table, dense_ms[name], full)
            for name, modules in self._paths.items()
        }
        self._costs["flops"] = flops_cost

    def for_latency(self, budgets_ms: Mapping[str, float], *, flops: float | None = None) -> Chosen:
        """Return the channels of most importance with every path in ``budgets_ms`` within its budget.

        ``flops`` adds a budget on the FLOPs of the whole network. Raises InputError, with the smallest reachable
        latency, if a budget cannot be met, or if it names an unknown path.
        """
        limits = [self._limit(name, budget) for name, budget in budgets_ms.items()]
        if flops is not None:
            limits.append(Limit(cost="flops", at_most=flops, unit="FLOPs"))
        return self._chosen(self._solve(limits, None))

    def for_flops(self, flops: float, *, floor: float = 0.97, slack: float = 0.02, path: str = _WHOLE) -> Chosen:
        """Return the fastest channels with at most ``flops`` FLOPs, and at least ``floor`` of that.

        Of all that are predicted within ``slack`` of the fastest, those of most importance. Without the floor the
        fastest network would be the empty one; it is lowered in steps where no choice of counts lies above it.
        """
        for share in (floor, 0.98 * floor, 0.95 * floor, 0.9 * floor, 0.75 * floor, 0.0):
            window = Limit(cost="flops", at_most=flops, at_least=share * flops, unit="FLOPs")
            try:
                fastest = self._solve([window], path)
            except InputError:
                if share == 0.0:
                    raise
                continue
            least_ms = self._predict(path, fastest.kept)
            within = Limit(cost=path, at_most=least_ms * (1.0 + slack), modules=self._paths[path])
            return self._chosen(self._solve([window, within], None, around=fastest.kept))
        raise AssertionError("the last share is zero")

    def predicted_ms(self, kept: Sequence[int]) -> dict[str, float]:
        """Return the milliseconds of every path when group g keeps ``kept[g]`` channels."""
        return {name: self._predict(name, kept) for name in self._paths}

    def _limit(self, name: str, budget: float) -> Limit:
        if name not in self._paths:
            raise InputError(f"there is no path '{name}'; the paths are {', '.join(sorted(self._paths))}.")
        return Limit(cost=name, at_most=budget, modules=self._paths[name], name=name)

    def _solve(self, limits: Sequence[Limit], minimise: str | None, around: Sequence[int] | None = None) -> Choice:
        """Return the best choice among a few counts spread over each group, then among the neighbours of those."""
        if around is None:
            around = self._program([spread_counts(mine) for mine in self.counts]).solve(limits, minimise=minimise).kept
        near = [counts_around(mine, centre) for mine, centre in zip(self.counts, around, strict=True)]
        return self._program(near).solve(limits, minimise=minimise)

    def _program(self, counts: Sequence[Sequence[int]]) -> Program:
        values = [worth[list(mine)].tolist() for worth, mine in zip(self._worth, counts, strict=True)]
        return Program(self._specs, counts, values, self._costs)

    def _predict(self, path: str, kept: Sequence[int]) -> float:
        cost, modules = self._costs[path], self._paths[path]
        pairs = [(s, [s.inputs.count(kept)], [s.outputs.count(kept)]) for s in self._specs if s.module in modules]
        return sum(float(cost(spec, inputs, outputs)[0, 0]) for spec, inputs, outputs in pairs)

    def _chosen(self, choice: Choice) -> Chosen:
        keep = tuple(top_channels(score, count) for score, count in zip(self._scores, choice.kept, strict=True))
        total = sum(float(worth[-1]) for worth in self._worth)
        return Chosen(keep=keep, predicted_ms=self.predicted_ms(choice.kept), importance=choice.value / total)


def close_loop(
    choose: Callable[[float], Chosen],
    measure: Callable[[Sequence[Bool[Tensor, " _channels"]]], float],
    budget_ms: float,
    *,
    tries: int = 4,
) -> Closed:
    """Return the first choice whose really measured latency is within ``budget_ms``, else the last one tried.

    ``choose(target_ms)`` asks the program, ``measure(keep)`` cuts, exports and times the network. After a miss the
    target shrinks by the ratio of budget to measurement. Raises InputError where ``choose`` does at the first target;
    a later target out of reach ends the loop.
    """
    target, last = budget_ms, None
    for attempt in range(1, tries + 1):
        try:
            chosen = choose(target)
        except InputError:
            if last is None:
                raise
            return last
        measured = measure(chosen.keep)
        last = Closed(chosen=chosen, measured_ms=measured, tries=attempt, met=measured <= budget_ms)
        if last.met:
            return last
        target *= budget_ms / measured
    assert last is not None
    return last


def path_cost(specs: Sequence[LayerSpec], table: LatencyTable, dense_ms: float, full: Sequence[int]) -> CostOf:
    """Return the cost in milliseconds of the layers of a path whose uncut network was measured at ``dense_ms``."""
    layers_ms = sum(table.ms(spec.shape, spec.inputs.count(full), spec.outputs.count(full)) for spec in specs)
    elements = sum(spec.elements_per_output * spec.outputs.count(full) for spec in specs)
    scale, rest = min(1.0, dense_ms / layers_ms), max(0.0, dense_ms - layers_ms) / elements

    def cost(spec: LayerSpec, inputs: Sequence[int], outputs: Sequence[int]) -> Float64[np.ndarray, "inputs outputs"]:
        further = rest * spec.elements_per_output * np.asarray(outputs, dtype=np.float64)
        return scale * table.grid_ms(spec.shape, inputs, outputs) + further

    return cost


def flops_cost(spec: LayerSpec, inputs: Sequence[int], outputs: Sequence[int]) -> Float64[np.ndarray, "inputs outputs"]:
    """Return the FLOPs of one layer call for every pair of counts."""
    return np.array([[spec.shape.flops(n, m) for m in outputs] for n in inputs], dtype=np.float64)


def top_channels(scores: Float[Tensor, " _channels"], count: int) -> Bool[Tensor, " _channels"]:
    """Return a mask of the ``count`` highest scores; of equal ones the first channels stay."""
    keep = torch.zeros(len(scores), dtype=torch.bool)
    keep[scores.sort(descending=True, stable=True)[1][:count]] = True
    return keep


def _counts(
    index: int, groups: Sequence[Group], specs: Sequence[LayerSpec], table: LatencyTable, align: Align, smallest: int
) -> tuple[int, ...]:
    if groups[index].refused is not None:
        return (groups[index].channels,)
    if align == "auto":
        return allowed_counts(index, groups, specs, table, smallest)
    return aligned_counts(groups[index].channels, int(align), smallest)
