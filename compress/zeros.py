"""Which channels are dead, and the constants they still emit.

A channel may go exactly if every reader ignores it (its input weights are zero), or if every writer is dead and what it
then emits is a constant the readers can absorb. The trap: a zero filter behind BatchNorm emits
``act(beta - gamma * mean / std)``, not zero; dropping that constant costs 11 to 13 % on a ResNet-18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.groups import Group, Member


@dataclass(frozen=True, kw_only=True)
class Deadness:
    """Per channel of one group: ``ignored`` by every reader, or ``constant`` because every writer is dead.

    ``values[i]`` [channels] is what reader i sees of each constant channel, NaN where it is not one number everywhere.
    """

    ignored: Bool[Tensor, " channels"]
    constant: Bool[Tensor, " channels"]
    values: tuple[Float[Tensor, " channels"], ...]


def find_dead(model: nn.Module, groups: Sequence[Group], examples: Sequence[Tensor]) -> list[Deadness]:
    """Return the Deadness of each group, from the weights and from what the readers see on ``examples``.

    That a channel is constant follows from the weights alone; the examples (inputs, of several sizes if the network
    takes them) only tell the constant behind whatever lies between, e.g. BatchNorm, ReLU, pooling or a residual sum.
    """
    modules = dict(model.named_modules())
    dead = [_dead_writers(group, modules) for group in groups]
    readers = {
        member.module for group, mask in zip(groups, dead, strict=True) if mask.any() for member in group.consumers
    }
    seen = _observe_inputs(model, sorted(readers), examples)
    return [
        Deadness(
            ignored=_ignored(group, modules),
            constant=mask,
            values=tuple(_value(member, group, seen.get(member.module)) for member in group.consumers),
        )
        for group, mask in zip(groups, dead, strict=True)
    ]


def zero_entries(weight: Tensor, axis: int) -> Bool[Tensor, " entries"]:
    """Return for each index of ``axis`` whether the whole slice of ``weight`` is exactly zero."""
    return (weight.detach() == 0).transpose(0, axis).flatten(1).all(dim=1).cpu()


def _ignored(group: Group, modules: dict[str, nn.Module]) -> Tensor:
    """Return the channels that every reader multiplies by zero (whatever the writers, depthwise ones too, emit)."""
    ignored = torch.ones(group.channels, dtype=torch.bool)
    for member in group.consumers:
        weight = modules[member.module].weight
        assert isinstance(weight, Tensor)
        zero = zero_entries(weight, 1)
        live = member.channel[~zero[member.local]]
        ignored[live] = False
    return ignored


def _dead_writers(group: Group, modules: dict[str, nn.Module]) -> Tensor:
    """Return the channels all of whose filters are zero, or are read by nothing but BatchNorms of zero gamma.

    A depthwise filter counts as a writer: behind a dead one the convolution before it stays, which is safe.
    """
    dead = torch.ones(group.channels, dtype=torch.bool)
    filters = [member for member in group.producers if member.kind != "batchnorm"]
    for member in filters:
        weight = modules[member.module].weight
        assert isinstance(weight, Tensor)
        zero = zero_entries(weight.flatten(1), 0)
        gammas = [modules[name].weight for name in member.normalised_by]
        silent = [gamma.detach().cpu() == 0 for gamma in gammas if isinstance(gamma, Tensor)]
        if gammas and len(silent) == len(gammas):
            zero = zero | torch.stack(silent).all(dim=0)
        dead[member.channel[~zero[member.local]]] = False
    return dead if filters else torch.zeros_like(dead)


def _observe_inputs(
    model: nn.Module, names: Sequence[str], examples: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return per module the minimum and maximum of each input channel over all examples and positions."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = dict(model.named_modules())

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].detach()
            axis = -1 if isinstance(module, nn.Linear) else 1
            flat = x.movedim(axis, 0).flatten(1)
            low, high = flat.amin(dim=1).cpu(), flat.amax(dim=1).cpu()
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = (low, high)

        handle: torch.utils.hooks.RemovableHandle = modules[name].register_forward_pre_hook(look)
        return handle

    handles = [watch(name) for name in names]
    try:
        with torch.no_grad():
            for example in examples if names else ():
                model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _value(member: Member, group: Group, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the one number the reader sees of each channel, NaN where it varies; a flattened map has many entries."""
    if seen is None:
        return torch.full((group.channels,), float("nan"))
    low = torch.full((group.channels,), float("inf")).scatter_reduce(
        0, member.channel, seen[0][member.local].float(), "amin"
    )
    high = torch.full((group.channels,), float("-inf")).scatter_reduce(
        0, member.channel, seen[1][member.local].float(), "amax"
    )
    steady = high - low <= 1e-6 * torch.maximum(high.abs(), low.abs())
    return torch.where(steady, (high + low) / 2, torch.nan)
