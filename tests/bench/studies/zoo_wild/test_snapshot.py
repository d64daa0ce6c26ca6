"""A snapshot tells every kind of damage, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimtask.bench.studies.zoo_wild.snapshot import differences, snapshot


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.grids = [torch.zeros(2), {"fine": torch.ones(3)}]
        self.hidden = [nn.Linear(2, 2)]
        self.heads = 4


def damages() -> dict[str, Callable[[Cached], object]]:
    return {
        "conv.weight": lambda net: net.conv.weight.detach().add_(1),
        "norm.running_mean": lambda net: net.norm.running_mean.add_(1),
        "conv.training": lambda net: net.conv.eval(),
        "grids[1]['fine']": lambda net: net.grids[1].update(fine=torch.ones(3, device="meta")),
        "hidden[0].bias": lambda net: net.hidden[0].bias.detach().zero_(),
        "heads": lambda net: setattr(net, "heads", 2),
        "_parameters": lambda net: setattr(net.norm, "weight", None),
        "conv:": lambda net: setattr(net.conv, "mask", 1),
        "conv.weight ": lambda net: net.conv.weight.requires_grad_(False),
        "conv._forward_hooks:": lambda net: net.conv.register_forward_hook(print),
        "norm.running_var": lambda net: net.norm.double(),
    }


@pytest.mark.parametrize("place", damages())
def test_every_damage_is_told_by_its_place(place: str) -> None:
    net = Cached()
    before = snapshot(net)
    damages()[place](net)
    told = differences(before, snapshot(net))
    assert told
    assert place == "_parameters" or any(f"'{place.strip()}'" in each for each in told)


def test_an_untouched_network_has_no_differences() -> None:
    net = Cached()
    before = snapshot(net)
    net.conv(torch.zeros(1, 3, 2, 2))
    assert differences(before, snapshot(net)) == []


def test_what_torch_is_set_to_counts() -> None:
    before = snapshot(nn.Identity())
    with torch.no_grad():
        assert differences(before, snapshot(nn.Identity())) == ["'torch grad mode' changed from True to False"]
