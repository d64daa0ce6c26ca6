"""Channel counts off the measured staircase, for any way to compress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.align import allowed_counts
from slimtask.compress.latency.meter import Meter
from slimtask.compress.latency.specs import LayerSpec, axis_ranges, layer_specs
from slimtask.compress.latency.table import LatencyTable
from slimtask.compress.removal.nothing import nothing_prunable
from slimtask.errors import InputError

TRAINABLE = 1 / 16
"""The least share of a group that a budget leaves: the fastest network is not one that nobody can train."""


def measured_counts(
    model: nn.Module,
    example: Tensor,
    meter: Meter,
    *,
    least_share: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    **further: Any,
) -> dict[str, tuple[int, ...]]:
    """Return by group the rising counts for which no larger one is as fast, as ``meter`` measures layers.

    That is the ``align`` of ``compress``, for zeros and for budgets alike. No count is below ``least_share`` of the
    group's channels. A group that no measured layer depends on is left out. ``further`` goes to
    ``find_groups``. Raises InputError if nothing may be removed.

    Examples:
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from slimtask.compress import measured_counts
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> list(measured_counts(net, zeros(1, 3, 8, 8), OnnxRuntimeMeter(threads=1, table_seconds=0.1)))
        ['0']
    """
    groups = find_groups(model, example, **further)
    if all(group.refused is not None for group in groups):
        raise InputError(nothing_prunable(model, groups))
    specs = layer_specs(model, groups, example)
    table = meter.layer_table(axis_ranges(specs, groups), progress)
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
