"""The comparison of the methods as a table and a plot: mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.studies.harness import lines_of
from slimtask.bench.studies.intervals import t_interval
from slimtask.bench.studies.methods.plan import DENSE
from slimtask.bench.studies.methods.rows import Row, by_seed, claims_table, gaps_of, grouped, spread
from slimtask.files import read_json, write_text


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
        *(_table(dataset, rows) + claims_table(dataset, rows) + _deployed(dataset, rows) for dataset in datasets),
    ]
    text.append("Differences to dense multi-task, with their 95 % intervals, by the FLOPs that are deployed:\n")
    text.append("![delta_m against dense multi-task](methods.svg)\n")
    write_text(path.with_suffix(".md"), "\n".join(text))
    _plot(datasets, rows, path.with_suffix(".svg"))


_EXPLAINED = """\
delta_m is the mean relative change of the tasks' primary metrics on the test split against the mean single-task
network, in per cent, positive is better; ± is the sample standard deviation over the seeds. Beside it is the difference
to the dense multi-task network of the same seed, then follow the changes of each task in per cent, whose mean delta_m
is: a task that jumps from seed to seed is not evidence, whatever the mean. Sparsity is what was asked for of the
trunk's weights; "reached" what came out, as the method counts it. The weights kept are those of the best validation
metrics in the last quarter of the steps, of dense and sparse runs alike. A claim is about the differences of runs of
the same seed: it holds if Student's 95 % interval of their mean lies above the bound (0, or what the claim grants),
does not if it lies below, and is open if it holds both. Of a method with several draws the mean of the draws is a
seed's value. Random policies cost the FLOPs of the learned one of their seed, within 2 %, and start from the same
weights and batches.

"deployed" are FLOPs and parameters of the network that `slimtask compress` makes of the checkpoint, all tasks together,
against dense multi-task: masks of single weights leave whole channels behind, so they save neither. FLOPs and latency
(ONNX Runtime, one thread) of a policy's network are shares of those of a dense graph per task. DiSparse's masks of
pretrained weights by |w| are the magnitude masks: the tasks rank one trunk alike, so what at least one keeps is what
the most generous keeps; by gradient, |dL/dw| w^2, they are not.

Iterative magnitude pruning is missing: each of its rounds trains a network anew, which one budget of steps for all does
not hold; "magnitude pretrained" is its single round. AdapMTL (MM 2024), a newer pruner of several tasks, is missing:
what sparsity its learned thresholds come to follows from an initial value and a weight decay that are tuned for each
network, not from a target, and it masks single weights, as the methods here that save no FLOPs.
"""


def _table(dataset: str, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if row["dataset"] == dataset]
    dense = [row for row in mine if row["method"] == DENSE]
    tasks = sorted({task for row in mine for task in row["changes"]})
    heads = ["method", "sparsity", "reached", "deployed FLOPs", "parameters", "seeds", "delta_m %"]
    heads += ["against dense multi-task", *tasks]
    lines = []
    costs = {what: shipped_shares(mine, what) for what in ("flops", "params")}
    for (method, sparsity), group in grouped(mine).items():
        values = by_seed(group)
        if not values:
            continue
        draws = f" x {len(group) / len(values):.3g}" if len(group) > len(values) else ""
        cells = [method, f"{sparsity:.0%}", _reached(group)]
        cells += [_share(costs[what].get((method, sparsity))) for what in costs]
        cells += [f"{len(values)}{draws}", spread(list(values.values())), spread(gaps_of(group, dense))]
        lines.append([*cells, *(spread(list(by_seed(group, task).values())) for task in tasks)])
    return f"## {dataset}\n\n{lines_of(heads, lines)}\n"


def shipped_shares(rows: Sequence[Row], what: str) -> dict[tuple[str, float], float]:
    """Return by method and sparsity the mean share of the dense network's ``what`` ("flops", "params") that ships."""
    means = {
        key: statistics.fmean(row["shipped"][what] for row in group)
        for key, group in grouped([row for row in rows if "shipped" in row]).items()
    }
    dense = means.get((DENSE, 0.0))
    return {} if dense is None else {key: value / dense for key, value in means.items()}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


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
    lines = []
    known = [row for row in rows if row["dataset"] == dataset and "deployed" in row]
    for (method, _), group in grouped(known).items():
        cells = [method, str(len({row["seed"] for row in group}))]
        cells += [_plain([row["counts"][name] for row in group if name in row["counts"]]) for name in _COSTS]
        for kind, unit, use in _SHARES:
            values = [row["deployed"] for row in group]
            cells.append(_plain([one[kind][use][unit] / one["dense"]["apart"][unit] for one in values]))
        lines.append(cells)
    return f"\n{lines_of(heads, lines)}\n" if known else ""


_COSTS = ("trunks", "entropy_bits")
_SHARES = (
    ("policy", "flops", "together"),
    ("policy", "flops", "apart"),
    ("policy", "median_ms", "together"),
    ("policy", "median_ms", "apart"),
    ("dense", "median_ms", "together"),
)


def _plain(values: Sequence[float]) -> str:
    return spread(values).replace("+", "")


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


def _plot(datasets: Sequence[str], rows: Sequence[Row], path: Path) -> None:
    """Draw how far every method is from the dense networks of its seeds, by the FLOPs that are deployed."""
    from matplotlib.figure import Figure

    drawn = [name for name in datasets if any("shipped" in row for row in rows if row["dataset"] == name)]
    if not drawn:
        return
    figure = Figure(figsize=(6.5 * len(drawn), 5.5), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    colors: dict[str, str] = {}
    for axis, dataset in zip(axes, drawn, strict=True):
        _draw(axis, [row for row in rows if row["dataset"] == dataset], colors)
        axis.axhline(0, color="black", linestyle="--", linewidth=1)
        axis.set(
            title=dataset, xlabel="deployed FLOPs, share of dense multi-task", ylabel="delta_m, points ahead of it"
        )
        axis.grid(alpha=0.3)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _draw(axis: Any, rows: Sequence[Row], colors: dict[str, str]) -> None:
    """Draw one line per method through its sparsities, with 95 % intervals where there are several seeds."""
    dense, shares = [row for row in rows if row["method"] == DENSE], shipped_shares(rows, "flops")
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for (method, sparsity), group in grouped(rows).items():
        gaps = gaps_of(group, dense)
        if gaps and method != DENSE and (method, sparsity) in shares:
            mean = statistics.fmean(gaps)
            low, high = t_interval(gaps) if len(gaps) > 1 else (mean, mean)
            points.setdefault(method, []).append((shares[method, sparsity], mean, mean - low, high - mean))
    for method, found in points.items():
        color = colors.setdefault(method, f"C{len(colors) % 10}")
        x, y, below, above = zip(*sorted(found), strict=True)
        marker = "os^Dv"[list(colors).index(method) // 10]
        axis.errorbar(
            x, y, yerr=(below, above), marker=marker, capsize=2, linewidth=1, elinewidth=0.5, color=color, label=method
        )
