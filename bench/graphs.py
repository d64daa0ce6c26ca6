"""The latencies of ONNX graphs on this processor, all in one interleaved run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slimtask.bench.backends import BACKENDS
from slimtask.bench.latency_table import BACKEND
from slimtask.bench.measure import Measurement
from slimtask.bench.protocol import measure_interleaved


def measure_graphs(
    graphs: Mapping[str, Path], *, threads: int, rounds: int = 30, min_sample_ms: float | int = 1.0
) -> dict[str, Measurement]:
    """Return one measurement per graph under ONNX Runtime; options as in ``measure_interleaved``."""
    opened = {name: BACKENDS[BACKEND].open(path, threads=threads) for name, path in graphs.items()}
    calls = {name: one.call for name, one in opened.items()}
    conditions = {name: one.conditions for name, one in opened.items()}
    return measure_interleaved(calls, conditions, rounds=rounds, min_sample_ms=min_sample_ms)
