"""Whatever of a network is touched shows against its snapshot, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.bench.studies.fuzz.networks import network, side_of
from slimtask.bench.studies.fuzz.snapshot import differences, disturb_, snapshot, tensors_in


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.grid: torch.Tensor | None = torch.arange(3)
        self.store: dict[str, Any] = {"x": [torch.ones(2), {"y": torch.full((2,), float("nan"))}]}
        self.plain = SimpleNamespace(t=torch.zeros(1), n=4)
        self.window, self.seen = 4, {torch.zeros(3)}


def hook(net: Net) -> None:
    net.a.register_forward_hook(lambda module, args, output: output)


def cut(net: Net) -> None:
    net.a.weight = nn.Parameter(net.a.weight[:2].detach())


CHANGES: dict[str, Callable[[Net], Any]] = {
    "a weight in place": lambda net: net.a.weight.data.mul_(2),
    "a weight of the same values": lambda net: setattr(net.a, "weight", nn.Parameter(net.a.weight.detach().clone())),
    "a smaller weight": cut,
    "a weight's gradient switch": lambda net: net.a.weight.requires_grad_(False),
    "a type": lambda net: net.double(),
    "a buffer": lambda net: net.get_buffer("norm.running_mean").add_(1),
    "a mode": lambda net: net.norm.eval(),
    "an attribute's tensor": lambda net: setattr(net, "grid", torch.arange(4)),
    "an attribute on another device": lambda net: setattr(net, "grid", torch.empty(3, device="meta")),
    "a tensor in a list in a dictionary": lambda net: net.store["x"][0].zero_(),
    "a tensor deeper": lambda net: net.store["x"][1]["y"].zero_(),
    "a new key": lambda net: net.store.update(z=1),
    "an equal dictionary": lambda net: setattr(net, "store", dict(net.store)),
    "a number": lambda net: setattr(net, "window", 3),
    "a number in an object": lambda net: setattr(net.plain, "n", 5),
    "a tensor in an object": lambda net: net.plain.t.add_(1),
    "a tensor in a set": lambda net: next(iter(net.seen)).add_(1),
    "a new attribute": lambda net: setattr(net, "more", 1),
    "an attribute that goes": lambda net: delattr(net, "window"),
    "another module": lambda net: setattr(net, "a", nn.Conv2d(3, 4, 1)),
    "another class": lambda net: setattr(net.a, "__class__", nn.Conv3d),
    "a hook": hook,
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_seen(what: str) -> None:
    net = Net()
    before = snapshot(net)
    assert differences(before, net) == []
    CHANGES[what](net)
    assert differences(before, net)


@pytest.mark.parametrize("seed", range(1, 30, 2))
def test_looking_changes_nothing(seed: int) -> None:
    net = network(seed)
    assert differences(snapshot(net), net) == []
    before = snapshot(net)
    disturb_(net)
    touched = {words.partition(" ")[0] for words in differences(before, net)}
    assert all(name.partition(".")[0] for name in touched)
    assert len(touched) >= len([*net.parameters()])


def test_tensors_are_found_wherever_they_are() -> None:
    net = Net()
    inside = [net.grid, net.store["x"][0], net.store["x"][1]["y"], net.plain.t, *net.seen]
    found = {id(tensor) for tensor in tensors_in(net)}
    assert {id(tensor) for tensor in (*net.parameters(), *net.buffers(), *inside)} == found


def test_a_network_that_ran_shows_what_it_kept() -> None:
    net = network(1, ["RunningMaximum"])
    before = snapshot(net)
    with torch.no_grad():
        net(torch.randn(1, 3, side_of(1), side_of(1)))
    assert any("highest" in words for words in differences(before, net))
