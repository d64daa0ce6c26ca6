"""The slice of a channel is exactly the weights that touch it, whatever the layout of the weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.graph.modules import Member, filter_rows, sum_per_channel

LAYERS = {
    "conv": (nn.Conv2d(6, 4, 3), (6, 5, 5)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5)),
    "multiplier": (nn.Conv2d(3, 6, 3, groups=3), (3, 5, 5)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3), (6, 5, 5)),
    "transposed_grouped": (nn.ConvTranspose2d(6, 4, 3, groups=2), (6, 5, 5)),
    "linear": (nn.Linear(6, 4), (6,)),
    "conv1d": (nn.Conv1d(6, 4, 3), (6, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_the_weights_that_touch_a_channel(name: str) -> None:
    layer, shape = LAYERS[name]
    outputs = filter_rows(layer, "out")
    inputs = filter_rows(layer, "in")
    x = torch.rand(1, *shape) + 0.5
    for index in range(shape[0]):
        alone = torch.zeros_like(x)
        alone[:, index] = x[:, index]
        assert_touched(layer, alone, slice(None), inputs[index])
    for index in range(len(outputs)):
        assert_touched(layer, x, index, outputs[index])
    assert outputs.numel() == inputs.numel() == layer.weight.numel()


def assert_touched(layer: nn.Module, x: torch.Tensor, output: slice | int, row: torch.Tensor) -> None:
    """The weights with a gradient are those that matter for this input and these outputs."""
    (gradient,) = torch.autograd.grad(layer(x)[:, output].sum(), layer.weight)
    assert torch.equal(layer.weight[gradient != 0].detach().sort().values, row.sort().values)


def test_entries_of_a_channel_are_added_up() -> None:
    member = Member(
        module="x", kind="linear", side="in", local=torch.tensor([0, 1, 4, 5]), channel=torch.tensor([0, 0, 2, 2])
    )
    sums = sum_per_channel(torch.tensor([1.0, 2, 4, 8, 16, 32]), member, 3)
    assert sums.tolist() == [3, 0, 48]
