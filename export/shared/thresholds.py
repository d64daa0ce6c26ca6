"""Thresholds chosen on images: per layer the most differences that may drop to the base's values within an error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError, nearest
from slimtask.export.shared.plan import SITES
from slimtask.export.shared.source import Source, read_source

Images = Float[Tensor, "batch 3 height width"]
LINEAR = ("qkv", "proj", "fc1", "fc2")
LEVELS = 32  # of the share of differences that drop, from none to all


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds of ``task`` by site ("encoder_layer_3.fc1"), and the errors that they cause.

    ``dropped`` is the share of a site's elements, of those that differ at all, which take the base's value on the
    calibration images. An error is the Frobenius norm of the difference from the merged dense network's output, all
    images together, over that of the output itself: ``error`` on the calibration images, ``held_out_error`` on others.
    """

    task: str
    values: Mapping[str, float]
    dropped: Mapping[str, float]
    error: float
    held_out_error: float | None


def calibrate_thresholds(
    network: nn.Module, task: str, images: Images, error_budget: float, *, held_out: Images | None = None
) -> Thresholds:
    """Return thresholds of an own-fed ``task`` of a network with deltas, for ``SharedViT.of(network, thresholds=...)``.

    A threshold is a quantile of |A_base - A_task| at the output of a linear layer; the quantiles are the largest, by
    bisection in steps of a 32nd, with which the output's relative error on ``images`` stays within ``error_budget``:
    first one for all layers alike, then layer after layer, from the last. Elements as a whole drop (EfficientMTL,
    Shoouri et al., ICCV 2023); what saves time is `calibrate_rows`. Raises InputError for a task without an own-fed
    delta, one that reads a limited number of rows, a budget below 0, and an output that is not finite.
    """
    if not error_budget >= 0:
        raise InputError(f"the error budget {error_budget} is no share of the output's norm; give 0.01, say.")
    trial = _Trial(network, task)
    truth, differences = finite(trial.run(images, {}), task), trial.differences(images)

    def within(levels: Mapping[str, int]) -> bool:
        return _error(trial.run(images, _thresholds(differences, levels)), truth) <= error_budget

    alike = _highest(lambda level: within(dict.fromkeys(differences, level)))
    levels = dict.fromkeys(differences, alike)
    for site in reversed(list(differences)):
        levels[site] = _highest(lambda level, site=site: within({**levels, site: level}), least=alike)  # type: ignore[misc]
    values = _thresholds(differences, levels)
    held = None if held_out is None else _error(trial.run(held_out, values), trial.run(held_out, {}))
    return Thresholds(
        task=task,
        values=values,
        dropped={site: float((differences[site] < value).double().mean()) for site, value in values.items()},
        error=_error(trial.run(images, values), truth),
        held_out_error=held,
    )


class _Trial:
    """A copy of a network whose thresholds of one task can be changed."""

    def __init__(self, network: nn.Module, task: str) -> None:
        execution = read_source(network).executions.get(task)
        if execution is None or execution.feed != "own":
            raise InputError(f"thresholds are of tasks with a delta fed its own stream, and '{task}' is none.")
        if execution.rows is not None:
            raise InputError(
                f"'{task}' reads {execution.rows:.0%} of the rows; calibrate thresholds without that budget."
            )
        self.network: Any = copy.deepcopy(network).eval()
        self.task, self.execution = task, execution

    @torch.no_grad()
    def run(self, images: Images, thresholds: Mapping[str, float]) -> Float[Tensor, "..."]:
        """Return the task's output in float64."""
        changed = self.execution.model_copy(update={"thresholds": dict(thresholds)})
        self.network.trunk.executions[self.task] = changed
        out: Tensor = self.network(images, tasks=[self.task])[self.task]
        return out.double()

    def differences(self, images: Images) -> dict[str, Float[Tensor, " elements"]]:
        """Return by site |A_base - A_task| where it is not 0, sorted; only sites that differ."""
        seen: dict[str, Tensor] = {}

        def watch(site: str, base: Tensor, own: Tensor) -> None:
            if site.rpartition(".")[2] in LINEAR:
                difference = (base - own).abs().flatten()
                seen[site] = difference[difference > 0].sort().values

        self.network.trunk.watch = watch
        try:
            self.run(images, {})
        finally:
            self.network.trunk.watch = None
        return {site: values for site, values in seen.items() if len(values)}


def _thresholds(differences: Mapping[str, Tensor], levels: Mapping[str, int]) -> dict[str, float]:
    """Return for every site the threshold below which ``level`` 32nds of its differences lie; all for the last."""
    made = {}
    for site, level in levels.items():
        values = differences[site]
        above = torch.nextafter(values[-1], torch.tensor(torch.inf, dtype=values.dtype))
        place = level * len(values) // LEVELS
        made[site] = 0.0 if level == 0 else float(values[place] if place < len(values) else above)
    return made


def with_thresholds(source: Source, thresholds: Mapping[str, Mapping[str, float]]) -> Source:
    """Return the source with other thresholds of some tasks; InputError for an unknown task or site, and below 0."""
    blocks = dict.fromkeys(part.name.rpartition(".")[0] for part in source.branches)
    known = [f"{block}.{site}" for block in blocks for sites in SITES.values() for site in sites]
    executions = dict(source.executions)
    for task, values in thresholds.items():
        if task not in executions or executions[task].feed != "own":
            raise InputError(f"thresholds are of tasks with a delta fed its own stream, and '{task}' is none.")
        for site, value in values.items():
            if site not in known:
                raise InputError(f"there is a threshold of '{task}' for '{site}'{nearest(site, known)}")
            if not value >= 0:
                raise InputError(f"the threshold {value} of '{task}' for '{site}' is no size; give 0 or more.")
        executions[task] = executions[task].model_copy(update={"thresholds": dict(values)})
    return replace(source, executions=executions)


def finite(output: Tensor, task: str) -> Tensor:
    """Return ``output``, to which errors are relative; InputError if it is not finite."""
    if not bool(output.isfinite().all()):
        raise InputError(f"the output of '{task}' on these images is not finite; check the images and the weights.")
    return output


def _error(out: Tensor, truth: Tensor) -> float:
    return float((out - truth).norm() / truth.norm())


def _highest(holds: Callable[[int], bool], *, least: int = 0) -> int:
    """Return the largest level from ``least`` on that bisection finds to hold; ``least`` is taken to."""
    low, high = least, LEVELS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
