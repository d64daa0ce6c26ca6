"""Row budgets and thresholds chosen on images: as little as keeps a task's output within an error budget.

Per branch the fewest tokens anew, and per layer the most differences that may drop to the base's values. An error is
the Frobenius norm of the difference from the merged dense network's output, all images together, over that of the
output itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.export.shared.source import read_source
from slimtask.export.shared.vit import SharedViT

Images = Float[Tensor, "batch 3 height width"]
Setting = TypeVar("Setting", int, float)
LINEAR = ("qkv", "proj", "fc1", "fc2")
LEVELS = 32  # of the share of differences that drop, from none to all


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Row budgets of ``task`` by branch, of ``tokens`` rows, and the errors that they cause.

    ``error`` is that on the calibration images, ``held_out_error`` on others.
    """

    task: str
    rows: Mapping[str, int]
    tokens: int
    error: float
    held_out_error: float | None


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds of ``task`` by site ("encoder_layer_3.fc1"), and the errors that they cause.

    ``dropped`` is the share of a site's elements, of those that differ at all, which take the base's value on the
    calibration images. ``error`` is that on those images, ``held_out_error`` on others.
    """

    task: str
    values: Mapping[str, float]
    dropped: Mapping[str, float]
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
    _check_budget(error_budget)
    source = read_source(network)
    if task in source.executions and source.executions[task].thresholds:
        raise InputError(f"'{task}' has thresholds; calibrate rows without them.")

    def tokens(images: Images) -> int:
        return (images.shape[-2] // source.patch) * (images.shape[-1] // source.patch) + 1

    most = tokens(images)
    shared = SharedViT.of(network, [task], rows={task: {part.name: most for part in source.branches}})
    branches = shared.trunk.row_branches(task)

    @torch.no_grad()
    def run(images: Images, rows: Mapping[str, int]) -> Tensor:
        shared.trunk.limit_rows_(task, rows)
        out: Tensor = shared(images)[task]
        return out.double()

    def error_on(images: Images) -> Callable[[Mapping[str, int]], float]:
        return _error(task, lambda rows: run(images, rows), dict.fromkeys(branches, tokens(images)))

    error = error_on(images)
    rows = _smallest(branches, 1, most, lambda rows: error(rows) <= error_budget)
    held = None if held_out is None else error_on(held_out)(rows)
    return Calibration(task=task, rows=rows, tokens=most, error=error(rows), held_out_error=held)


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
    _check_budget(error_budget)
    execution = read_source(network).executions.get(task)
    if execution is None or execution.feed != "own":
        raise InputError(f"thresholds are of tasks with a delta fed its own stream, and '{task}' is none.")
    if execution.rows is not None:
        raise InputError(f"'{task}' reads {execution.rows:.0%} of the rows; calibrate thresholds without that budget.")
    trial: Any = copy.deepcopy(network).eval()

    @torch.no_grad()
    def run(images: Images, thresholds: Mapping[str, float]) -> Tensor:
        trial.trunk.executions[task] = execution.model_copy(update={"thresholds": dict(thresholds)})
        out: Tensor = trial(images, tasks=[task])[task]
        return out.double()

    def error_on(images: Images) -> Callable[[Mapping[str, float]], float]:
        return _error(task, lambda thresholds: run(images, thresholds), {})

    error, differences = error_on(images), _differences(trial, lambda: run(images, {}))

    def values(kept: Mapping[str, int]) -> dict[str, float]:
        return {site: _threshold(differences[site], LEVELS - number) for site, number in kept.items()}

    chosen = values(_smallest(tuple(differences), 0, LEVELS, lambda kept: error(values(kept)) <= error_budget))
    return Thresholds(
        task=task,
        values=chosen,
        dropped={site: float((differences[site] < value).double().mean()) for site, value in chosen.items()},
        error=error(chosen),
        held_out_error=None if held_out is None else error_on(held_out)(chosen),
    )


def _check_budget(error_budget: float) -> None:
    if not error_budget >= 0:
        raise InputError(f"the error budget {error_budget} is no share of the output's norm; give 0.01, say.")


def _differences(network: Any, run: Callable[[], object]) -> dict[str, Float[Tensor, " elements"]]:
    """Return by site |A_base - A_task| of a ``run`` where it is not 0, sorted; only sites that differ."""
    seen: dict[str, Tensor] = {}

    def watch(site: str, base: Tensor, own: Tensor) -> None:
        if site.rpartition(".")[2] in LINEAR:
            difference = (base - own).abs().flatten()
            seen[site] = difference[difference > 0].sort().values

    network.trunk.watch = watch
    try:
        run()
    finally:
        network.trunk.watch = None
    return {site: values for site, values in seen.items() if len(values)}


def _threshold(differences: Tensor, level: int) -> float:
    """Return the threshold below which ``level`` 32nds of the sorted differences lie; all for the last."""
    above = torch.nextafter(differences[-1], torch.tensor(torch.inf, dtype=differences.dtype))
    place = level * len(differences) // LEVELS
    return 0.0 if level == 0 else float(differences[place] if place < len(differences) else above)


def _error(
    task: str, run: Callable[[Mapping[str, Setting]], Tensor], exact: Mapping[str, Setting]
) -> Callable[[Mapping[str, Setting]], float]:
    """Return the relative error by settings, whose truth is a run with ``exact``; InputError if it is not finite."""
    truth = run(exact)
    if not bool(truth.isfinite().all()):
        raise InputError(f"the output of '{task}' on these images is not finite; check the images and the weights.")
    return lambda settings: float((run(settings) - truth).norm() / truth.norm())


def _smallest(
    names: Sequence[str], least: int, most: int, holds: Callable[[Mapping[str, int]], bool]
) -> dict[str, int]:
    """Return by name the smallest numbers that hold: first for all alike, then one after the other, from the last."""
    alike = _lowest(least, most, lambda number: holds(dict.fromkeys(names, number)))
    numbers = dict.fromkeys(names, alike)
    for name in reversed(names):
        numbers[name] = _lowest(least, alike, lambda number, name=name: holds({**numbers, name: number}))  # type: ignore[misc]
    return numbers


def _lowest(least: int, most: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest number from ``least`` to ``most``, which is taken to hold, that bisection finds to hold."""
    low, high = least, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
