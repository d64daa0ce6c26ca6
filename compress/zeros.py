"""Which channels are dead: every reader ignores them, or sees a constant in them that the weights alone imply."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.affine import dead_slices
from slimtask.compress.axes import Array
from slimtask.compress.cuts import slice_axis
from slimtask.compress.groups import Group, Member

Dead = Callable[[Member, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Deadness:
    """Per channel of one group: ``ignored`` by every reader, or ``constant`` at every reader that does not ignore it.

    ``values[i]`` [entries] is what reader i sees at each of its entries, NaN where that depends on the network's input.
    ``silent`` channels have zero filters, yet some reader sees more than a constant of them.
    """

    ignored: Bool[Tensor, " channels"]
    constant: Bool[Tensor, " channels"]
    silent: Bool[Tensor, " channels"]
    values: tuple[Float[Tensor, " _entries"], ...]


def find_dead(
    model: nn.Module, groups: Sequence[Group], reads: Mapping[str, Array], idle: Collection[str] = ()
) -> list[Deadness]:
    """Return the Deadness of each group; ``reads`` are the constants of ``constants.read_constants``.

    ``idle`` names the parameters that evaluation never uses: what their layers read in training has no say.
    """
    reads = {**reads, **{name: np.zeros(1) for name in idle}}
    modules = dict(model.named_modules())
    cache: dict[tuple[str, int], Tensor] = {}

    def dead(member: Member, axis: int) -> Tensor:
        key = (member.module, axis)
        if key not in cache:
            cache[key] = zero_entries(_weight(modules[member.module]), axis)
        return cache[key]

    return [_deadness(group, modules, reads, dead) for group in groups]


def zero_entries(weight: Tensor, axis: int) -> Bool[Tensor, " entries"]:
    """Return for each index of ``axis`` whether the whole slice of ``weight`` is exactly zero."""
    return torch.from_numpy(dead_slices(weight, axis))


def _deadness(group: Group, modules: Mapping[str, nn.Module], reads: Mapping[str, Array], dead: Dead) -> Deadness:
    ignored = torch.ones(group.channels, dtype=torch.bool)
    constant = torch.ones(group.channels, dtype=torch.bool)
    values = []
    for member in group.consumers:
        zero = dead(member, slice_axis(modules[member.module], "in"))[member.local]
        seen = _seen(member, modules[member.module], reads)[member.local]
        ignored[member.channel[~zero]] = False
        constant[member.channel[~zero & seen.isnan()]] = False
        values.append(torch.where(zero & seen.isnan(), 0.0, seen))
    silent = torch.ones(group.channels, dtype=torch.bool)
    filters = [member for member in group.producers if member.kind in ("conv", "linear")]
    for member in filters:
        zero = dead(member, slice_axis(modules[member.module], "out"))[member.local]
        silent[member.channel[~zero]] = False
    if not filters:
        silent[:] = False
    return Deadness(
        ignored=ignored, constant=constant & ~ignored, silent=silent & ~constant & ~ignored, values=tuple(values)
    )


def _seen(member: Member, module: nn.Module, reads: Mapping[str, Array]) -> Tensor:
    """Return what the module reads at each input, NaN where that is not known."""
    found = reads.get(f"{member.module}.weight" if member.module else "weight")
    size = _weight(module).shape[slice_axis(module, "in")]
    if found is None:
        return torch.full((size,), torch.nan, dtype=torch.float64)
    return torch.from_numpy(np.broadcast_to(found, (size,)).copy())


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
