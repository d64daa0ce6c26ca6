"""Which channels are dead: every reader ignores them, or sees a constant in them that the weights alone imply."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from slimtask.compress.graph.affine import dead_slices
from slimtask.compress.graph.axes import Array
from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import Member, axis_of

Dead = Callable[[Member], Tensor]


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
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    cache: dict[tuple[str, int], Tensor] = {}

    def dead(member: Member) -> Tensor:
        key = axis_of(member, model)
        if key not in cache:
            cache[key] = zero_entries(tensors[key[0]], key[1])
        return cache[key]

    return [_deadness(group, reads, dead) for group in groups]


def zero_entries(weight: Tensor, axis: int) -> Bool[Tensor, " entries"]:
    """Return for each index of ``axis`` whether the whole slice of ``weight`` is exactly zero."""
    return torch.from_numpy(dead_slices(weight, axis))


def _deadness(group: Group, reads: Mapping[str, Array], dead: Dead) -> Deadness:
    ignored = torch.full((group.channels,), not group.contracted)
    constant = ignored.clone()
    values = []
    for member in group.consumers:
        zero = dead(member)
        seen = _seen(member, len(zero), reads)[member.local]
        zero = zero[member.local]
        ignored[member.channel[~zero]] = False
        constant[member.channel[~zero & seen.isnan()]] = False
        values.append(torch.where(zero & seen.isnan(), 0.0, seen))
    silent = torch.ones(group.channels, dtype=torch.bool)
    filters = [member for member in group.producers if member.kind in ("conv", "linear")]
    for member in filters:
        zero = dead(member)[member.local]
        silent[member.channel[~zero]] = False
    if not filters:
        silent[:] = False
    return Deadness(
        ignored=ignored, constant=constant & ~ignored, silent=silent & ~constant & ~ignored, values=tuple(values)
    )


def _seen(member: Member, size: int, reads: Mapping[str, Array]) -> Float64[Tensor, " size"]:
    """Return what a layer reads at each of its ``size`` inputs, NaN where that is not known."""
    found = reads.get(f"{member.module}.weight" if member.module else "weight")
    if found is None or member.kind == "parameter":
        return torch.full((size,), torch.nan, dtype=torch.float64)
    return torch.from_numpy(np.broadcast_to(found, (size,)).copy())
