"""The comparison of the methods as a table and a plot: mean and spread over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtask.bench.intervals import t_interval
from slimtask.bench.methods_plan import ADASHARE, DENSE, RANDOM, SINGLE
from slimtask.files import read_json, write_text
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


def write_report(path: Path) -> None:
    """Write ``path`` (the study's JSON) as a Markdown table and an SVG plot beside it."""
    study = read_json(path, "the study")
    rows = study["rows"]
    datasets = sorted({row["dataset"] for row in rows})
    machine = ", ".join(f"{name} {value}" for name, value in study["machine"].items() if name in ("cpu", "cores"))
    versions = ", ".join(
        f"{name} {value}" for name, value in study["versions"].items() if name in ("torch", "slimtask")
    )
    text = [f"# Does sparsity keep accuracy?\n\n`{study['command']}`; {machine}; {versions}.\n"]
    text += [
        _EXPLAINED,
        *(_table(dataset, rows) + _claims(dataset, rows) + _deployed(dataset, rows) for dataset in datasets),
    ]
    text.append("Mean, sample deviation and each seed of the differences to dense multi-task:\n")
    text.append("![delta_m against dense multi-task](methods.svg)\n")
    write_text(path.with_suffix(".md"), "\n".join(text))
    _plot(datasets, rows, path.with_suffix(".svg"))


_EXPLAINED = """\
delta_m is the mean relative change of the tasks' primary metrics on the test split against the mean single-task
network, in per cent, positive is better; ± is the sample standard deviation over the seeds. Beside it is the
difference to the dense multi-task network of the same seed, then follow the changes of each task in per cent, whose
mean delta_m is: a task that jumps from seed to seed is not evidence, whatever the mean. Sparsity is what was asked for
of the trunk's weights; "reached" what came out, as the method counts it. The weights kept are those of the best
validation metrics in the last quarter of the steps, of dense and sparse runs alike. A claim is about the differences of
runs of the same seed: it holds if Student's 95 % interval of their mean lies above the bound (0, or what the claim
grants), does not if it lies below, and is open if it holds both. Of a
method with several draws the mean of the draws is a seed's value. Random policies cost the FLOPs of the learned one of
their seed, within 2 %, and start from the same weights and batches. FLOPs and latency (ONNX Runtime, one thread) of a
deployed network are shares of those of a dense graph per task. DiSparse's masks of pretrained weights by |w| are the
magnitude masks: the tasks rank one trunk alike, so what at least one keeps is what the most generous keeps; by
gradient, |dL/dw| w^2, they are not.
"""


def _table(dataset: str, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if row["dataset"] == dataset]
    dense = by_seed([row for row in mine if row["method"] == DENSE])
    tasks = sorted({task for row in mine for task in row["changes"]})
    heads = ["method", "sparsity", "reached", "seeds", "delta_m %", "against dense multi-task", *tasks]
    lines = [f"## {dataset}\n", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for (method, sparsity), group in _grouped(mine).items():
        values = by_seed(group)
        if not values:
            continue
        gaps = [value - dense[seed] for seed, value in values.items() if seed in dense]
        draws = f" x {len(group) / len(values):.3g}" if len(group) > len(values) else ""
        cells = [method, f"{sparsity:.0%}", _reached(group), f"{len(values)}{draws}"]
        cells += [_spread(list(values.values())), _spread(gaps)]
        cells += [_spread(list(by_seed(group, task).values())) for task in tasks]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def by_seed(rows: Sequence[Row], task: str | None = None) -> dict[int, float]:
    """Return by seed the mean delta_m of the rows of one method, or their mean change of ``task``, where known."""
    found: dict[int, list[float]] = {}
    for row in rows:
        value = row["delta_m"] if task is None else row["changes"].get(task)
        if value is not None:
            found.setdefault(row["seed"], []).append(value)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


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


def _claims(dataset: str, rows: Sequence[Row]) -> str:
    """Return the claims as a table: the differences of runs of the same seed, their interval, and what it says."""
    groups = _grouped([row for row in rows if row["dataset"] == dataset])
    tasks = sorted({task for group in groups.values() for row in group for task in row["changes"]})
    heads = ["claim", "difference in delta_m", "95 % interval", "seeds", "holds", *tasks]
    lines = [f"\n| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for claim in CLAIMS:
        sides = [groups.get(key, []) for key in ((claim.method, claim.sparsity), (claim.other, claim.at))]
        gaps = _gaps_of(sides)
        if gaps:
            cells = [str(claim), *_verdict(gaps, -claim.grants)]
            cells += [_spread(_gaps_of(sides, task)) for task in tasks]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _gaps_of(sides: Sequence[Sequence[Row]], task: str | None = None) -> list[float]:
    mine, theirs = (by_seed(rows, task) for rows in sides)
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def _verdict(gaps: Sequence[float], bound: float) -> list[str]:
    won = f"{sum(gap >= bound for gap in gaps)} of {len(gaps)}"
    if len(gaps) < 2:
        return [_spread(gaps), "-", won, "one seed"]
    low, high = t_interval(gaps)
    holds = "yes" if low >= bound else "no" if high < bound else "open"
    return [_spread(gaps), f"{low:+.2f} to {high:+.2f}", won, holds]


def _deployed(dataset: str, rows: Sequence[Row]) -> str:
    """Return what the networks of policies cost as a table, relative to a dense graph per task."""
    heads = [
        "deployed network",
        "seeds",
        "trunk in dense trunks",
        "entropy in bits",
        "FLOPs, one graph",
        "graph per task",
    ]
    heads += ["latency, one graph", "graph per task", "dense, one graph"]
    lines = [f"\n| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    known = [row for row in rows if row["dataset"] == dataset and "deployed" in row]
    for (method, _), group in _grouped(known).items():
        cells = [method, str(len({row["seed"] for row in group}))]
        cells += [_plain([row["counts"][name] for row in group if name in row["counts"]]) for name in _COSTS]
        for kind, unit, use in _SHARES:
            values = [row["deployed"] for row in group]
            cells.append(_plain([one[kind][use][unit] / one["dense"]["apart"][unit] for one in values]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if known else ""


_COSTS = ("trunks", "entropy_bits")
_SHARES = (
    ("policy", "flops", "together"),
    ("policy", "flops", "apart"),
    ("policy", "median_ms", "together"),
    ("policy", "median_ms", "apart"),
    ("dense", "median_ms", "together"),
)


def _plain(values: Sequence[float]) -> str:
    return _spread(values).replace("+", "")


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["sparsity"], row["method"], row["seed"])):
        groups.setdefault((row["method"], row["sparsity"]), []).append(row)
    return groups


_COUNTS = {"parameter_sparsity": "parameters", "trunk_sparsity": "weights", "skipped": "blocks"}


def _reached(group: Sequence[Row]) -> str:
    """Return the mean of the counts that say how sparse the trunk came out."""
    if "delta_bytes" in group[0]["counts"]:
        shares = [row["counts"]["delta_bytes"] / row["counts"]["trunk_bytes"] for row in group]
        return f"{statistics.fmean(shares):.1%} of the trunk's bytes"
    for name, of in _COUNTS.items():
        values = [row["counts"][name] for row in group if name in row["counts"]]
        if values:
            groups = [row["counts"]["group_sparsity"] for row in group if "group_sparsity" in row["counts"]]
            also = f", {statistics.fmean(groups):.1%} of groups" if groups else ""
            return f"{statistics.fmean(values):.1%} of {of}{also}"
    return "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{deviation}"


def _plot(datasets: Sequence[str], rows: Sequence[Row], path: Path) -> None:
    """Draw how far every method at every sparsity is from the dense multi-task networks of its seeds."""
    from matplotlib.figure import Figure

    gaps = [_gaps([row for row in rows if row["dataset"] == dataset]) for dataset in datasets]
    height = 1.5 + 0.22 * max(len(each) for each in gaps)
    figure = Figure(figsize=(6.5 * len(datasets), height), layout="constrained")
    axes = figure.subplots(1, len(datasets), squeeze=False)[0]
    for axis, dataset, found in zip(axes, datasets, gaps, strict=True):
        for place, (_, sparsity, values) in enumerate(found):
            error = statistics.stdev(values) if len(values) > 1 else 0.0
            color = f"C{round(10 * sparsity)}"
            axis.errorbar(statistics.fmean(values), place, xerr=error, marker="o", capsize=3, color=color)
            axis.plot(values, [place] * len(values), marker="|", linestyle="", color=color, alpha=0.5)
        labels = [f"{method}, {sparsity:.0%}" if sparsity else method for method, sparsity, _ in found]
        axis.set_yticks(range(len(found)), labels, fontsize=8)
        axis.axvline(0, color="black", linestyle="--", linewidth=1)
        axis.set(title=dataset, xlabel="delta_m, difference to dense multi-task [points]")
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def _gaps(rows: Sequence[Row]) -> list[tuple[str, float, list[float]]]:
    """Return (method, sparsity, differences to the dense network of each seed), by sparsity, the best last."""
    dense = by_seed([row for row in rows if row["method"] == DENSE])
    found = []
    for (method, sparsity), group in _grouped(rows).items():
        values = [value - dense[seed] for seed, value in by_seed(group).items() if seed in dense]
        if values and method != DENSE:
            found.append((method, sparsity, values))
    return sorted(found, key=lambda each: (each[1], statistics.fmean(each[2])))
