"""The losses of every task kind, by name, on full-resolution predictions; ignored entries do not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec
from slimtask.train.logits import as_logits
from slimtask.train.metrics.angles import raw_rgb
from slimtask.train.parallel import shared_count

LABEL_SMOOTHING = 0.1
EDGE_WEIGHT = 0.95
HUBER_DELTA = 0.2


class Term(NamedTuple):
    """A sum over the entries that count and their number, kept apart so that a mean over several batches is exact."""

    total: Float[Tensor, ""]
    entries: Float[Tensor, ""]


Loss = Callable[[Tensor, Tensor, TaskSpec], list[Term]]


def multi_task_loss(
    predictions: dict[str, Tensor], targets: dict[str, Tensor], tasks: Sequence[TaskSpec]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the weighted sum of the task losses, and each unweighted loss by name."""
    losses = {task.name: task_loss(predictions[task.name], targets[task.name], task) for task in tasks}
    total = torch.stack([task.weight * losses[task.name] for task in tasks]).sum()
    return total, losses


def task_loss(prediction: Tensor, target: Tensor, task: TaskSpec, loss: str = "") -> Float[Tensor, ""]:
    """Return the mean loss over the entries that count, zero (with gradient) if none does.

    ``loss`` is a name of the task's kind in ``LOSSES``; left out, it is the task's own or, if it has none, the kind's
    first. Of several processes each returns its share: the average over them is the loss of the global batch. Raises
    InputError for a name that the kind has not.
    """
    terms = loss_terms(prediction, target, task, loss)
    counts = shared_count(torch.stack([term.entries for term in terms]))
    return (torch.stack([term.total for term in terms]) / counts).mean()


def loss_terms(prediction: Tensor, target: Tensor, task: TaskSpec, loss: str = "") -> list[Term]:
    """Return the sums and counts whose quotients' mean is ``task_loss``."""
    return loss_function(task, loss)(as_logits(prediction, task), target, task)


def loss_function(task: TaskSpec, loss: str = "") -> Loss:
    """Return the function called ``loss``, the task's own or the kind's first; InputError for an unknown name."""
    functions = LOSSES[task.kind]
    name = loss or task.loss or next(iter(functions))
    if name not in functions:
        raise InputError(f"task '{task.name}': a {task.kind} task has no loss '{name}'{nearest(name, functions)}")
    if name == "weighted_cross_entropy" and not task.class_weights:
        raise InputError(f"task '{task.name}': the loss 'weighted_cross_entropy' needs the task's class_weights.")
    return functions[name]


def cross_entropy(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return -log softmax of the right class."""
    return _cross_entropy(prediction, target, task)


def soft_cross_entropy(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the cross entropy with targets of 0.9 for the right class plus 0.1 spread over all (Less is More)."""
    return _cross_entropy(prediction, target, task, label_smoothing=LABEL_SMOOTHING)


def weighted_cross_entropy(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the cross entropy, each entry weighing as much as its class in ``task.class_weights`` (Taskonomy)."""
    weights = prediction.new_tensor(task.class_weights)
    weights = weights / weights.min()  # at least 1 each, so that a sum of weights is at least 1 if anything counts
    valid = target != int(task.ignore)
    entries = weights[torch.where(valid, target, 0)][valid].sum()
    return [_cross_entropy(prediction, target, task, weight=weights)[0]._replace(entries=entries)]


def l1(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return |p - t| in the target's unit (AdaShare, DiSparse; their keypoints and edges too)."""
    return [_masked((prediction - target).abs(), target != task.ignore)]


def mse(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return (p - t)^2 where the target is known (Less is More takes all pixels, of depth scaled to 0 .. 1)."""
    return [_masked((prediction - target).square(), target != task.ignore)]


def normals_cosine(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return 1 - cos between unit vectors (Less is More)."""
    return [_masked(1 - (prediction * target).sum(dim=1), _known(target, task))]


def normals_l1(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return |p - t| summed over the three components, per known pixel.

    EfficientMTL takes it of outputs that are not normalised; MultiTaskNet's are unit vectors.
    """
    return [_masked((prediction - target).abs().sum(dim=1), _known(target, task))]


def normals_raw_cosine(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return 1 - cos between the RGB vectors of prediction and target, not decoded (AdaShare, DiSparse on NYU-v2).

    Their network puts out RGB vectors; here the unit vectors that MultiTaskNet puts out are encoded, see ``raw_rgb``.
    """
    p, t = raw_rgb(prediction.movedim(1, -1)), raw_rgb(target.movedim(1, -1))
    return [_masked(1 - (p * t).sum(dim=-1), _known(target, task))]


def balanced_bce(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the binary cross entropies of the true and of the other pixels, two means that weigh the same."""
    errors, valid, true = _binary_errors(prediction, target, task)
    return [_masked(errors, valid & true), _masked(errors, valid & ~true)]


def weighted_bce(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the binary cross entropy with weight 0.95 for true pixels and 0.05 for the others (EfficientMTL)."""
    errors, valid, true = _binary_errors(prediction, target, task)
    return [_masked(torch.where(true, EDGE_WEIGHT, 1 - EDGE_WEIGHT) * errors, valid)]


def bce(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the binary cross entropy of logits."""
    errors, valid, _ = _binary_errors(prediction, target, task)
    return [_masked(errors, valid)]


def probability_huber(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the Huber error, delta 0.2, of the logits' probabilities (Less is More)."""
    errors = F.huber_loss(prediction.sigmoid(), target, reduction="none", delta=HUBER_DELTA)
    return [_masked(errors, target != task.ignore)]


def probability_l1(prediction: Tensor, target: Tensor, task: TaskSpec) -> list[Term]:
    """Return the absolute error of the logits' probabilities."""
    return [_masked((prediction.sigmoid() - target).abs(), target != task.ignore)]


_CLASSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
}
_MAPS: dict[str, Loss] = {
    "balanced_bce": balanced_bce,
    "weighted_bce": weighted_bce,
    "huber": probability_huber,
    "l1": probability_l1,
}
LOSSES: dict[str, dict[str, Loss]] = {
    "segmentation": _CLASSES,
    "classification": _CLASSES,
    "depth": {"l1": l1, "mse": mse},
    "normals": {"cosine": normals_cosine, "l1": normals_l1, "raw_cosine": normals_raw_cosine},
    "edges": _MAPS,
    "saliency": _MAPS,
    "keypoints": {"l1": l1},
    "multilabel": {"bce": bce},
}
"""The losses of each task kind by name; the first is taken unless a task or a caller names another."""


def _cross_entropy(
    prediction: Tensor,
    target: Tensor,
    task: TaskSpec,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> list[Term]:
    ignore = int(task.ignore)
    total = F.cross_entropy(
        prediction, target, weight=weight, ignore_index=ignore, reduction="sum", label_smoothing=label_smoothing
    )
    return [Term(total, (target != ignore).sum().to(total.dtype))]


def _binary_errors(
    prediction: Tensor, target: Tensor, task: TaskSpec
) -> tuple[Float[Tensor, "..."], Bool[Tensor, "..."], Bool[Tensor, "..."]]:
    """Return the binary cross entropies, where they count, and where the target is above 0.5."""
    valid = target != task.ignore
    safe = torch.where(valid, target, 0.0)
    return F.binary_cross_entropy_with_logits(prediction, safe, reduction="none"), valid, safe > 0.5


def _known(target: Tensor, task: TaskSpec) -> Bool[Tensor, "batch height width"]:
    return (target != task.ignore).any(dim=1)


def _masked(values: Tensor, mask: Tensor) -> Term:
    return Term(torch.where(mask, values, 0.0).sum(), mask.sum().to(values.dtype))
