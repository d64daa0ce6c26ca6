"""One step of AdamW and of the proximal operator over all blocks: update and sums, Newton, shrinkage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slimtask.train.sparsity import native
from slimtask.train.sparsity.group_state import GroupState, extended, valid_strength
from slimtask.train.sparsity.passes import (
    MOMENTS,
    NORM_DP,
    GroupSums,
    Scratch,
    Work,
    norm_pass,
    shrink_pass,
    sum_pass,
    update_pass,
)
from slimtask.train.sparsity.prox import MAX_ITERATIONS, TOLERANCE, newton_step


def proximal_step(works: Sequence[Work], groups: GroupState, units: Tensor, scratch: Scratch) -> None:
    """Update all ``works`` in place and ``groups`` with them; ``units`` is lr * weight [groups]."""
    _warm_up(works, groups)
    if groups.gamma < math.inf:
        groups.relieve(_norms(works, len(groups), units.device, scratch), units)
    ridge = groups.first_ridge(units)
    sums = GroupSums(len(groups), units.device)
    spread = _by_dtype(ridge, works)
    for work in native.update(works, sums, spread.get(torch.float32)):
        update_pass(work, scratch, sums, spread[work.values.dtype])
    norm_dp = sums.totals[NORM_DP, :-1].sqrt()
    groups.critical = groups.critical_of(norm_dp, units)
    strength = groups.strength if groups.limit is None else valid_strength(groups.limit(groups.critical.clone()))
    groups.used_strength = strength
    threshold = groups.thresholds(units, strength)
    # Both sides of the zero test, so that rounding cannot keep a group whose critical strength was asked for.
    dead = ((norm_dp <= threshold) | (groups.critical <= strength)) & (threshold > 0)
    alive = ~dead & (threshold > 0) & norm_dp.isfinite()
    moments = sums.totals[MOMENTS[0] :, :-1]
    norm, error = newton_step(threshold / ridge, threshold, moments)
    error = torch.where(alive, error, 0.0)
    norm = _refine(works, scratch, threshold, norm, error)
    # x^2 / (d + ridge) over x^2 is a weighted mean of 1 / (d + ridge), which tells the size of d.
    groups.remember(torch.where(alive, norm, 0.0), moments[0] / moments[1] - ridge)
    if strength > 0:
        spread = _by_dtype(torch.where(alive, threshold / norm, torch.where(dead, torch.inf, 0.0)), works)
        for work in native.shrink(works, spread.get(torch.float32)):
            if work.block.slices is not None:
                shrink_pass(work, scratch, spread[work.values.dtype])


def _norms(works: Sequence[Work], groups: int, device: torch.device, scratch: Scratch) -> Tensor:
    """Return the norms [groups] of the values now."""
    sums = GroupSums(groups, device)
    for work in works:
        if work.block.slices is not None:
            norm_pass(work, scratch, sums)
    return sums.totals[NORM_DP, :-1].sqrt()


def _refine(works: Sequence[Work], scratch: Scratch, threshold: Tensor, norm: Tensor, error: Tensor) -> Tensor:
    """Return ``norm`` [groups] after as many more Newton passes as groups of too large an ``error`` need."""
    tolerance = max((TOLERANCE[work.values.dtype] for work in works if work.block.slices is not None), default=0.0)
    unresolved = error > tolerance
    if not bool(unresolved.any()):
        return norm
    parts = [part for work in works if (part := work.part(extended(unresolved))) is not None]
    for _ in range(MAX_ITERATIONS):
        sums = GroupSums(len(norm), norm.device)
        spread = _by_dtype(torch.where(unresolved, threshold / norm, 0.0), parts)
        for part in native.moments(parts, sums, spread.get(torch.float32)):
            sum_pass(part, scratch, sums, spread[part.values.dtype])
        updated, error = newton_step(norm, threshold, sums.totals[MOMENTS[0] :, :-1])
        norm = torch.where(unresolved, updated, norm)
        unresolved = unresolved & (error > tolerance)
        left = extended(unresolved)
        parts = [part for part in parts if bool(left[part.block.slices].any())]
        if not parts:
            break
    return norm


def _by_dtype(values: Tensor, works: Sequence[Work]) -> dict[torch.dtype, Tensor]:
    """Return per-group ``values`` with the entry of slices in no group, in every dtype that ``works`` have."""
    return {dtype: extended(values, dtype) for dtype in {work.values.dtype for work in works}}


def _warm_up(works: Sequence[Work], groups: GroupState) -> None:
    """Give groups whose metric is unknown the largest value it can have after the coming update."""
    cold = groups.metric == 0
    if not bool(cold.any()):
        return
    ceiling = extended(groups.metric)
    for work in works:
        if work.block.slices is not None:
            beta2 = work.settings["betas"][1]
            second = work.block.slice_peaks(work.second) * beta2
            second += work.block.slice_peaks(work.gradient.abs()).square() * (1 - beta2)
            ceiling.scatter_reduce_(0, work.block.slices, second.sqrt().double() + work.settings["eps"], "amax")
    groups.metric = torch.where(cold, torch.where(ceiling[:-1] > 0, ceiling[:-1], 1.0), groups.metric)
