"""Keep masks for latency budgets: scores and a measured table in, counts from the integer program, masks out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.align import allowed_counts, counts_around, spread_counts
from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.program import Choice, CostOf, Limit, Program, priced
from slimtask.compress.latency.specs import LayerSpec
from slimtask.compress.latency.table import LatencyTable
from slimtask.compress.score.counts import aligned_counts
from slimtask.compress.score.importance import top_channels
from slimtask.errors import InputError

Align = Literal["auto"] | int
Worth = Float64[np.ndarray, " _counts"]
"""What the best 0, 1, ... channels of a group are worth together."""
_WHOLE = "the network"
_FINE = 2e-3  # of all worth: what a good cut loses in all is a few hundredths
_SECONDS = 6.0  # the best that a solve has found by then is within the gap nearly always


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which channels stay, and what the table predicts of it: milliseconds per path, kept share of all worth.

    ``blocks`` names the residual blocks that go whole; their own groups keep nothing. ``distance`` is how far the
    outputs were measured to move, where they were, and ``by`` the idea of worth that chose.
    """

    keep: tuple[Bool[Tensor, " _channels"], ...]
    predicted_ms: Mapping[str, float]
    importance: float
    blocks: tuple[str, ...] = ()
    distance: float = math.nan
    by: str = "scores"

    @property
    def kept(self) -> tuple[int, ...]:
        """Return how many channels every group keeps."""
        return tuple(int(mask.sum()) for mask in self.keep)


class LatencyChooser:
    """Chooses channels of one network under one latency table; ``dense_ms`` is the uncut network, measured per path.

    ``paths`` names the modules of every path, e.g. from ``task_paths``; without it there is one, "the network". What
    a path takes beyond its layers in the table (pools, sums, activations) is spread over the elements of their outputs,
    so it shrinks with the channels; if the layers alone come out slower than the path, they are scaled down to it.
    ``scores`` rank the channels of a group; ``worths[g][k]`` is what its k best are worth beside all other groups, the
    sum of their scores without it. ``align`` "auto" takes counts off the measured staircase, a number takes its
    multiples; ``smallest`` is the least count of every group, or one least count per group. ``blocks`` may go whole;
    what one is worth is what its own groups are.
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
        blocks: Sequence[Block] = (),
        worths: Sequence[Worth] | None = None,
    ) -> None:
        self._groups, self._specs, self._paths = groups, specs, paths or {_WHOLE: {spec.module for spec in specs}}
        self._blocks, self._removable = blocks, {group for block in blocks for group in block.groups}
        if set(self._paths) != set(dense_ms):
            raise InputError(f"the dense latency of every path is needed: give one for each of {sorted(self._paths)}.")
        least = [smallest] * len(groups) if isinstance(smallest, int) else list(smallest)
        self.counts = tuple(_counts(index, groups, specs, table, align, n) for index, n in enumerate(least))
        self._scores = [score.detach().double().cpu() for score in scores]
        self._worth = list(worths) if worths is not None else [sum_of_best(score) for score in self._scores]
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
        return self._chosen(self._solve(limits))

    def for_flops(self, flops: float | int, *, within_ms: Mapping[str, float] | None = None) -> Chosen:
        """Return the channels of most importance with at most ``flops`` FLOPs, every path in ``within_ms`` within it.

        Without ``within_ms`` no path may take longer than in the network in which every group keeps about the same
        share and that has as many FLOPs.
        """
        if within_ms is None:
            within_ms = self.even_ms(flops)
        budget = Limit(cost="flops", at_most=flops, unit="FLOPs")
        return self._chosen(self._solve([budget, *(self._limit(name, ms) for name, ms in within_ms.items())]))

    def even_ms(self, flops: float | int) -> dict[str, float]:
        """Return what every path takes where all groups keep about one share, the largest that ``flops`` allow.

        Raises InputError, with the fewest FLOPs reachable, if none does.
        """
        shares = [*sorted({count / mine[-1] for mine in self.counts for count in mine}), 1.0]
        kept = [self._nearest(share) for share in shares]
        fitting = [counts for counts in kept if self._flops(counts) <= flops]
        if not fitting:
            least = self._flops([mine[0] for mine in self.counts])
            raise InputError(
                f"the network cannot be brought to {flops:.4g} FLOPs: the smallest reachable is {least:.4g}; give a "
                "larger budget or let groups keep fewer channels."
            )
        return self.predicted_ms(max(fitting, key=self._flops))

    def _nearest(self, share: float) -> tuple[int, ...]:
        """Return for every group the allowed count nearest to ``share`` of its channels."""
        return tuple(min(mine, key=lambda count: abs(count - share * mine[-1])) for mine in self.counts)

    def _flops(self, kept: Sequence[int]) -> float:
        return sum(spec.shape.flops(spec.inputs.count(kept), spec.outputs.count(kept)) for spec in self._specs)

    def predicted_ms(self, kept: Sequence[int]) -> dict[str, float]:
        """Return the milliseconds of every path when group g keeps ``kept[g]`` channels; at 0 its block is gone."""
        return {name: self._predict(name, kept) for name in self._paths}

    def _limit(self, name: str, budget: float) -> Limit:
        if name not in self._paths:
            raise InputError(f"there is no path '{name}'; the paths are {', '.join(sorted(self._paths))}.")
        return Limit(cost=name, at_most=budget, modules=self._paths[name], name=name)

    def _solve(self, limits: Sequence[Limit]) -> Choice:
        """Return the best choice among a few counts spread over each group, then among the neighbours of those."""
        wide = [spread_counts(mine) for mine in self.counts]
        near = [
            counts_around(mine, centre) if centre else spread  # a block that went may come back at any size
            for mine, spread, centre in zip(
                self.counts, wide, self._program(wide).solve(limits, seconds=_SECONDS).kept, strict=True
            )
        ]
        return self._program(near).solve(limits, seconds=_SECONDS, gap=_FINE)

    def _program(self, counts: Sequence[Sequence[int]]) -> Program:
        counts = [(0, *mine) if group in self._removable else mine for group, mine in enumerate(counts)]
        values = [worth[list(mine)].tolist() for worth, mine in zip(self._worth, counts, strict=True)]
        return Program(self._specs, counts, values, self._costs, self._blocks)

    def _predict(self, path: str, kept: Sequence[int]) -> float:
        cost, gone = self._costs[path], {layer for block in self._gone(kept) for layer in block.layers}
        layers = [spec for spec in self._specs if spec.module in self._paths[path] and spec.module not in gone]
        return sum(
            float(priced(cost, spec, [spec.inputs.count(kept)], [spec.outputs.count(kept)])[0, 0]) for spec in layers
        )

    def _gone(self, kept: Sequence[int]) -> list[Block]:
        return [block for block in self._blocks if kept[block.groups[0]] == 0]

    def _chosen(self, choice: Choice) -> Chosen:
        keep = tuple(top_channels(score, count) for score, count in zip(self._scores, choice.kept, strict=True))
        least, most = (sum(float(worth[end]) for worth in self._worth) for end in (0, -1))
        value = sum(float(worth[count]) for worth, count in zip(self._worth, choice.kept, strict=True))
        return Chosen(
            keep=keep,
            predicted_ms=self.predicted_ms(choice.kept),
            importance=(value - least) / (most - least) if most > least else 1.0,
            blocks=tuple(block.name for block in self._gone(choice.kept)),
        )


def path_cost(specs: Sequence[LayerSpec], table: LatencyTable, dense_ms: float, full: Sequence[int]) -> CostOf:
    """Return the cost in milliseconds of the layers of a path whose uncut network was measured at ``dense_ms``."""
    layers_ms = sum(table.ms(spec.shape, spec.inputs.count(full), spec.outputs.count(full)) for spec in specs)
    elements = sum(spec.elements_per_output * spec.outputs.count(full) for spec in specs)
    scale, rest = min(1.0, dense_ms / layers_ms), max(0.0, dense_ms - layers_ms) / elements

    def cost(spec: LayerSpec, inputs: Sequence[int], outputs: Sequence[int]) -> Float64[np.ndarray, "inputs outputs"]:
        further = rest * spec.elements_per_output * np.asarray(outputs, dtype=np.float64)
        return scale * table.grid_ms(spec.shape, inputs, outputs) + further

    return cost


def sum_of_best(scores: Float[Tensor, " _channels"]) -> Worth:
    """Return the sum of the best 0, 1, ... of the scores."""
    return np.concatenate([[0.0], np.sort(scores.double().cpu().numpy())[::-1].cumsum()])


def flops_cost(spec: LayerSpec, inputs: Sequence[int], outputs: Sequence[int]) -> Float64[np.ndarray, "inputs outputs"]:
    """Return the FLOPs of one layer call for every pair of counts."""
    return np.array([[spec.shape.flops(n, m) for m in outputs] for n in inputs], dtype=np.float64)


def _counts(
    index: int, groups: Sequence[Group], specs: Sequence[LayerSpec], table: LatencyTable, align: Align, smallest: int
) -> tuple[int, ...]:
    if groups[index].refused is not None:
        return (groups[index].channels,)
    if align == "auto":
        return allowed_counts(index, groups, specs, table, smallest)
    return aligned_counts(groups[index].channels, int(align), smallest)
