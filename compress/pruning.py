"""Pruning by score: the channels that matter least go, as many as a budget asks for, and the removal is certified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from slimtask.compress.graph.analysis import Analysis, analyse
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.inputs import Inputs, tensors_of
from slimtask.compress.removal.nothing import nothing_prunable
from slimtask.compress.removal.remove import Compressed, remove_channels
from slimtask.compress.score.budget import Budget, Size, choose
from slimtask.compress.score.cost import SizeModel, count_flops, count_parameters, flops_of
from slimtask.compress.score.counts import Align, check_align
from slimtask.compress.score.flops import FlopModel
from slimtask.compress.score.gradients import Loss
from slimtask.compress.score.importance import GRADIENTS, Scores, score_channels, score_channels_per_task
from slimtask.compress.score.votes import vote as take_vote
from slimtask.errors import CheckFailed, InputError


def prune(
    model: nn.Module,
    example: Inputs,
    *,
    budget: Budget,
    criterion: str = "l2",
    scope: str = "global",
    align: Align = 1,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    vote: str | None = None,
    seed: int = 0,
    also: Sequence[Inputs] = (),
) -> Compressed:
    """Return a copy of ``model`` with the channels of lowest score removed until ``budget`` is met, plan and proof.

    ``example`` is a valid input: one tensor, a tuple or a dictionary; ``also`` are further ones, that reach parts which
    it does not. ``criterion`` is one of ``score_channels``; those
    that look at the loss need ``calibration`` batches and ``loss(model, batch)``. With ``vote`` ("all", "min", "mean",
    "max") every task scores on its own and they decide together, see ``votes.py``. ``scope`` and ``align`` (a number,
    or counts by group) as in ``choose``. The certificate compares with the dense network in which the removed channels
    are masked.

    A group without which the network's code does not run stays whole, and the others give the more. Raises InputError
    if nothing may be removed (with the coverage) or the budget cannot be met, CheckFailed if the removal is not exact.

    Examples:
        >>> from slimtask.compress import Budget, prune
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> print(prune(net, zeros(1, 3, 8, 8), budget=Budget(flops=0.5), criterion="l1").plan)
        0: 16 -> 8 (8 of low l1 score)
    """
    _on_the_cpu(model, example)
    analysis = analyse(model, example, also)
    groups = analysis.groups
    check_align(align, groups)
    if all(group.refused is not None for group in groups):
        raise InputError(nothing_prunable(model, groups))
    scores = _scores(model, groups, criterion, calibration, loss, vote, seed)
    while True:
        keep = choose(groups, scores, budget, _size(groups, budget, analysis), scope=scope, align=align)
        if all(bool(stays.all()) for stays in keep):
            raise InputError(
                f"this budget of {budget.of} is met by the network as it is, so nothing is removed; give a smaller one."
            )
        why = f"of low {vote or criterion} score"
        done = remove_channels(model, example, groups, keep, why=why, also=also, analysis=analysis)
        lost = {refusal.group: refusal.reason for refusal in done.certificate.refused}
        again = tuple(replace(group, refused=lost.get(group.name, group.refused)) for group in groups)
        if [group.refused for group in again] == [group.refused for group in groups]:
            _check_budget(analysis, done.model, budget, example)
            return done
        groups = again
        if all(group.refused is not None for group in groups):
            raise InputError(nothing_prunable(model, groups))


def _scores(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: str,
    calibration: Iterable[Any] | None,
    loss: Loss | None,
    vote: str | None,
    seed: int,
) -> Scores:
    """Return the scores of one criterion or, with ``vote``, what the tasks' scores amount to."""
    if vote is None:
        return score_channels(model, groups, criterion, calibration=calibration, loss=loss, seed=seed)
    if criterion not in GRADIENTS:
        raise InputError(
            f"tasks can vote only by a criterion that looks at their losses ({' or '.join(GRADIENTS)}), not by "
            f"'{criterion}'."
        )
    per_task = score_channels_per_task(model, groups, criterion, calibration=calibration, loss=loss)
    fixed = [group.refused is not None for group in groups]
    # the scores of a vote do not depend on how much it was asked to keep; the budget decides that
    return list(take_vote({task: tuple(scores) for task, scores in per_task.items()}, 0.5, vote, fixed=fixed).scores)


def _size(groups: Sequence[Group], budget: Budget, analysis: Analysis) -> Size | None:
    if budget.keep is not None:
        return None
    if budget.params is not None:
        return SizeModel(analysis.model, groups)
    return FlopModel(analysis.model, groups, analysis.tape)


def _check_budget(dense: Analysis, smaller: nn.Module, budget: Budget, example: Inputs) -> None:
    """Raise CheckFailed if the network that was really cut is larger than the budget."""
    if budget.keep is not None:
        return
    if budget.params is not None:
        before, after = count_parameters(dense.model), count_parameters(smaller)
    else:
        before, after = flops_of(dense.tape), count_flops(smaller, example)
    if after > budget.limit(before) * (1 + 1e-9):
        raise CheckFailed(
            f"the network that was cut has {after:,} {budget.of}, more than the {budget.limit(before):,.0f} allowed; "
            "nothing was written."
        )


def _on_the_cpu(model: nn.Module, example: Inputs) -> None:
    for tensor in (*model.parameters(), *tensors_of(example)):
        if tensor.device.type != "cpu":
            raise InputError(f"channels are scored on the CPU, but the network or its input is on '{tensor.device}'.")
