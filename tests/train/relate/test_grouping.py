"""The grouping equals brute force over all partitions of up to six tasks; the heuristic above that is close."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from slimtask.errors import InputError
from slimtask.train.relate import grouping
from slimtask.train.relate.grouping import group_tasks


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [items[0], *rest[place]], *rest[place + 1 :]]


def worth(partition: list[list[int]], matrix: np.ndarray, alone: float) -> float:
    """The objective once more, task by task, in plain Python."""
    total = 0.0
    for group in partition:
        for task in group:
            others = [matrix[task, other] for other in group if other != task]
            total += sum(others) / len(others) if others else alone
    return total


def symmetric(seed: int, tasks: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((tasks, tasks))
    return (values + values.T) / 2


def test_partitions_of_the_brute_force_are_all_there() -> None:
    assert [len(list(partitions(list(range(n))))) for n in range(7)] == [1, 1, 2, 5, 15, 52, 203]  # Bell numbers


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6])
def test_the_grouping_equals_brute_force(tasks: int) -> None:
    names = [f"t{index}" for index in range(tasks)]
    for seed in range(2):
        matrix = symmetric(seed, tasks)
        for groups in range(1, tasks + 1):
            for alone in (None, 0.0, 0.55, 2.0):
                found = group_tasks(names, matrix, groups, alone=alone)
                allowed = [p for p in partitions(list(range(tasks))) if len(p) <= groups]
                best = max(worth(partition, matrix, found.alone) for partition in allowed)
                split = [[names.index(name) for name in group] for group in found.groups]
                assert sorted(index for group in split for index in group) == list(range(tasks))
                assert len(split) <= groups
                assert found.score == pytest.approx(best, abs=1e-9)
                assert worth(split, matrix, found.alone) == pytest.approx(best, abs=1e-9)
                assert found.exact


def test_the_default_worth_of_a_lone_task_favours_neither_extreme() -> None:
    matrix = np.array([[1, 0.9, 0.8], [0.9, 1, 0.8], [0.8, 0.8, 1]])
    found = group_tasks("abc", matrix, 2)
    assert found.groups == (("a", "b"), ("c",))
    assert found.alone == pytest.approx(2.5 / 3)
    assert group_tasks("abc", matrix, 2, alone=0.0).groups == (("a", "b", "c"),)
    assert group_tasks("abc", matrix, 3, alone=1.0).groups == (("a",), ("b",), ("c",))
    assert group_tasks("abc", np.full((3, 3), 0.7), 3).groups == (("a", "b", "c"),)  # ties: fewer groups


def test_the_diagonal_is_not_read() -> None:
    matrix = symmetric(3, 5)
    other = matrix.copy()
    np.fill_diagonal(other, np.nan)
    assert group_tasks("abcde", matrix, 2) == group_tasks("abcde", other, 2)


def test_many_tasks_are_grouped_by_a_heuristic_that_finds_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = np.repeat([0, 1, 2], 4)
    matrix = np.where(blocks[:, None] == blocks, 0.9, 0.4) + 0.05 * symmetric(0, 12)
    found = group_tasks("abcdefghijkl", matrix, 3)
    assert not found.exact
    assert set(found.groups) == {tuple("abcd"), tuple("efgh"), tuple("ijkl")}
    monkeypatch.setattr(grouping, "EXACT_UP_TO", 0)
    for seed in range(20):
        small, limit = symmetric(seed, 7), seed % 4 + 1
        greedy = group_tasks("abcdefg", small, limit)
        exact = grouping.best_partition(small, limit, greedy.alone)
        best = grouping.partition_score(exact, small, greedy.alone)
        assert len(greedy.groups) <= limit
        assert 0.95 * best <= greedy.score <= best + 1e-9


def test_ten_tasks_are_still_exact() -> None:
    matrix = symmetric(1, 10)
    found = group_tasks("abcdefghij", matrix, 3)
    assert found.exact
    assert found.score >= grouping.partition_score(
        grouping.greedy_partition(matrix, 3, found.alone), matrix, found.alone
    )


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(InputError, match="into 0 groups"):
        group_tasks("ab", np.eye(2), 0)
    with pytest.raises(InputError, match="not a finite number"):
        group_tasks("ab", np.full((2, 2), np.nan), 1)
