"""The metrics of one task, accumulated over the batches of a set."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtask.tasks import TaskSpec
from slimtask.train.logits import as_logits
from slimtask.train.metrics.registry import FAMILIES, Extra, reported


class TaskMetrics:
    """Accumulates one task's metrics over batches; ``compute`` returns them by name, the primary one among them.

    ``extra`` names further metrics of the task's kind (see docs/metrics.md), or is "all". Everything is accumulated
    over the whole set, never averaged over batches, and over all processes of a process group. Raises InputError for a
    metric that the kind has not.
    """

    def __init__(self, task: TaskSpec, device: torch.device | str = "cpu", extra: Extra = ()) -> None:
        self.task = task
        self.names = reported(task, extra)
        families = [family for family in FAMILIES[task.kind] if set(family.names) & set(self.names)]
        self._meters = [(family, family.build(task).to(device)) for family in families]

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch: a network's output and its target, both in the task's layout (see TaskSpec)."""
        prediction = as_logits(prediction.detach().float(), self.task)
        for _, meter in self._meters:
            meter.update(prediction, target)

    def compute(self) -> dict[str, float]:
        """Return every metric over the batches so far; NaN where nothing counted."""
        values: dict[str, float] = {}
        for family, meter in self._meters:
            values |= {name: value for name, value in meter.compute().items() if name in family.names}
        return {name: values[name] for name in self.names}
