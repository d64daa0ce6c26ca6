"""Masks decided once: scores of the weights, by task or for all, and which weights they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.batches import Batch
from slimtask.train.losses import task_loss
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.methods.masks.densities import layer_counts, random_masks
from slimtask.train.saliency import (
    Losses,
    Saliencies,
    Tensors,
    gradient_scores,
    prunable_weights,
    task_masks,
    task_saliencies,
    top_mask,
)

Weighting = Callable[[Mapping[str, Tensor]], Tensor]
_HEADS, _TRUNK = "heads.", "trunk."


def weights_in_scope(model: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """Return the weights that may be masked, by name in module order; InputError if there are none."""
    weights = {
        name: weight
        for name, weight in prunable_weights(model).items()
        if scope == "network" or name.startswith(_TRUNK)
    }
    if not weights:
        raise InputError(f"masks.scope {scope} holds no convolution or linear weight, so nothing can be masked.")
    return weights


def uses(task: str, name: str) -> bool:
    """Return whether ``task`` depends on the parameter ``name`` of a multi-task network: the trunk and its own head."""
    return not name.startswith(_HEADS) or name.startswith(f"{_HEADS}{task}.")


def choose_masks(
    config: MasksConfig,
    model: nn.Module,
    tasks: Sequence[TaskSpec],
    batches: Iterable[Batch],
    weighting: Weighting,
    seed: int,
) -> tuple[Masks, float]:
    """Return the masks of a method that decides once, and the share of its weights that each task keeps.

    "disparse" has masks per task, whose union is trained; the baselines have one for all tasks. ``model`` is left as
    it is; "static" scores come from a copy with Xavier weights, except for magnitudes.
    """
    weights = weights_in_scope(model, config.scope)
    density = 1 - config.sparsity
    if config.method == "random":
        shapes = {name: weight.shape for name, weight in weights.items()}
        return Masks(shared=random_masks(layer_counts(shapes, density, config.layers), shapes, seed)), density
    if config.method == "disparse":
        scores = _task_scores(config, model, weights, tasks, batches, seed)
        keep = exact_keep(scores, config.sparsity) if config.ratio is None else config.ratio
        return task_masks(scores, keep), keep
    common = _common_scores(config, model, weights, tasks, batches, weighting, seed)
    return Masks(shared=top_weights(common, density)), density


def exact_keep(scores: Saliencies, sparsity: float) -> float:
    """Return the keep ratio of all tasks at which the union of their masks has ``sparsity``, by weights.

    A task keeps an entry from the ratio rank / entries on, and the union from the least of the tasks' ratios on, so
    the ratio wanted is an order statistic of those: what a bisection over the (monotone) overall sparsity would find.
    Entries that several tasks reach at the same ratio come together; then the union keeps the fewer.
    """
    levels: dict[str, Tensor] = {}
    for own in scores.values():
        flat = torch.cat([score.flatten() for score in own.values()])
        level = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        order = flat.argsort(descending=True, stable=True)
        level[order] = torch.arange(1, len(flat) + 1, dtype=torch.float64, device=flat.device) / len(flat)
        for name, piece in zip(own, torch.split(level, [score.numel() for score in own.values()]), strict=True):
            levels[name] = torch.minimum(levels[name], piece) if name in levels else piece
    union = torch.cat(list(levels.values()))
    count = max(1, round((1 - sparsity) * len(union)))
    keep = union.kthvalue(count).values
    if int((union <= keep).sum()) > count and bool((union < keep).any()):
        keep = union[union < keep].max()
    return float(keep)


def top_weights(scores: Mapping[str, Float[Tensor, "..."]], density: float) -> dict[str, Bool[Tensor, "..."]]:
    """Return masks by name that keep the share ``density`` of all entries, those with the highest scores."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    pieces = torch.split(top_mask(flat, round(density * len(flat))), [score.numel() for score in scores.values()])
    return {name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)}


def losses_by_task(tasks: Sequence[TaskSpec]) -> Losses:
    """Return the function that gives the unweighted loss of each task by name."""

    def losses(predictions: Tensors, targets: Tensors) -> Tensors:
        return {task.name: task_loss(predictions[task.name].float(), targets[task.name], task) for task in tasks}

    return losses


def total_loss(tasks: Sequence[TaskSpec], weighting: Weighting) -> Losses:
    """Return the function that gives the one loss that is trained, the weighted sum over the tasks."""
    by_task = losses_by_task(tasks)
    return lambda predictions, targets: {"total": weighting(by_task(predictions, targets))}


def _task_scores(
    config: MasksConfig,
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    tasks: Sequence[TaskSpec],
    batches: Iterable[Batch],
    seed: int,
) -> Saliencies:
    if config.when == "static":
        scores = task_saliencies(model, batches, tasks, seed=seed)
    elif config.score == "gradient":
        scores = gradient_scores(model, batches, losses_by_task(tasks), power=2, seed=seed)
    else:
        scores = {
            task.name: {name: weight.detach().abs() for name, weight in weights.items() if uses(task.name, name)}
            for task in tasks
        }
    return {task: {name: score for name, score in own.items() if name in weights} for task, own in scores.items()}


def _common_scores(
    config: MasksConfig,
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    tasks: Sequence[TaskSpec],
    batches: Iterable[Batch],
    weighting: Weighting,
    seed: int,
) -> dict[str, Tensor]:
    if config.method == "magnitude":
        return {name: weight.detach().abs() for name, weight in weights.items()}
    init: Literal["xavier", "keep"] = "xavier" if config.when == "static" else "keep"
    scores = gradient_scores(model, batches, total_loss(tasks, weighting), power=1, init=init, seed=seed)["total"]
    return {name: score for name, score in scores.items() if name in weights}
