"""Which channels stand or fall together: labels, one per index of a channel axis, joined where they are coupled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64

Entries = Int64[np.ndarray, "_"]  # as many as the axis has; each use its own number


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The joined labels: ``of[label]`` is its class, and a class is one channel, to be kept or removed everywhere.

    ``held[c]`` is the index in ``reasons`` of what keeps class c whatever its weights are, -1 if nothing does. Classes
    made by the same nodes form a group, ``group[c]``; ``groups`` names the nodes of each.
    """

    of: Int64[np.ndarray, " labels"]
    held: Int64[np.ndarray, " classes"]
    reasons: tuple[str, ...]
    group: Int64[np.ndarray, " classes"]
    groups: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.held)

    def any_of(
        self, labels: Int64[np.ndarray, " entries"], where: Bool[np.ndarray, " entries"]
    ) -> Bool[np.ndarray, " classes"]:
        """Return which classes have a label among ``labels[where]``."""
        found = np.zeros(len(self), dtype=bool)
        found[self.of[labels[where]]] = True
        return found


@dataclass
class Labels:
    """Labels as they are made, joined and held while the graph is walked."""

    owners: list[str] = field(default_factory=list)
    _owner: list[Entries] = field(default_factory=list)
    _joined: list[tuple[Entries, Entries]] = field(default_factory=list)
    _held: list[tuple[Entries, str]] = field(default_factory=list)
    count: int = 0

    def fresh(self, count: int, owner: str) -> Entries:
        """Return ``count`` new labels, made by the node ``owner``."""
        self.owners.append(owner)
        self._owner.append(np.full(count, len(self.owners) - 1, dtype=np.int64))
        self.count += count
        return np.arange(self.count - count, self.count)

    def since(self, count: int) -> Entries:
        """Return the labels made after the first ``count``."""
        return np.arange(count, self.count)

    def join(self, one: Entries, other: Entries) -> None:
        """Make ``one[i]`` and ``other[i]`` one channel, for every i."""
        self._joined.append((one, other))

    def hold(self, labels: Entries, reason: str) -> None:
        """Keep the channels of ``labels``, because of ``reason``."""
        self._held.append((labels, reason))

    def classes(self) -> Classes:
        """Return the classes that the joins make of the labels."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        none = np.zeros(0, dtype=np.int64)
        one = np.concatenate([none, *(a for a, _ in self._joined)])
        other = np.concatenate([none, *(b for _, b in self._joined)])
        edges = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(self.count, self.count))
        count, of = connected_components(edges, directed=False) if self.count else (0, none)
        of = of.astype(np.int64)
        group, groups = self._groups(of, count)
        held, reasons = self._holds(of, count)
        return Classes(of=of, held=held, reasons=tuple(reasons), group=group, groups=groups)

    def _holds(self, of: Entries, count: int) -> tuple[Entries, list[str]]:
        """Return per class the first reason that holds it (-1: none), and the reasons."""
        held, reasons = np.full(count, -1, dtype=np.int64), list(dict.fromkeys(reason for _, reason in self._held))
        number = {reason: index for index, reason in enumerate(reasons)}
        for labels, reason in reversed(self._held):
            held[of[labels]] = number[reason]
        return held, reasons

    def _groups(self, of: Entries, count: int) -> tuple[Entries, tuple[tuple[str, ...], ...]]:
        """Return the group of each class and the nodes that made the channels of each group."""
        makers: list[set[int]] = [set() for _ in range(count)]
        for label, owner in enumerate(np.concatenate(self._owner).tolist() if self._owner else []):
            makers[of[label]].add(owner)
        keys = [tuple(sorted(made)) for made in makers]
        order = {key: index for index, key in enumerate(sorted(set(keys)))}
        group = np.array([order[key] for key in keys], dtype=np.int64)
        return group, tuple(_names(self.owners, key) for key in order)


def _names(owners: Sequence[str], key: Sequence[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(owners[index] for index in key))
