"""From scores to a decision: which channels each group keeps to meet a budget of channels, parameters or FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float64
from pydantic import Field, model_validator
from torch import Tensor

from slimtask.compress.graph.groups import Group
from slimtask.compress.score.counts import Align, check_align, counts_of
from slimtask.compress.score.importance import top_channels
from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen

Scope = Literal["global", "layer"]
Size = Callable[[Tensor], Tensor]


class Budget(Frozen):
    """What may be left: ``keep`` a share of the channels that may go, ``params`` or ``flops`` of the whole network.

    Exactly one is given. Up to 1 it is a ratio to the dense network, above that (params, flops) a count.

    Examples:
        >>> from slimtask.compress import Budget
        >>> Budget(params=0.5).limit(1000), Budget(params=300).limit(1000)
        (500.0, 300.0)
    """

    keep: float | None = Field(default=None, gt=0, le=1)
    params: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    flops: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.keep, self.params, self.flops)) != 1:
            raise ValueError("a budget is exactly one of keep, params and flops; give one of them")
        return self

    @property
    def of(self) -> Literal["channels", "parameters", "FLOPs"]:
        """Return what the budget counts."""
        if self.keep is not None:
            return "channels"
        return "FLOPs" if self.params is None else "parameters"

    def limit(self, dense: float | int) -> float:
        """Return the most that may be left of ``dense``, in the same unit."""
        value = next(value for value in (self.keep, self.params, self.flops) if value is not None)
        return value * dense if value <= 1 else value


def choose(
    groups: Sequence[Group],
    scores: Sequence[Float64[Tensor, " _channels"]],
    budget: Budget,
    size: Size | None = None,
    *,
    scope: str = "global",
    align: Align = 1,
    smallest: int = 1,
) -> list[Bool[Tensor, " _channels"]]:
    """Return for each group which channels stay: those of highest score, as many as ``budget`` allows and no more.

    ``size`` tells the cost [] of kept counts [groups]: a SizeModel for params, a FlopModel for flops; it must grow with
    every count. ``scope`` "layer" keeps the same share of each group, "global" what lies above one threshold (the
    scores of different groups must be comparable). Counts are those that ``align`` allows (multiples of it, or
    each group's own, and all), the nearest one, at least ``smallest``. What the last step of the threshold leaves of
    the budget is filled, in order of score ("layer": by at most one count a group): no open group could keep its next
    count. Refused groups keep everything.

    Raises InputError if the budget is below the smallest network reachable, and says how small that is.
    """
    _check(groups, scores, scope, align, smallest)
    price = _channels_kept(groups) if budget.keep is not None else size
    if price is None:
        raise InputError(f"a budget of {budget.of} needs the function 'size' that counts them; give one.")
    counts = torch.tensor([counts_of(group, align, smallest)[0] for group in groups], dtype=torch.int64)
    dense, least = (float(price(kept)) for kept in (_full(groups), counts))
    limit = budget.limit(dense) * (1 + 1e-12)
    if least > limit:
        other = "a smaller alignment" if isinstance(align, int) else "a number to align to"
        raise InputError(
            f"at most {budget.limit(dense):.0f} {budget.of} cannot be reached: the smallest network possible has "
            f"{least:.0f} of {dense:.0f} ({least / dense:.3f}); allow that much, or {other}."
        )
    steps = _steps(groups, scores, scope, align, smallest)
    taken = _longest(steps, counts, price, limit)
    for step in steps[:taken]:
        counts[step.group] = step.count
    _fill_(counts, steps[taken:], price, limit, once=scope == "layer")
    return [top_channels(score, int(count)) for score, count in zip(scores, counts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One count higher: ``group`` then keeps ``count``; the channels more are worth ``value``."""

    group: int
    count: int
    value: float


def _steps(groups: Sequence[Group], scores: Sequence[Tensor], scope: str, align: Align, smallest: int) -> list[_Step]:
    """Return the steps from the floor to the dense network in the order a falling threshold takes them.

    A count is rounded to the nearest allowed one, so a step is taken when the threshold passes the middle of its
    channels; its value is the score (or, per layer, minus the share) there.
    """
    steps = []
    for index, (group, score) in enumerate(zip(groups, scores, strict=True)):
        ordered = score.sort(descending=True).values.tolist()
        for below, above in pairwise(counts_of(group, align, smallest)):
            middle = (below + above) / 2
            value = -middle / group.channels if scope == "layer" else ordered[math.ceil(middle) - 1]
            steps.append(_Step(group=index, count=above, value=value))
    return sorted(steps, key=lambda step: -step.value)  # stable: a group's steps stay in their order


def _longest(steps: Sequence[_Step], counts: Tensor, price: Size, limit: float) -> int:
    """Return how many of the first steps fit the limit together, by bisection."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high + 1) // 2
        kept = counts.clone()
        for step in steps[:middle]:
            kept[step.group] = step.count
        low, high = (middle, high) if float(price(kept)) <= limit else (low, middle - 1)
    return low


def _fill_(counts: Tensor, steps: Sequence[_Step], price: Size, limit: float, *, once: bool) -> None:
    """Take, in place, every further step that still fits; a group that does not fit will not fit later either."""
    closed: set[int] = set()
    for step in steps:
        if step.group in closed:
            continue
        before = int(counts[step.group])
        counts[step.group] = step.count
        fits = float(price(counts)) <= limit
        if not fits:
            counts[step.group] = before
        if once or not fits:
            closed.add(step.group)


def _channels_kept(groups: Sequence[Group]) -> Size:
    """Return the function that counts the kept channels of the groups that may lose some."""
    unlocked = torch.tensor([group.refused is None for group in groups])
    return lambda kept: (kept * unlocked).sum()


def _full(groups: Sequence[Group]) -> Tensor:
    return torch.tensor([group.channels for group in groups], dtype=torch.int64)


def _check(groups: Sequence[Group], scores: Sequence[Tensor], scope: str, align: Align, smallest: int) -> None:
    """Raise InputError where the arguments do not fit together."""
    if scope not in get_args(Scope):
        raise InputError(f"there is no scope '{scope}'{nearest(scope, get_args(Scope))}.")
    check_align(align, groups)
    if smallest < 1:
        raise InputError(f"every group keeps a channel at least, so smallest cannot be {smallest}; give 1 or more.")
    if [group.channels for group in groups] != [len(score) for score in scores]:
        raise InputError("the scores do not fit the groups; give one score per channel for every group.")
    if all(group.refused is not None for group in groups):
        raise InputError(f"none of the {len(groups)} groups may lose channels, so no budget can be met.")
