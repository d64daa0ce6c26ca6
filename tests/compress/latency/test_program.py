"""The integer program against brute force over every combination of counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.program import Limit, Program
from slimtask.compress.latency.specs import Axis, LayerSpec
from slimtask.compress.latency.table import LayerShape
from slimtask.errors import InputError


def layer(name: str, inputs: Axis, outputs: Axis, kind: str = "conv", size: int = 8) -> LayerSpec:
    return LayerSpec(module=name, shape=LayerShape(kind=kind, size=(size, size)), inputs=inputs, outputs=outputs)


def ms(spec: LayerSpec, inputs, outputs) -> np.ndarray:
    """A convex staircase, so that nothing about it is bilinear."""
    inputs = [4] * len(inputs) if spec.shape.one_axis else inputs
    n, m = np.meshgrid([4 * -(-c // 4) for c in inputs], [8 * -(-c // 8) for c in outputs], indexing="ij")
    return (n * m) ** 0.9 * spec.shape.size[0] / 100.0 + 0.01 * n + 0.02 * m


def flops(spec: LayerSpec, inputs, outputs) -> np.ndarray:
    return np.array([[spec.shape.flops(n, m) for m in outputs] for n in inputs])


def overhead(spec: LayerSpec, inputs, outputs) -> np.ndarray:
    """Most of a layer's time is there as soon as the layer is."""
    return 3.0 + 0.01 * np.asarray(inputs)[:, None] + 0.02 * np.asarray(outputs)[None]


COSTS = {"ms": ms, "flops": flops, "overhead": overhead}


def chain() -> list[LayerSpec]:
    """Three groups: a residual stream 0, two inner groups 1 and 2; the stream is read and written by several layers."""
    fixed = Axis(fixed=3)
    stream, one, two = (Axis(fixed=0, parts={group: 1}) for group in range(3))
    return [
        layer("stem", fixed, stream, size=16),
        layer("in1", stream, one),
        layer("out1", one, stream),
        layer("dw", two, two, kind="depthwise"),
        layer("in2", stream, two, size=4),
        layer("out2", two, stream, size=4),
        layer("square", stream, stream, size=2),
        layer("head", Axis(fixed=0, parts={0: 9}), Axis(fixed=10), size=1),
    ]


def cost_of(kind: str, specs, kept, modules=None) -> float:
    total = 0.0
    for spec in specs:
        if modules is None or spec.module in modules:
            pair = [spec.inputs.count(kept)], [spec.outputs.count(kept)]
            total += float(COSTS[kind](spec, *pair)[0, 0])
    return total


def problem(seed: int):
    rng = np.random.default_rng(seed)
    counts = [tuple(sorted(rng.choice(np.arange(1, 40), size, replace=False).tolist())) for size in (5, 4, 6)]
    values = [np.sort(rng.random(len(mine))).tolist() for mine in counts]
    return chain(), counts, values


def combinations(counts, values):
    for picks in itertools.product(*(range(len(mine)) for mine in counts)):
        kept = [mine[i] for mine, i in zip(counts, picks, strict=True)]
        yield kept, sum(mine[i] for mine, i in zip(values, picks, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_most_value_under_two_path_budgets_is_that_of_brute_force(seed: int) -> None:
    specs, counts, values = problem(seed)
    path = {"stem", "in1", "out1", "head"}
    full, least = [mine[-1] for mine in counts], [mine[0] for mine in counts]
    whole = 0.5 * (cost_of("ms", specs, full) + cost_of("ms", specs, least))
    part = 0.45 * cost_of("ms", specs, full, path) + 0.55 * cost_of("ms", specs, least, path)
    limits = [
        Limit(cost="ms", at_most=whole + 1.0, constant=1.0),
        Limit(cost="ms", at_most=part, modules=path, name="one task"),
    ]
    choice = Program(specs, counts, values, COSTS).solve(limits, gap=1e-9)
    best = max(
        value
        for kept, value in combinations(counts, values)
        if cost_of("ms", specs, kept) <= whole and cost_of("ms", specs, kept, path) <= part
    )
    assert choice.value == pytest.approx(best, rel=1e-6)
    assert choice.spent[0] == pytest.approx(cost_of("ms", specs, choice.kept) + 1.0, rel=1e-5)
    assert choice.spent[1] == pytest.approx(cost_of("ms", specs, choice.kept, path), rel=1e-5)


def test_flops_of_a_layer_that_reads_a_concatenation_are_exact() -> None:
    both = Axis(fixed=2, parts={0: 1, 1: 1})
    specs = [layer("a", Axis(fixed=3), Axis(fixed=0, parts={0: 1})), layer("join", both, Axis(fixed=0, parts={2: 1}))]
    counts, values = [(2, 5, 9), (1, 4, 8), (3, 6, 7)], [(0.1, 0.5, 0.7), (0.2, 0.4, 0.9), (0.3, 0.6, 0.8)]
    limit = Limit(cost="flops", at_most=0.5 * cost_of("flops", specs, [9, 8, 7]))
    choice = Program(specs, counts, values, COSTS).solve([limit], gap=1e-9)
    fits = [v for kept, v in combinations(counts, values) if cost_of("flops", specs, kept) <= limit.at_most]
    assert choice.value == pytest.approx(max(fits), rel=1e-6)
    assert choice.spent[0] == pytest.approx(cost_of("flops", specs, choice.kept), rel=1e-6)


def test_a_budget_out_of_reach_is_refused_with_the_smallest_reachable_latency() -> None:
    specs, counts, values = problem(0)
    least = cost_of("ms", specs, [mine[0] for mine in counts]) + 2.0
    limit = Limit(cost="ms", at_most=0.5 * least, constant=2.0, name="path 'depth'")
    with pytest.raises(InputError, match=rf"path 'depth' cannot be brought .* reachable is {least:.4g}"):
        Program(specs, counts, values, COSTS).solve([limit])


def with_blocks(seed: int):
    """A stream 0 and three blocks on it.

    One of two groups in a row, one of two groups and a concatenation of both, and one of a single group behind a
    depthwise layer of the stream, which no count of that block's own brings to zero.
    """
    rng = np.random.default_rng(seed)
    stream, one, two, three, four, five = (Axis(fixed=0, parts={group: 1}) for group in range(6))
    specs = [
        layer("stem", Axis(fixed=3), stream, size=16),
        layer("a.in", stream, one, size=16),
        layer("a.mid", one, five),
        layer("a.out", five, stream, size=2),
        layer("b.left", stream, two, size=4),
        layer("b.right", stream, three, size=4),
        layer("b.join", Axis(fixed=0, parts={2: 1, 3: 1}), stream, size=4),
        layer("c.deep", stream, stream, kind="depthwise", size=12),
        layer("c.in", stream, four, size=6),
        layer("c.out", four, stream, size=6),
        layer("head", stream, Axis(fixed=10), size=1),
    ]
    blocks = [
        Block(name=name, groups=groups, layers=frozenset(s.module for s in specs if s.module.startswith(name)))
        for name, groups in (("a", (1, 5)), ("b", (2, 3)), ("c", (4,)))
    ]
    counts = [tuple(sorted(rng.choice(np.arange(8, 40), 2, replace=False).tolist()))]
    counts += [(0, *sorted(rng.choice(np.arange(8, 40), 2, replace=False).tolist())) for _ in range(5)]
    values = [[0.0] * (len(mine) > 2) + np.sort(rng.uniform(0.2, 1.0, 2)).tolist() for mine in counts]
    return specs, blocks, counts, values


def whole(kept) -> bool:
    """Whether the two groups of either block stay or go together."""
    return (kept[1] == 0) == (kept[5] == 0) and (kept[2] == 0) == (kept[3] == 0)


def blocks_cost(kind: str, specs, blocks, kept) -> float:
    gone = {name for block in blocks if kept[block.groups[0]] == 0 for name in block.layers}
    return cost_of(kind, [spec for spec in specs if spec.module not in gone], kept)


@pytest.mark.parametrize("kind", ["flops", "overhead"])
@pytest.mark.parametrize("share", [0.25, 0.45, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_go_whole_or_not_as_brute_force_says(seed: int, share: float, kind: str) -> None:
    """By costs that a concatenation interpolates without error; a block of two groups never loses one of them."""
    specs, blocks, counts, values = with_blocks(seed)
    limit = Limit(cost=kind, at_most=share * cost_of(kind, specs, [mine[-1] for mine in counts]))
    choice = Program(specs, counts, values, COSTS, blocks).solve([limit], gap=1e-9)
    legal = [
        (kept, value)
        for kept, value in combinations(counts, values)
        if whole(kept) and blocks_cost(kind, specs, blocks, kept) <= limit.at_most
    ]
    assert choice.value == pytest.approx(max(value for _, value in legal), rel=1e-6)
    assert choice.spent[0] == pytest.approx(blocks_cost(kind, specs, blocks, choice.kept), rel=1e-6)
    assert whole(choice.kept)


@pytest.mark.parametrize("seed", range(4))
def test_a_staircase_of_milliseconds_and_blocks_is_that_of_brute_force(seed: int) -> None:
    specs, blocks, counts, values = with_blocks(seed)
    specs = [spec for spec in specs if spec.module != "b.join"]  # only an approximation: tested in FLOPs
    full = cost_of("ms", specs, [mine[-1] for mine in counts])
    for share in (0.3, 0.6):
        limit = Limit(cost="ms", at_most=share * full)
        choice = Program(specs, counts, values, COSTS, blocks).solve([limit], gap=1e-9)
        best = max(
            value
            for kept, value in combinations(counts, values)
            if whole(kept) and blocks_cost("ms", specs, blocks, kept) <= limit.at_most
        )
        assert choice.value == pytest.approx(best, rel=1e-6)
        assert choice.spent[0] == pytest.approx(blocks_cost("ms", specs, blocks, choice.kept), rel=1e-5)


def test_the_smallest_reachable_latency_is_that_without_any_block() -> None:
    specs, blocks, counts, values = with_blocks(0)
    bare = blocks_cost("ms", specs, blocks, [counts[0][0], 0, 0, 0, 0, 0])
    with pytest.raises(InputError, match=rf"smallest reachable is {bare:.4g} ms"):
        Program(specs, counts, values, COSTS, blocks).solve([Limit(cost="ms", at_most=0.5 * bare)])
