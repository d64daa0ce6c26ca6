"""Layer specs: shapes, FLOPs and axes agree with the network itself, dense and cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.specs import LayerSpec, axis_ranges, layer_specs, task_paths
from slimtask.compress.latency.table import LayerShape
from slimtask.compress.removal.remove import remove_channels
from slimtask.compress.score.cost import count_flops
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet


class Joined(nn.Module):
    """A concatenation, a depthwise and a transposed convolution, a flattened map, and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(3, 10, 5, 2, 2)
        self.mix, self.deep = nn.Conv2d(22, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.again, self.up = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 6, 2, 2)
        self.head = nn.Linear(6 * 64, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(self.mix(torch.cat([self.a(x), self.b(x)], 1)).relu())
        return self.head(self.up(self.again(self.again(x))).flatten(1))


def flops(specs: Sequence[LayerSpec], kept: Sequence[int]) -> float:
    return sum(spec.shape.flops(spec.inputs.count(kept), spec.outputs.count(kept)) for spec in specs)


def test_flops_equal_the_counter_dense_and_cut() -> None:
    torch.manual_seed(0)
    model, example = Joined().eval(), torch.randn(2, 3, 8, 8)
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    assert [spec.module for spec in specs] == ["a", "b", "mix", "deep", "again", "again", "up", "head"]
    assert flops(specs, [group.channels for group in groups]) == count_flops(model, example)
    keep = [torch.arange(g.channels) >= (3 if g.refused is None else 0) for g in groups]
    cut = remove_channels(model, example, groups, keep).model
    kept = [int(mask.sum()) for mask in keep]
    assert count_flops(cut, example) < count_flops(model, example)
    assert flops(specs, kept) == count_flops(cut, example)


def test_shapes_read_the_modules() -> None:
    model, example = Joined().eval(), torch.randn(2, 3, 8, 8)
    shapes = {spec.module: spec.shape for spec in layer_specs(model, find_groups(model, example), example)}
    square = {"kernel": (5, 5), "stride": (2, 2), "padding": (2, 2)}
    assert shapes["b"] == LayerShape(kind="conv", batch=2, size=(8, 8), **square)
    assert shapes["deep"].kind == "depthwise"
    assert shapes["up"].kind == "transposed"
    assert shapes["head"] == LayerShape(kind="linear", size=(2, 1))


def test_ranges_span_what_a_removal_can_reach() -> None:
    model, example = Joined().eval(), torch.randn(1, 3, 8, 8)
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    ranges = axis_ranges(specs, groups, smallest=4)
    mix = next(spec for spec in specs if spec.module == "mix")
    assert ranges[mix.shape] == ((8, 22), (4, 16))


def test_paths_are_the_modules_a_task_set_calls(small_net: Callable[..., MultiTaskNet]) -> None:
    model, example = small_net(), torch.zeros(1, 3, 32, 32)
    paths = task_paths(model, example, {"depth": ["depth"], "both": ["depth", "edges"]})
    assert paths["depth"] < paths["both"]
    assert all("edges" in name for name in paths["both"] - paths["depth"])
    assert not model.training


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="calls no convolution"):
        layer_specs(nn.Identity(), (), torch.zeros(1, 3, 4, 4))
