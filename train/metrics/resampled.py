"""Metrics of a set and of resamples of its images: the bootstrap, for metrics that are no means over images too."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from slimtask.tasks import TaskSpec
from slimtask.train.metrics.registry import Extra
from slimtask.train.metrics.task_metrics import State, TaskMetrics


def draw_images(images: int, resamples: int, seed: int) -> UInt8[Tensor, "resamples images"]:
    """Return how often each resample holds each image: as many as there are, drawn with replacement.

    A function of its arguments alone, so two networks scored with the same ones meet the same resamples.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.empty(resamples, images, dtype=torch.uint8)
    for row in counts:
        row.copy_(torch.bincount(torch.randint(images, (images,), generator=generator), minlength=images))
    return counts


class ResampledMetrics:
    """One task's metrics over a set, and over every resample of its images.

    ``counts`` [resamples, images] says how often a resample holds an image. What a meter adds up it adds up for each
    resample, image by image, so that mIoU, a best F-measure or a median angle is computed from each resample's own
    sums: the average of an mIoU per image would be another metric. Memory is that of the meter's sums times the
    resamples (most for median angles, 18,000 bins: 144 MB for 1,000) and does not grow with the images; only multilabel
    tasks keep every image's scores, a number a label.
    """

    def __init__(self, task: TaskSpec, counts: UInt8[Tensor, "resamples images"], extra: Extra = ()) -> None:
        self.counts, self._seen = counts, 0
        self._metrics = TaskMetrics(task, extra=extra)
        self._sums: list[dict[str, Tensor]] = []
        self._rows: list[dict[str, list[Tensor]]] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch, outputs and targets in the task's layout; images come in the order of ``counts``."""
        images = []
        for index in range(len(prediction)):
            self._metrics.update(prediction[index : index + 1].cpu(), target[index : index + 1].cpu())
            images.append(self._metrics.drain())
        drawn = self.counts[:, self._seen : self._seen + len(images)].double()
        self._seen += len(images)
        for place, states in enumerate(zip(*images, strict=True)):
            if len(self._sums) == place:
                self._sums.append({})
                self._rows.append({})
            for name, first in states[0].items():
                values = [state[name] for state in states]
                if isinstance(first, Tensor):
                    self._add(self._sums[place], name, values, drawn)
                else:
                    self._rows[place].setdefault(name, []).extend(row for value in values for row in value)

    def compute(self) -> dict[str, Float[Tensor, " resamples"]]:
        """Return every metric by name, one value a resample, NaN where nothing counted in it."""
        found: dict[str, list[float]] = {name: [] for name in self._metrics.names}
        rows = [{name: torch.cat(kept) for name, kept in each.items()} for each in self._rows]
        for number, count in enumerate(self.counts.long()):
            states: list[State] = [
                {name: total[number] for name, total in sums.items()}
                | {name: [row.repeat_interleave(count, dim=0)] for name, row in kept.items()}
                for sums, kept in zip(self._sums, rows, strict=True)
            ]
            for name, value in self._metrics.compute_from(states).items():
                found[name].append(value)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}

    @staticmethod
    def _add(sums: dict[str, Tensor], name: str, values: list[Tensor], drawn: Float[Tensor, "resamples batch"]) -> None:
        """Add what a meter has of each image of a batch to every resample's sum."""
        each = torch.stack(values).double()
        if name not in sums:
            sums[name] = torch.zeros(len(drawn), *each.shape[1:], dtype=torch.float64)
        sums[name].view(len(drawn), -1).addmm_(drawn, each.view(len(each), -1))  # in place: they may be large
