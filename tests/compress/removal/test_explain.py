"""A removal in words: coverage in closed form, and each layer's row with its reason."""

from __future__ import annotations

import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.removal.explain import coverage, layer_rows
from slimtask.compress.removal.remove import remove_channels, remove_zeros

EXAMPLE = torch.zeros(1, 3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1)
    ).eval()


def test_coverage_counts_what_touches_an_open_channel() -> None:
    model = network()
    covered = coverage(model, find_groups(model, EXAMPLE))
    assert (covered.open_groups, covered.groups, covered.open_channels, covered.channels) == (1, 2, 8, 12)
    assert covered.params == 3 * 8 * 9 + 2 * 8 + 8 * 4 + 4
    assert covered.open_params == covered.params - 4  # the last layer's bias alone belongs to no open channel
    assert [refusal.group for refusal in covered.refused] == ["3"]
    assert str(covered).startswith("8 of 12 channels may be removed (1 of 2 groups, which hold 98.5% of 268 parameters")


def test_every_layer_has_its_row_in_the_order_of_the_network() -> None:
    model = network()
    groups = find_groups(model, EXAMPLE)
    keep = [torch.arange(group.channels) < 5 for group in groups]
    done = remove_channels(model, EXAMPLE, groups, keep, why="of low score")
    rows = [(row.layer, row.before, row.after, row.why) for row in layer_rows(model, done.plan, groups)]
    assert rows == [
        ("0", "8 x 3", "5 x 3", "3 of low score"),
        ("1", "8", "5", "3 of low score (with 0)"),
        ("3", "4 x 8", "4 x 5", "reads 0"),
    ]
    bare = [(row.layer, row.why) for row in layer_rows(model, done.plan, ())]
    assert bare == [("0", "3 of low score"), ("1", ""), ("3", "")]


def test_a_gained_bias_and_bare_tensors_are_told() -> None:
    model = network()
    model[0].weight.data[:3] = 0
    nn.init.ones_(model[1].bias)
    model[3].bias = None
    done = remove_zeros(model, EXAMPLE)
    rows = {row.layer: row for row in layer_rows(model, done.plan, find_groups(model, EXAMPLE))}
    assert rows["3"].why.endswith("gains a bias")

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.scale, self.two = nn.Linear(4, 6), nn.Parameter(torch.ones(6)), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x) * self.scale)

    scaled, x = Scaled(), torch.zeros(1, 4)
    groups = find_groups(scaled, x)
    cut = remove_channels(scaled, x, groups, [torch.arange(g.channels) < 4 for g in groups])
    row = layer_rows(scaled, cut.plan, groups)[-1]
    assert (row.layer, row.before, row.after) == ("scale", "6 along axis 0", "4 along axis 0")
    assert row.why == "2 low score (with one)"
