"""Channel counts off the measured staircase for any way to compress, and the check that the result is no slower."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimtask.bench.layers.table import measure_table
from slimtask.bench.timing.environment import usable_cores
from slimtask.bench.timing.graphs import export, measure_graphs
from slimtask.bench.timing.measure import Ratio
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.align import allowed_counts
from slimtask.compress.latency.specs import LayerSpec, axis_ranges, layer_specs
from slimtask.compress.latency.table import LatencyTable
from slimtask.compress.pruning import nothing_prunable
from slimtask.errors import CheckFailed, InputError
from slimtask.tasks import Frozen

TRAINABLE = 1 / 16
"""The least share of a group that a budget leaves: the fastest network is not one that nobody can train."""


class SpeedUp(Frozen):
    """Median milliseconds of the dense and the compressed network, timed interleaved, and the ratio of the two."""

    dense_ms: float
    measured_ms: float
    ratio: Ratio


def measured_counts(
    model: nn.Module,
    example: Tensor,
    *,
    least_share: float = 0.0,
    threads: int | None = None,
    table_seconds: float | int = 60.0,
    progress: Callable[[int, int], None] | None = None,
    **further: Any,
) -> dict[str, tuple[int, ...]]:
    """Return by group the rising counts for which no larger one is as fast, under ONNX Runtime on this processor.

    That is the ``align`` of ``compress``, for zeros and for budgets alike. No count is below ``least_share`` of the
    group's channels. A group that no measured layer depends on is left out. The layers are timed as in
    ``measure_table``, for ``table_seconds`` at most. ``further`` goes to ``find_groups``. Raises InputError if nothing
    may be removed.
    """
    groups = find_groups(model, example, **further)
    if all(group.refused is not None for group in groups):
        raise InputError(nothing_prunable(model, groups))
    specs = layer_specs(model, groups, example)
    table = measure_table(
        axis_ranges(specs, groups), threads=threads or usable_cores(), budget_seconds=table_seconds, progress=progress
    )
    return counts_by_group(groups, specs, table, least_share)


def counts_by_group(
    groups: Sequence[Group], specs: Sequence[LayerSpec], table: LatencyTable, least_share: float = 0.0
) -> dict[str, tuple[int, ...]]:
    """Return the counts worth having of every group that may lose channels and drives a layer in ``specs``."""
    driven = {index for spec in specs for axis in (spec.inputs, spec.outputs) for index in axis.parts}
    return {
        group.name: allowed_counts(index, groups, specs, table, max(1, int(least_share * group.channels)))
        for index, group in enumerate(groups)
        if group.refused is None and index in driven
    }


def speed_up(dense: nn.Module, smaller: nn.Module, example: Tensor, *, threads: int | None = None) -> SpeedUp:
    """Return how the two compare as ONNX graphs under ONNX Runtime, interleaved in this process.

    Raises CheckFailed if ``smaller`` is slower, which is when the whole 95 % interval of the ratio says so.
    """
    with tempfile.TemporaryDirectory(prefix="slimtask-") as folder:
        networks = {"dense": dense, "compressed": smaller}
        graphs = {name: export(network, example, Path(folder) / f"{name}.onnx") for name, network in networks.items()}
        timed = measure_graphs(graphs, threads=threads or usable_cores())
    before, after = timed["dense"], timed["compressed"]
    found = SpeedUp(dense_ms=before.median_ms, measured_ms=after.median_ms, ratio=before.ratio(after))
    if found.ratio.below_one:
        raise CheckFailed(
            f"the compressed network takes {found.measured_ms:.3g} ms, the dense one {found.dense_ms:.3g}; keep the "
            "dense one."
        )
    return found
