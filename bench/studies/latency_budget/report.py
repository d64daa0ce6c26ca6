"""The table of the latency-budget study: mean and paired differences over seeds, by t intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from slimtask.bench.studies.harness import facts, lines_of
from slimtask.bench.studies.intervals import t_interval

OURS = "latency budget"


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return per speed-up and other method by how many points of delta_m the latency budget is ahead, seeds paired."""
    found = []
    scores = {(row["method"], row["target_speedup"], row["seed"]): row["delta_m"] for row in rows}
    for speedup in sorted({row["target_speedup"] for row in rows}):
        for method in dict.fromkeys(row["method"] for row in rows if row["method"] != OURS):
            seeds = [
                seed for name, at, seed in scores if (name, at) == (method, speedup) and (OURS, speedup, seed) in scores
            ]
            if not seeds:
                continue
            gains = [scores[OURS, speedup, seed] - scores[method, speedup, seed] for seed in seeds]
            low, high = t_interval(gains) if len(gains) > 1 else (None, None)
            mean = statistics.fmean(gains)
            found.append(
                {
                    "target_speedup": speedup,
                    "against": method,
                    "gains": gains,
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
            )
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """Return the study as a Markdown page."""
    heads = ["speed-up asked", "method", "seed", "measured", "delta_m %", "metrics", "parameters", "GFLOPs"]
    lines = []
    for row in sorted(result["rows"], key=lambda row: (row["target_speedup"], row["method"], row["seed"])):
        shown = {task: row["metrics"][task][metric] for task, metric in result["settings"]["scored"].items()}
        speed = f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        cells = [row["target_speedup"], row["method"], row["seed"], speed, f"{row['delta_m']:+.2f}"]
        cells += [", ".join(f"{task} {value:.3f}" for task, value in shown.items()), f"{row['params']:,}"]
        lines.append([*map(str, cells), f"{row['flops'] / 1e9:.3f}"])
    ahead = []
    for one in result["verdicts"]:
        interval = "one seed" if one["low"] is None else f"[{one['low']:+.2f}, {one['high']:+.2f}]"
        ahead.append([str(one["target_speedup"]), one["against"], f"{one['mean']:+.2f} {interval}"])
    return (
        f"# What a latency budget keeps\n\n`{result['command']}`, settings {result['settings']}\n\n"
        "A three-task ResNet-34 with a feature pyramid on CamVid, cut to a measured speed-up (ONNX Runtime on the CPU) "
        "and tuned alike. delta_m: against the dense network of the same seed, test split, by the metrics under "
        "`scored`.\n\n"
        f"{lines_of(('speed-up', 'against', 'ahead by, points of delta_m'), ahead)}\n\n"
        f"Paired over seeds, 95 % t interval.\n\n{lines_of(heads, lines)}\n\n"
        f"{facts(result['environment'])}"
    )
