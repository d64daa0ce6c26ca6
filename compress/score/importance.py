"""How much each channel of each coupled group matters: one score per channel, by the magnitude or by the loss.

A channel goes with the slices of all its members, so its score is collected over all of them (DepGraph, Fang et al.,
CVPR 2023, section 3.3). Scores of one group are divided by their mean, so that one threshold can serve all groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import FILTERS, NORMS, Member, filter_rows, sum_per_channel
from slimtask.compress.score.gradients import Loss, gradient_scores
from slimtask.errors import InputError, nearest

Criterion = Literal["l1", "l2", "batchnorm", "taylor", "snip", "random"]
GRADIENTS = ("taylor", "snip")
Normalise = Literal["mean"] | None
Scores = list[Float64[Tensor, " _channels"]]


def score_channels(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: str,
    *,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    normalise: Normalise = "mean",
    seed: int = 0,
) -> Scores:
    """Return one float64 score per channel for every group, refused ones too; more is more important.

    - "l1", "l2": sum of |w| or w² over a channel's slice, averaged over the members: filters, the readers' input
      slices and gamma (GroupMagnitudeImportance of torch-pruning with p = 1 or 2).
    - "batchnorm": |gamma|, averaged over the group's BatchNorms (network slimming, Liu et al., ICCV 2017). A group
      without BatchNorm is scored by "l2" instead.
    - "taylor", "snip": by the loss, see ``slimtask.compress.score.gradients``. They need ``calibration``, batches of
      any kind, and ``loss(model, batch)``, a scalar or one scalar per task (summed here). ``model`` is unchanged after.
    - "random": uniform, from ``seed``; the baseline that every criterion has to beat.

    ``normalise`` "mean" divides each group by its mean score, without which groups of unequal fan-in cannot share one
    threshold; None leaves the raw values. Raises InputError if a score is not finite.

    Examples:
        >>> from slimtask.compress import find_groups, score_channels
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> scores = score_channels(net, find_groups(net, zeros(1, 3, 8, 8)), "l1")
        >>> [tuple(score.shape) for score in scores]
        [(16,), (4,)]
    """
    check_criterion(criterion)
    if criterion in GRADIENTS:
        combined = gradient_scores(model, groups, criterion, calibration, loss, together=True)
        return _finish(groups, combined["total"], normalise)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        raw = [torch.rand(group.channels, generator=generator, dtype=torch.float64) for group in groups]
        return _finish(groups, raw, normalise)
    measure = _gammas if criterion == "batchnorm" else _magnitudes
    modules = dict(model.named_modules())
    return _finish(groups, [measure(group, modules, 1 if criterion == "l1" else 2) for group in groups], normalise)


def score_channels_per_task(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: str,
    *,
    calibration: Iterable[Any] | None,
    loss: Loss | None,
    normalise: Normalise = None,
) -> dict[str, Scores]:
    """Return the scores of every group for each task on its own, keyed by task; ``loss`` must return one per task.

    A group that the task's loss does not depend on (another task's head) scores zero throughout. Not normalised unless
    asked, so that a task may say which layers it needs least (DiSparse ranks across layers).
    """
    check_criterion(criterion, GRADIENTS)
    scores = gradient_scores(model, groups, criterion, calibration, loss, together=False)
    return {task: _finish(groups, raw, normalise) for task, raw in scores.items()}


def top_channels(scores: Float[Tensor, " _channels"], count: int) -> Bool[Tensor, " _channels"]:
    """Return a mask of the ``count`` highest scores; of equal ones the first channels stay."""
    keep = torch.zeros(len(scores), dtype=torch.bool)
    keep[scores.cpu().argsort(descending=True, stable=True)[:count]] = True
    return keep


def check_criterion(criterion: str, known: Sequence[str] = get_args(Criterion)) -> None:
    """Return None if ``criterion`` is one of ``known``, else raise InputError with the nearest one."""
    if criterion not in known:
        raise InputError(f"there is no importance criterion '{criterion}'{nearest(criterion, known)}.")


def _finish(groups: Sequence[Group], scores: Sequence[Tensor], normalise: Normalise) -> Scores:
    """Return the scores checked and, if asked, divided by their group's mean."""
    for group, score in zip(groups, scores, strict=True):
        if not bool(score.isfinite().all()):
            raise InputError(f"the channels of '{group.name}' have no finite score; look for NaN in its weights.")
    return list(scores) if normalise is None else mean_normalised(scores)


def mean_normalised(scores: Sequence[Float64[Tensor, " _channels"]]) -> Scores:
    """Return each group's scores divided by their mean; those that are all zero stay so."""
    return [score / score.mean() if bool(score.any()) else score for score in scores]


def _magnitudes(group: Group, modules: dict[str, nn.Module], p: int) -> Float64[Tensor, " channels"]:
    """Return sum |w|^p of each channel's slice, averaged over the members that hold the channel."""

    def value(member: Member) -> Tensor | None:
        module = modules[member.module]
        if member.kind in FILTERS:
            return filter_rows(module, member.side).abs().pow(p).sum(dim=1)
        return _gamma(module, p) if member.kind in NORMS else _bare(module, member, p)

    return _average(group, value)


def _bare(module: nn.Module, member: Member, p: int) -> Float[Tensor, " size"] | None:
    """Return sum |w|^p along the axis of a layer's own parameter; None for a vector, which only shifts or scales."""
    tensor: Tensor = getattr(module, member.parameter.rpartition(".")[2])
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return None
    return tensor.detach().movedim(member.axis, 0).flatten(1).abs().pow(p).sum(dim=1)


def _gammas(group: Group, modules: dict[str, nn.Module], p: int) -> Float64[Tensor, " channels"]:
    """Return |gamma| averaged over the BatchNorms, or the magnitude with exponent ``p`` where there is none."""

    def value(member: Member) -> Tensor | None:
        return _gamma(modules[member.module], 1) if member.kind == "batchnorm" else None

    if any(value(member) is not None for member in group.members):
        return _average(group, value)
    return _magnitudes(group, modules, p)


def _gamma(module: nn.Module, p: int) -> Float[Tensor, " size"] | None:
    """Return |gamma|^p of a normalisation, None if it has none or not one per channel."""
    gamma = module.weight
    return gamma.detach().abs().pow(p) if isinstance(gamma, Tensor) and gamma.ndim == 1 else None


def _average(group: Group, value: Callable[[Member], Tensor | None]) -> Float64[Tensor, " channels"]:
    """Return the values summed over a channel's entries and averaged over the members that hold the channel."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    holders = torch.zeros(group.channels, dtype=torch.float64)
    for member in group.members:
        values = value(member)
        if values is not None:
            total += sum_per_channel(values, member, group.channels)
            holders += torch.bincount(member.channel, minlength=group.channels) > 0
    return total / holders.clamp_min(1)
