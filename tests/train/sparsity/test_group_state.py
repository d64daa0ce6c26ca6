"""The groups' numbers in closed form: units, critical strengths, warm ridges; states come back or are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.sparsity.group_state import GroupState, extended, valid_strength
from slimtask.train.sparsity.layout import GroupLayout, Member


def state(**more: float) -> tuple[GroupState, dict[str, Tensor]]:
    """Group 0 lies in both parameters, group 1 in "a", group 2 in "b"; one slice of "b" is in none."""
    named = {"a": torch.zeros(2, 4), "b": torch.zeros(3, 9)}
    members = [
        Member(parameter="a", axis=0, groups=torch.tensor([0, 1])),
        Member(parameter="b", axis=0, groups=torch.tensor([0, 2, -1])),
    ]
    layout = GroupLayout(members=members, shapes={name: tuple(x.shape) for name, x in named.items()})
    return GroupState.of(layout, named, None, 0.5, **more), named


def test_weights_are_the_roots_of_the_sizes_and_units_take_the_largest_rate() -> None:
    groups, named = state()
    roots = torch.tensor([13.0, 4.0, 9.0], dtype=torch.float64).sqrt()
    assert torch.equal(groups.weights, roots)
    rates = [{"lr": 0.1, "params": [named["a"]]}, {"lr": 0.3, "params": [named["b"], torch.zeros(1)]}]
    torch.testing.assert_close(groups.units(rates), roots * torch.tensor([0.3, 0.1, 0.3], dtype=torch.float64))
    torch.testing.assert_close(groups.units([{"lr": 0.2, "params": list(named.values())}]), 0.2 * roots)


def test_a_group_dies_at_its_critical_strength_and_a_held_one_never_again() -> None:
    groups, _ = state()
    units, norm = torch.tensor([2.0, 1.0, 0.0]).double(), torch.tensor([1.0, 3.0, 5.0]).double()
    critical = groups.critical_of(norm, units)
    assert critical.tolist() == [0.5, 3.0, math.inf]
    assert (norm[:2] <= groups.thresholds(units, 0.5)[:2]).tolist() == (critical[:2] <= 0.5).tolist()
    groups.held[0] = True
    assert groups.critical_of(norm, units)[0] == math.inf


def test_the_first_ridge_follows_the_trend_of_the_norm() -> None:
    groups, _ = state()
    units = torch.ones(3).double()
    groups.remember(torch.tensor([4.0, 2.0, 0.0]).double(), torch.tensor([1.0, 1.0, torch.inf]).double())
    groups.remember(torch.tensor([2.0, 2.0, 1.0]).double(), torch.tensor([1.0, -1.0, 3.0]).double())
    assert groups.metric.tolist() == [1.0, 1.0, 3.0]  # what is no positive number is no news
    assert groups.first_ridge(units)[:2].tolist() == [0.5 / (2.0 * 0.5), 0.5 / 2.0]
    groups.forget()
    assert not groups.first_ridge(units).any()


def test_a_state_comes_back_and_one_of_another_layout_does_not() -> None:
    groups, _ = state()
    groups.held[1], groups.used_strength, groups.critical = True, 0.25, torch.ones(3).double()
    other, _ = state()
    other.load(groups.tensors())
    assert (other.held.tolist(), other.strength, other.used_strength) == ([False, True, False], 0.5, 0.25)
    saved = groups.tensors()
    saved["held"][0] = True
    assert not groups.held[0]  # copies
    with pytest.raises(InputError, match="has 2 groups, the layout 3"):
        other.load(saved | {"held": torch.zeros(2, dtype=torch.bool)})
    del saved["norm"]
    with pytest.raises(InputError, match=r"lacks the group tensors \['norm'\]"):
        other.load(saved)


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_strength_is_a_finite_number_of_at_least_zero(value: float) -> None:
    with pytest.raises(InputError, match="must be a finite number"):
        valid_strength(value)


def test_slices_in_no_group_get_zero() -> None:
    assert extended(torch.tensor([True, True])).tolist() == [True, True, False]
    assert extended(torch.ones(1), torch.float64).dtype == torch.float64
