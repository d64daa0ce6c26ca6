"""How the losses of several tasks become one: fixed weights, or weights that are learned from each task's noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.tasks import TaskSpec


class FixedWeights(nn.Module):
    """The sum of the losses, each times the ``weight`` of its task."""

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.weights = {task.name: task.weight for task in tasks}

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Return the total of ``losses`` by task name; tasks that are not given do not count."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


class UncertaintyWeights(FixedWeights):
    """The sum of exp(-s) L + s over the tasks, s learned with the network (Kendall et al., CVPR 2018, section 3).

    L is the loss times the weight of its task. Of one loss alone the best s is log L.
    """

    def __init__(self, tasks: Sequence[TaskSpec], initial: float = 0.0) -> None:
        super().__init__(tasks)
        self.log_variance = nn.ParameterDict({task.name: nn.Parameter(torch.tensor(initial)) for task in tasks})

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Return the total of ``losses`` by task name."""
        terms = []
        for name, loss in losses.items():
            s = self.log_variance[name]
            terms.append((-s).exp() * self.weights[name] * loss + s)
        return torch.stack(terms).sum()


def weighting_of(name: str, tasks: Sequence[TaskSpec]) -> FixedWeights:
    """Return the module called ``name`` in a recipe: "fixed" (the tasks' own weights), "sum" (all 1), "uncertainty"."""
    if name == "sum":
        return FixedWeights([task.model_copy(update={"weight": 1.0}) for task in tasks])
    return UncertaintyWeights(tasks) if name == "uncertainty" else FixedWeights(tasks)
