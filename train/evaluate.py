"""Scores of a network on a split: every metric of every task, and the mean loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.network.modes import evaluating
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train import parallel
from slimtask.train.batches import Batch, fetch
from slimtask.train.data.protocol import MultiTaskDataset, collate
from slimtask.train.losses import loss_terms
from slimtask.train.metrics import Extra, TaskMetrics, check_metrics, of_kind, relative_score


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Weighted sum of the task losses, the loss of each task, the metrics of each task by name, and their score.

    ``score`` is the ``relative_score`` of the tasks that are trained (their weight is not 0), by which weights are
    chosen: higher is better, NaN where the loss is not finite. All are over the whole set: neither the batch size nor
    the number of processes matters. A loss is that of one batch that holds the whole set.
    """

    loss: float
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]
    score: float


def evaluate(
    model: nn.Module,
    dataset: MultiTaskDataset,
    preprocessing: Preprocessing,
    *,
    tasks: Sequence[TaskSpec] | None = None,
    batch: int = 32,
    extra: Extra = (),
) -> Evaluation:
    """Return the Evaluation of ``model`` (any module with forward(x) -> dict) in eval mode on every sample.

    ``tasks`` are the data set's, with the loss weights to use (None: those the data set has). ``extra`` names metrics
    beyond the usual ones (docs/metrics.md), or is "all"; each goes to the tasks whose kind has it. In a process group
    every process must call this: each takes a share of the samples, and all return the same. Raises InputError for a
    metric that no task has, and for an empty data set.
    """
    if len(dataset) == 0:
        raise InputError("there are no samples to evaluate the network on; give at least one.")
    device = next(model.parameters()).device
    tasks = dataset.tasks if tasks is None else tasks
    check_metrics(tasks, extra)
    meters = {task.name: TaskMetrics(task, device, of_kind(extra, task)) for task in tasks}
    sums: dict[str, Tensor] = {}
    # The network may be one that is being trained: what it keeps of a pass (a table made for a size, say) it may keep
    # of this one too, and a copy at every evaluation would cost its memory. Its modes and weights are another matter.
    with evaluating(model) as network, torch.no_grad():
        for host_images, host_targets in _share(dataset, preprocessing, batch):
            predictions = network(host_images.to(device, memory_format=torch.channels_last))
            for task in tasks:
                prediction, target = predictions[task.name].float(), host_targets[task.name].to(device)
                terms = torch.stack([torch.stack(term) for term in loss_terms(prediction, target, task)]).double()
                sums[task.name] = sums.get(task.name, torch.zeros_like(terms)) + terms
                meters[task.name].update(prediction, target)
    losses = {task.name: _mean_loss(sums[task.name]) for task in tasks}
    loss = sum(task.weight * losses[task.name] for task in tasks)
    metrics = {name: meter.compute() for name, meter in meters.items()}
    score = relative_score(metrics, [task for task in tasks if task.weight]) if math.isfinite(loss) else math.nan
    return Evaluation(loss=loss, losses=losses, metrics=metrics, score=score)


def _share(dataset: MultiTaskDataset, preprocessing: Preprocessing, batch: int) -> Iterator[Batch]:
    """Yield this process's samples in batches, the last one as small as it is.

    With fewer samples than processes all take every sample, which changes no mean, so that none has nothing to share.
    """
    alone = len(dataset) < parallel.processes()
    indices = list(range(len(dataset)))[0 if alone else parallel.rank() :: 1 if alone else parallel.processes()]
    for start in range(0, len(indices), batch):
        yield collate(fetch(dataset, indices[start : start + batch]), preprocessing)


def _mean_loss(terms: Float[Tensor, "terms 2"]) -> float:
    """Return the loss of the whole set from the sums over its batches, of all processes."""
    total, count = parallel.summed(terms).unbind(dim=1)
    return float((total / count.clamp_min(1)).mean())


def finite(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return the metrics with None for what is not a finite number, as JSON wants it."""
    return {
        task: {name: value if math.isfinite(value) else None for name, value in values.items()}
        for task, values in metrics.items()
    }
