"""Which channel counts a group may keep: multiples of a number, or the counts of its own that a table has measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from slimtask.compress.graph.groups import Group
from slimtask.errors import InputError, nearest

Align = int | Mapping[str, Sequence[int]]
"""Multiples of one number for every group, or by a group's name the counts that are worth having of it."""

FLOOR = 0.125
"""The least share of a group's channels that a measured budget leaves: narrower ones save little."""

UNMEASURED = 8
"""What a group without measured counts keeps multiples of: vector units and tensor cores take so many at once."""


def counts_of(group: Group, align: Align, smallest: int = 1) -> tuple[int, ...]:
    """Return the rising counts, none below ``smallest``, that ``group`` may keep; all its channels always.

    A refused group keeps all. One that a mapping does not name keeps multiples of ``UNMEASURED``.
    """
    if group.refused is not None:
        return (group.channels,)
    if isinstance(align, int):
        return aligned_counts(group.channels, align, smallest)
    if group.name not in align:
        return aligned_counts(group.channels, UNMEASURED, smallest)
    return (*sorted({n for n in align[group.name] if max(smallest, 1) <= n < group.channels}), group.channels)


def least_count(group: Group, floor: float) -> int:
    """Return the fewest channels that ``group`` may keep if none goes below the share ``floor`` (0: one channel)."""
    return max(1, math.ceil(floor * group.channels))


def check_align(align: Align, groups: Sequence[Group]) -> None:
    """Raise InputError if ``align`` is below 1, or gives counts to a group that is none of ``groups``."""
    if isinstance(align, int):
        if align < 1:
            raise InputError(
                f"channels cannot be aligned to {align}; give 1 (not at all) or more, 8 for most backends."
            )
        return
    names = [group.name for group in groups]
    for name in align:
        if name not in names:
            raise InputError(f"there is no group '{name}' to give channel counts to{nearest(name, names)}")


def aligned_counts(channels: int, align: int, smallest: int = 1) -> tuple[int, ...]:
    """Return the rising multiples of ``align`` that are at least ``smallest``, and ``channels`` itself."""
    first = -(-max(smallest, 1) // align) * align
    return (*(count for count in range(first, channels, align)), channels)
