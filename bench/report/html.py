"""The report page: one HTML file that needs nothing else, written from a ``Report`` and optional scenes.

``page.html`` is its template, in which all text is escaped; here are the figures and pictures that it shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from slimtask.bench.bench import count_text
from slimtask.bench.report import findings, plots
from slimtask.bench.report.findings import best_level, flop_ratio, main_backend, percent, primary_metrics, speedup
from slimtask.bench.report.gallery import Scene
from slimtask.bench.report.schema import Level, Report
from slimtask.files import write_text

_WIDEST = 640
# Depth as the pictures show it: viridis, near bright and far dark, in eight stops.
_RAMP = "#fde725,#a0da39,#4ac16d,#1fa187,#277f8e,#365c8d,#46327e,#440154"


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
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "count": count_text, "number": number, "size": size}
    environment.filters |= {"flat": _flat, "data_url": data_url}
    environment.globals |= {"flop_ratio": flop_ratio, "speedup": speedup}
    charts = {
        "accuracy": plots.accuracy_against_latency(report),
        "latency": plots.latency_against_sparsity(report),
        "channels": plots.channels_kept(report),
        "history": plots.training_history(report),
    }
    dense, compared = report.levels[0], best_level(report) or report.levels[-1]
    compared_levels = [dense] if compared is dense else [dense, compared]
    return environment.get_template("page.html").render(
        report=report,
        scenes=scenes,
        dense=dense,
        best=best_level(report),
        backend=main_backend(report),
        headline=findings.headline(report),
        subline=findings.subline(report),
        figures=_figures(report),
        charts={name: Markup(svg) for name, svg in charts.items()},  # whose text matplotlib has escaped
        verdicts=findings.verdicts(report),
        scores=primary_metrics(report),
        compared=compared_levels,
        paths=_paths(report, compared_levels),
        ramp=_RAMP,
    )


def _figures(report: Report) -> list[tuple[str, str]]:
    """Return the key figures of the best level; without one, of what can be said about the dense network."""
    best, backend = best_level(report), main_backend(report)
    dense = report.levels[0]
    if best is None or backend is None:
        figures = [(count_text(dense.params), "parameters, dense"), (count_text(dense.flops), "FLOPs, dense")]
        timed = [] if backend is None else [(f"{dense.latency_ms[backend].median:.2f} ms", f"dense, {backend}")]
        return timed + figures
    figures = []
    gain, ratio = speedup(report, best, backend), flop_ratio(report, best)
    if gain is not None:
        figures.append((f"{gain.value:.2f}x", f"measured speed-up, {backend}, level {best.name}"))
    before, after = dense.latency_ms[backend].median, best.latency_ms[backend].median
    figures.append((f"{after:.2f} ms", f"instead of {before:.2f} ms, median"))
    figures.append((percent(best.sparsity), "of the trunk's parameters removed"))
    if best.delta_m is not None:
        figures.append((f"{best.delta_m:+.1f} %", "delta_m, mean relative change of all task scores"))
    if ratio is not None:
        figures.append((f"{ratio:.2f}x", "FLOP ratio (a count, not a speed)"))
    if best.certificate is not None and best.certificate.max_rel_error is not None:
        figures.append((f"{best.certificate.max_rel_error:.0e}", "largest relative difference that removal made"))
    return figures


def _paths(report: Report, levels: Sequence[Level]) -> list[tuple[str, list[tuple[Level, float, float]]]]:
    """Return by path (all tasks fused, or one task) level, ms and width in % of each bar, all on one scale."""
    backend = main_backend(report)
    if backend is None or not report.levels[0].latency_ms[backend].paths:
        return []
    timed = [(level, level.latency_ms[backend]) for level in levels if backend in level.latency_ms]
    times = {"all tasks": [(level, latency.median) for level, latency in timed]}
    for name in report.levels[0].latency_ms[backend].paths:
        times[name] = [(level, one.paths[name].median) for level, one in timed if name in one.paths]
    longest = max(ms for pairs in times.values() for _, ms in pairs)
    return [(name, [(level, ms, 70 * ms / longest) for level, ms in pairs]) for name, pairs in times.items()]


def number(value: float | int | None) -> str:
    """Return a score in four significant digits at most; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def size(count_bytes: int) -> str:
    """Return a file size in MB (10^6 bytes) or kB."""
    return f"{count_bytes / 1e6:.1f} MB" if count_bytes >= 1e6 else f"{count_bytes / 1e3:.0f} kB"


def data_url(picture: Image.Image, pixels: bool) -> str:
    """Return the picture as a data URL: PNG where every pixel counts, JPEG for the rest."""
    if picture.width > _WIDEST:
        height = round(picture.height * _WIDEST / picture.width)
        way = Image.Resampling.NEAREST if pixels else Image.Resampling.LANCZOS
        picture = picture.resize((_WIDEST, height), way)
    file = io.BytesIO()
    if pixels or picture.width * picture.height <= 40_000:
        picture.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.convert("RGB").save(file, format="JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_flat(item) for item in value)
    return str(value)
