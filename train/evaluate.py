"""Scores of a network on a split: every metric of every task, and the mean loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.batches import in_order
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.losses import multi_task_loss
from slimtask.train.metrics import TaskMetrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean weighted loss per image, mean loss of each task, and the metrics of each task by name."""

    loss: float
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]


def evaluate(
    model: nn.Module,
    dataset: MultiTaskDataset,
    preprocessing: Preprocessing,
    *,
    tasks: Sequence[TaskSpec] | None = None,
    batch: int = 32,
) -> Evaluation:
    """Return the Evaluation of ``model`` (any module with forward(x) -> dict) in eval mode on every sample.

    ``tasks`` are the data set's, with the loss weights to use (None: those the data set has).
    """
    device = next(model.parameters()).device
    tasks = dataset.tasks if tasks is None else tasks
    meters = {task.name: TaskMetrics(task, device) for task in tasks}
    sums: dict[str, Tensor] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for host_images, host_targets in in_order(dataset, preprocessing, batch):
            images = host_images.to(device, memory_format=torch.channels_last)
            targets = {name: target.to(device) for name, target in host_targets.items()}
            predictions = {name: value.float() for name, value in model(images).items()}
            total, losses = multi_task_loss(predictions, targets, tasks)
            for name, value in {"": total, **losses}.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.cpu() * len(images)
            for name, meter in meters.items():
                meter.update(predictions[name], targets[name])
    model.train(was_training)
    means = {name: float(value) / len(dataset) for name, value in sums.items()}
    return Evaluation(
        loss=means.pop(""), losses=means, metrics={name: meter.compute() for name, meter in meters.items()}
    )
