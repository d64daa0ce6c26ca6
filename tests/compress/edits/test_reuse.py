"""What a pass takes from another, by the formulas."""

from __future__ import annotations

import math

import torch

from slimtask.compress.edits.reuse import above_threshold


def test_a_threshold_is_its_formula() -> None:
    value, base = torch.tensor([1.0, 1.1, 0.5, 2.0]), torch.ones(4)
    assert above_threshold(value, base, 0.2).tolist() == [1.0, 1.0, 0.5, 2.0]
    assert torch.equal(above_threshold(value, base, 0.0), value)
    assert torch.equal(above_threshold(value, base, math.inf), base)
