"""The rows of the comparison of the methods: their delta_m, and how they pair and group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from slimtask.bench.studies.methods.plan import SINGLE
from slimtask.tasks import TaskSpec
from slimtask.train.metrics import delta_m

Row = dict[str, Any]


def scored(rows: Sequence[Row], tasks: Mapping[str, Sequence[TaskSpec]]) -> list[Row]:
    """Return the rows with ``delta_m`` [%] against the single-task networks, None while one of these is missing.

    ``changes`` are the relative changes of the tasks, of which delta_m is the mean, so that a noisy task shows.
    The baseline of a task is the mean over all seeds of the single-task networks that are there.
    """
    found = []
    for row in rows:
        specs = tasks.get(row["dataset"])
        baseline = None if specs is None else _baseline(rows, row["dataset"], specs)
        alone = row["method"].startswith(SINGLE)
        value, changes = row.get("delta_m"), row.get("changes", {})
        if specs is not None:
            value, changes = None, {}
        if specs is not None and baseline is not None and not alone:
            value = delta_m(row["metrics"], baseline, specs)
            by_task = {task.name: delta_m(row["metrics"], baseline, [task]) for task in specs}
            changes = {name: change for name, change in by_task.items() if math.isfinite(change)}
        found.append({**row, "delta_m": value if value is None or math.isfinite(value) else None, "changes": changes})
    return found


def _baseline(rows: Sequence[Row], dataset: str, tasks: Sequence[TaskSpec]) -> dict[str, dict[str, float]] | None:
    baseline = {}
    for task in tasks:
        alone = [r for r in rows if r["dataset"] == dataset and r["method"] == f"{SINGLE}: {task.name}"]
        values = [row["metrics"][task.name][task.metric] for row in alone]
        if not values:
            return None
        baseline[task.name] = {task.metric: statistics.fmean(values)}
    return baseline


def by_seed(rows: Sequence[Row], task: str | None = None) -> dict[int, float]:
    """Return by seed the mean delta_m of the rows of one method, or their mean change of ``task``, where known."""
    found: dict[int, list[float]] = {}
    for row in rows:
        value = row["delta_m"] if task is None else row["changes"].get(task)
        if value is not None:
            found.setdefault(row["seed"], []).append(value)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def grouped(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Return the rows of every method at every sparsity, by sparsity and name."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["sparsity"], row["method"], row["seed"])):
        groups.setdefault((row["method"], row["sparsity"]), []).append(row)
    return groups


def gaps_of(mine: Sequence[Row], theirs: Sequence[Row], task: str | None = None) -> list[float]:
    """Return by how much ``mine`` are ahead of ``theirs`` in delta_m, or in ``task``, for every seed that both have."""
    ours, others = by_seed(mine, task), by_seed(theirs, task)
    return [ours[seed] - others[seed] for seed in ours if seed in others]


def spread(values: Sequence[float]) -> str:
    """Return mean and sample deviation as text, "-" of nothing."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{deviation}"
