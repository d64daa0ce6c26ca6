"""ONNX Runtime on this processor as the meter of budgets in milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from slimtask.bench.layers.table import measure_table
from slimtask.bench.timing.environment import usable_cores
from slimtask.bench.timing.graphs import BACKEND, export, measure_graphs
from slimtask.compress.latency.meter import Meter, Ranges
from slimtask.compress.latency.table import LatencyTable
from slimtask.errors import InputError


class OnnxRuntimeMeter:
    """Measures under ONNX Runtime with ``threads`` (default: all usable cores).

    A layer table takes ``table_seconds`` at most, and is kept for the next time.

    Examples:
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from torch import nn, zeros
        >>> meter = OnnxRuntimeMeter(threads=1)
        >>> with meter.artifacts({"net": nn.Conv2d(3, 4, 3)}, zeros(1, 3, 16, 16)) as files:
        ...     meter.milliseconds(files)["net"] > 0
        True
    """

    backend: str = BACKEND

    def __init__(self, *, threads: int | None = None, table_seconds: float | int = 60.0) -> None:
        self.threads, self.table_seconds = threads or usable_cores(), table_seconds

    def layer_table(self, ranges: Ranges, progress: Callable[[int, int], None] | None = None) -> LatencyTable:
        """Return the machine's table of layers, measured where it does not cover ``ranges`` yet."""
        return measure_table(ranges, threads=self.threads, budget_seconds=self.table_seconds, progress=progress)

    @contextmanager
    def artifacts(self, networks: Mapping[str, nn.Module], example: Tensor) -> Iterator[dict[str, Path]]:
        """Yield one ONNX file per network, in a folder that goes away."""
        with tempfile.TemporaryDirectory(prefix="slimtask-") as folder:
            yield {
                name: export(network, example, Path(folder) / f"{number}.onnx")
                for number, (name, network) in enumerate(networks.items())
            }

    def milliseconds(self, artifacts: Mapping[str, Path]) -> dict[str, float]:
        """Return the median milliseconds of one call of each graph, interleaved in this process."""
        timed = measure_graphs(artifacts, threads=self.threads)
        return {name: one.median_ms for name, one in timed.items()}


def meter_of(backend: str) -> Meter:
    """Return the meter of a backend. Raises InputError if it has no layer table to choose channels by."""
    if backend != BACKEND:
        raise InputError(
            f"latency budgets are measured on {BACKEND}, the one backend with a layer table, not '{backend}'."
        )
    return OnnxRuntimeMeter()
