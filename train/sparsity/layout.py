"""Which elements of which parameters form one sparsity group.

Input-channel groups are those of Upadhyay et al., "Less is More" (arXiv 2308.12114): all weights of a convolution
that read one input channel. Coupled groups span several parameters and are built from the dependency graph with
the same two classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from slimtask.errors import InputError

UNGROUPED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """The part of one parameter: slice ``i`` along ``axis`` belongs to group ``groups[i]``, or none if -1."""

    parameter: str
    axis: int
    groups: Int64[Tensor, " slices"]


class GroupLayout:
    """All sparsity groups of a network: elements of several parameters that become zero together.

    ``members`` says who takes part (each parameter at most once), ``shapes`` gives the shape of those parameters,
    ``names`` one name a group (default ``group0`` ...). Raises InputError where these contradict each other.
    """

    def __init__(
        self,
        *,
        members: Sequence[Member],
        shapes: Mapping[str, Sequence[int]],
        names: Sequence[str] | None = None,
    ) -> None:
        count = len(names) if names is not None else 1 + max((_largest(member) for member in members), default=-1)
        sizes = torch.zeros(count, dtype=torch.int64)
        seen: set[str] = set()
        for member in members:
            _check(member, shapes, seen, count)
            seen.add(member.parameter)
            elements = torch.Size(shapes[member.parameter]).numel() // len(member.groups)
            grouped = member.groups[member.groups != UNGROUPED].cpu()
            sizes.index_add_(0, grouped, torch.full_like(grouped, elements))
        if bool((sizes == 0).any()):
            raise InputError(f"group {int((sizes == 0).nonzero()[0])} has no member; number the groups without gaps.")
        self.members = tuple(members)
        self.names = tuple(names) if names is not None else tuple(f"group{index}" for index in range(count))
        self.group_sizes: Int64[Tensor, " groups"] = sizes

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.names)

    def __repr__(self) -> str:
        return (
            f"GroupLayout({len(self)} groups, {len(self.members)} parameters, {int(self.group_sizes.sum())} elements)"
        )


def input_channel_layout(
    parameters: Iterable[tuple[str, Tensor]], include: Callable[[str], bool] | None = None
) -> GroupLayout:
    """Return one group per (weight, input channel): axis 1 of every 4-D parameter that ``include`` admits."""
    return _axis_layout(parameters, 1, include, "in")


def output_channel_layout(
    parameters: Iterable[tuple[str, Tensor]], include: Callable[[str], bool] | None = None
) -> GroupLayout:
    """Return one group per (weight, filter): axis 0 of every 4-D parameter that ``include`` admits."""
    return _axis_layout(parameters, 0, include, "out")


def _axis_layout(
    parameters: Iterable[tuple[str, Tensor]], axis: int, include: Callable[[str], bool] | None, tag: str
) -> GroupLayout:
    members, shapes, names = [], {}, list[str]()
    for name, parameter in parameters:
        if parameter.ndim != 4 or (include is not None and not include(name)):
            continue
        channels = parameter.shape[axis]
        members.append(Member(parameter=name, axis=axis, groups=torch.arange(len(names), len(names) + channels)))
        shapes[name] = tuple(parameter.shape)
        names.extend(f"{name}:{tag}{channel}" for channel in range(channels))
    if not members:
        raise InputError("no parameter with four axes is included, so nothing can become sparse; check the filter.")
    return GroupLayout(members=members, shapes=shapes, names=names)


def _largest(member: Member) -> int:
    return int(member.groups.max()) if len(member.groups) else UNGROUPED


def _check(member: Member, shapes: Mapping[str, Sequence[int]], seen: set[str], count: int) -> None:
    name = member.parameter
    if name in seen:
        raise InputError(f"parameter '{name}' is a member of the layout twice; give it one member.")
    if name not in shapes:
        raise InputError(f"the shape of parameter '{name}' is missing; pass it in 'shapes'.")
    shape = tuple(shapes[name])
    if not 0 <= member.axis < len(shape) or shape[member.axis] != len(member.groups) or not len(member.groups):
        raise InputError(
            f"parameter '{name}' of shape {shape} has no axis {member.axis} with {len(member.groups)} slices; "
            "give one group index for every slice of the axis."
        )
    if int(member.groups.min()) < UNGROUPED or _largest(member) >= count:
        raise InputError(f"parameter '{name}' names a group outside -1..{count - 1}; number the groups from 0.")
