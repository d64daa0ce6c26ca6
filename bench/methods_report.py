"""The comparison of the methods as a table and a plot: mean and spread over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.methods_plan import ADASHARE, DENSE, SINGLE
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
    text += [_EXPLAINED, *(_table(dataset, rows) + _claims(dataset, rows) for dataset in datasets)]
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
validation loss. A claim holds if the mean of the differences is not negative, which says little where the mean is
smaller than the spread. DiSparse's masks of pretrained weights by |w| are the magnitude masks: the tasks rank one trunk
alike, so what at least one keeps is what the most generous keeps; by gradient, |dL/dw| w^2, they are not.
"""


def _table(dataset: str, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if row["dataset"] == dataset]
    dense = {row["seed"]: row["delta_m"] for row in mine if row["method"] == DENSE}
    tasks = sorted({task for row in mine for task in row["changes"]})
    heads = ["method", "sparsity", "reached", "seeds", "delta_m %", "against dense multi-task", *tasks]
    lines = [f"## {dataset}\n", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for (method, sparsity), group in _grouped(mine).items():
        if group[0]["delta_m"] is None:
            continue
        gaps = [row["delta_m"] - dense[row["seed"]] for row in group if dense.get(row["seed"]) is not None]
        cells = [method, f"{sparsity:.0%}", _reached(group), str(len(group))]
        cells += [_spread([row["delta_m"] for row in group]), _spread(gaps)]
        cells += [_spread([row["changes"][task] for row in group if task in row["changes"]]) for task in tasks]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


CLAIMS = (
    *(
        (f"group sparsity, {groups}{p}", 0.7, DENSE, 0.0)
        for groups in ("coupled", "input-channel")
        for p in ("", ", mcp")
    ),
    *(("disparse static", 0.9, other, 0.9) for other in ("snip static", "random static", "magnitude pretrained")),
    ("disparse pretrained, gradient", 0.9, "magnitude pretrained", 0.9),
    ("disparse dynamic", 0.9, "snip static", 0.9),
    (ADASHARE, 0.0, "random policy", 0.0),
)
"""What the papers claim: the first method at its sparsity is at least as good as the second at its own."""


def _claims(dataset: str, rows: Sequence[Row]) -> str:
    """Return the claims as a table: the differences of runs of the same seed, and whether their mean holds."""
    mine = {(row["method"], row["sparsity"], row["seed"]): row for row in rows if row["dataset"] == dataset}
    tasks = sorted({task for row in mine.values() for task in row["changes"]})
    heads = ["claim", "difference in delta_m", "seeds", "holds", *tasks]
    lines = [f"\n| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for method, sparsity, other, at in CLAIMS:
        pairs = [
            (row, mine[other, at, seed])
            for (name, level, seed), row in mine.items()
            if (name, level) == (method, sparsity) and (other, at, seed) in mine
        ]
        if pairs and all(row["delta_m"] is not None for pair in pairs for row in pair):
            first, second = (
                n if not level else f"{n} at {level:.0%}" for n, level in ((method, sparsity), (other, at))
            )
            cells = [f"{first} is not behind {second}", *_verdict(pairs)]
            cells += [_spread([a["changes"][task] - b["changes"][task] for a, b in pairs]) for task in tasks]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _verdict(pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    gaps = [mine["delta_m"] - theirs["delta_m"] for mine, theirs in pairs]
    won = f"{sum(gap >= 0 for gap in gaps)} of {len(gaps)}"
    mean = statistics.fmean(gaps)
    weak = len(gaps) > 1 and abs(mean) < statistics.stdev(gaps)
    return [_spread(gaps), won, f"{'yes' if mean >= 0 else 'no'}{', within the spread' if weak else ''}"]


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
    known = [row for row in rows if row["delta_m"] is not None]
    dense = {row["seed"]: row["delta_m"] for row in known if row["method"] == DENSE}
    found = []
    for (method, sparsity), group in _grouped(known).items():
        values = [row["delta_m"] - dense[row["seed"]] for row in group if row["seed"] in dense]
        if values and method != DENSE:
            found.append((method, sparsity, values))
    return sorted(found, key=lambda each: (each[1], statistics.fmean(each[2])))
