"""The report's charts as inline SVG whose colours are CSS variables, so they follow the page's light or dark scheme.

Matplotlib draws with placeholder colours that are replaced in the SVG text; each function returns one ``<svg>`` string
without metadata, ready to be placed into HTML.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from slimtask.bench.report.findings import main_backend, percent
from slimtask.bench.report.schema import Level, Report

# Placeholder -> CSS variable. The placeholders are colours that nothing else in a figure uses.
_INK, _MUTED, _GRID = "#101112", "#606162", "#d0d1d2"
_DENSE, _SLIM, _IDEAL = "#c04b01", "#0172b2", "#808182"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "line", _DENSE: "dense", _SLIM: "slim", _IDEAL: "ideal"}


def accuracy_against_latency(report: Report) -> str:
    """Return delta_m (per cent) against median latency, points labelled with sparsity, the dense one marked."""
    backend = main_backend(report)
    points = [(level, level.latency_ms[backend]) for level in report.levels if backend in level.latency_ms]
    points = [(level, latency) for level, latency in points if _delta(report, level) is not None]
    if backend is None or not points:
        return ""

    def draw(axes: Any) -> None:
        deltas = [_delta(report, level) or 0.0 for level, _ in points]
        axes.axhline(0, color=_DENSE, linewidth=1, linestyle=(0, (4, 3)))
        for (level, latency), delta in zip(points, deltas, strict=True):
            dense = level is report.levels[0]
            colour = _DENSE if dense else _SLIM
            axes.plot([latency.p10, latency.p90], [delta, delta], color=colour, linewidth=2, alpha=0.45)
            axes.plot(latency.median, delta, marker="D" if dense else "o", markersize=8 if dense else 9, color=colour)
            label = level.name if dense else percent(level.sparsity)
            axes.annotate(label, (latency.median, delta), xytext=(0, 9), **_LABEL, ha="center")
        low, high = min([*deltas, 0.0]), max([*deltas, 0.0])
        room = max(0.25 * (high - low), 0.5)
        axes.set_ylim(low - room, high + 1.4 * room)
        axes.set_xlim(0, 1.12 * max(latency.p90 for _, latency in points))
        axes.set_xlabel(f"latency, ms ({backend}, p10 to p90)")
        axes.set_ylabel("delta_m, % of dense")

    return _svg(draw, "accuracy", "Accuracy against latency")


def latency_against_sparsity(report: Report) -> str:
    """Return median latency against the fraction of trunk parameters removed, beside the FLOP-ideal line."""
    backend = main_backend(report)
    levels = sorted((one for one in report.levels if backend in one.latency_ms), key=lambda one: one.sparsity)
    dense = report.levels[0]
    if backend is None or len(levels) < 2 or backend not in dense.latency_ms:
        return ""

    def draw(axes: Any) -> None:
        timed = [level.latency_ms[backend] for level in levels]
        x = [100 * level.sparsity for level in levels]
        measured = [one.median for one in timed]
        ideal = [dense.latency_ms[backend].median * level.flops / max(dense.flops, 1) for level in levels]
        axes.fill_between(
            x, [one.p10 for one in timed], [one.p90 for one in timed], color=_SLIM, alpha=0.16, linewidth=0
        )
        axes.plot(x, ideal, color=_IDEAL, linewidth=1.6, linestyle=(0, (4, 3)), label="if time followed FLOPs")
        axes.plot(x, measured, color=_SLIM, linewidth=2.2, marker="o", markersize=7, label="measured")
        axes.plot(100 * dense.sparsity, dense.latency_ms[backend].median, marker="D", markersize=8, color=_DENSE)
        for level, at, latency in zip(levels, x, measured, strict=True):
            text = f"{latency:.1f}" if latency < 100 else f"{latency:.0f}"
            axes.annotate(text, (at, latency), xytext=(0, 9), **_LABEL, ha="left" if level is dense else "center")
        axes.set_ylim(0, 1.22 * max(*measured, *ideal))
        axes.set_xlim(-3, 103)
        axes.set_xlabel("trunk parameters removed, %")
        axes.set_ylabel(f"latency, ms ({backend})")
        axes.legend(frameon=False, labelcolor=_INK, fontsize=11, loc="upper right")

    return _svg(draw, "sparsity", "Latency against sparsity")


def channels_kept(report: Report) -> str:
    """Return one row of bars per compressed level: channels of every layer before (pale) and after (solid)."""
    levels = [level for level in report.levels[1:] if level.layers]
    if not levels:
        return ""
    widest = max(len(level.layers) for level in levels)

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(levels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, level in zip(grid, levels, strict=True):
            _plain(axes)
            x = range(len(level.layers))
            before, after = [one.before for one in level.layers], [one.after for one in level.layers]
            axes.bar(x, before, color=_GRID, width=0.8)
            axes.bar(x, after, color=_SLIM, width=0.8)
            kept = sum(after) / max(sum(before), 1)
            axes.set_title(f"{level.name}: {percent(kept)} of the channels kept", loc="left", fontsize=11, color=_INK)
            for at, count in enumerate(after):
                if count == 0:
                    axes.annotate("0", (at, 0), xytext=(0, 2), **_LABEL, ha="center")
            axes.set_ylabel("channels")
        names = [layer.name for layer in max(levels, key=lambda level: len(level.layers)).layers]
        grid[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=9)
        grid[-1].set_xlim(-0.7, widest - 0.3)

    size = (max(10.5, 0.27 * widest + 1.0), 1.35 * len(levels) + 1.3)
    return _svg(draw, "layers", "Channels kept per layer", size=size, whole=True)


def training_history(report: Report, key: str = "group_sparsity") -> str:
    """Return one line per level of a training log's ``key`` over its steps (or epochs); empty if nothing has it."""
    series = {name: _series(rows, key) for name, rows in report.history.items()}
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return ""

    def draw(axes: Any) -> None:
        for place, (name, points) in enumerate(series.items()):
            share = (place + 1) / len(series)
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=_SLIM, alpha=0.3 + 0.7 * share, linewidth=2)
            axes.annotate(name, (steps[-1], values[-1]), xytext=(5, -3), **_LABEL)
        axes.set_xlabel("training step" if _has(report, "step") else "epoch")
        axes.set_ylabel(key.replace("_", " "))
        axes.margins(x=0.14)

    return _svg(draw, "history", f"{key} during training")


_LABEL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 11, "color": _INK}


def _svg(
    draw: Callable[[Any], None], name: str, title: str, *, size: tuple[float, float] = (5.6, 3.9), whole: bool = False
) -> str:
    """Return what ``draw`` paints on an axes (or, with ``whole``, a figure) as SVG text with CSS colours."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 12,
        "text.parse_math": False,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _GRID,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
    }
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        if whole:
            draw(figure)
        else:
            axes = figure.add_subplot()
            _plain(axes)
            draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), title, name)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _inline(svg: str, title: str, name: str) -> str:
    """Return the bare ``<svg>`` element: no prologue, no metadata, no fixed size, CSS variables for colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    width = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    natural = float(width.group(1)) if width else 400.0
    head = f'<svg class="chart" role="img" aria-label="{title}" style="--natural:{natural:.0f}px" '
    svg = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    # Ids must be unique in the page that holds several charts.
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return svg.replace("<svg ", head, 1)


def _delta(report: Report, level: Level) -> float | None:
    return 0.0 if level is report.levels[0] and level.delta_m is None else level.delta_m


def _series(rows: list[dict[str, float | int | None]], key: str) -> list[tuple[float, float]]:
    found = []
    for row in rows:
        step, value = row.get("step", row.get("epoch")), row.get(key)
        if step is not None and value is not None:
            found.append((float(step), float(value)))
    return found


def _has(report: Report, key: str) -> bool:
    return any(key in row for rows in report.history.values() for row in rows)
