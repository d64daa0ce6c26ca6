"""Corrections of several tasks by one batched product."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.export.shared.tensors import Tensors
from slimtask.kernels.units.correction import Correction, Joined, correct_joined, joined, padded


class Together(nn.Module):
    """The second layers' corrections of tasks whose units are as many, or filled up to as many.

    ``made`` are the corrections by task, ``size`` the columns of each.
    """

    def __init__(self, made: Mapping[str, Correction], size: int) -> None:
        super().__init__()
        self.tasks = tuple(made)
        self.stored = Tensors(joined([padded(one, size) for one in made.values()])._asdict())

    def forward(
        self, active: Float[Tensor, "batch n k"], changed: Float[Tensor, "batch n p"]
    ) -> Float[Tensor, "tasks batch n m"]:
        """Return what the tasks' outputs have more than the base's; ``changed`` are their units, task by task."""
        return correct_joined(active, changed, Joined(*(self.stored[name] for name in Joined._fields)))
