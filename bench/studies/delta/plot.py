"""The measurement as one SVG: speed-up against density, against changed rows, and of whole units, with the law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimtask.files import atomic_file
from slimtask.kernels.floors import speedup

Row = Mapping[str, Any]
COLOURS = ("#0172b2", "#c04b01", "#009e73", "#a050a0")
LAW = "#808182"


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
