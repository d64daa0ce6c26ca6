"""Counts worth having: the staircase of a measured table, multiples, and the few that a program chooses from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.align import allowed_counts, counts_around, group_ms, spread_counts, worth_having
from slimtask.compress.latency.specs import layer_specs
from slimtask.compress.latency.table import Entry, LatencyTable
from slimtask.compress.score.counts import aligned_counts


def chain() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval(), torch.zeros(
        1, 3, 8, 8
    )


def table_of(specs, penalty) -> LatencyTable:
    entries = {}
    for spec in specs:
        inputs = (3,) if spec.inputs.count([64, 8, 5]) == 3 else (1, 16, 32, 48, 64)
        outputs = (1, 16, 32, 48, 64)
        ms = tuple(tuple(0.1 + 0.01 * n * m for m in outputs) for n in inputs)
        entries[spec.shape] = Entry(
            shape=spec.shape, inputs=inputs, outputs=outputs, ms=ms, input_penalty=penalty, output_penalty=penalty
        )
    return LatencyTable(device="test", backend="none", version="1", threads=1, entries=tuple(entries.values()))


def test_no_count_is_allowed_that_is_slower_than_a_larger_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts, ms = np.arange(1, 30), rng.uniform(0.1, 2.0, 29)
        allowed = worth_having(counts, ms)
        assert allowed[-1] == 29
        for count in allowed[:-1]:
            assert all(ms[count - 1] < ms[larger - 1] for larger in range(count + 1, 30))


def test_a_slope_below_the_tolerance_still_leaves_steps_above_it() -> None:
    counts = np.arange(1000, 2001)
    allowed = worth_having(counts, counts / 1000.0, tolerance=0.01)
    assert 60 < len(allowed) < 75  # log(2) / 0.01 steps of one per cent
    assert allowed[0] <= 1010


def test_a_staircase_leaves_the_ends_of_its_steps() -> None:
    model, example = chain()
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    index = next(i for i, group in enumerate(groups) if group.channels == 64)
    assert allowed_counts(index, groups, specs, table_of(specs, (1.0,) * 4), 16) == (16, 32, 48, 64)
    assert allowed_counts(index, groups, specs, table_of(specs, (1.0, 1.0, 1.0, 0.0)), 16) == tuple(range(16, 65, 8))
    assert allowed_counts(index, groups, specs, table_of(specs, (3.0,) * 4), 16) == (16, 32, 48, 64)


def test_a_groups_time_is_the_sum_of_the_layers_it_drives() -> None:
    model, example = chain()
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    index = next(i for i, group in enumerate(groups) if group.channels == 64)
    table = table_of(specs, (0.0,) * 4)
    expected = [table.ms(specs[0].shape, 3, n) + table.ms(specs[1].shape, n, 8) for n in (16, 20, 64)]
    np.testing.assert_allclose(group_ms(index, np.array([16, 20, 64]), groups, specs, table), expected)


def test_a_refused_group_keeps_all() -> None:
    model, example = chain()
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    index = next(i for i, group in enumerate(groups) if group.refused is not None)
    assert allowed_counts(index, groups, specs, table_of(specs, (0.0,) * 4)) == (groups[index].channels,)


@pytest.mark.parametrize(
    ("channels", "align", "smallest", "expected"),
    [(24, 8, 1, (8, 16, 24)), (20, 8, 9, (16, 20)), (5, 8, 1, (5,)), (3, 1, 1, (1, 2, 3))],
)
def test_aligned_counts(channels: int, align: int, smallest: int, expected: tuple[int, ...]) -> None:
    assert aligned_counts(channels, align, smallest) == expected


def test_spread_and_neighbouring_counts_are_few_and_keep_the_ends() -> None:
    counts = tuple(range(1, 500, 3))
    few = spread_counts(counts)
    assert len(few) == 8
    assert (few[0], few[-1]) == (counts[0], counts[-1])
    assert spread_counts((1, 2, 3)) == (1, 2, 3)
    assert counts_around(counts, 100, 5) == (94, 97, 100, 103, 106)
    assert counts_around(counts, 1, 5) == counts[:5]
    assert counts_around((4, 8), 8, 5) == (4, 8)
