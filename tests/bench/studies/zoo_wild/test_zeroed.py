"""Zeros in place of removed weights: indices found by value, means over what is left, a wrong removal found."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.zoo_wild.zeroed import kept_indices, rel_error


def test_indices_are_read_off_the_values() -> None:
    torch.manual_seed(0)
    dense = torch.randn(6, 5, 3)
    found = kept_indices(dense, dense[[1, 4]][:, [0, 2, 3]])
    assert [index.tolist() for index in found] == [[1, 4], [0, 2, 3], [0, 1, 2]]
    assert kept_indices(dense, dense[[1, 4]] + 1) is None
    assert kept_indices(dense, dense[[1, 4]].flip(2)) is None
    assert kept_indices(torch.ones(6), torch.ones(3)) is None
    assert kept_indices(dense, dense[0]) is None


class Net(nn.Module):
    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2, 1)
        norms: dict[str, nn.Module] = {
            "layer": nn.LayerNorm(width),
            "rms": nn.RMSNorm(width),
            "batch": nn.BatchNorm2d(width),
        }
        norms["vector"] = nn.LayerNorm(width)
        norms["plain"] = nn.LayerNorm(width, elementwise_affine=False)
        norms["kernel"] = nn.Identity()
        self.norm = nn.GroupNorm(2, width) if kind == "group" else norms[kind]
        self.moves, self.vector, self.kernel = kind in ("layer", "rms", "plain"), kind == "vector", kind == "kernel"

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.vector:
            return self.last(self.norm(x.mean((2, 3)))[..., None, None])
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1) if self.moves else self.norm(x)
        if self.kernel:  # each output's weights by their own mean and variance, as BiT and NFNet have it
            weight = F.batch_norm(self.last.weight.reshape(1, 2, -1), None, None, training=True)
            return F.conv2d(x.relu(), weight.reshape_as(self.last.weight), self.last.bias)
        return self.last(x.relu())


@pytest.mark.parametrize("kind", ["batch", "layer", "rms", "group", "vector", "plain", "kernel"])
def test_a_right_removal_agrees_and_a_wrong_one_does_not(kind: str) -> None:
    torch.manual_seed(0)
    dense, kept = Net(kind, 8).eval(), [0, 3, 5, 6]
    for parameter in dense.norm.parameters():
        nn.init.normal_(parameter)
    smaller = Net(kind, 4).eval()
    state = copy.deepcopy(dense.state_dict())
    for name, tensor in state.items():
        if name.startswith(("first", "norm")) and tensor.ndim:
            state[name] = tensor[kept]
    state["last.weight"] = state["last.weight"][:, kept]
    smaller.load_state_dict(state)
    x = torch.randn(1, 3, 6, 6)
    assert rel_error(dense, smaller, x) < 1e-5
    wrong = copy.deepcopy(smaller)
    wrong.last.weight.data = dense.last.weight.data[:, [1, 3, 5, 6]].clone()
    assert rel_error(dense, wrong, x) > 1e-2
    wrong.last.weight.data *= 2
    assert "'last.weight'" in rel_error(dense, wrong, x)
