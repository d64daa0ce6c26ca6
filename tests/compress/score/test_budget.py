"""Decisions under a budget: within it, nothing to add, the best scores first, against brute force and real cuts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.trace import record
from slimtask.compress.removal.plan import plan_from_keep
from slimtask.compress.score.budget import Budget, choose
from slimtask.compress.score.cost import SizeModel, count_flops, count_parameters
from slimtask.compress.score.flops import FlopModel
from slimtask.compress.score.importance import score_channels
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)
NetMaker = Callable[..., MultiTaskNet]


def make(sizes: tuple[int, ...], refused: tuple[int, ...] = ()) -> list[Group]:
    return [
        Group(name=f"g{index}", channels=size, members=(), refused="an output" if index in refused else None)
        for index, size in enumerate(sizes)
    ]


def make_scores(sizes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]


def chain_cost(kept: torch.Tensor) -> torch.Tensor:
    """Cost of a chain of layers: each pair of neighbours multiplies."""
    kept = kept.double()
    return (kept[:-1] * kept[1:]).sum() + 3 * kept.sum()


def counts(keep: list[torch.Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in keep]


def allowed(channels: int, align: int, smallest: int = 1) -> list[int]:
    floor = next(n for n in itertools.count(align, align) if n >= smallest)
    return [n for n in range(floor, channels) if n % align == 0] + [channels]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_budget_holds_and_no_unit_more_fits(scope: Any, align: int, seed: int) -> None:
    sizes = (16, 24, 10, 32)
    groups, scores = make(sizes, refused=(2,)), make_scores(sizes, seed)
    dense = float(chain_cost(torch.tensor(sizes)))
    for ratio in (0.35, 0.5, 0.8):
        keep = choose(groups, scores, Budget(params=ratio), chain_cost, scope=scope, align=align)
        kept = counts(keep)
        assert float(chain_cost(torch.tensor(kept))) <= ratio * dense
        assert kept[2] == 10
        for index, (size, mask, score) in enumerate(zip(sizes, keep, scores, strict=True)):
            if index == 2:
                continue
            ladder = allowed(size, align)
            assert kept[index] in ladder
            assert set(mask.nonzero().flatten().tolist()) == set(score.topk(kept[index]).indices.tolist())
            if scope == "global" and kept[index] < size:
                more = list(kept)
                more[index] = ladder[ladder.index(kept[index]) + 1]
                assert float(chain_cost(torch.tensor(more))) > ratio * dense


def test_global_keeps_what_lies_above_one_threshold() -> None:
    sizes = (20, 30, 12)
    scores = make_scores(sizes, 3)
    keep = choose(make(sizes), scores, Budget(keep=0.5))
    best = torch.cat(scores).topk(31).values.min()
    assert all(torch.equal(mask, score >= best) for mask, score in zip(keep, scores, strict=True))


def test_layer_keeps_the_same_share_of_each_group() -> None:
    sizes = (20, 30, 12)
    assert counts(choose(make(sizes), make_scores(sizes), Budget(keep=0.5), scope="layer")) == [10, 15, 6]
    uneven = (21, 33, 13)
    kept = counts(choose(make(uneven), make_scores(uneven), Budget(keep=0.5), scope="layer"))
    assert sum(kept) == 33
    assert all(abs(count - size / 2) <= 1 for count, size in zip(kept, uneven, strict=True))


def test_layer_fills_a_cheap_group_by_one_unit_at_most() -> None:
    sizes = (10, 40)

    def lopsided(kept: torch.Tensor) -> torch.Tensor:
        return kept[0] * 1000 + kept[1]

    keep = choose(make(sizes), make_scores(sizes), Budget(params=5_900), lopsided, scope="layer")
    assert counts(keep) == [5, 23]  # 22 where the other one's sixth would come, one more fills; 40 would fit


def test_aligned_counts_are_the_nearest_ones() -> None:
    sizes = (64, 64, 40)
    scores = [torch.cat([torch.full((kept,), 2.0), torch.full((64 - kept,), 1.0)]) for kept in (29, 35)]
    scores = [score.double() for score in [*scores, torch.cat([torch.full((15,), 2.0), torch.full((25,), 1.0)])]]
    kept = counts(choose(make(sizes), scores, Budget(keep=80 / 168), align=8))
    assert kept == [32, 32, 16]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_counts_of_each_groups_own_hold_the_budget(scope: Any, seed: int) -> None:
    """Uneven ladders; g2 has none of its own and keeps a multiple of 8."""
    sizes = (16, 24, 20, 32)
    ladders = {0: [3, 7, 8, 16], 1: [24], 2: [8, 16, 20], 3: [2, 30, 32]}
    align = {f"g{index}": ladders[index] for index in (0, 1, 3)}
    groups, scores = make(sizes), make_scores(sizes, seed)
    dense = float(chain_cost(torch.tensor(sizes)))
    for ratio in (0.35, 0.5, 0.8):
        kept = counts(choose(groups, scores, Budget(params=ratio), chain_cost, scope=scope, align=align))
        assert float(chain_cost(torch.tensor(kept))) <= ratio * dense
        assert all(count in ladders[index] for index, count in enumerate(kept))
        for index, count in enumerate(kept):
            if scope == "global" and count < sizes[index]:
                more = list(kept)
                more[index] = ladders[index][ladders[index].index(count) + 1]
                assert float(chain_cost(torch.tensor(more))) > ratio * dense
    with pytest.raises(InputError, match="allow that much, or a number to align to"):
        choose(groups, scores, Budget(params=0.01), chain_cost, scope=scope, align=align)


def test_brute_force_finds_no_better_prefix() -> None:
    sizes = (5, 4, 6)
    groups, scores = make(sizes), make_scores(sizes, 5)
    limit = 0.45 * float(chain_cost(torch.tensor(sizes)))
    keep = choose(groups, scores, Budget(flops=limit), chain_cost)
    threshold_costs = []
    for threshold in torch.cat(scores).tolist():
        kept = [max(1, int((score >= threshold).sum())) for score in scores]
        threshold_costs.append(float(chain_cost(torch.tensor(kept))))
    reached = max(cost for cost in threshold_costs if cost <= limit)
    assert reached <= float(chain_cost(torch.tensor(counts(keep)))) <= limit


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_real_cuts_meet_parameter_and_flop_budgets(scope: Any, align: int, small_net: NetMaker) -> None:
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    scores = score_channels(model, groups, "l1")
    models = {"params": SizeModel(model, groups), "flops": FlopModel(model, groups, record(model, EXAMPLE))}
    for what, size in models.items():
        keep = choose(groups, scores, Budget(**{what: 0.5}), size, scope=scope, align=align)
        cut = copy.deepcopy(model)
        plan_from_keep(model, groups, keep).apply_(cut)
        cost = count_parameters(cut) if what == "params" else count_flops(cut, EXAMPLE)
        assert cost == float(size(torch.tensor(counts(keep))))
        assert 0.5 * (0.97 if align == 1 else 0.85) * size.total <= cost <= 0.5 * size.total
        for group, mask in zip(groups, keep, strict=True):
            assert mask.all() or (group.refused is None and int(mask.sum()) % align == 0)


def test_floors_hold_at_the_smallest_budget() -> None:
    sizes = (16, 5, 9)
    groups, scores = make(sizes), make_scores(sizes)
    assert counts(choose(groups, scores, Budget(keep=4 / 30), smallest=1, align=1)) != []
    assert counts(choose(groups, scores, Budget(keep=15 / 30), smallest=5, align=1)) == [5, 5, 5]
    assert counts(choose(groups, scores, Budget(keep=21 / 30), smallest=5, align=4)) == [8, 5, 8]


def test_what_cannot_be_reached_says_what_can() -> None:
    sizes = (16, 5)
    groups, scores = make(sizes), make_scores(sizes)
    with pytest.raises(InputError, match=r"smallest network possible has 13 of 21 \(0.619\)"):
        choose(groups, scores, Budget(keep=0.5), align=8)
    with pytest.raises(InputError, match="none of the 2 groups may lose"):
        choose(make(sizes, refused=(0, 1)), scores, Budget(keep=0.5))


@pytest.mark.parametrize("values", [{}, {"keep": 0.5, "flops": 0.5}, {"keep": 1.5}, {"params": 0}, {"flops": -1}])
def test_a_budget_is_exactly_one_positive_number(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget(**values)


def test_counts_above_one_are_absolute() -> None:
    assert Budget(params=0.25).limit(1000) == 250
    assert Budget(params=250).limit(1000) == 250
    sizes = (6, 6)
    keep = choose(make(sizes), make_scores(sizes), Budget(params=1_000_000), chain_cost)
    assert counts(keep) == [6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": Budget(flops=0.5)}, "a budget of FLOPs needs the function 'size'"),
        ({"budget": Budget(keep=0.5), "align": 0}, "cannot be aligned to 0"),
        ({"budget": Budget(keep=0.5), "smallest": 0}, "smallest cannot be 0"),
        ({"budget": Budget(keep=0.5), "align": {"g7": (2,)}}, "no group 'g7'"),
        ({"budget": Budget(keep=0.5), "scope": "lajer"}, "did you mean 'layer'"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(make((4, 4)), make_scores((4, 4)), **arguments)
    with pytest.raises(InputError, match="do not fit the groups"):
        choose(make((4, 4)), make_scores((4, 5)), Budget(keep=0.5))
