"""The rows of the comparison: their delta_m, how they pair and group, and what they say of what papers claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimtask.bench.studies.intervals import t_interval
from slimtask.bench.studies.methods.plan import ADASHARE, DENSE, RANDOM, SINGLE
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


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper claims: ``method`` at ``sparsity`` is at most ``grants`` per cent behind ``other`` at ``at``."""

    method: str
    sparsity: float = 0.0
    other: str = DENSE
    at: float = 0.0
    grants: float = 0.0

    def __str__(self) -> str:
        first, second = (
            name if not level else f"{name} at {level:.0%}"
            for name, level in ((self.method, self.sparsity), (self.other, self.at))
        )
        return f"{first} is {f'at most {self.grants:g} % ' if self.grants else 'not '}behind {second}"


CLAIMS = (
    *(
        Claim(method=f"group sparsity, {groups}{p}", sparsity=0.7)
        for groups in ("coupled", "input-channel")
        for p in ("", ", mcp")
    ),
    *(
        Claim(method="disparse static", sparsity=0.9, other=other, at=0.9)
        for other in ("snip static", "random static", "magnitude pretrained")
    ),
    Claim(method="disparse pretrained, gradient", sparsity=0.9, other="magnitude pretrained", at=0.9),
    Claim(method="disparse dynamic", sparsity=0.9, other="snip static", at=0.9),
    Claim(method=ADASHARE, grants=1.0),
    Claim(method=ADASHARE, other=RANDOM),
)

CLAIMED = {side for claim in CLAIMS for side in ((claim.method, claim.sparsity), (claim.other, claim.at))}
"""The methods and sparsities that a claim is about: they take more seeds than the rest."""


def claims_table(dataset: str, rows: Sequence[Row]) -> str:
    """Return the claims as a table: the differences of runs of the same seed, their interval, and what it says."""
    groups = grouped([row for row in rows if row["dataset"] == dataset])
    tasks = sorted({task for group in groups.values() for row in group for task in row["changes"]})
    heads = ["claim", "difference in delta_m", "95 % interval", "seeds", "holds", *tasks]
    lines = [f"\n| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for claim in CLAIMS:
        mine, theirs = (groups.get(key, []) for key in ((claim.method, claim.sparsity), (claim.other, claim.at)))
        gaps = gaps_of(mine, theirs)
        if gaps:
            cells = [str(claim), *_verdict(gaps, -claim.grants)]
            cells += [spread(gaps_of(mine, theirs, task)) for task in tasks]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _verdict(gaps: Sequence[float], bound: float) -> list[str]:
    won = f"{sum(gap >= bound for gap in gaps)} of {len(gaps)}"
    if len(gaps) < 2:
        return [spread(gaps), "-", won, "one seed"]
    low, high = t_interval(gaps)
    holds = "yes" if low >= bound else "no" if high < bound else "open"
    return [spread(gaps), f"{low:+.2f} to {high:+.2f}", won, holds]
