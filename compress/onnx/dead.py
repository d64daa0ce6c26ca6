"""Which channels go: those whose readers can do without them exactly, under the constraints of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from slimtask.compress.onnx.flow import Classes, Flow, Reader

ClassMask = Bool[np.ndarray, " classes"]
EntryMask = Bool[np.ndarray, "_"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The classes that go, and per reader the input that takes over their constants (None: the bias, or nothing)."""

    removed: ClassMask
    carriers: tuple[int | None, ...]


def decide(flow: Flow, classes: Classes, allowed: ClassMask, align: int = 1) -> Decision:
    """Return which of the ``allowed`` classes go.

    Every axis keeps at least one index and every group a multiple of ``align`` classes (or all), filled up with dead
    ones. Behind zero padding one constant channel stays for each reader: it carries the constants of those that go.
    """
    stays = ~allowed
    while True:
        removed = _removable(flow, classes, stays)
        carriers = [_carrier(reader, classes, removed) for reader in flow.readers]
        more = _last_ones(flow, classes, removed) | _fillers(classes, removed, align)
        for reader, carrier in zip(flow.readers, carriers, strict=True):
            if carrier is not None:
                more[classes.of[reader.seen.labels[carrier]]] = True
        if not (more & removed).any():
            return Decision(removed=removed, carriers=tuple(carriers))
        stays = stays | more


def gone(reader: Reader, classes: Classes, removed: ClassMask) -> tuple[EntryMask, EntryMask]:
    """Return which inputs of a reader go, and which of them hold a constant that its remaining outputs read."""
    out = removed[classes.of[reader.seen.labels]]
    read = reader.reads[~removed[classes.of[reader.out]]].any(axis=0)
    return out, out & read & (reader.seen.constant != 0)


def _removable(flow: Flow, classes: Classes, stays: ClassMask) -> ClassMask:
    """Return the largest set of classes outside ``stays`` that no remaining reader needs.

    A reader whose outputs go reads less, so the set grows until nothing changes.
    """
    removed = np.zeros(len(classes), dtype=bool)
    while True:
        grown = ~stays & (classes.held < 0) & ~blocked(flow, classes, removed)
        if (grown == removed).all():
            return removed
        removed = grown


def blocked(flow: Flow, classes: Classes, removed: ClassMask) -> ClassMask:
    """Return the classes that a reader needs: it reads them, and what it reads is not constant."""
    blocked = np.zeros(len(classes), dtype=bool)
    for reader in reversed(flow.readers):
        read = reader.reads[~removed[classes.of[reader.out]]].any(axis=0)
        blocked |= classes.any_of(reader.seen.labels, read & np.isnan(reader.seen.constant))
    return blocked


def _carrier(reader: Reader, classes: Classes, removed: ClassMask) -> int | None:
    """Return the input that carries the constants a padded reader loses; one that stays anyway if there is one."""
    if not reader.padded:
        return None
    out, lost = gone(reader, classes, removed)
    if not lost.any():
        return None
    strength = np.abs(np.nan_to_num(reader.seen.constant))
    staying = np.where(out, 0.0, strength)
    if staying.max() >= 0.1 * strength[lost].max():  # a much weaker one would blow up the weights it takes over
        return int(staying.argmax())
    return int(np.where(lost, strength, 0.0).argmax())


def _last_ones(flow: Flow, classes: Classes, removed: ClassMask) -> ClassMask:
    """Return one class of every tensor that would lose all its channels."""
    last = np.zeros(len(classes), dtype=bool)
    for value in flow.values.values():
        of = classes.of[value.labels]
        if len(of) and removed[of].all() and not last[of].any():
            last[of[0]] = True
    return last


def _fillers(classes: Classes, removed: ClassMask, align: int) -> ClassMask:
    """Return removed classes that make the number of those that stay in each group a multiple of ``align``."""
    fill = np.zeros(len(classes), dtype=bool)
    for group in range(len(classes.groups) if align > 1 else 0):
        members = classes.group == group
        missing = -int((members & ~removed).sum()) % align
        fill[np.flatnonzero(members & removed)[:missing]] = True
    return fill


def groups_of(classes: Classes, mask: ClassMask) -> Sequence[int]:
    """Return the groups that have a class in ``mask``."""
    return [int(group) for group in np.unique(classes.group[mask])]
