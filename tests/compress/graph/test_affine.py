"""What a layer makes of constants, against the layer itself run in float64."""

from __future__ import annotations

import torch

from slimtask.compress.graph.affine import dead_slices


def test_dead_slices_are_those_without_a_nonzero_entry() -> None:
    weight = torch.randn(6, 4, 3)
    weight[2], weight[4, 0] = 0, 0
    weight[:, 3] = 0
    assert dead_slices(weight, 0).tolist() == [False, False, True, False, False, False]
    assert dead_slices(weight, 1).tolist() == [False, False, False, True]
