"""Rounds end at the budget of one cut, prove every cut, and refuse before anything is trained."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import Prune
from slimtask.compress.api.models import cost
from slimtask.compress.api.rounds import compress_in_rounds, round_share
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.proof.certify import Certificate
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.score.budget import Budget
from slimtask.errors import InputError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 32), (32, 48), (48, 64), (64, 40)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(40, 2, 1)).eval()


@pytest.fixture
def dense() -> Checkpoint:
    return Checkpoint(
        weights=net().state_dict(),
        architecture=Architecture(name="a_test:net", arguments={}),
        tasks=(),
        preprocessing=None,
        inputs=((1, 3, 16, 16),),
        provenance={"recipe": {"name": "r"}, "test": {"depth": 1.0}},
    )


compress_once = partial(compress_checkpoint, factory=net)
in_rounds = partial(compress_in_rounds, factory=net)


def open_channels(checkpoint: Checkpoint) -> int:
    groups = find_groups(rebuild(checkpoint, net), checkpoint.example())
    return sum(group.channels for group in groups if group.refused is None)


def untouched(checkpoint: Checkpoint, number: int) -> Checkpoint:
    return checkpoint


@pytest.mark.parametrize("budget", [Budget(keep=0.3), Budget(flops=0.3)])
def test_rounds_end_at_the_budget_of_one_cut(dense: Checkpoint, budget: Budget) -> None:
    """No more than the budget, and no less than it by more than one cut leaves of it."""
    once, _ = compress_once(dense, Prune(budget, by="l1", align=1))
    seen = []

    def between(checkpoint: Checkpoint, number: int) -> Checkpoint:
        seen.append((number, size(checkpoint)))
        return checkpoint

    def size(checkpoint: Checkpoint) -> float:
        if budget.keep is not None:
            return open_channels(checkpoint)
        costs = cost(rebuild(checkpoint, net), checkpoint.example())
        return costs.params if budget.params is not None else costs.flops

    smaller, cuts = in_rounds(dense, Prune(budget, by="l1", align=1), rounds=3, between=between)
    whole = size(dense)
    limit = budget.limit(whole)
    assert size(smaller) <= limit * (1 + 1e-9)
    assert size(smaller) == pytest.approx(size(once), rel=0.02)
    assert [number for number, _ in seen] == [1, 2, 3]
    for number, left in seen:
        assert left == pytest.approx(whole * (limit / whole) ** (number / 3), rel=0.03)
    assert len(smaller.edits) == len(cuts) == 3
    assert all(cut.certificate for cut in cuts)


def test_what_is_trained_between_is_cut_next_and_the_file_rebuilds(dense: Checkpoint) -> None:
    trained = []

    def between(checkpoint: Checkpoint, number: int) -> Checkpoint:
        torch.manual_seed(number)
        weights = {
            name: x + 0.01 * torch.rand_like(x) if x.is_floating_point() else x
            for name, x in checkpoint.weights.items()
        }
        trained.append(checkpoint.with_changes(weights=weights))
        return trained[-1]

    smaller, cuts = in_rounds(dense, Prune(Budget(flops=0.5)), rounds=2, between=between)
    left = cost(cuts[1].model, dense.example()).flops
    alone, cut = compress_once(trained[0], Prune(Budget(flops=left)))
    assert cut.plan == cuts[1].plan
    assert smaller.weights.keys() == alone.weights.keys()
    assert all(torch.equal(smaller.weights[name], trained[1].weights[name]) for name in smaller.weights)
    x = torch.randn(2, 3, 16, 16)
    again = rebuild(smaller, net)(x)
    assert torch.equal(again, rebuild(trained[1], net)(x))
    first, second = smaller.provenance["compressed"]
    assert [(step["round"], step["rounds"]) for step in (first, second)] == [(1, 2), (2, 2)]
    assert Certificate.model_validate(first["certificate"]) == cuts[0].certificate
    assert Certificate.model_validate(smaller.provenance["certificate"]) == cuts[1].certificate
    assert smaller.provenance["dense"]["test"] == {"depth": 1.0}


def test_one_round_is_one_cut(dense: Checkpoint) -> None:
    rounds = in_rounds(dense, Prune(Budget(flops=0.5)), rounds=1, between=untouched)
    once = compress_once(dense, Prune(Budget(flops=0.5)))
    assert rounds[0].edits == once[0].edits
    assert rounds[0].provenance == once[0].provenance


def test_a_round_that_has_nothing_to_take_is_left_out(dense: Checkpoint) -> None:
    """In blocks of 8 the first cut takes more than a twentieth of what is to go."""
    calls = []

    def between(checkpoint: Checkpoint, number: int) -> Checkpoint:
        calls.append(number)
        return checkpoint

    budget = Budget(keep=0.97)
    smaller, cuts = in_rounds(dense, Prune(budget, align=8), rounds=20, between=between)
    assert len(cuts) == len(calls) < 20
    assert open_channels(smaller) <= 0.97 * open_channels(dense)


def test_what_cannot_be_met_is_refused_before_any_training(dense: Checkpoint) -> None:
    def never(checkpoint: Checkpoint, number: int) -> Checkpoint:
        raise AssertionError("trained")

    with pytest.raises(InputError, match="smallest network possible"):
        in_rounds(dense, Prune(Budget(params=10)), rounds=3, between=never)
    with pytest.raises(InputError, match="at least one round, not 0"):
        in_rounds(dense, Prune(Budget(params=0.5)), rounds=0, between=never)


def test_shares_of_the_rounds_multiply_to_the_budget() -> None:
    budget, now, shares = Budget(flops=0.125), 1000.0, []
    for number in (1, 2, 3):
        shares.append(round_share(budget, 1000.0, now, number, 3))
        now *= shares[-1]
    assert shares == [pytest.approx(0.5)] * 3
    assert round_share(Budget(params=100), 1000.0, 80.0, 2, 2) > 1
