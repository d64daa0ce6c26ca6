"""Outputs that are probabilities already, as the logits that losses and metrics take: nothing is decoded twice."""

from __future__ import annotations

import torch
from torch import Tensor

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
