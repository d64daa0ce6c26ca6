"""Row budgets chosen on images: per branch the fewest tokens anew that keep a task's output within an error budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.export.shared.source import read_source
from slimtask.export.shared.thresholds import finite
from slimtask.export.shared.vit import SharedViT

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Row budgets of ``task`` by branch, of ``tokens`` rows, and the errors that they cause.

    An error is the Frobenius norm of the difference from the merged dense network's output, all images together,
    over that of the output itself: ``error`` on the calibration images, ``held_out_error`` on others.
    """

    task: str
    rows: Mapping[str, int]
    tokens: int
    error: float
    held_out_error: float | None


def calibrate_rows(
    network: nn.Module, task: str, images: Images, error_budget: float, *, held_out: Images | None = None
) -> Calibration:
    """Return row budgets of an own-fed ``task`` of a network with deltas, for ``SharedViT.of(network, rows=...)``.

    The output's relative error on ``images`` stays within ``error_budget``, and no branch's number alone can be lowered
    by bisection: first the smallest number for all branches alike is found, then that of one branch after the other,
    from the last. Branches before the task's first change have none. Raises InputError for a task without an own-fed
    delta, one with thresholds, a budget below 0, and an output that is not finite.
    """
    if not error_budget >= 0:
        raise InputError(f"the error budget {error_budget} is no share of the output's norm; give 0.01, say.")
    trial = _Trial(network, task, images)

    def within(rows: Mapping[str, int]) -> bool:
        return trial.error(rows) <= error_budget

    alike = _lowest(trial.tokens, lambda count: within(dict.fromkeys(trial.branches, count)))
    rows = dict.fromkeys(trial.branches, alike)
    for branch in reversed(trial.branches):
        rows[branch] = _lowest(rows[branch], lambda count, branch=branch: within({**rows, branch: count}))  # type: ignore[misc]
    error = trial.error(rows)
    held = None if held_out is None else trial.on(held_out).error(rows)
    return Calibration(task=task, rows=rows, tokens=trial.tokens, error=error, held_out_error=held)


class _Trial:
    """One task's shared network whose row budgets can be changed, and the merged network's outputs of images."""

    def __init__(self, network: nn.Module, task: str, images: Images, shared: SharedViT | None = None) -> None:
        self.network, self.task, self.images = network, task, images
        source = read_source(network)
        if task in source.executions and source.executions[task].thresholds:
            raise InputError(f"'{task}' has thresholds; calibrate rows without them.")
        self.tokens = (images.shape[-2] // source.patch) * (images.shape[-1] // source.patch) + 1
        every = {task: {part.name: self.tokens for part in source.branches}}
        self.shared = shared or SharedViT.of(network, [task], rows=every)
        self.branches = self.shared.trunk.row_branches(task)
        self.merged = finite(self._run(dict.fromkeys(self.branches, self.tokens)), task)

    def on(self, images: Images) -> _Trial:
        """Return the same of other images of that size."""
        return _Trial(self.network, self.task, images, self.shared)

    def error(self, rows: Mapping[str, int]) -> float:
        """Return the relative error of the output with the row budgets ``rows``."""
        difference = self._run(rows) - self.merged
        return float(difference.norm() / self.merged.norm())

    @torch.no_grad()
    def _run(self, rows: Mapping[str, int]) -> Tensor:
        self.shared.trunk.limit_rows_(self.task, rows)
        out: Tensor = self.shared(self.images)[self.task]
        return out.double()


def _lowest(most: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest number from 1 to ``most``, which holds, that bisection finds to hold."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
