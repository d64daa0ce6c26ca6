"""The metrics of one task, accumulated over the batches of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slimtask.tasks import TaskSpec
from slimtask.train.logits import as_logits
from slimtask.train.metrics.registry import FAMILIES, Extra, reported

State = Mapping[str, Tensor | list[Tensor]]
"""What a meter has added up (a tensor) or kept (a list of tensors, a row an image), by name."""


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
        return self._named([meter.compute() for _, meter in self._meters])

    def drain(self) -> list[State]:
        """Return what the batches so far have added up, meter by meter, and begin anew."""
        states: list[State] = []
        for _, meter in self._meters:
            held = meter.metric_state.items()
            states.append({name: list(value) if isinstance(value, list) else value for name, value in held})
            meter.reset()
        return states

    def compute_from(self, states: Sequence[State]) -> dict[str, float]:
        """Return every metric of ``states``, as ``drain`` gives them, in this process alone; what is added up is lost.

        Sums may be float64, whatever the meter's own are.
        """
        values = []
        for (_, meter), state in zip(self._meters, states, strict=True):
            for name, own in meter.metric_state.items():
                value = state[name]
                setattr(meter, name, value.to(own) if isinstance(own, Tensor) and isinstance(value, Tensor) else value)
            values.append(type(meter).compute(meter))  # the instance's own waits for all processes and for an update
        return self._named(values)

    def _named(self, values: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the metrics to report, each from the family that it is computed in."""
        found = {
            name: value
            for (family, _), computed in zip(self._meters, values, strict=True)
            for name, value in computed.items()
            if name in family.names
        }
        return {name: found[name] for name in self.names}
