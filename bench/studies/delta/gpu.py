"""The measurement on a GPU, and its figures to reach on one of the H200's class: bfloat16, T = 4, warm L2."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from slimtask.bench.studies.delta.gpu_layers import cases, measure_layers, not_tried
from slimtask.bench.studies.delta.gpu_whole import measure_whole
from slimtask.bench.studies.delta.probes import failed_probes, run_probes
from slimtask.bench.studies.delta.report import Goal, Row
from slimtask.bench.timing.gpu_clock import Clock, GraphClock
from slimtask.bench.timing.isolated import Here, Runner
from slimtask.kernels.device import Device

LIMIT = 2e-2  # bfloat16 products against float32, largest difference over largest value
NOT_BUILT = {
    "E, 2:4": "a delta in 2:4 leaves W + D dense; 2:4 of W + D itself is at most T / 2 and another network",
    "F, merged on the fly": "all FLOPs of dense products; for memory, not for time",
}
_OURS = ("out-channels", "blocks-cuda", "blocks-triton", "csr")


def _layer(pattern: tuple[str, ...], density: float, rows: float) -> Callable[[Row], bool]:
    def of(row: Row) -> bool:
        same = (row["tasks"], row["rows"], row.get("l2")) == (4, rows, "warm") and abs(row["density"] - density) < 1e-9
        return same and row["pattern"] in pattern and row.get("form", "").startswith(_OURS)

    return of


def _goals() -> tuple[Goal, ...]:
    made = []
    for rows, graph, batched in ((0.0, 2.0, 1.8), (0.1, 1.9, 1.6), (0.3, 1.35, 1.15)):
        what, of = (
            f"structured or 64-block deltas of 5 %, {rows:.0%} rows",
            _layer(("out-channels", "block"), 0.05, rows),
        )
        made.append(Goal(what=f"{what}: T products in one graph", of=of, speedup=graph, error=LIMIT))
        over = "speedup_over_batched"
        made.append(Goal(what=f"{what}: one batched call", of=of, speedup=batched, error=LIMIT, key=over))
    unstructured = _layer(("unstructured",), 0.01, 0.0)
    made.append(Goal(what="unstructured at 99 %, no changed rows", of=unstructured, speedup=1.2, error=LIMIT))
    made.append(Goal(what="whole block, 10 % rows", of=_block, speedup=1.5, error=None))
    return tuple(made)


def _block(row: Row) -> bool:
    return bool(row["layer"] == "block" and row["rows"] == 0.1 and row.get("l2") == "warm")


GPU_GOALS = _goals()


def measure(seconds: float, *, clock: Clock | None = None, runner: Runner | None = None) -> dict[str, Any]:
    """Return the GPU part of the measurement as a JSON-ready dict, made in about ``seconds``.

    A third goes to the layers that the figures to reach are about, then come blocks and transformers and the probes,
    and the rest of the grid with what is left.
    """
    start, clock, runner = time.monotonic(), clock or GraphClock(), runner or Here()
    grid, losses = cases(Device.current("cuda")), Counter[str]()
    first = measure_layers(grid, clock, seconds=seconds / 3, runner=runner, losses=losses)
    whole = measure_whole(clock, seconds=seconds / 4, runner=runner)
    probes = run_probes(clock, seconds=seconds / 6, runner=runner)
    names = {*first.left_out}
    rest = [case for case in grid if case.name in names]
    left = max(0.0, seconds - (time.monotonic() - start))
    second = measure_layers(rest, clock, seconds=left, runner=runner, losses=losses)
    rows = [*first.rows, *whole.rows, *second.rows]
    return {
        "seconds": time.monotonic() - start,
        "goals": [goal.judged(rows) for goal in GPU_GOALS],
        "rows": rows,
        "probes": probes,
        "left_out": [*whole.left_out, *second.left_out],
        "failed": [*first.failed, *whole.failed, *failed_probes(probes), *second.failed],
        "refused": [*first.refused, *second.refused],
        "not_tried_again": sorted(not_tried(losses)),
        "not_built": NOT_BUILT,
    }
