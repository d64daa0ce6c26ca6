"""Which tasks to train together: at most so many groups, each task as similar to its own group as can be.

As in task affinity grouping (Fifty et al., NeurIPS 2021) a group is worth, to each of its tasks, the mean similarity to
the group's other tasks; the grouping maximises the sum over tasks. A task alone has no such mean: it is worth
``alone``. At 0 nobody would ever be left alone, and three tasks never split; the default is the mean similarity of all
pairs, at which all tasks together and every task alone are worth the same, and company must beat the average to pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Float64

from slimtask.errors import InputError

EXACT_UP_TO = 10
_MARGIN = 1e-12
"""Gains below this are rounding: ties go to fewer groups, then to the first found."""
Partition = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Groups of task names, the sum over tasks they are worth, a lone task's worth, and whether they are optimal."""

    groups: tuple[tuple[str, ...], ...]
    score: float
    alone: float
    exact: bool


def group_tasks(
    tasks: Sequence[str], similarity: Float64[np.ndarray, "k k"], groups: int, *, alone: float | None = None
) -> Grouping:
    """Return the best split of ``tasks`` into at most ``groups`` groups; the diagonal of ``similarity`` is not read.

    Optimal for up to ten tasks (dynamic programming over subsets, 3^k steps); above that by merging and moving.
    """
    if not tasks or groups < 1:
        raise InputError(f"cannot split {len(tasks)} tasks into {groups} groups; give at least one of each.")
    similarity = np.where(np.eye(len(tasks), dtype=bool), 0.0, similarity)
    if not bool(np.isfinite(similarity).all()):
        raise InputError("a similarity between two tasks is not a finite number, so the tasks cannot be grouped.")
    worth = mean_similarity(similarity) if alone is None else alone
    exact = len(tasks) <= EXACT_UP_TO
    partition = (best_partition if exact else greedy_partition)(similarity, groups, worth)
    return Grouping(
        groups=tuple(tuple(tasks[index] for index in group) for group in partition),
        score=partition_score(partition, similarity, worth),
        alone=worth,
        exact=exact,
    )


def mean_similarity(similarity: Float64[np.ndarray, "k k"]) -> float:
    """Return the mean over all pairs of different tasks, 0 for a single task."""
    others = ~np.eye(len(similarity), dtype=bool)
    return float(similarity[others].mean()) if len(similarity) > 1 else 0.0


def group_value(group: Sequence[int], similarity: Float64[np.ndarray, "k k"], alone: float) -> float:
    """Return the sum over a group's tasks of the mean similarity to its other tasks; ``alone`` for a single task."""
    if len(group) == 1:
        return alone
    block = similarity[np.ix_(group, group)]
    return float(block.sum() - np.trace(block)) / (len(group) - 1)


def partition_score(partition: Partition, similarity: Float64[np.ndarray, "k k"], alone: float) -> float:
    """Return what a split into groups is worth: the sum of its groups' values."""
    return sum(group_value(group, similarity, alone) for group in partition)


def best_partition(similarity: Float64[np.ndarray, "k k"], groups: int, alone: float) -> Partition:
    """Return the optimal split of tasks 0 .. k - 1 into at most ``groups`` groups."""

    @cache
    def value(members: int) -> float:
        return group_value(_tasks(members), similarity, alone)

    @cache
    def best(members: int, left: int) -> tuple[float, tuple[int, ...]]:
        """Return the best score and split of the set ``members`` into at most ``left`` groups."""
        found: tuple[float, tuple[int, ...]] = value(members), (members,)  # all together first: ties go to fewer groups
        first = members & -members
        others = members ^ first
        rest = others
        while left > 1 and rest:  # every non-empty set that may be split off the group of the first task
            score, split = best(rest, left - 1)
            score += value(members ^ rest)
            if score > found[0] + _MARGIN:
                found = score, (members ^ rest, *split)
            rest = (rest - 1) & others
        return found

    return tuple(_tasks(members) for members in best((1 << len(similarity)) - 1, groups)[1])


def greedy_partition(similarity: Float64[np.ndarray, "k k"], groups: int, alone: float) -> Partition:
    """Return a good split: merge the pair of groups that gains most, then move single tasks while that gains."""

    def score(candidate: Partition) -> float:
        return partition_score(candidate, similarity, alone)

    partition: Partition = tuple((index,) for index in range(len(similarity)))
    while len(partition) > 1:
        merged = max(_merges(partition), key=score)
        if len(partition) <= groups and score(merged) <= score(partition) + _MARGIN:
            break
        partition = merged
    return _climb(partition, groups, score)


def _climb(partition: Partition, groups: int, score: Callable[[Partition], float]) -> Partition:
    while True:
        moves = _moves(partition, groups)
        better = max(moves, key=score, default=partition)
        if score(better) <= score(partition) + _MARGIN:
            return tuple(sorted(partition))
        partition = better


def _merges(partition: Partition) -> list[Partition]:
    return [
        (*(group for group in partition if group not in (a, b)), tuple(sorted(a + b)))
        for a, b in combinations(partition, 2)
    ]


def _moves(partition: Partition, groups: int) -> list[Partition]:
    """Return every split that one task's move to another group, or to a new one, makes."""
    found = []
    for source in partition:
        for task in source:
            left = tuple(index for index in source if index != task)
            others = [group for group in partition if group is not source]
            kept = [left] if left else []
            for target in others:
                rest = [group for group in others if group is not target]
                found.append((*rest, *kept, tuple(sorted((*target, task)))))
            if left and len(partition) < groups:
                found.append((*others, left, (task,)))
    return found


def _tasks(members: int) -> tuple[int, ...]:
    return tuple(index for index in range(members.bit_length()) if members >> index & 1)
