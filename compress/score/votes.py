"""Several tasks vote on the channels they share: which go for all of them, and which each could do without.

"all" is the rule of DiSparse (Sun et al., CVPR 2022, section 3.2): every task ranks all channels it depends on, across
layers, and names those outside its top share; a channel goes only if every task that depends on it names it. The tasks
disagree, so more stays than each one asked for; ``exact`` lowers the tasks' share until the union is as large as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from slimtask.errors import InputError, nearest

Rule = Literal["all", "min", "mean", "max"]
Scores = Sequence[Float64[Tensor, " _channels"]]
Masks = tuple[Bool[Tensor, " _channels"], ...]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What the tasks decided: which channels stay, for all of them (``keep``) and for each one (``per_task``).

    ``scores`` rank the channels as the vote does, comparable across groups: ``choose`` with scope "global" on them
    keeps what the vote would keep, under any budget. ``per_task[task][g]`` is empty (all False) where the task does
    not depend on group g, and lies within ``keep[g]`` otherwise. ``task_ratios`` and ``keep_ratio`` are the realised
    shares of channels, of those the task depends on and of all that are open.
    """

    scores: tuple[Float64[Tensor, " _channels"], ...]
    keep: Masks
    per_task: dict[str, Masks]
    task_ratios: dict[str, float]
    keep_ratio: float


def vote(
    per_task: dict[str, Scores],
    keep: float | int | Sequence[int],
    how: str = "all",
    *,
    exact: bool = False,
    fixed: Sequence[bool] | None = None,
) -> Vote:
    """Return the tasks' decision on ``per_task[task][g]``, the scores [channels] of group g for each task.

    ``keep`` is the share of channels each task asks to keep, ranked across groups, or a count for each group. A task
    takes part in the groups where any of its scores is not zero (another task's head scores zero). Groups with
    ``fixed[g]`` (refused ones) keep everything and do not count. Every task keeps at least one channel of each group
    it takes part in, every group at least one.

    ``how``: "all", see above, with ``exact`` at most the asked share of the union stays (but for those single
    channels); "min", "mean", "max" rank by the smallest, mean or largest score over the tasks that take part, each
    task's scores divided by their mean. Raises InputError if the scores do not match or ``keep`` is out of range.
    """
    sizes = _check(per_task, keep, how, fixed)
    unlocked = [True] * len(sizes) if fixed is None else [not shut for shut in fixed]
    whole = isinstance(keep, float | int)
    shares = [float(keep)] * len(sizes) if isinstance(keep, float | int) else _shares(keep, sizes)
    ballots = {task: _ballot(scores, unlocked, whole) for task, scores in per_task.items()}
    union = _unite(list(ballots.values()), how, unlocked, whole)
    if how == "all":
        shares = _exact_shares(union, shares, whole) if exact else shares
        own = {task: _top(ballot, shares) for task, ballot in ballots.items()}
        stays = [torch.stack(masks).any(dim=0) for masks in zip(*own.values(), strict=True)]
    else:
        stays = _top(union, shares)
        own = {task: _top(ballot, shares, stays) for task, ballot in ballots.items()}
    return _result(union, stays, own, ballots)


@dataclass(frozen=True, kw_only=True)
class _Ballot:
    """One voter: scores, in which groups it takes part, and the share of its channels from which on it keeps each."""

    scores: Sequence[Tensor]
    part: Sequence[bool]
    levels: Sequence[Tensor]


def _ballot(scores: Scores, unlocked: Sequence[bool], whole: bool) -> _Ballot:
    part = [bool(score.any()) and free for score, free in zip(scores, unlocked, strict=True)]
    return _Ballot(scores=scores, part=part, levels=_levels(scores, part, whole))


def _levels(scores: Scores, part: Sequence[bool], whole: bool) -> list[Tensor]:
    """Return rank / number of channels (1 / n for the best), across groups if ``whole``; infinite where no part."""
    ranked = [score if yes else score[:0] for score, yes in zip(scores, part, strict=True)]
    pools = [torch.cat(ranked)] if whole else ranked
    levels = []
    for pool in pools:
        rank = torch.empty(len(pool), dtype=torch.float64)
        rank[pool.argsort(descending=True, stable=True)] = torch.arange(1, len(pool) + 1, dtype=torch.float64)
        levels.append(rank / max(len(pool), 1))
    if whole:
        levels = list(torch.split(levels[0], [len(score) for score in ranked]))
    return [
        level if yes else torch.full_like(score, float("inf"))
        for level, score, yes in zip(levels, scores, part, strict=True)
    ]


def _unite(ballots: Sequence[_Ballot], how: str, unlocked: Sequence[bool], whole: bool) -> _Ballot:
    """Return the ballot of all tasks together; a channel that one task ranks high ranks high for "all"."""
    if how == "all":
        levels = [torch.stack(group).amin(dim=0) for group in zip(*(ballot.levels for ballot in ballots), strict=True)]
        scores = [(1 - level).clamp_min(0) for level in levels]
        return _Ballot(scores=scores, part=unlocked, levels=levels)
    scores = []
    for group, free in enumerate(unlocked):
        voices = [b.scores[group] / _mean(b) for b in ballots if b.part[group]]
        unheard = torch.zeros_like(ballots[0].scores[group])
        scores.append(_combine(torch.stack(voices), how) if free and voices else unheard)
    return _Ballot(scores=scores, part=unlocked, levels=_levels(scores, unlocked, whole))


def _combine(voices: Float64[Tensor, "tasks channels"], how: str) -> Float64[Tensor, " channels"]:
    if how == "mean":
        return voices.mean(dim=0)
    return voices.amin(dim=0) if how == "min" else voices.amax(dim=0)


def _mean(ballot: _Ballot) -> Tensor:
    """Return the mean score over all channels the voter takes part in."""
    return torch.cat([score for score, yes in zip(ballot.scores, ballot.part, strict=True) if yes]).mean()


def _top(ballot: _Ballot, shares: Sequence[float], within: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return what the voter keeps of each group: its top share, at least one channel where it takes part."""
    masks = []
    for group, (score, level, part) in enumerate(zip(ballot.scores, ballot.levels, ballot.part, strict=True)):
        allowed = torch.ones(len(score), dtype=torch.bool) if within is None else within[group]
        mask = (level <= shares[group]) & allowed
        if part and not bool(mask.any()):
            mask[torch.where(allowed, score, -torch.inf).argmax()] = True
        masks.append(mask)
    return masks


def _exact_shares(union: _Ballot, shares: Sequence[float], whole: bool) -> list[float]:
    """Return the largest shares to ask of each task so that the union keeps no more than ``shares`` of the channels.

    The union keeps a channel from its smallest level on, so sorting the levels replaces a bisection.
    """
    levels = [level if yes else level[:0] for level, yes in zip(union.levels, union.part, strict=True)]
    pools = [torch.cat(levels)] * len(levels) if whole else levels
    found = []
    for pool, share in zip(pools, shares, strict=True):
        ordered = pool.sort().values
        count = int(share * len(pool) + 1e-9)
        reached = ordered[:count][ordered[:count] < ordered[count]] if count < len(pool) else ordered
        reached = reached[reached.isfinite()]
        found.append(float(reached[-1]) if len(reached) else 0.0)
    return found


def _result(
    union: _Ballot,
    stays: Sequence[Tensor],
    own: dict[str, list[Tensor]],
    ballots: dict[str, _Ballot],
) -> Vote:
    """Return the Vote: groups that nobody needs keep one channel, locked ones all."""
    for mask, free in zip(stays, union.part, strict=True):
        if not free:
            mask[:] = True
        elif not bool(mask.any()):
            mask[0] = True
    for task, masks in own.items():
        for mask, score, free in zip(masks, ballots[task].scores, union.part, strict=True):
            mask.logical_or_(torch.tensor(not free and bool(score.any())))
    return Vote(
        scores=tuple(union.scores),
        keep=tuple(stays),
        per_task={task: tuple(masks) for task, masks in own.items()},
        task_ratios={task: _ratio(masks, ballots[task].part) for task, masks in own.items()},
        keep_ratio=_ratio(stays, union.part),
    )


def _ratio(masks: Sequence[Tensor], counts: Sequence[bool]) -> float:
    """Return the share of channels kept among the groups that count."""
    chosen = [mask for mask, yes in zip(masks, counts, strict=True) if yes]
    return sum(int(mask.sum()) for mask in chosen) / max(sum(len(mask) for mask in chosen), 1)


def _shares(keep: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """Return the counts as shares of each group."""
    if len(keep) != len(sizes) or any(not 1 <= count <= size for count, size in zip(keep, sizes, strict=True)):
        raise InputError(f"the counts to keep must be one per group, from 1 to {list(sizes)}; got {list(keep)}.")
    return [count / size for count, size in zip(keep, sizes, strict=True)]


def _check(
    per_task: dict[str, Scores], keep: float | int | Sequence[int], how: str, fixed: Sequence[bool] | None
) -> list[int]:
    """Return the channels of each group; raises InputError where the arguments do not fit together."""
    if how not in get_args(Rule):
        raise InputError(f"tasks cannot vote by '{how}'{nearest(how, get_args(Rule))}.")
    if not per_task:
        raise InputError("a vote needs the scores of at least one task; none was given.")
    if isinstance(keep, float | int) and not 0 < keep <= 1:
        raise InputError(f"the share of channels to keep must lie in 0..1, above 0; it is {keep}.")
    sizes = [len(score) for score in next(iter(per_task.values()))]
    for task, scores in per_task.items():
        if [len(score) for score in scores] != sizes:
            raise InputError(
                f"the scores of task '{task}' do not match the other tasks'; score the same groups for all."
            )
        if not any(bool(score.any()) for score in scores):
            raise InputError(f"every score of task '{task}' is zero, so it cannot vote; check its loss.")
    if fixed is not None and len(fixed) != len(sizes):
        raise InputError(f"'fixed' needs one entry for each of the {len(sizes)} groups; it has {len(fixed)}.")
    return sizes
