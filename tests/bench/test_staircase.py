"""Counts off a made-up staircase, handed to every way to compress, and the check that the result is no slower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench import staircase
from slimtask.bench.layers import table as latency_table
from slimtask.bench.staircase import counts_by_group, measured_counts, speed_up
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.compress.api import compress
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.align import group_ms
from slimtask.compress.latency.specs import axis_ranges, layer_specs
from slimtask.compress.latency.table import LayerShape
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import CheckFailed, InputError

EXAMPLE = torch.zeros(1, 3, 16, 16)
CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="none", precision="fp32", threads=1, batch=1, shape=(3, 16, 16)
)


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


@pytest.fixture(autouse=True)
def _made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(latency_table, "time_layer", blocks_of_16)


def fake_times(monkeypatch: pytest.MonkeyPatch, milliseconds: Callable[[str], tuple[float, ...]]) -> None:
    def timed(graphs: dict[str, Path], threads: int) -> dict[str, Measurement]:
        assert all(path.is_file() for path in graphs.values())
        conditions = CONDITIONS.model_copy(update={"run_id": "one"})
        return {name: Measurement(samples_ms=milliseconds(name), conditions=conditions) for name in graphs}

    monkeypatch.setattr(staircase, "measure_graphs", timed)


def _touched(network: nn.Module, example: torch.Tensor, path: Path) -> Path:
    """Stand in for the slow exporter."""
    path.touch()
    return path


def test_no_count_is_slower_than_a_larger_one_and_the_ends_of_the_steps_are_there() -> None:
    net = chain()
    counts = measured_counts(net, EXAMPLE, threads=1)
    assert set(counts) == {"0", "3"}
    assert {32, 48} <= set(counts["0"])
    assert not set(counts["0"]) & set(range(33, 48))
    groups = find_groups(net, EXAMPLE)
    specs = layer_specs(net, groups, EXAMPLE)
    table = latency_table.measure_table(axis_ranges(specs, groups), threads=1, timer=lambda *_: 1 / 0)  # is cached
    for index, group in enumerate(groups):
        if group.name in counts:
            ms = group_ms(index, torch.arange(1, group.channels + 1).numpy(), groups, specs, table)
            assert all(ms[count - 1] < ms[count:].min() for count in counts[group.name][:-1])
    for name, few in measured_counts(net, EXAMPLE, threads=1, least_share=0.5).items():
        channels = next(group.channels for group in groups if group.name == name)
        assert few == tuple(count for count in counts[name] if count >= channels // 2)
    assert counts_by_group(groups, specs[:1], table) == {"0": counts_by_group(groups, specs[:1], table)["0"]}


@pytest.mark.parametrize("budget", [{"keep": 0.6}, {"params": 0.5}])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_budget_holds_on_counts_off_the_staircase(budget: dict[str, float], scope: str) -> None:
    net = chain()
    counts = measured_counts(net, EXAMPLE, threads=1, least_share=staircase.TRAINABLE)
    done = compress(net, EXAMPLE, criterion="l2", budget=Budget(**budget), scope=scope, align=counts)
    kept = {group.name: group.after for group in done.plan.groups}
    assert all(count in counts[name] for name, count in kept.items())
    assert sum(kept.values()) <= budget.get("keep", 1) * 88
    assert count_parameters(done.model) <= budget.get("params", 1) * count_parameters(net)
    assert done.certificate


def test_dead_channels_stay_where_fewer_would_be_slower() -> None:
    net = chain()
    net[0].weight.data[20:] = 0
    net[0].bias.data[20:] = -1.0
    done = compress(net, EXAMPLE, align=measured_counts(net, EXAMPLE, threads=1))
    assert done.model[0].out_channels == 32
    assert compress(net, EXAMPLE, align=1).model[0].out_channels < 32
    x = torch.randn(2, 3, 20, 12, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        assert torch.allclose(done.model.double()(x), net.double()(x), atol=1e-6)


def test_slower_than_dense_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, smaller = chain(), chain()
    fake_times(monkeypatch, lambda name: (2.0, 2.1, 2.2) if name == "dense" else (1.0, 1.05, 1.1))
    found = speed_up(dense, smaller, EXAMPLE, threads=1)
    assert (found.dense_ms, found.measured_ms, found.ratio.value) == (2.1, 1.05, 2.0)
    monkeypatch.setattr(staircase, "export", _touched)
    fake_times(monkeypatch, lambda name: (2.0, 2.1, 2.2) if name == "compressed" else (1.0, 1.05, 1.1))
    with pytest.raises(CheckFailed, match=r"takes 2\.1 ms, the dense one 1\.05"):
        speed_up(dense, smaller, EXAMPLE, threads=1)
    fake_times(monkeypatch, lambda name: (1.0, 3.0, 2.0) if name == "compressed" else (1.9, 1.0, 3.0))
    assert not speed_up(dense, smaller, EXAMPLE, threads=1).ratio.below_one  # noise says neither


def test_nothing_to_remove_is_said_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_table, "time_layer", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(InputError, match="0 of 4 channels may be removed"):
        measured_counts(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE, threads=1)
