"""Measures the latency table of a network on this machine, and keeps it: a second run measures nothing.

Tables live as JSON in ``$XDG_CACHE_HOME/slimtask`` (``~/.cache/slimtask``), one file per processor, thread count,
backend and version.
"""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from slimtask.bench.layers.graph import has_producer, layer_graph
from slimtask.bench.timing.graphs import BACKEND
from slimtask.compress.latency.table import BLOCK, FREE, Entry, LatencyTable, LayerShape, Penalties
from slimtask.errors import InputError
from slimtask.files import read_json
from slimtask.measured import cache_folder, cpu_name, in_memory, keep, version_of
from slimtask.onnx_session import OnnxSession

Range = tuple[int, int]
Timer = Callable[[LayerShape, int, int], float]
"""Returns the milliseconds of one layer with these input and output counts."""

_MOST_POINTS, _FEWEST_POINTS = 8, 3
_POINT_SECONDS = 0.035  # two sessions and their samples, on the machine of the committed results
_WORTH_FURTHER_COPIES_MS = 0.3


@dataclass(frozen=True, kw_only=True)
class Work:
    """What has to be measured of one shape: the counts of both axes."""

    shape: LayerShape
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def points(self) -> int:
        """Return how many layers are timed: the grid and the probes between grid points."""
        return len(self.inputs) * len(self.outputs) + 4 * (len(self.inputs) > 1) + 4 * (len(self.outputs) > 1)


def measure_table(
    ranges: Mapping[LayerShape, tuple[Range, Range]],
    *,
    threads: int,
    budget_seconds: float | int = 60.0,
    cache: Path | None = None,
    timer: Timer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Return a table that covers ``ranges`` (shape to input range and output range) under ONNX Runtime on the CPU.

    Only shapes that ``cache`` (default: the machine's own file) does not cover are measured, on as many grid points as
    ``budget_seconds`` allow; the file is rewritten after every shape, so that an interrupted run loses one at most.
    ``progress`` is called with (points done, points in all). ``timer`` replaces the measurement in tests.
    """
    cache = cache or cache_path(threads)
    table = load_table(cache, threads)
    missing = {
        shape: _widened(table, shape, mine) for shape, mine in ranges.items() if not _covered(table, shape, mine)
    }
    work = plan_work(missing, budget_seconds)
    timer = timer or (lambda shape, inputs, outputs: time_layer(shape, inputs, outputs, threads=threads))
    total, done = sum(item.points for item in work), 0
    for item in work:

        def tick(points: int, before: int = done) -> None:
            if progress is not None:
                progress(before + points, total)

        table = _keep(cache, table.joined([measure_entry(item, timer, tick)]))
        done += item.points
    return table


def plan_work(ranges: Mapping[LayerShape, tuple[Range, Range]], budget_seconds: float | int) -> list[Work]:
    """Return what to measure, with as many points per axis (three to eight) as the budget allows."""
    for most in range(_MOST_POINTS, _FEWEST_POINTS - 1, -1):
        work = [
            Work(
                shape=shape,
                inputs=(1,) if shape.one_axis else grid_counts(*into, most),
                outputs=grid_counts(*out, most),
            )
            for shape, (into, out) in ranges.items()
        ]
        if sum(item.points for item in work) * _POINT_SECONDS <= budget_seconds:
            break
    return work


def grid_counts(least: int, largest: int, most: int = _MOST_POINTS) -> tuple[int, ...]:
    """Return at most ``most`` rising counts from at most ``least`` to ``largest``; between them multiples of BLOCK.

    Small counts are a factor of two apart, large ones equal steps: time is close to linear between them.
    """
    if least >= largest:
        return (largest,)
    inner = [2**k for k in range(2, 4)] + list(range(BLOCK, largest, BLOCK))
    inner = [count for count in inner if least < count < largest]
    first = min(least, largest)
    wanted = np.linspace(max(first, 1) ** 0.5, largest**0.5, most)[1:-1] ** 2
    nearest = {inner[int(np.abs(np.asarray(inner) - count).argmin())] for count in wanted} if inner else set()
    return tuple(sorted({first, largest, *nearest}))


def measure_entry(work: Work, timer: Timer, tick: Callable[[int], None]) -> Entry:
    """Return the measured entry of one shape; ``tick`` is called with the points done so far."""
    done = iter(range(1, work.points + 1))

    def timed(inputs: int, outputs: int) -> float:
        ms = timer(work.shape, inputs, outputs)
        tick(next(done))
        return ms

    grid = tuple(tuple(timed(n, m) for m in work.outputs) for n in work.inputs)
    entry = Entry(shape=work.shape, inputs=work.inputs, outputs=work.outputs, ms=grid)
    largest_in, largest_out = work.inputs[-1], work.outputs[-1]
    return Entry(
        shape=work.shape,
        inputs=work.inputs,
        outputs=work.outputs,
        ms=grid,
        input_penalty=_penalties(work.inputs, lambda n: timed(n, largest_out), lambda n: _known(entry, n, None)),
        output_penalty=_penalties(work.outputs, lambda n: timed(largest_in, n), lambda n: _known(entry, None, n)),
    )


def time_layer(shape: LayerShape, inputs: int, outputs: int, *, threads: int, seconds: float | int = 0.02) -> float:
    """Return the milliseconds of one layer under ONNX Runtime: the difference between two graphs, see ``layer_graph``.

    The minimum of interleaved samples of both graphs is taken: other work on the machine can only add time. A layer of
    microseconds gets more copies, so that the difference stands out of the clock's and the scheduler's noise.
    """
    read = outputs if shape.one_axis else inputs
    one = _call(shape, inputs, outputs, 1, threads)
    if has_producer(shape, read) and read % BLOCK:
        pair, further = (_call(shape, inputs, outputs, 0, threads), one), 1
    else:
        started = time.perf_counter()
        one()
        rough_ms = (time.perf_counter() - started) * 1e3
        further = int(np.clip(round(_WORTH_FURTHER_COPIES_MS / max(rough_ms, 1e-3)), 2, 8))
        pair = (one, _call(shape, inputs, outputs, 1 + further, threads))
    fastest = np.full(2, np.inf)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        for index, call in enumerate(pair):
            call()  # the weights are in the caches again
            started = time.perf_counter()
            call()
            fastest[index] = min(fastest[index], (time.perf_counter() - started) * 1e3)
        rounds += 1
    return float(max((fastest[1] - fastest[0]) / further, 1e-4))


def cache_path(threads: int) -> Path:
    """Return the file of this machine's table for a number of threads."""
    key = hashlib.sha256("|".join(map(str, _identity(threads).values())).encode()).hexdigest()[:16]
    return cache_folder() / f"latency-{key}.json"


def load_table(path: Path, threads: int) -> LatencyTable:
    """Return the table in ``path``, an empty one if there is none, or if it is damaged or another machine's.

    A damaged file is named in a warning and measured again.
    """
    try:
        return _read(path, threads)
    except (InputError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"the latency table '{path}' is damaged ({reason}); it is measured again.", stacklevel=2)
        return LatencyTable.model_validate(_identity(threads))


def _read(path: Path, threads: int) -> LatencyTable:
    identity, content = _identity(threads), in_memory(path)
    if content is None and _is_there(path):
        content = read_json(path, "latency table")
    table = LatencyTable.model_validate(identity if content is None else content)
    same = all(getattr(table, name) == value for name, value in identity.items())
    return table if same else LatencyTable.model_validate(identity)


def _keep(path: Path, table: LatencyTable) -> LatencyTable:
    """Return the table joined with what is in its file by now, where both are kept."""
    with suppress(InputError, ValidationError):  # said when it was loaded
        table = _read(path, table.threads).joined(table.entries)
    keep(path, table.model_dump(mode="json"), "XDG_CACHE_HOME")
    return table


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that may not be looked into
        return False


def _identity(threads: int) -> dict[str, Any]:
    version = version_of("onnxruntime-gpu") or version_of("onnxruntime") or "none"
    device = f"{cpu_name()} ({platform.machine()})"
    return {"device": device, "backend": BACKEND, "version": version, "threads": threads}


def _covered(table: LatencyTable, shape: LayerShape, ranges: tuple[Range, Range]) -> bool:
    entry = table.by_shape.get(shape)
    inputs, outputs = ranges
    return entry is not None and entry.covers(entry.inputs if shape.one_axis else inputs, outputs)


def _widened(table: LatencyTable, shape: LayerShape, ranges: tuple[Range, Range]) -> tuple[Range, Range]:
    """Return the ranges with those of the entry to be replaced, so that networks do not take turns to measure it."""
    entry = table.by_shape.get(shape)
    if entry is None:
        return ranges
    inputs, outputs = (
        (min(axis[0], low), max(axis[-1], high))
        for axis, (low, high) in zip((entry.inputs, entry.outputs), ranges, strict=True)
    )
    return inputs, outputs


def _call(shape: LayerShape, inputs: int, outputs: int, copies: int, threads: int) -> Callable[[], object]:
    """Return one run of a layer's graph with preallocated buffers."""
    graph, feed = layer_graph(shape, inputs, outputs, copies)
    session = OnnxSession(graph, {}, what="a layer", threads=threads).session
    x = np.full(feed, 0.5, dtype=np.float32)
    return lambda: session.run(None, {"x": x})


def _known(entry: Entry, inputs: int | None, outputs: int | None) -> float:
    """Return the time on the smooth grid, the axis that is None at its largest count."""
    return float(entry.lookup([inputs or entry.inputs[-1]], [outputs or entry.outputs[-1]])[0, 0])


def _penalties(grid: Sequence[int], timed: Callable[[int], float], smooth: Callable[[int], float]) -> Penalties:
    """Return what counts off the blocks cost, by the largest power of two that divides them.

    One count of each kind is probed in the first block above BLOCK, where a step is the largest part of the time. It
    pays nothing extra if its time is near the straight line between the blocks around it (within a quarter of a step);
    otherwise it pays the measured share of the step. A step too small to tell counts as padding: a whole block.
    """
    if len(grid) == 1:
        return FREE
    found = [_penalty(count, timed, smooth) for count in _probes(grid)]
    # A count that fewer powers of two divide never costs less than a better aligned one; noise may say so.
    rising = np.maximum.accumulate(found[::-1])[::-1].tolist()
    return rising[0], rising[1], rising[2], rising[3]


def _probes(grid: Sequence[int]) -> Iterator[int]:
    """Yield one count per power of two, in the block whose step of time is the clearest: the first above BLOCK."""
    block = BLOCK if grid[-1] >= 2 * BLOCK else 0
    yield from (block + 5, block + 6, block + 4, block + 8)


def _penalty(count: int, timed: Callable[[int], float], smooth: Callable[[int], float]) -> float:
    measured, low, high = timed(count), smooth(count // BLOCK * BLOCK), smooth(-(-count // BLOCK) * BLOCK)
    if high - low < 0.25 * high:
        return 1.0
    share = (measured - low) / (high - low)
    return float(np.clip(share, 0.0, 3.0)) if share > count % BLOCK / BLOCK + 0.25 else 0.0
