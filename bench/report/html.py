"""The report page: one HTML file that needs nothing else, written from a ``Report`` and optional scenes.

No script, no font, no image from outside; charts are inline SVG, photographs are data URLs, all text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from slimtask.bench.bench import count_text
from slimtask.bench.report import pieces, plots
from slimtask.bench.report.findings import (
    best_level,
    flop_ratio,
    headline,
    main_backend,
    percent,
    speedup,
    subline,
    verdicts,
)
from slimtask.bench.report.gallery import Scene
from slimtask.bench.report.schema import Level, Report
from slimtask.bench.report.style import STYLE
from slimtask.files import write_text


def write_report(report: Report | dict[str, Any], out_html: Path | str, scenes: Sequence[Scene] = ()) -> None:
    """Write the page of a report to ``out_html``, whole or not at all.

    Args:
        report: a Report, or the dict of ``report.json``. scenes: from ``slimtask.bench.report.gallery.scene``.

    Raises:
        InputError: if the dict is not a valid report.
    """
    write_text(out_html, page(report if isinstance(report, Report) else Report.parse(report), scenes))


def page(report: Report, scenes: Sequence[Scene] = ()) -> str:
    """Return the whole page as HTML text."""
    parts = [
        _head(report),
        _figures(report),
        _charts(report),
        _levels(report),
        pieces.predictions(scenes),
        _layers(report),
        _pair(_paths(report), pieces.section("How the zeros grew in training", plots.training_history(report))),
        _engines(report),
        _reproduce(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    return (
        f'<header><p class="eyebrow">{escape(report.title)}</p>\n<h1>{escape(headline(report))}</h1>\n'
        f'<p class="subline">{escape(subline(report))}</p></header>'
    )


def _figures(report: Report) -> str:
    """Return the row of key figures of the best level; without one, of what can be said about the dense network."""
    best, backend = best_level(report), main_backend(report)
    dense = report.levels[0]
    cards: list[tuple[str, str]] = []
    if best is None or backend is None:
        cards = [(count_text(dense.params), "parameters, dense"), (count_text(dense.flops), "FLOPs, dense")]
        if backend is not None:
            cards.insert(0, (f"{dense.latency_ms[backend].median:.2f} ms", f"dense, {backend}"))
        return _cards(cards)
    gain, ratio = speedup(report, best, backend), flop_ratio(report, best)
    if gain is not None:
        cards.append((f"{gain.value:.2f}x", f"measured speed-up, {backend}, level {best.name}"))
    before, after = dense.latency_ms[backend].median, best.latency_ms[backend].median
    cards.append((f"{after:.2f} ms", f"instead of {before:.2f} ms, median"))
    cards.append((percent(best.sparsity), "of the trunk's parameters removed"))
    if best.delta_m is not None:
        cards.append((f"{best.delta_m:+.1f} %", "delta_m, mean relative change of all task scores"))
    if ratio is not None:
        cards.append((f"{ratio:.2f}x", "FLOP ratio (a count, not a speed)"))
    if best.certificate is not None and best.certificate.max_rel_error is not None:
        cards.append((f"{best.certificate.max_rel_error:.0e}", "largest relative difference that removal made"))
    return _cards(cards)


def _cards(cards: Sequence[tuple[str, str]]) -> str:
    items = [
        f'<div class="figure{" main" if place == 0 else ""}"><b>{escape(value)}</b><span>{escape(text)}</span></div>'
        for place, (value, text) in enumerate(cards)
    ]
    return f'<div class="figures">{"".join(items)}</div>'


def _charts(report: Report) -> str:
    key = '<span class="key dense"></span>dense &nbsp; <span class="key slim"></span>compressed, with trunk sparsity'
    charts = [
        pieces.section("Accuracy against latency", plots.accuracy_against_latency(report), key),
        pieces.section(
            "Latency against sparsity",
            plots.latency_against_sparsity(report),
            "The gap to the dashed line is what removing FLOPs did not buy. Band: 10th to 90th percentile.",
        ),
    ]
    return _pair(*charts)


def _pair(*sections_html: str) -> str:
    """Return cards side by side where the page is wide enough; empty ones are left out."""
    shown = "".join(sections_html)
    return f'<div class="pair">{shown}</div>' if shown else ""


def _levels(report: Report) -> str:
    """Return size and speed of all levels, what the benchmark concluded, and the scores of every task."""
    backend, best = main_backend(report), best_level(report)
    chosen = None if best is None else report.levels.index(best)
    headers = ["level", ">removed", ">groups\nat zero", ">params", ">FLOPs", ">FLOP\nratio"]
    headers += [f">{backend or 'latency'}, ms\nmedian (p10 to p90)", ">speed-up", "certificate"]
    body = pieces.table(headers, [_size_and_speed(report, level, backend) for level in report.levels], best=chosen)
    said = "".join(
        f"<li><b>{escape(level)}</b> on {escape(name)}: {escape(text)}</li>" for level, name, text in verdicts(report)
    )
    body += f"<h3>What the measurements say</h3><ul>{said}</ul>" if said else ""
    body += _other_backends(report, backend)
    first = pieces.section("Size and speed of all levels", body)
    scores = pieces.primary_metrics(report)
    if not scores:
        return first
    headers = ["level", ">delta_m", *(f">{task}\n{metric} {arrow}" for task, metric, arrow in scores)]
    rows = [_scores(report, level, scores) for level in report.levels]
    return first + pieces.section(
        "Accuracy of all levels", pieces.table(headers, rows, best=chosen) + _all_metrics(report)
    )


def _level_name(report: Report, level: Level) -> str:
    return f'<span class="key {"dense" if level is report.levels[0] else "slim"}"></span>{escape(level.name)}'


def _size_and_speed(report: Report, level: Level, backend: str | None) -> list[str]:
    is_dense = level is report.levels[0]
    ratio = None if is_dense else flop_ratio(report, level)
    gain = None if is_dense or backend is None else speedup(report, level, backend)
    latency = level.latency_ms.get(backend or "")
    return [
        _level_name(report, level),
        percent(level.sparsity, 1),
        "-" if level.group_sparsity is None else percent(level.group_sparsity, 1),
        count_text(level.params),
        count_text(level.flops),
        "-" if ratio is None else f"{ratio:.2f}x",
        "-" if latency is None else pieces.timing(latency),
        "-" if gain is None else f"{gain.value:.2f}x" + pieces.interval(gain),
        pieces.certificate(level),
    ]


def _scores(report: Report, level: Level, scores: Sequence[tuple[str, str, str]]) -> list[str]:
    change = "-" if level.delta_m is None or level is report.levels[0] else pieces.signed(level.delta_m)
    values = [pieces.number(level.metrics.get(task, {}).get(metric)) for task, metric, _ in scores]
    return [_level_name(report, level), change, *values]


def _all_metrics(report: Report) -> str:
    names = [(task, metric) for task, values in report.levels[0].metrics.items() for metric in values]
    if not names:
        return ""
    headers = ["task", "metric", *(f">{level.name}" for level in report.levels)]
    rows = [
        [escape(task), escape(metric)]
        + [pieces.number(level.metrics.get(task, {}).get(metric)) for level in report.levels]
        for task, metric in names
    ]
    return f"<details><summary>Every metric of every task</summary>{pieces.table(headers, rows)}</details>"


def _other_backends(report: Report, main: str | None) -> str:
    others = [name for name in report.backends if name != main]
    if not others:
        return ""
    headers = ["level", *(f">{name}, ms\nmedian (p10 to p90)" for name in others)]
    rows = [
        [escape(level.name)]
        + [pieces.timing(level.latency_ms[name]) if name in level.latency_ms else "-" for name in others]
        for level in report.levels
    ]
    return f"<details><summary>Latency on the other backends</summary>{pieces.table(headers, rows)}</details>"


def _layers(report: Report) -> str:
    kept = plots.channels_kept(report)
    body = f'<div class="scroll wide">{kept}</div>' if kept else ""
    return pieces.section("Channels kept per layer", body, "Pale: the dense network. Solid: what is left.")


def _paths(report: Report) -> str:
    """Return the latency of every path (all tasks fused, or one task) for the dense and the best level."""
    backend, best = main_backend(report), best_level(report)
    if backend is None or not report.levels[0].latency_ms[backend].paths:
        return ""
    compared = best or report.levels[-1]
    shown = [report.levels[0]] if compared is report.levels[0] else [report.levels[0], compared]
    return pieces.section(
        "One path per task",
        pieces.path_bars(report.levels[0], shown, backend),
        f"Median milliseconds on {escape(backend)} when only some tasks are asked for; "
        f"{' and '.join(escape(level.name) for level in shown)}.",
    )


def _engines(report: Report) -> str:
    headers = ["backend", "file", "tasks", ">size", "precision (read back)", "targets"]
    rows = [
        [
            escape(one.backend),
            escape(one.path),
            escape(", ".join(one.tasks)),
            pieces.size(one.bytes),
            escape(one.precision),
            escape(", ".join(one.targets)) or "-",
        ]
        for one in report.engines
    ]
    return pieces.section("Engines", pieces.table(headers, rows)) if rows else ""


def _reproduce(report: Report) -> str:
    """Return how to get these figures again, where they were taken, and what the words mean."""
    command = f"<h3>Command</h3><pre>{escape(report.command)}</pre>" if report.command else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    environment = pieces.definitions(report.environment)
    body = command + (f"<ul>{notes}</ul>" if notes else "")
    body += f"<h3>Environment</h3>{environment}" if environment else ""
    body += f"<h3>Words</h3>{pieces.definitions(_WORDS)}"
    when = f"<footer>{escape(report.created)}</footer>" if report.created else ""
    return pieces.section("How to reproduce", body) + when


_WORDS = {
    "removed": "fraction of the trunk's parameters that were removed because their groups became zero",
    "groups at zero": "fraction of the dependency graph's channel groups that are zero",
    "delta_m": "mean over tasks of the relative change of the primary metric against dense, in %, positive is better",
    "speed-up": "dense median over this median, both interleaved in one process; brackets: 95 % bootstrap interval",
    "FLOP ratio": "dense FLOPs over this level's FLOPs; it says how much arithmetic is gone, not how fast it runs",
    "certificate": "largest relative difference between the masked network and the one with the channels removed",
    "not steady": "median / minimum above 1.15: the machine was busy, so the figure is not yet a measurement",
}
