"""Pieces of the report page: cells, tables, bars and scenes as HTML. Arguments are raw text unless called ``html``."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from slimtask.bench.report.findings import percent
from slimtask.bench.report.gallery import Scene, Shares, Strip
from slimtask.bench.report.schema import Level, Report, Timing
from slimtask.bench.timing.measure import Ratio

_WIDEST = 640
# Depth as the pictures show it: viridis, near bright and far dark, in eight stops.
_RAMP = "#fde725,#a0da39,#4ac16d,#1fa187,#277f8e,#365c8d,#46327e,#440154"


def section(title: str, body_html: str, hint_html: str = "") -> str:
    """Return a titled card, nothing for an empty body."""
    hint = f'<p class="hint">{hint_html}</p>' if hint_html else ""
    return f"<section><h2>{escape(title)}</h2>{hint}{body_html}</section>" if body_html else ""


def table(headers: Sequence[str], rows_html: Sequence[Sequence[str]], *, best: int | None = None) -> str:
    """Return a table; a header that begins with ``>`` is right-aligned; row ``best`` is tinted."""
    right = [header.startswith(">") for header in headers]
    tag = [' class="n"' if one else "" for one in right]
    head = "".join(
        f"<th{css}>{escape(header.removeprefix('>')).replace(chr(10), '<br>')}</th>"
        for header, css in zip(headers, tag, strict=True)
    )
    body = ""
    for place, row in enumerate(rows_html):
        cells = "".join(f"<td{css}>{cell}</td>" for cell, css in zip(row, tag, strict=True))
        body += f"<tr{' class=best' if place == best else ''}>{cells}</tr>\n"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | int | None) -> str:
    """Return a score in four significant digits at most; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def signed(percent: float | int) -> str:
    """Return a relative change in per cent, coloured by its sign."""
    return f'<span class="{"good" if percent >= 0 else "bad"}">{percent:+.1f} %</span>'


def timing(one: Timing) -> str:
    """Return a median with its p10 to p90, and a mark where the run was not steady."""
    mark = "" if one.steady else ' <span class="bad">not steady</span>'
    return f"{one.median:.2f} <small>({one.p10:.2f} to {one.p90:.2f})</small>{mark}"


def interval(ratio: Ratio) -> str:
    """Return the interval of a ratio in small type, nothing if none was measured."""
    return f" <small>[{ratio.low:.2f}, {ratio.high:.2f}]</small>" if ratio.low < ratio.high else ""


def certificate(level: Level) -> str:
    """Return whether a level's removal is proven, with its largest relative difference."""
    one = level.certificate
    if one is None:
        return "-"
    error = "" if one.max_rel_error is None else f" <small>{one.max_rel_error:.1e}</small>"
    return (
        (f'<span class="good">holds</span>{error}') if one.holds else f'<span class="bad">does not hold</span>{error}'
    )


def size(count_bytes: int) -> str:
    """Return a file size in MB (10^6 bytes) or kB."""
    return f"{count_bytes / 1e6:.1f} MB" if count_bytes >= 1e6 else f"{count_bytes / 1e3:.0f} kB"


def primary_metrics(report: Report) -> list[tuple[str, str, str]]:
    """Return (task, primary metric, arrow of its better direction) for every task the dense network was scored on."""
    specs = {task.name: task for task in report.tasks}
    found = []
    for task, values in report.levels[0].metrics.items():
        spec = specs.get(task)
        if spec is not None and spec.metric in values:
            found.append((task, spec.metric, "↑" if spec.higher_is_better else "↓"))
        elif values:
            found.append((task, next(iter(values)), ""))
    return found


def definitions(values: Mapping[str, Any]) -> str:
    """Return a nested mapping as a definition list, inner mappings on one line."""
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_flat(value))}</dd>" for key, value in values.items())
    return f"<dl>{rows}</dl>" if rows else ""


def path_bars(dense: Level, shown: Sequence[Level], backend: str) -> str:
    """Return one group of bars per path, one bar per level, all on one scale."""
    names = ["all tasks", *dense.latency_ms[backend].paths]
    times: dict[str, list[tuple[Level, Timing]]] = {name: [] for name in names}
    for level in shown:
        latency = level.latency_ms.get(backend)
        if latency is None:
            continue
        times["all tasks"].append((level, latency))
        for name in names[1:]:
            if name in latency.paths:
                times[name].append((level, latency.paths[name]))
    longest = max(one.median for pairs in times.values() for _, one in pairs)
    html = ""
    for name, pairs in times.items():
        bars = ""
        for level, one in pairs:
            kind = "bar base" if level is dense else "bar"
            width = 100 * one.median / longest
            bars += (
                f'<div class="{kind}"><i style="width:{width * 0.7:.1f}%"></i><span>{one.median:.2f} ms</span></div>'
            )
        html += f'<div class="name">{escape(name)}</div><div>{bars}</div>'
    return f'<div class="bars">{html}</div>'


def predictions(scenes: Sequence[Scene]) -> str:
    """Return the side-by-side predictions of all scenes, nothing without scenes."""
    return section("Predictions side by side", "".join(_scene(one) for one in scenes))


def _scene(one: Scene) -> str:
    lists = "".join(_strip(strip) for strip in one.strips if not strip.task.dense)
    maps = "".join(_strip(strip) for strip in one.strips if strip.task.dense)
    photograph = _image(one.image, "the input image", pixels=False)
    return (
        f'<div class="scene"><div class="top"><figure>{photograph}<figcaption>input image</figcaption></figure>'
        f"<div>{lists}</div></div>{maps}</div>"
    )


def _strip(strip: Strip) -> str:
    cells = ""
    for label, cell in strip.cells.items():
        if isinstance(cell, Image.Image):
            alt = f"{strip.task.name}, {label}"
            shown = _image(cell, alt, pixels=strip.task.kind in ("segmentation", "edges"))
            cells += f"<figure>{shown}<figcaption>{escape(label)}</figcaption></figure>"
        else:
            cells += (
                f'<div><div class="label">{escape(label)}</div>{_shares(cell, strip.task.kind == "multilabel")}</div>'
            )
    kind = "cells" if strip.task.dense else "cells lists"
    title = f"<h3>{escape(strip.task.name)}</h3>"
    return f'<div class="strip">{title}<div class="{kind}">{cells}</div>{_key(strip)}</div>'


def _shares(shares: Shares, several: bool) -> str:
    html = ""
    for place, (name, share) in enumerate(shares):
        chosen = share >= 0.5 if several else place == 0
        shown = "" if share == 1.0 else percent(share)  # the truth needs no number
        kind = "share" if chosen else "share low"
        html += f'<div class="{kind}"><span>{escape(name)}</span><span>{shown}</span></div>'
    return html


def _key(strip: Strip) -> str:
    """Return the legend of a strip: class colours, or the depth range."""
    if strip.legend:
        items = "".join(
            f'<span><span class="key" style="background:rgb{colour}"></span>{escape(name)}</span>'
            for name, colour in strip.legend
        )
        return f'<div class="legend">{items}</div>'
    if strip.limits is not None:
        low, high = strip.limits
        ends = f'<div class="ends"><span>{low:.1f} m</span><span>{high:.1f} m</span></div>'
        return f'<div class="ramp" style="background:linear-gradient(90deg,{_RAMP})"></div>{ends}'
    return ""


def _image(picture: Image.Image, alt: str, *, pixels: bool) -> str:
    """Return an <img> with the picture inside: PNG where every pixel counts, JPEG for the rest."""
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
    data = base64.b64encode(file.getvalue()).decode("ascii")
    css = ' class="pixels"' if pixels else ""
    return f'<img{css} alt="{escape(alt, quote=True)}" src="data:image/{kind};base64,{data}">'


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_flat(item) for item in value)
    return str(value)
