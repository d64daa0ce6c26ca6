"""Counts off a made-up staircase, handed to every way to compress."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench.layers.table import measure_table
from slimtask.compress.api.how import Prune, Zeros
from slimtask.compress.api.models import compress
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.align import group_ms
from slimtask.compress.latency.specs import axis_ranges, layer_specs
from slimtask.compress.latency.staircase import TRAINABLE, counts_by_group, measured_counts
from slimtask.compress.latency.table import LayerShape
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import InputError
from tests.meters import LawfulMeter

EXAMPLE = torch.zeros(1, 3, 16, 16)


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 40, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    ).eval()  # fmt: skip


def blocks_of_16(shape: LayerShape, inputs: int, outputs: int, **_: object) -> float:
    """A backend that computes whole blocks, and takes four times as long for what does not fill them."""
    cost = 1.0
    for count in (inputs, outputs):
        cost *= -(-count // 16) * (4.0 if count > 16 and count % 16 else 1.0)
    return 0.01 * cost


METER = LawfulMeter(layer_ms=blocks_of_16)


@pytest.fixture(autouse=True)
def _made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_no_count_is_slower_than_a_larger_one_and_the_ends_of_the_steps_are_there() -> None:
    net = chain()
    counts = measured_counts(net, EXAMPLE, METER)
    assert set(counts) == {"0", "3"}
    assert {32, 48} <= set(counts["0"])
    assert not set(counts["0"]) & set(range(33, 48))
    groups = find_groups(net, EXAMPLE)
    specs = layer_specs(net, groups, EXAMPLE)
    table = measure_table(axis_ranges(specs, groups), threads=1, timer=lambda *_: 1 / 0)  # is cached
    for index, group in enumerate(groups):
        if group.name in counts:
            ms = group_ms(index, torch.arange(1, group.channels + 1).numpy(), groups, specs, table)
            assert all(ms[count - 1] < ms[count:].min() for count in counts[group.name][:-1])
    for name, few in measured_counts(net, EXAMPLE, METER, least_share=0.5).items():
        channels = next(group.channels for group in groups if group.name == name)
        assert few == tuple(count for count in counts[name] if count >= channels // 2)
    assert counts_by_group(groups, specs[:1], table) == {"0": counts_by_group(groups, specs[:1], table)["0"]}


@pytest.mark.parametrize("budget", [{"keep": 0.6}, {"params": 0.5}])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_budget_holds_on_counts_off_the_staircase(budget: dict[str, float], scope: str) -> None:
    net = chain()
    counts = measured_counts(net, EXAMPLE, METER, least_share=TRAINABLE)
    done = compress(net, EXAMPLE, Prune(Budget(**budget), scope=scope, align=counts))
    kept = {group.name: group.after for group in done.plan.groups}
    assert all(count in counts[name] for name, count in kept.items())
    assert sum(kept.values()) <= budget.get("keep", 1) * 88
    assert count_parameters(done.model) <= budget.get("params", 1) * count_parameters(net)
    assert done.certificate


def test_dead_channels_stay_where_fewer_would_be_slower() -> None:
    net = chain()
    net[0].weight.data[20:] = 0
    net[0].bias.data[20:] = -1.0
    done = compress(net, EXAMPLE, Zeros(align=measured_counts(net, EXAMPLE, METER)))
    assert done.model[0].out_channels == 32
    assert compress(net, EXAMPLE, Zeros(align=1)).model[0].out_channels < 32
    x = torch.randn(2, 3, 20, 12, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        assert torch.allclose(done.model.double()(x), net.double()(x), atol=1e-6)


def test_nothing_to_remove_is_said_before_anything_is_measured() -> None:
    meter = LawfulMeter(layer_ms=lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="0 of 4 channels may be removed"):
        measured_counts(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE, meter)
