"""Outputs that are decoded already, as the logits that losses and metrics take: nothing is decoded twice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec

_EXCLUSIVE = ("segmentation", "classification")
_EACH = ("edges", "saliency", "multilabel")
_SMALLEST = 1e-7


def as_logits(prediction: Tensor, task: TaskSpec) -> Tensor:
    """Return ``prediction`` as logits of the same shape: of a task whose ``unit`` is "probability" their logarithms.

    Softmax and sigmoid give the probabilities back, to 1e-7. Raises InputError if they lie outside of 0 to 1. Other
    tasks' predictions come back as they are.
    """
    if task.unit != "probability" or task.kind not in _EXCLUSIVE + _EACH:
        return prediction
    low, high = (float(x) for x in torch.aminmax(prediction.detach())) if prediction.numel() else (0.0, 1.0)
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            f"task '{task.name}' says that its outputs are probabilities, but they lie between {low:.3g} and "
            f"{high:.3g}; set its unit to logit."
        )
    if task.kind in _EXCLUSIVE:
        return prediction.clamp_min(_SMALLEST).log()
    return prediction.logit(eps=_SMALLEST)


def as_numbers(output: Tensor, task: TaskSpec) -> Tensor:
    """Return class numbers and booleans as the float32 outputs of a network that is certain; numbers as they are.

    Class numbers are integers [batch, 1, height, width] or [batch, height, width] and become [batch, channels, height,
    width], a segmentation's layout; booleans keep their shape. Raises InputError for a class that the task has not.
    """
    if output.is_floating_point():
        return output.float()
    if output.dtype == torch.bool:
        certain = output.float()
    else:
        classes = output.long().reshape(len(output), *output.shape[-2:])
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < task.channels:
            raise InputError(
                f"task '{task.name}' gives class numbers from {int(classes.min())} to {int(classes.max())}, but it has "
                f"{task.channels} classes; mend its channels."
            )
        certain = F.one_hot(classes, task.channels).movedim(-1, 1).float()
    return (
        certain if task.unit == "probability" else as_logits(certain, task.model_copy(update={"unit": "probability"}))
    )
