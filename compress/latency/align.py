"""The channel counts worth having: on the measured staircase, never one that is slower than a larger one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.specs import Axis, LayerSpec
from slimtask.compress.latency.table import LatencyTable

TOLERANCE = 0.01
"""Two counts whose times differ by less than this fraction take equally long: what a repeated measurement resolves."""


def allowed_counts(
    group: int, groups: Sequence[Group], specs: Sequence[LayerSpec], table: LatencyTable, smallest: int = 1
) -> tuple[int, ...]:
    """Return the rising counts of group number ``group`` for which no larger count is as fast; all channels always.

    The time of a count is that of all layers the group drives, their other axis uncut. A group no measured layer
    depends on, and one that is refused, keeps all its channels.
    """
    channels = groups[group].channels
    if groups[group].refused is not None or not any(_drives(group, spec) for spec in specs):
        return (channels,)
    counts = np.arange(min(smallest, channels), channels + 1)
    return worth_having(counts, group_ms(group, counts, groups, specs, table))


def group_ms(
    group: int,
    counts: Int64[np.ndarray, " counts"],
    groups: Sequence[Group],
    specs: Sequence[LayerSpec],
    table: LatencyTable,
) -> Float64[np.ndarray, " counts"]:
    """Return the milliseconds of the layers that the group drives, per count it may keep, all other groups uncut."""
    full = [other.channels for other in groups]
    total = np.zeros(len(counts))
    for spec in specs:
        if _drives(group, spec):
            inputs, outputs = (_axis_counts(axis, group, counts, full) for axis in (spec.inputs, spec.outputs))
            distinct = (sorted(set(inputs)), sorted(set(outputs)))
            times = table.grid_ms(spec.shape, *distinct)
            rows, columns = (
                np.searchsorted(axis, mine) for axis, mine in zip(distinct, (inputs, outputs), strict=True)
            )
            total += times[rows, columns]
    return total


def worth_having(
    counts: Int64[np.ndarray, " counts"], ms: Float64[np.ndarray, " counts"], tolerance: float = TOLERANCE
) -> tuple[int, ...]:
    """Return those of the rising ``counts`` that are faster than every larger one, the largest always.

    A count counts as faster than the next one returned if it is so by more than ``tolerance``.
    """
    chosen, fastest, fastest_chosen = [int(counts[-1])], float(ms[-1]), float(ms[-1])
    for count, time in zip(counts[-2::-1].tolist(), ms[-2::-1].tolist(), strict=True):
        if time < fastest and time < fastest_chosen * (1.0 - tolerance):
            chosen.append(count)
            fastest_chosen = time
        fastest = min(fastest, time)
    return tuple(reversed(chosen))


def spread_counts(counts: Sequence[int], most: int = 8) -> tuple[int, ...]:
    """Return at most ``most`` of the rising ``counts``: both ends, and between them the nearest to equal square roots.

    Layer times grow with products of two counts, so equal steps of the root are closer to equal steps of time than
    equal steps of the count, and small counts are not lost.
    """
    if len(counts) <= most:
        return tuple(counts)
    wanted = np.linspace(counts[0] ** 0.5, counts[-1] ** 0.5, most) ** 2
    nearest = np.abs(np.asarray(counts)[:, None] - wanted).argmin(axis=0)
    return tuple(counts[index] for index in sorted(set(nearest.tolist())))


def counts_around(counts: Sequence[int], centre: int, most: int = 7) -> tuple[int, ...]:
    """Return at most ``most`` neighbours in the rising ``counts``, of which ``centre`` is the middle one."""
    index = int(np.abs(np.asarray(counts) - centre).argmin())
    first = max(0, min(index - most // 2, len(counts) - most))
    return tuple(counts[first : first + most])


def _drives(group: int, spec: LayerSpec) -> bool:
    return group in spec.outputs.parts or group in spec.inputs.parts


def _axis_counts(axis: Axis, group: int, counts: Int64[np.ndarray, " counts"], full: Sequence[int]) -> list[int]:
    whole = axis.count(full)
    gone = [(full[group] - int(count)) * axis.parts.get(group, 0) for count in counts]
    return [whole - less for less in gone]
