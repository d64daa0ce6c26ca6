"""Connection saliencies of each task at initialisation (SNIP, Lee et al., ICLR 2019), and the masks they give.

S_k = sum over mini-batches of |W * dL_k/dW|, element by element: the gradient of task k's own, unweighted loss with
respect to a mask of ones on the weights (DiSparse, CVPR 2022, section 3.2). Gradients of two batches never cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train import parallel
from slimtask.train.batches import Batch
from slimtask.train.losses import task_loss

Saliencies = dict[str, dict[str, Float[Tensor, "..."]]]
Tensors = dict[str, Tensor]
Losses = Callable[[Tensors, Tensors], Tensors]
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

    def losses(predictions: Tensors, targets: Tensors) -> Tensors:
        return {task.name: task_loss(predictions[task.name].float(), targets[task.name], task) for task in tasks}

    return gradient_scores(model, batches, losses, power=1, init=init, seed=seed)


def gradient_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    losses: Losses,
    *,
    power: int,
    init: Literal["xavier", "keep"] = "keep",
    seed: int = 0,
) -> Saliencies:
    """Return by name of a loss, then by parameter name, |W|^``power`` times the sum over ``batches`` of |dL/dW|.

    ``losses`` maps predictions and targets to scalar losses by name. Power 0 is what RigL grows by, 1 the saliency of
    SNIP, 2 DiSparse's score of trained weights. Of several processes each brings its own batches; gradients are
    averaged over them before the absolute value, so all return the scores of the global batches. Everything else, and
    the errors, as in ``task_saliencies``.
    """
    work = independent_copy(model).train()
    device = next(work.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        if init == "xavier":
            xavier_(work, seed)
        weights = prunable_weights(work)
        for parameter in work.parameters():
            parameter.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        totals: Saliencies = {}
        for count, (images, targets) in enumerate(batches, start=1):
            torch.manual_seed(seed * _SEED_STRIDE + count)
            given = {name: target.to(device) for name, target in targets.items()}
            _accumulate(totals, losses(work(images.to(device)), given), weights)
    if not totals:
        raise InputError("saliencies were asked for without a batch; give at least one.")
    factors = {name: weight.detach().abs() ** power for name, weight in weights.items()}
    return {loss: {name: total * factors[name] for name, total in sums.items()} for loss, sums in totals.items()}


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


def _accumulate(totals: Saliencies, losses: Tensors, weights: dict[str, nn.Parameter]) -> None:
    """Add |dL/dW| of one batch: one backward pass per loss through the shared graph."""
    for index, (loss_name, loss) in enumerate(losses.items()):
        if not bool(loss.isfinite()):
            raise InputError(f"the loss of task '{loss_name}' is {float(loss.detach())}; check its targets.")
        gradients = torch.autograd.grad(
            loss, list(weights.values()), retain_graph=index < len(losses) - 1, allow_unused=True
        )
        sums = totals.setdefault(loss_name, {})
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                size = (parallel.summed(gradient) / parallel.processes()).abs()
                sums[name] = sums[name] + size if name in sums else size
