"""Killing zeroes what its kind says, and half of every open group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.bench.studies.fuzz.networks import network
from slimtask.bench.studies.fuzz.user import example_of
from slimtask.bench.studies.zoo.kill import kill_, kill_half_
from slimtask.compress.graph.analysis import find_groups


@pytest.mark.parametrize("kind", ["filter", "gamma", "beta", "readers"])
def test_killing_zeroes_what_its_kind_says(kind: str) -> None:
    net = network(8)
    assert isinstance(net, nn.Sequential)
    group = find_groups(net, example_of(8))[0]
    dead = torch.arange(group.channels) < 3
    kill_(net, group, dead, kind)  # type: ignore[arg-type]
    conv, norm, reader = net[0], net[1], net[3]
    assert bool((conv.weight[:3] == 0).all()) == (kind != "readers")
    assert bool((norm.weight[:3] == 0).all()) == (kind in ("gamma", "beta"))
    assert bool((norm.bias[:3] == 0).all()) == (kind == "beta")
    assert bool((reader.weight[:, :3] == 0).all()) == (kind == "readers")
    assert bool((conv.weight[3:] != 0).any())


def test_half_of_every_open_group_is_killed() -> None:
    net = network(8)
    groups = find_groups(net, example_of(8))
    killed = kill_half_(net, groups, seed=0)
    assert [int(one.channels.sum()) for one in killed] == [g.channels // 2 for g in groups if g.refused is None]
