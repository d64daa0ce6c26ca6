"""What a layer makes of constants, against the layer itself run in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slimtask.compress.graph.affine import affine, dead_slices, per_index


def test_dead_slices_are_those_without_a_nonzero_entry() -> None:
    weight = torch.randn(6, 4, 3)
    weight[2], weight[4, 0] = 0, 0
    weight[:, 3] = 0
    assert dead_slices(weight, 0).tolist() == [False, False, True, False, False, False]
    assert dead_slices(weight, 1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("groups", [1, 2])
def test_known_outputs_are_those_of_the_layer_and_unknown_inputs_reach_only_who_reads_them(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    weight = torch.randn(6, 4 // groups, 9, generator=generator)
    weight[0] = 0
    weight[1, -1] = 0
    constants = torch.tensor([0.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    bias = np.arange(6.0)

    def layer(inputs: torch.Tensor) -> np.ndarray:
        maps = inputs.view(1, 4, 1, 1).expand(1, 4, 3, 3)
        out = F.conv2d(maps, weight.double().view(6, -1, 3, 3), torch.from_numpy(bias), groups=groups)
        return out.flatten().numpy()

    np.testing.assert_allclose(affine(weight, constants.numpy(), bias, groups), layer(constants))
    unknown = constants.clone()
    unknown[4 // groups - 1] = torch.nan  # the last input of the first group
    found = affine(weight, unknown.numpy(), bias, groups)
    shift = constants.clone()
    shift[4 // groups - 1] += 1.0
    hears = layer(shift) != layer(constants)
    assert np.isnan(found).tolist() == hears.tolist()
    np.testing.assert_allclose(found[~hears], layer(constants)[~hears])


def test_where_every_input_is_unknown_a_dead_output_is_its_bias() -> None:
    weight = torch.ones(3, 2, 1)
    weight[1] = 0
    found = affine(weight, np.full(2, np.nan), np.array([1.0, 2.0, 3.0]), 1)
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == 2.0


def test_a_value_per_index_is_known_where_nothing_else_is_there() -> None:
    array = np.array([[1.0, 1.0], [2.0, 3.0], [np.nan, np.nan]])
    assert np.array_equal(per_index(array, 0, 3), [1.0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(per_index(np.array([[4.0]]), 1, 3), [4.0, 4.0, 4.0])
