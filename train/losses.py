"""One loss per task kind, as the field defines them, on full-resolution predictions; ignored entries do not count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slimtask.tasks import TaskSpec


def multi_task_loss(
    predictions: dict[str, Tensor], targets: dict[str, Tensor], tasks: Sequence[TaskSpec]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the weighted sum of the task losses, and each unweighted loss by name."""
    losses = {task.name: task_loss(predictions[task.name], targets[task.name], task) for task in tasks}
    total = torch.stack([task.weight * losses[task.name] for task in tasks]).sum()
    return total, losses


def task_loss(prediction: Tensor, target: Tensor, task: TaskSpec) -> Float[Tensor, ""]:
    """Return the mean loss over the entries that count, zero (with gradient) if none does.

    Segmentation and classification: cross entropy. Depth: L1 in metres (AdaShare). Normals: 1 - cosine. Edges and
    saliency: binary cross entropy in which both classes weigh the same in the batch. Multilabel: binary cross entropy.
    Keypoints: L1.
    """
    if task.kind in ("segmentation", "classification"):
        counts = (target != int(task.ignore)).sum().clamp_min(1)
        return F.cross_entropy(prediction, target, ignore_index=int(task.ignore), reduction="sum") / counts
    if task.kind == "normals":
        return _masked_mean(1 - (prediction * target).sum(dim=1), (target != task.ignore).any(dim=1))
    valid = target != task.ignore
    if task.kind in ("depth", "keypoints"):
        return _masked_mean((prediction - target).abs(), valid)
    safe = torch.where(valid, target, 0.0)
    errors = F.binary_cross_entropy_with_logits(prediction, safe, reduction="none")
    if task.kind == "multilabel":
        return _masked_mean(errors, valid)
    positives, negatives = valid & (safe > 0.5), valid & (safe <= 0.5)
    return (_masked_mean(errors, positives) + _masked_mean(errors, negatives)) / 2


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
