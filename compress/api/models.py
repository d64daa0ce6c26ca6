"""The `compress` verb as a function: a network in, a smaller one with its proof out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

from torch import Tensor, nn

from slimtask.compress.api.how import How, PerTask, Prune, ToFlops, ToLatency, Zeros
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.budgets import ALL, LatencyCut, prune_to_flops, prune_to_latency
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.per_task.networks import SubNetwork
from slimtask.compress.per_task.table import task_networks
from slimtask.compress.pruning import prune
from slimtask.compress.removal.nothing import dead_that_stay, folding_hint, nothing_prunable
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.score.counts import Align
from slimtask.errors import InputError

_ONE_IMAGE = {PerTask: "a network per task", ToLatency: "a latency budget", ToFlops: "a budget on measured counts"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of the network and of its trunk, and FLOPs of one image (one multiply-add counts as two).

    Examples:
        >>> from slimtask.compress import cost
        >>> from torch import nn, zeros
        >>> print(cost(nn.Conv2d(3, 8, 1), zeros(1, 3, 4, 4)))
        Cost(params=32, trunk_params=32, flops=768)
    """

    params: int
    trunk_params: int
    flops: int


@overload
def compress(
    model: nn.Module, example: Inputs, how: Zeros | Prune = ..., *, also: Sequence[Inputs] = ()
) -> Compressed: ...
@overload
def compress(
    model: nn.Module, example: Inputs, how: ToLatency | ToFlops, *, also: Sequence[Inputs] = ()
) -> LatencyCut: ...
@overload
def compress(
    model: nn.Module, example: Inputs, how: PerTask, *, also: Sequence[Inputs] = ()
) -> dict[str, SubNetwork]: ...
def compress(
    model: nn.Module, example: Inputs, how: How = Zeros(), *, also: Sequence[Inputs] = ()
) -> Compressed | LatencyCut | dict[str, SubNetwork]:
    """Return what is left of ``model`` when it is compressed as ``how`` says, with the proof; ``model`` stays as it is.

    ``example`` is a valid input: one tensor, a tuple of positional or a dictionary of keyword arguments; ``also`` are
    further ones, that reach parts which it does not. Latency budgets, and networks per task, take one image tensor
    [batch, channels, height, width].

    Raises InputError, with the coverage, if there is nothing to remove or the budget is out of reach, and CheckFailed
    if the removal is not exact, or measurement says that a budget is missed.

    Examples:
        >>> from slimtask.compress import Budget, Prune, compress
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
        >>> done = compress(net, zeros(1, 3, 8, 8), Prune(Budget(keep=0.5)))
        >>> print(done.plan)
        0: 16 -> 8 (8 of low l2 score)
        >>> done.certificate.holds
        True
    """
    if isinstance(how, Prune):
        return prune(model, example, also=also, **_arguments(how, by="criterion"))
    if isinstance(how, Zeros):
        compressed = remove_zeros(model, example, align=how.align, also=also)
        if not compressed.plan:
            raise InputError(_nothing(model, example, how.align, compressed))
        return compressed
    image = _one_image(example, also, how)
    if isinstance(how, PerTask):
        return task_networks(model, how.structure, image, sets=how.sets, align=how.align)
    if isinstance(how, ToFlops):
        limit = Budget(flops=how.flops).limit(count_flops(model, image))
        return prune_to_flops(model, image, meter=how.on, **_arguments(how, by="criterion") | {"flops": limit})
    budgets = how.ms if isinstance(how.ms, Mapping) else {ALL: float(how.ms)}
    return prune_to_latency(model, image, budgets, how.on, **_arguments(how, by="criterion"))


def cost(model: nn.Module, example: Inputs) -> Cost:
    """Return the Cost of ``model``; a network without a ``trunk`` counts whole.

    Examples:
        >>> from slimtask.compress import cost
        >>> from torch import nn, zeros
        >>> cost(nn.Conv2d(3, 8, 1, bias=False), zeros(1, 3, 4, 4)).flops  # 2 * 3 * 8 of each of 16 pixels
        768
    """
    trunk = getattr(model, "trunk", model)
    trunk = trunk if isinstance(trunk, nn.Module) else model
    return Cost(params=count_parameters(model), trunk_params=count_parameters(trunk), flops=count_flops(model, example))


def _arguments(how: How, **renamed: str) -> dict[str, Any]:
    """Return the fields of ``how`` as the arguments of what does it; ``ms`` and ``on`` go by position."""
    values = {renamed.get(field.name, field.name): getattr(how, field.name) for field in fields(how)}
    return {name: value for name, value in values.items() if name not in ("ms", "on")}


def _one_image(example: Inputs, also: Sequence[Inputs], how: How) -> Tensor:
    if not isinstance(example, Tensor) or also:
        raise InputError(f"{_ONE_IMAGE[type(how)]} needs a network of one input; this one has several.")
    return example


def _nothing(model: nn.Module, example: Inputs, align: Align, tried: Compressed) -> str:
    """Return why nothing could be removed: the alignment, that every group is fixed, or that nothing is dead."""
    groups, refused = tried.plan.groups, tried.certificate.refused
    hint = folding_hint(model)
    found = find_groups(model, example)
    if all(group.refused is not None for group in found):
        stay, _ = dead_that_stay(model, found, refused)
        told = f" {stay} of their channels are dead." if stay else ""
        return f"{nothing_prunable(model, found)}{told}"
    total = sum(group.before for group in groups)
    dead = sum(group.before - group.after for group in remove_zeros(model, example).plan.groups) if align != 1 else 0
    if dead and not isinstance(align, int):
        return (
            f"nothing can be removed down to the counts given: {dead} of {total} channels are dead, but no group comes "
            "down to its next count without them; align to 1 (--align 1) to remove them all the same."
        )
    if dead:
        return (
            f"nothing can be removed in blocks of {align} channels: {dead} of {total} channels are dead, but no group "
            f"has a whole block of them; align to 1 (--align 1) to remove them all the same."
        )
    stay, reasons = dead_that_stay(model, found, refused)
    if stay:
        total = sum(group.channels for group in found)
        return f"nothing can be removed: {stay} of {total} channels are dead, but they stay: {reasons}.{hint}"
    return (
        f"nothing can be removed: none of the {total} channels in {len(groups)} removable groups is dead "
        f"({len(refused)} groups are fixed); train with a sparsity section first, or remove channels that still count "
        f"under a budget (--keep, --params, --flops).{hint}"
    )
