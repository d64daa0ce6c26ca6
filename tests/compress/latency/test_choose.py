"""From scores and a table to keep masks: budgets hold, the best channels stay, and whole blocks go where that pays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.blocks import residual_blocks
from slimtask.compress.latency.choose import LatencyChooser, path_cost, top_channels
from slimtask.compress.latency.specs import axis_ranges, layer_specs, task_paths
from slimtask.compress.latency.table import Entry, LatencyTable
from slimtask.compress.removal.remove import remove_channels
from slimtask.compress.score.cost import count_flops
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)
PATHS = {"depth": ["depth"], "all": ["segmentation", "depth", "normals", "edges", "presence"]}
NetMaker = Callable[..., MultiTaskNet]


def table_for(specs, groups, penalty=(1.0, 1.0, 1.0, 0.0)) -> LatencyTable:
    """A table whose times are a hundredth of a microsecond per kiloFLOP plus a constant, padded to 8 channels."""
    entries = []
    for shape, (into, out) in axis_ranges(specs, groups).items():
        axes = [(1,) if shape.one_axis else tuple(sorted({*into})), tuple(sorted({*out}))]
        ms = tuple(tuple(0.01 + shape.flops(n, m) / 1e7 for m in axes[1]) for n in axes[0])
        entries.append(
            Entry(shape=shape, inputs=axes[0], outputs=axes[1], ms=ms, input_penalty=penalty, output_penalty=penalty)
        )
    return LatencyTable(device="test", backend="none", version="1", threads=1, entries=tuple(entries))


@pytest.fixture(scope="module")
def chooser(small_net: NetMaker):
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    specs = layer_specs(model, groups, EXAMPLE)
    scores = [torch.rand(g.channels, generator=torch.Generator().manual_seed(i)) for i, g in enumerate(groups)]
    paths = task_paths(model, EXAMPLE, PATHS)
    made = LatencyChooser(
        groups, specs, scores, table_for(specs, groups), {"depth": 3.0, "all": 5.0}, paths=paths, smallest=2
    )
    return model, groups, specs, scores, made


def test_several_budgets_hold_at_once_and_the_best_channels_stay(chooser) -> None:
    _, groups, _, scores, made = chooser
    full = made.predicted_ms([group.channels for group in groups])
    assert full == pytest.approx({"depth": 3.0, "all": 5.0})
    chosen = made.for_latency({"depth": 1.6, "all": 3.5})
    assert chosen.predicted_ms["depth"] <= 1.6 * (1 + 1e-6)
    assert chosen.predicted_ms["all"] <= 3.5 * (1 + 1e-6)
    assert 0.3 < chosen.importance < 1.0
    kept = sum(float(s[mask].sum()) for s, mask in zip(scores, chosen.keep, strict=True))
    assert chosen.importance == pytest.approx(kept / sum(float(s.sum()) for s in scores), rel=1e-5)
    for group, score, mask in zip(groups, scores, chosen.keep, strict=True):
        assert bool(mask.all()) or group.refused is None
        assert bool(mask.all()) or score[mask].min() >= score[~mask].max()


def test_only_the_budgeted_path_is_cut(chooser) -> None:
    *_, made = chooser
    alone, both = made.for_latency({"depth": 1.6}), made.for_latency({"depth": 1.6, "all": 2.4})
    assert alone.importance > both.importance
    assert alone.predicted_ms["all"] > 2.4


def test_flops_are_at_most_the_budget_and_near_it(chooser) -> None:
    model, groups, _, _, made = chooser
    dense = count_flops(model, EXAMPLE)
    chosen = made.for_flops(0.4 * dense)
    cut = remove_channels(model, EXAMPLE, groups, chosen.keep).model
    assert 0.9 * 0.4 * dense <= count_flops(cut, EXAMPLE) <= 0.4 * dense


def test_a_latency_out_of_reach_names_the_smallest(chooser) -> None:
    *_, made = chooser
    with pytest.raises(InputError, match=r"depth cannot be brought to 0.001 ms: the smallest reachable is 0\.\d+"):
        made.for_latency({"depth": 0.001})
    with pytest.raises(InputError, match="no path 'edges'"):
        made.for_latency({"edges": 1.0})


def test_align_by_a_number_takes_its_multiples(chooser) -> None:
    _, groups, specs, scores, _ = chooser
    made = LatencyChooser(groups, specs, scores, table_for(specs, groups), {"the network": 5.0}, align=4)
    chosen = made.for_latency({"the network": 2.5})
    assert all(n % 4 == 0 or n == group.channels for n, group in zip(chosen.kept, groups, strict=True))


def test_the_dense_network_is_priced_at_its_measurement_whatever_the_table_says(chooser) -> None:
    _, groups, specs, *_ = chooser
    full, table = [group.channels for group in groups], table_for(specs, groups)
    layers = sum(table.ms(s.shape, s.inputs.count(full), s.outputs.count(full)) for s in specs)
    for dense_ms in (0.5 * layers, 2.0 * layers):
        cost = path_cost(specs, table, dense_ms, full)
        priced = sum(float(cost(s, [s.inputs.count(full)], [s.outputs.count(full)])[0, 0]) for s in specs)
        assert priced == pytest.approx(dense_ms)


def test_top_channels_prefers_the_first_of_equal_scores() -> None:
    assert top_channels(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3).tolist() == [True, True, False, True]


def as_one_path(chooser, blocks) -> LatencyChooser:
    """The network of ``chooser`` as one path of 5 ms."""
    _, groups, specs, scores, _ = chooser
    table = table_for(specs, groups)
    return LatencyChooser(groups, specs, scores, table, {"the network": 5.0}, blocks=blocks, align=4)


@pytest.mark.parametrize("budget", [1.2, 2.5])
def test_with_blocks_no_budget_keeps_less(chooser, budget: float) -> None:
    model, groups, specs, scores, _ = chooser
    channels = as_one_path(chooser, ())
    chosen = as_one_path(chooser, residual_blocks(model, groups, specs, EXAMPLE)).for_latency({"the network": budget})
    assert chosen.predicted_ms["the network"] <= budget * (1 + 1e-6)
    kept = sum(float(s[mask].sum()) for s, mask in zip(scores, chosen.keep, strict=True))
    assert chosen.importance == pytest.approx(kept / sum(float(s.sum()) for s in scores), rel=1e-5)
    assert chosen.importance >= channels.for_latency({"the network": budget}).importance * (1 - 0.03)
    gone = {f"{block}.residual.0" for block in chosen.blocks}
    assert gone == {group.name for group, count in zip(groups, chosen.kept, strict=True) if count == 0}


def test_blocks_reach_what_channels_alone_cannot(chooser) -> None:
    model, groups, specs, *_ = chooser
    channels = as_one_path(chooser, ())
    least = channels.predicted_ms([mine[0] for mine in channels.counts])["the network"]
    with pytest.raises(InputError, match="smallest reachable"):
        channels.for_latency({"the network": 0.95 * least})
    blocks = residual_blocks(model, groups, specs, EXAMPLE)
    chosen = as_one_path(chooser, blocks).for_latency({"the network": 0.95 * least})
    assert chosen.predicted_ms["the network"] <= 0.95 * least * (1 + 1e-6)
    assert chosen.blocks
    assert {i for i, count in enumerate(chosen.kept) if count == 0} == {
        group for block in blocks if block.name in chosen.blocks for group in block.groups
    }


def test_a_removed_block_costs_nothing_on_any_layer(chooser) -> None:
    model, groups, specs, *_ = chooser
    full = [group.channels for group in groups]
    block, *others = residual_blocks(model, groups, specs, EXAMPLE)
    made = as_one_path(chooser, [block, *others])
    kept = [0 if index in block.groups else count for index, count in enumerate(full)]
    rest = [spec for spec in specs if spec.module not in block.layers]
    assert len(rest) == len(specs) - 2
    cost = path_cost(specs, table_for(specs, groups), 5.0, full)
    left = sum(float(cost(s, [s.inputs.count(full)], [s.outputs.count(full)])[0, 0]) for s in rest)
    assert made.predicted_ms(kept)["the network"] == pytest.approx(left)
