"""The largest difference over the scale: of numbers, of tensors, and of what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimtask.differences import over_scale


def test_it_is_relative_to_the_largest_value_of_the_truth() -> None:
    truth = np.array([[0.0, -4.0], [1.0, 2.0]], np.float32)
    assert over_scale(truth + 0.5, truth) == 0.125
    assert over_scale(torch.from_numpy(truth) - 0.5, torch.from_numpy(truth)) == 0.125
    assert over_scale(truth, truth) == over_scale(np.zeros(0), np.zeros(0)) == over_scale([0.0], [0.0]) == 0.0


def test_differences_below_the_type_of_the_outputs_count() -> None:
    big = np.full(3, 2048.0, np.float16)
    assert over_scale(big + np.float16(2), big) == 2 / 2048


@pytest.mark.parametrize(("got", "truth"), [([1.0], [1.0, 1.0]), ([math.nan], [1.0]), ([1.0], [math.inf]), ([1], [0])])
def test_what_cannot_be_compared_is_infinitely_far(got: list[float], truth: list[float]) -> None:
    assert over_scale(got, truth) == math.inf
