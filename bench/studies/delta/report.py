"""The result of the measurement: the JSON, the figures that were to be reached, a Markdown page and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slimtask.bench.studies.harness import lines_of
from slimtask.bench.timing.environment import environment
from slimtask.files import atomic_file
from slimtask.kernels.floors import speedup

Row = Mapping[str, Any]
EXACT = 1e-5
COLOURS = ("#0172b2", "#c04b01", "#009e73", "#a050a0")
LAW = "#808182"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ``key`` (speed-up over T dense models) that one of the rows ``of`` it must reach, with at most ``error``."""

    what: str
    of: Callable[[Row], bool]
    speedup: float
    error: float | None = EXACT
    key: str = "speedup"

    def judged(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the goal with the fastest row that is exact enough; ``reached`` None if it was not measured."""
        meant = [row for row in rows if self.of(row) and row[self.key] is not None]
        found = [row for row in meant if self.error is None or row["max_rel_error"] <= self.error]
        best = max(found, key=lambda row: row[self.key], default=None)
        return {
            "what": self.what,
            "goal": self.speedup,
            "error_limit": self.error,
            "speedup": None if best is None else best[self.key],
            "max_rel_error": None if best is None else best["max_rel_error"],
            "reference": None if best is None else best["reference"],
            "reached": bool(best and best[self.key] >= self.speedup) if meant else None,
        }


def _vit(form: str, share: float) -> Callable[[Row], bool]:
    return lambda row: row["layer"] == "vit" and row["form"].startswith(form) and row["rows"] == share


GOALS = (
    Goal(
        what="MLP of ViT-B, 1024 tokens, T = 4, 5 % hidden-unit deltas",
        of=lambda row: (
            (row["model"], row["layer"], row["tokens"], row["tasks"], row["density"]) == ("ViT-B", "mlp", 1024, 4, 0.05)
        ),
        speedup=2.6,
    ),
    Goal(what="whole ViT-B, base-fed, 5 % hidden units and 1 of 12 heads", of=_vit("base-fed", 0.0), speedup=2.3),
    Goal(what="whole ViT-B, half the blocks shared, then own-fed", of=_vit("prefix, own-fed", 1.0), speedup=1.5),
    Goal(
        what="whole ViT-B, half the blocks shared, then 10 % changed rows (error stated, not limited)",
        of=_vit("prefix, rows", 0.1),
        speedup=2.0,
        error=None,
    ),
)


def result(
    rows: Sequence[Row], command: str, settings: Mapping[str, Any], left_out: Sequence[str], *, goals: Sequence[Goal]
) -> dict[str, Any]:
    """Return the JSON-ready result."""
    found = environment()
    return {
        "what": "Base and sub-tasks as sparse deltas against T dense models, one after another, in one interleaved run",
        "command": command,
        "settings": dict(settings),
        "goals": [goal.judged(rows) for goal in goals],
        "left_out": list(left_out),
        "rows": [dict(row) for row in rows],
        "versions": found["versions"],
        "machine": {key: value for key, value in found.items() if key != "versions"},
    }


def markdown(made: Mapping[str, Any], picture: str | None = None) -> str:
    """Return the result as a Markdown page: goals, table, what was compared, machine and versions."""
    lines = ["# Sub-tasks as sparse deltas", "", f"`{made['command']}`", "", f"{made['what']}.", ""]
    if made["goals"]:
        lines += [lines_of(_GOAL_HEADS, [_goal_cells(goal) for goal in made["goals"]]), ""]
    if picture:
        lines += [f"![speed-up over T dense models]({picture})", ""]
    lines += [lines_of(_HEADS, [_cells(row) for row in made["rows"]]), "", _NOTES, ""]
    if made["left_out"]:
        lines += [f"Not measured, for lack of time: {', '.join(made['left_out'])}.", ""]
    machine = made["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in made["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines += [f"{machine['cpu']}, {machine['cores']} cores, {settings}. {versions}.", ""]
    return "\n".join(lines)


_GOAL_HEADS = ("figure", "goal", "measured", "error", "reached")
_WHAT_HEADS = ("layer", "N", "T", "pattern", "density", "rows", "output")
_HEADS = (*_WHAT_HEADS, "ms (p10 to p90)", "dense ms", "batched ms", "speed-up", "over batched", "FLOP ratio", "error")
_NOTES = (
    "Times are medians of interleaved rounds in one process, thread spinning off; the speed-up is over T dense graphs "
    "run one after another, with its 95 % bootstrap interval; batched: all dense tasks in one graph of batched "
    "products, where there is one. T tasks: in linear layers, mlp and attention the base is computed besides them (one "
    "output more than the dense models), in block and vit it is one of them. Compact outputs hold the base's output "
    "and what differs from it, full ones a tensor for every task. Error: the largest difference over the largest "
    "value, against float64 or, for block and vit, what the JSON names under reference."
)


def _goal_cells(goal: Mapping[str, Any]) -> list[str]:
    reached = {True: "yes", False: "no", None: "not measured"}[goal["reached"]]
    return [goal["what"], f"{goal['goal']:g}x", _times(goal["speedup"]), _error(goal["max_rel_error"]), reached]


def _cells(row: Row) -> list[str]:
    form = f", {row['form']}" if "form" in row else ""
    return [
        f"{row['model']} {row['layer']}",
        str(row["tokens"]),
        str(row["tasks"]),
        f"{row['pattern']}{form}",
        f"{row['density']:.3g}",
        f"{row['rows']:g}",
        row["output"],
        f"{row['ms']:.2f} ({row['p10_ms']:.2f} to {row['p90_ms']:.2f})",
        f"{row['dense_ms']:.2f}",
        "" if row["batched_ms"] is None else f"{row['batched_ms']:.2f}",
        f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]",
        _times(row["speedup_over_batched"]),
        f"{row['flop_ratio']:.2f}",
        _error(row["max_rel_error"]),
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Write the plot of ``rows`` to ``path``; panels without rows stay empty."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "delta", "font.size": 11}), atomic_file(path) as file:
        figure = Figure(figsize=(13.5, max(4.8, 1.6 + 0.32 * len(_units(rows)))), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, 3)
        _by(panels[0], rows, "density", _at(rows="0"), "share of the output channels changed")
        _by(panels[1], rows, "rows", _at(density="0.05"), "share of rows changed (channels: 5 %)")
        _whole(panels[2], rows)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _at(**fixed: str) -> Callable[[Row], bool]:
    return lambda row: all(f"{row[name]:g}" == value for name, value in fixed.items())


def _by(axes: Any, rows: Sequence[Row], name: str, keep: Callable[[Row], bool], label: str) -> None:
    """Draw one model's linear layers over ``name``, compact outputs solid, full ones dotted."""
    linear = [row for row in rows if row["pattern"] == "out-channels" and keep(row)]
    first = [row for row in linear if (row["model"], row["tokens"]) == (linear[0]["model"], linear[0]["tokens"])]
    for layer, colour in zip(dict.fromkeys(row["layer"] for row in first), COLOURS, strict=False):
        for output, style in (("compact", "-"), ("full", ":")):
            points = sorted((r[name], r["speedup"]) for r in first if (r["layer"], r["output"]) == (layer, output))
            title = layer if output == "compact" else None
            if points:
                axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, color=colour, label=title)
    if first:
        _draw_law(axes, first, name)
        axes.set_title(f"{first[0]['model']} linear layers, N = {first[0]['tokens']}, T = {first[0]['tasks']}")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": 3}
        axes.legend(frameon=False, title="solid compact, dotted full", **below)
    _finish(axes, label)


def _draw_law(axes: Any, rows: Sequence[Row], name: str) -> None:
    tasks, high = rows[0]["tasks"], max(row[name] for row in rows)
    at = np.linspace(0.0, high, 50)
    fixed = {"density": 0.0, "rows": 0.0} | ({"density": 0.05} if name == "rows" else {})
    values = [
        speedup(tasks=tasks, deltas=tasks, rows=point["rows"], cost=point["density"])
        for point in ({**fixed, name: float(x)} for x in at)
    ]
    axes.plot(at, values, color=LAW, linewidth=1.2, linestyle="--", label="T / (1 + D (r + c))")


def _whole(axes: Any, rows: Sequence[Row]) -> None:
    """Draw units, blocks and transformers at about 5 % as bars, with their FLOP ratios as marks."""
    shown = _units(rows)
    names = [f"{r['model']} {r['layer']} N={r['tokens']} T={r['tasks']}\n{_short(r)}" for r in shown]
    places = np.arange(len(shown))
    axes.barh(places, [row["speedup"] for row in shown], color=COLOURS[0], height=0.6)
    axes.plot([row["flop_ratio"] for row in shown], places, "|", color=LAW, markersize=12, label="FLOP ratio")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color=LAW, linewidth=0.8)
    axes.set_xlabel("speed-up over T dense models")
    axes.set_title("units, blocks, transformers")
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _units(rows: Sequence[Row]) -> list[Row]:
    shown = [row for row in rows if "form" in row and row["form"] != "merged"]
    return [row for row in shown if row["layer"] != "mlp" or f"{row['density']:g}" == "0.05"]


def _short(row: Row) -> str:
    share = f" {row['rows']:.0%} rows" if 0 < row["rows"] < 1 else ""
    return f"{row['form']}{share}"


def _finish(axes: Any, label: str) -> None:
    axes.axhline(1, color=LAW, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("speed-up over T dense models")
    axes.spines[["top", "right"]].set_visible(False)
