"""Whether a compressed network is faster than the dense one, measured, and not to be taken if it is slower."""

from __future__ import annotations

from torch import Tensor, nn

from slimtask.bench.layers.meter import OnnxRuntimeMeter
from slimtask.bench.timing.graphs import measure_graphs
from slimtask.bench.timing.measure import Ratio
from slimtask.errors import CheckFailed
from slimtask.tasks import Frozen


class SpeedUp(Frozen):
    """Median milliseconds of the dense and the compressed network, timed interleaved, and the ratio of the two.

    Examples:
        >>> from slimtask.bench import Ratio, SpeedUp
        >>> print(SpeedUp(dense_ms=4.0, measured_ms=2.0, ratio=Ratio(value=2.0, low=1.9, high=2.1)).ratio)
        2.00x [1.90, 2.10]
    """

    dense_ms: float
    measured_ms: float
    ratio: Ratio


def speed_up(dense: nn.Module, smaller: nn.Module, example: Tensor, *, threads: int | None = None) -> SpeedUp:
    """Return how the two compare as ONNX graphs under ONNX Runtime, interleaved in this process.

    Raises CheckFailed if ``smaller`` is slower, which is when the whole 95 % interval of the ratio says so.

    Examples:
        >>> from slimtask.bench import speed_up
        >>> from torch import nn, zeros
        >>> dense, smaller = nn.Conv2d(16, 256, 3), nn.Conv2d(16, 8, 3)
        >>> speed_up(dense, smaller, zeros(1, 16, 32, 32), threads=1).ratio.above_one
        True
    """
    meter = OnnxRuntimeMeter(threads=threads)
    with meter.artifacts({"dense": dense, "compressed": smaller}, example) as graphs:
        timed = measure_graphs(graphs, threads=meter.threads)
    before, after = timed["dense"], timed["compressed"]
    found = SpeedUp(dense_ms=before.median_ms, measured_ms=after.median_ms, ratio=before.ratio(after))
    if found.ratio.below_one:
        raise CheckFailed(
            f"the compressed network takes {found.measured_ms:.3g} ms, the dense one {found.dense_ms:.3g}; keep the "
            "dense one."
        )
    return found
