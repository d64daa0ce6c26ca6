"""Drop and grow against brute force over every task's ranking; the drop fraction's closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimtask.train.methods.masks.growth import drop_fraction, grown, keep_largest


def problem(seed: int, tasks: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.rand(4, 3, 3, 3, generator=generator) for _ in range(tasks)]
    return gradients, torch.rand(4, 3, 3, 3, generator=generator) < 0.3


def first_ones(gradient: Tensor, mask: Tensor, quota: int) -> set[int]:
    """Return the ``quota`` entries outside ``mask`` with the largest gradient, by sorting them in Python."""
    values = gradient.flatten().tolist()
    outside = [place for place, kept in enumerate(mask.flatten().tolist()) if not kept]
    return set(sorted(outside, key=lambda place: -values[place])[:quota])


def places(mask: Tensor) -> set[int]:
    return set(mask.flatten().nonzero().flatten().tolist())


def test_the_drop_fraction_falls_from_its_first_value_to_exactly_zero() -> None:
    assert drop_fraction(0, 300) == 0.5
    assert drop_fraction(150, 300) == pytest.approx(0.25)
    assert drop_fraction(300, 300) == 0
    assert drop_fraction(100, 300, 0.3) == pytest.approx(0.15 * (1 + math.cos(math.pi / 3)))
    fractions = [drop_fraction(step, 300) for step in range(301)]
    assert fractions == sorted(fractions, reverse=True)


def test_the_largest_active_weights_stay() -> None:
    weight = torch.tensor([[0.1, -5.0, 2.0], [9.0, -3.0, 0.0]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    assert keep_largest(weight, mask, 3).tolist() == [[False, True, True], [False, True, False]]
    assert torch.equal(keep_largest(weight, mask, 99), mask)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_held_growth_is_the_largest_quota_whose_union_fits_and_a_fill_of_the_next_rank(seed: int, tasks: int) -> None:
    gradients, mask = problem(seed, tasks)
    for count in (1, 7, 20, 40):
        found = places(grown(gradients, mask, count))
        assert len(found) == count
        assert not found & places(mask)
        quota = 0
        while len(set().union(*(first_ones(g, mask, quota + 1) for g in gradients))) <= count:
            quota += 1
        certain, possible = (
            set().union(*(first_ones(g, mask, q) for g in gradients)) for q in (quota, quota + 1)
        )  # fmt: skip
        assert certain <= found <= possible


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_growth_as_released_is_the_union_of_the_tasks_first_ones(tasks: int) -> None:
    gradients, mask = problem(9, tasks)
    union = set().union(*(first_ones(g, mask, 10) for g in gradients))
    assert places(grown(gradients, mask, 10, held=False)) == union
    assert (len(union) > 10) == (tasks > 1)


def test_one_task_grows_its_largest_gradients() -> None:
    gradients, mask = problem(3, 1)
    assert places(grown(gradients, mask, 12)) == first_ones(gradients[0], mask, 12)


def test_no_more_than_what_is_left_grows() -> None:
    gradients, mask = problem(4, 2)
    assert torch.equal(grown(gradients, mask, 10_000), ~mask)
    assert not bool(grown(gradients, mask, 0).any())
    assert not bool(grown(gradients, torch.ones_like(mask), 5).any())
