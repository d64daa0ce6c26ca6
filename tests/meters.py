"""A machine whose times follow a law, in place of the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from slimtask.bench.layers.meter import OnnxRuntimeMeter
from slimtask.bench.layers.table import Timer, measure_table
from slimtask.compress.latency.meter import Ranges
from slimtask.compress.latency.table import LatencyTable


class LawfulMeter(OnnxRuntimeMeter):
    """Layers take what ``layer_ms`` says (None: they are really timed), graphs what ``graph_ms`` says."""

    def __init__(self, *, layer_ms: Timer | None = None, graph_ms: Callable[[Path], float] | None = None) -> None:
        super().__init__(threads=1, table_seconds=2)
        self._layer_ms, self._graph_ms = layer_ms, graph_ms

    def layer_table(self, ranges: Ranges, progress: Callable[[int, int], None] | None = None) -> LatencyTable:
        return measure_table(
            ranges, threads=1, budget_seconds=self.table_seconds, timer=self._layer_ms, progress=progress
        )

    def milliseconds(self, artifacts: Mapping[str, Path]) -> dict[str, float]:
        assert self._graph_ms is not None
        return {name: self._graph_ms(path) for name, path in artifacts.items()}
