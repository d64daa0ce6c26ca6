"""What a budget in milliseconds is measured with: ``bench`` has one for a backend, a test for a law of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from slimtask.compress.latency.table import LatencyTable, LayerShape

Ranges = Mapping[LayerShape, tuple[tuple[int, int], tuple[int, int]]]
"""By shape of a layer the (least, largest) count of its inputs, and of its outputs."""


class Meter(Protocol):
    """Measures single layers, and networks as they are deployed, on one backend of one machine.

    Examples:
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from slimtask.compress import Meter
        >>> meter: Meter = OnnxRuntimeMeter(threads=1)
        >>> meter.backend
        'onnxruntime-cpu'
    """

    backend: str

    def layer_table(self, ranges: Ranges, progress: Callable[[int, int], None] | None = None) -> LatencyTable:
        """Return the measured times of the layers in ``ranges``; ``progress`` is told points done and in all."""
        ...

    def artifacts(
        self, networks: Mapping[str, nn.Module], example: Tensor
    ) -> AbstractContextManager[Mapping[str, Path]]:
        """Return a context that yields every network in its deployed form, for inputs like ``example``."""
        ...

    def milliseconds(self, artifacts: Mapping[str, Path]) -> dict[str, float]:
        """Return the median milliseconds of one call of each artifact, all timed interleaved."""
        ...
