"""Dense and compressed artifacts side by side: measured latency, with parameters and FLOPs beside it, never instead.

Every candidate belongs to a level (``dense``, ``70 %``, ...) and a path (``fused`` or a task). The first candidate of a
path is the one the others of that path are compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from slimtask.bench.timing.backends import backend as backend_of
from slimtask.bench.timing.measure import Measurement, Ratio
from slimtask.bench.timing.protocol import measure_interleaved
from slimtask.errors import InputError
from slimtask.tables import Sheet
from slimtask.tasks import Frozen

_FAR_BELOW = 0.7
"""A measured speed-up below this share of the FLOP ratio is called far below it."""


class Candidate(BaseModel):
    """One artifact to time: an ONNX path or a module, with the size figures that stand beside its latency."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    level: str
    artifact: Any
    path: str = "fused"
    params: int | None = None
    flops: int | None = None
    channels: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Unique name within a benchmark."""
        return f"{self.level}/{self.path}"


class Row(Frozen):
    """One measured candidate; ``speedup`` and ``flop_ratio`` are None for the one the others are compared with."""

    level: str
    path: str
    measurement: Measurement
    params: int | None
    flops: int | None
    speedup: Ratio | None
    flop_ratio: float | None
    verdict: str


class Bench(Frozen):
    """One interleaved run on one backend."""

    backend: str
    rows: tuple[Row, ...]

    def row(self, level: str, path: str = "fused") -> Row:
        """Return the row of a level and path; InputError if there is none."""
        for row in self.rows:
            if (row.level, row.path) == (level, path):
                return row
        raise InputError(f"nothing was measured for level '{level}', path '{path}'.")

    def to_json(self) -> dict[str, Any]:
        """Return everything, samples included, as a JSON-ready dict."""
        rows = [row.model_dump(mode="json") | {"measurement": row.measurement.to_json()} for row in self.rows]
        return {"backend": self.backend, "rows": rows}


def bench_artifacts(
    candidates: Sequence[Candidate],
    *,
    backend: str = "onnxruntime-cpu",
    shape: Sequence[int] | None = None,
    threads: int | None = None,
    rounds: int = 40,
    max_seconds: float | int = 120.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Return the measured rows of all candidates, interleaved in this process on one backend.

    Args:
        candidates: the artifacts; the first of each path is the baseline of that path.
        backend: a key of ``slimtask.bench.timing.backends.BACKENDS``.
        shape: the input's shape, batch first; needed for modules and for graphs with free dimensions.
        threads: intra-operator threads; all usable cores by default.
        rounds: samples per candidate. max_seconds: the time budget (see ``measure_interleaved``).

    Raises:
        InputError: for an unknown backend, a missing file, or two candidates of the same level and path.
        Unsupported: if the backend cannot run here.
    """
    keys = [candidate.key for candidate in candidates]
    if len(set(keys)) != len(keys):
        raise InputError("two candidates have the same level and path; name the levels differently.")
    runner = backend_of(backend)
    opened = {one.key: runner.open(one.artifact, shape=shape, threads=threads, seed=seed) for one in candidates}
    measured = measure_interleaved(
        {key: one.call for key, one in opened.items()},
        {key: one.conditions for key, one in opened.items()},
        rounds=rounds,
        max_seconds=max_seconds,
        seed=seed,
        progress=progress,
    )
    return Bench(backend=backend, rows=tuple(_row(one, candidates, measured) for one in candidates))


def verdict(
    speedup: Ratio,
    flop_ratio: float | None,
    *,
    steady: bool = True,
    channels: Sequence[int] = (),
    fixed_share: float | None = None,
) -> str:
    """Return one sentence: faster or not, by how much, and what the figures themselves say about the reason.

    Args:
        speedup: baseline over candidate. flop_ratio: baseline FLOPs over candidate FLOPs.
        steady: whether both measurements were steady.
        channels: channel counts of the candidate's layers, to name the share that is not a multiple of 8.
        fixed_share: the share of the baseline's latency that does not shrink with FLOPs (``fixed_latency_share``).
    """
    if speedup.above_one:
        said = f"{speedup} faster"
    elif speedup.below_one:
        said = f"not faster but slower: {speedup}"
    else:
        said = f"not faster: {speedup} includes 1"
    if flop_ratio is not None and flop_ratio > 1.1 and speedup.value < _FAR_BELOW * flop_ratio:
        said += f", far below its FLOP ratio of {flop_ratio:.2f}x{_reasons(channels, fixed_share)}"
    return said + ("" if steady else " (unsteady run: measure again)")


def fixed_latency_share(latency_ms: Sequence[float], flops: Sequence[int]) -> float | None:
    """Return which share of the first latency is left at zero FLOPs, by a least-squares line through all levels.

    None with fewer than three distinct FLOP counts, where a line would explain anything. Clipped to [0, 1].
    """
    if len(set(flops)) < 3 or len(latency_ms) != len(flops):
        return None
    x = np.asarray(flops, dtype=np.float64)
    _, at_zero = np.polyfit(x / x.max(), np.asarray(latency_ms, dtype=np.float64), 1)
    return float(np.clip(at_zero / latency_ms[0], 0.0, 1.0))


def table(bench: Bench) -> Sheet:
    """Return the rows as a table: latency with its spread, parameters and FLOPs beside it."""
    conditions = bench.rows[0].measurement.conditions
    size = "x".join(str(n) for n in (conditions.batch, *conditions.shape))
    title = (
        f"{bench.backend} {conditions.backend_version} · {conditions.device} · {conditions.threads} threads · {size}"
    )
    names, numbers = ("level", "path"), ("params", "FLOPs", "FLOP ratio", "median ms", "p10-p90", "n", "speed-up")
    above = _common_folder([row.level for row in bench.rows])
    out = Sheet(
        title=title,
        headings=(*names, *numbers),
        left=len(names),
        caption=_caption(bench) + (f" ... is {above}." if above else ""),
    )
    for row in bench.rows:
        level = f"...{row.level.removeprefix(above)}" if above else row.level
        out.add_row(level, row.path, *_cells(row))
    return out


def verdicts(bench: Bench) -> list[str]:
    """Return the verdict on each row but the baselines, after its level and path; too long for a column."""
    return [f"{row.level} {row.path}: {row.verdict}" for row in bench.rows if row.speedup is not None]


def count_text(value: float | int | None) -> str:
    """Return a count in three significant digits with k, M, G or T; a dash for None."""
    if value is None:
        return "-"
    for scale, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def _common_folder(levels: Sequence[str]) -> str:
    """Return the folder that several levels lie in, if they are paths and its name is long, else nothing."""
    if len(set(levels)) < 2 or len({os.path.isabs(level) for level in levels}) != 1:
        return ""
    above = os.path.commonpath(levels)
    return above if len(above) > len("...") and above not in levels else ""


def _cells(row: Row) -> list[str]:
    timed = row.measurement
    return [
        count_text(row.params),
        count_text(row.flops),
        "-" if row.flop_ratio is None else f"{row.flop_ratio:.2f}x",
        f"{timed.median_ms:.2f}" + ("" if timed.steady else "*"),
        f"{timed.p10_ms:.2f}-{timed.p90_ms:.2f}",
        str(timed.n),
        "-" if row.speedup is None else str(row.speedup),
    ]


def _caption(bench: Bench) -> str:
    unsteady = [row for row in bench.rows if not row.measurement.steady]
    note = "Medians of interleaved rounds; speed-up with its 95 % bootstrap interval."
    if unsteady:
        worst = max(row.measurement.spread for row in unsteady)
        note += f" * median / minimum above 1.15 (up to {worst:.2f}): the machine was busy, not yet a measurement."
    return note


def _row(one: Candidate, candidates: Sequence[Candidate], measured: dict[str, Measurement]) -> Row:
    family = [other for other in candidates if other.path == one.path]
    base, mine = family[0], measured[one.key]
    speedup = flop_ratio = None
    said = "the baseline"
    if one is not base:
        speedup = measured[base.key].ratio(mine)
        flop_ratio = base.flops / one.flops if base.flops and one.flops else None
        said = verdict(
            speedup,
            flop_ratio,
            steady=mine.steady and measured[base.key].steady,
            channels=one.channels,
            fixed_share=_fixed_share(family, measured),
        )
    return Row(
        level=one.level,
        path=one.path,
        measurement=mine,
        params=one.params,
        flops=one.flops,
        speedup=speedup,
        flop_ratio=flop_ratio,
        verdict=said,
    )


def _fixed_share(family: Sequence[Candidate], measured: dict[str, Measurement]) -> float | None:
    known = [(measured[one.key].median_ms, one.flops) for one in family if one.flops]
    return fixed_latency_share([ms for ms, _ in known], [flops for _, flops in known])


def _reasons(channels: Sequence[int], fixed_share: float | None) -> str:
    reasons = []
    if fixed_share is not None and fixed_share >= 0.05:
        reasons.append(f"a line through the levels leaves {100 * fixed_share:.0f} % of the dense latency at zero FLOPs")
    odd = sum(count % 8 != 0 for count in channels)
    if odd:
        reasons.append(f"{odd} of {len(channels)} layers have a channel count that is not a multiple of 8")
    return f" ({'; '.join(reasons)})" if reasons else ""
