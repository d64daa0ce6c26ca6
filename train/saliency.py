"""Connection saliencies of each task at initialisation (SNIP, Lee et al., ICLR 2019), and the masks they give.

S_k = sum over mini-batches of |W * dL_k/dW|, element by element: the gradient of task k's own, unweighted loss with
respect to a mask of ones on the weights (DiSparse, CVPR 2022, section 3.2). Gradients of two batches never cancel.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.masks import Masks
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.batches import Batch
from slimtask.train.losses import task_loss

Saliencies = dict[str, dict[str, Float[Tensor, "..."]]]
_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip
_SEED_STRIDE = 1_000_003


def task_saliencies(
    model: nn.Module,
    batches: Iterable[Batch],
    tasks: Sequence[TaskSpec],
    *,
    init: Literal["xavier", "keep"] = "xavier",
    seed: int = 0,
) -> Saliencies:
    """Return by task, then by parameter name, the saliencies of all convolution and linear weights the task uses.

    ``init`` "xavier" draws those weights anew (Xavier normal, by ``seed``) before anything is measured, "keep" measures
    at the weights as they are. ``model`` is any module with forward(x) -> dict; the work is done on a copy in train
    mode (statistics of the batch, dropout drawn by ``seed``), on the model's device; model and torch's global generator
    are left as they were. A weight that a task's loss does not depend on, such as another task's head, is left out.
    InputError without batches, or if a loss is not finite.
    """
    work = copy.deepcopy(model).train()
    device = next(work.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        if init == "xavier":
            xavier_(work, seed)
        weights = prunable_weights(work)
        for parameter in work.parameters():
            parameter.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        totals: Saliencies = {task.name: {} for task in tasks}
        count = 0
        for count, (images, targets) in enumerate(batches, start=1):
            torch.manual_seed(seed * _SEED_STRIDE + count)
            _accumulate(totals, work, images.to(device), targets, tasks, weights)
    if not count:
        raise InputError("saliencies were asked for without a batch; give at least one.")
    return totals


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all convolutions and linear layers by parameter name in module order, each tensor once."""
    layers = {module for module in model.modules() if isinstance(module, _LAYERS)}
    weights = {layer.weight for layer in layers}
    return {name: parameter for name, parameter in model.named_parameters() if parameter in weights}


def xavier_(model: nn.Module, seed: int) -> None:
    """Draw every convolution and linear weight anew, in place: Xavier normal, by a generator of its own on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            fresh = torch.empty(weight.shape)
            weight.copy_(nn.init.xavier_normal_(fresh, generator=generator))


def top_mask(scores: Float[Tensor, "..."], keep: int) -> Bool[Tensor, "..."]:
    """Return the mask of exactly ``keep`` entries with the highest scores; of equal scores the first ones stay."""
    if not 0 <= keep <= scores.numel():
        raise InputError(f"cannot keep {keep} of {scores.numel()} scores; keep between none and all.")
    if bool(scores.isnan().any()):
        raise InputError("the scores hold NaN, so they have no order; check the losses they come from.")
    flat = scores.flatten()
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - keep + 1).values
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[: keep - int(mask.sum())]] = True
    return mask.view(scores.shape)


def kept_entries(keep: float, entries: int) -> int:
    """Return floor(``keep`` * ``entries``), forgiving the rounding of decimal ratios (0.29 * 100 is 29)."""
    return min(entries, math.floor(keep * entries + 1e-6))


def task_masks(
    saliencies: Mapping[str, Mapping[str, Float[Tensor, "..."]]], keep: float | Mapping[str, float]
) -> Masks:
    """Return per-task Masks that keep the share ``keep`` in [0, 1] (one, or one per task) of each task's weights.

    The threshold is global over all the weights of a task, trunk and own head together, so the trunk's density differs
    from task to task (DiSparse, section 3.2).
    """
    made = {}
    for task, scores in saliencies.items():
        flat = torch.cat([score.flatten() for score in scores.values()])
        mask = top_mask(flat, kept_entries(keep[task] if isinstance(keep, Mapping) else keep, len(flat)))
        pieces = torch.split(mask, [score.numel() for score in scores.values()])
        made[task] = {
            name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)
        }
    return Masks(per_task=made)


def _accumulate(
    totals: Saliencies,
    model: nn.Module,
    images: Tensor,
    targets: dict[str, Tensor],
    tasks: Sequence[TaskSpec],
    weights: dict[str, nn.Parameter],
) -> None:
    """Add |W * dL_k/dW| of one batch: one forward pass, then one backward pass per task through the shared graph."""
    predictions = model(images)
    for index, task in enumerate(tasks):
        loss = task_loss(predictions[task.name].float(), targets[task.name].to(images.device), task)
        if not bool(loss.isfinite()):
            raise InputError(f"the loss of task '{task.name}' is {float(loss.detach())}; check its targets.")
        gradients = torch.autograd.grad(
            loss, list(weights.values()), retain_graph=index < len(tasks) - 1, allow_unused=True
        )
        sums = totals[task.name]
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                product = (weight.detach() * gradient).abs()
                sums[name] = sums[name] + product if name in sums else product
