"""The group penalty as a term of the loss, beside the proximal step, as the published code of Less is More has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from slimtask.train.sparsity.layout import UNGROUPED
from slimtask.train.sparsity.structure import SparseStructure


class LossPenalty:
    """Sum over groups of sqrt(number of groups in its layer) * ||group|| (Upadhyay et al., their training code).

    The proximal step weighs a group by the root of its size instead; both together are what was published.
    """

    def __init__(self, parameters: Mapping[str, Tensor], structure: SparseStructure) -> None:
        self._weights = structure.layer_sizes.float().sqrt()[structure.layer_of]
        self._members = [
            (
                parameters[member.parameter],
                member.axis,
                torch.where(member.groups == UNGROUPED, len(self), member.groups),
            )
            for member in structure.layout.members
        ]

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self._weights)

    def __call__(self, free: Tensor | None = None) -> Float[Tensor, ""]:
        """Return the penalty of strength 1 of all groups that the mask ``free`` [groups] does not exempt.

        The slope of a group that is zero is zero.
        """
        device = self._members[0][0].device
        squares = torch.zeros(len(self) + 1, device=device)
        for parameter, axis, groups in self._members:
            sums = parameter.float().square().movedim(axis, 0).reshape(len(groups), -1).sum(1)
            squares = squares.index_add(0, groups.to(device), sums)
        alive = squares[:-1] > 0
        weights = self._weights if free is None else self._weights.masked_fill(free.cpu(), 0.0)
        return (weights.to(device) * torch.where(alive, squares[:-1], 1.0).sqrt() * alive).sum()
