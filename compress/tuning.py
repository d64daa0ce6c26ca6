"""What a network needs after channels went by score: fresh BatchNorm statistics, and teaching by the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import first_line
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.inputs import named_outputs
from slimtask.compress.network.modes import modes_kept
from slimtask.errors import InputError, SlimtaskError

OwnLoss = Callable[[Any, Any], Tensor]
Progress = Callable[[int, int, str], None]
_Norm = nn.modules.batchnorm._BatchNorm


def inputs_of(batch: Any, model: nn.Module) -> Tensor:
    """Return the images of a batch, itself or the first of a tuple (images, targets), on the device of ``model``."""
    images = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(images, Tensor):
        raise InputError(f"a batch must be a tensor or a tuple that starts with one; this one is a {type(batch)}.")
    return images.to(next(model.parameters()).device)


def batchnorms(model: nn.Module) -> list[_Norm]:
    """Return the BatchNorms of ``model`` that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Return how many batches the running statistics of ``model`` were estimated anew from, in place.

    They become the plain average over the batches (momentum None); dropout is off, and nothing else changes. A removal
    shifts what the later layers see, so the dense statistics no longer fit (Yu and Huang, ICCV 2019, section 3.4).
    A copy is what runs. Raises InputError if there is no batch or no such BatchNorm; the old statistics stay on any
    error.

    Examples:
        >>> from slimtask.compress import recalibrate_batchnorm
        >>> from torch import nn, ones
        >>> net = nn.Sequential(nn.BatchNorm2d(1))
        >>> recalibrate_batchnorm(net, [ones(2, 1, 4, 4), 3 * ones(2, 1, 4, 4)]), net[0].running_mean
        (2, tensor([2.]))
    """
    norms = batchnorms(model)
    if not norms:
        raise InputError("the network has no BatchNorm with running statistics, so there is nothing to recalibrate.")
    supply = iter(batches)
    first = next(supply, None)
    if first is None:
        raise InputError("BatchNorm statistics cannot be estimated from no batch; give at least one.")
    work = independent_copy(model).eval()
    for norm in batchnorms(work):
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    count = 0
    for batch in chain([first], supply):
        _run(work, batch)
        count += 1
    for norm, estimated in zip(norms, batchnorms(work), strict=True):
        norm.load_state_dict(dict(estimated.named_buffers()), strict=False)
    return count


def _run(model: nn.Module, batch: Any) -> None:
    try:
        model(inputs_of(batch, model))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise InputError("BatchNorm needs more than one value per channel; take larger batches.") from error
        raise


def finetune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float,
    loss: OwnLoss | None = None,
    teacher: nn.Module | None = None,
    alpha: float = 0.5,
    progress: Progress | None = None,
) -> list[float]:
    """Return the loss of every step of training ``model``, in place: by the tasks' own loss, a teacher, or both.

    ``loss(outputs, batch)`` is the tasks' own, on the outputs in training mode. ``teacher`` is the dense network, whose
    outputs are aimed at (Hinton et al., arXiv 1503.02531; here ``output_distance``, which any kind of task has); a copy
    of it runs. With
    both the sum is alpha * distance + (1 - alpha) * loss. Adam; the rate rises over the first 5 % of the steps to
    ``lr``, then decays by a cosine to zero; BatchNorm as in training. ``batches`` starts over when it ends;
    ``progress(step, steps, text)`` is called after each step. Raises InputError if there is nothing to train or to aim
    at, the network does not run in training mode, its outputs differ from the teacher's in name or shape, or the loss
    is not finite; the network is then half-trained, so drop it.

    Examples:
        >>> from slimtask.compress import finetune
        >>> from torch import nn, rand
        >>> student, dense = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        >>> losses = finetune(student, [rand(4, 3, 8, 8)], steps=20, lr=0.1, teacher=dense)
        >>> losses[-1] < losses[0]
        True
    """
    if steps < 1 or not 0 <= alpha <= 1 or not 0 < lr < math.inf:
        raise InputError(
            f"fine-tuning needs at least one step, a learning rate above 0 and alpha in 0..1; they are {steps}, {lr} "
            f"and {alpha}."
        )
    if loss is None and teacher is None:
        raise InputError("fine-tuning needs something to aim at; give the tasks' own loss, a teacher, or both.")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("every parameter of the network is frozen (requires_grad is False), so nothing can be tuned.")
    optimiser = torch.optim.Adam(parameters, lr=lr)
    history: list[float] = []
    if teacher is not None:
        teacher = independent_copy(teacher).eval()
    with modes_kept(model), torch.enable_grad():
        model.train()
        for step, batch in zip(range(steps), _cycle(batches), strict=False):
            for group in optimiser.param_groups:
                group["lr"] = _rate(step, steps, lr)
            total = _aim(model, batch, loss, teacher, alpha)
            if not bool(total.isfinite()):
                raise InputError(f"the loss of step {step} is not finite; take a smaller learning rate than {lr}.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            history.append(float(total.detach()))
            if progress is not None:
                progress(step + 1, steps, f"loss {history[-1]:.3f}")
    optimiser.zero_grad(set_to_none=True)
    return history


@contextmanager
def zeros_held(model: nn.Module) -> Iterator[None]:
    """Return a context in which training leaves the zeros of ``model``'s weights as they are: they are masked.

    Their gradients are zero, so Adam's moments are, and no step moves them. Vectors (biases, norms) are free.
    """
    hooks = []
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            kept = parameter.detach() != 0
            hold = partial(torch.mul, kept)
            hooks.append(parameter.register_hook(hold))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rate(step: int, steps: int, lr: float) -> float:
    """Return the learning rate of ``step``; Adam's first steps are as long as the rate, whatever the gradient."""
    rising = math.ceil(steps / 20)
    if step < rising:
        return lr * (step + 1) / (rising + 1)
    return lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def _aim(model: nn.Module, batch: Any, loss: OwnLoss | None, teacher: nn.Module | None, alpha: float) -> Tensor:
    """Return the loss of one batch."""
    images = inputs_of(batch, model)
    try:
        outputs = model(images)
    except SlimtaskError:
        raise
    except Exception as error:  # e.g. a detector, which wants targets
        raise InputError(
            f"the network does not run in training mode on images of shape {list(images.shape)} "
            f"({first_line(error)}); tune it in its own training script."
        ) from error
    if teacher is None:
        assert loss is not None
        return loss(outputs, batch)
    with torch.no_grad():
        wanted = teacher(images)
    distance = output_distance(outputs, wanted)
    return distance if loss is None else alpha * distance + (1 - alpha) * loss(outputs, batch)


def output_distance(outputs: Any, wanted: Any) -> Tensor:
    """Return the mean over the outputs (a tensor, or any nest of them) of |outputs - wanted|² / |wanted|², a scalar."""
    ours, theirs = named_outputs(outputs), named_outputs(wanted)
    if {name: x.shape for name, x in ours.items()} != {name: x.shape for name, x in theirs.items()}:
        raise InputError(
            "the student's outputs differ from the teacher's in name or shape; give its own dense network, one that "
            "returns the same in training mode as in eval mode."
        )
    terms = []
    for name, target in theirs.items():
        scale = target.square().mean().clamp_min(torch.finfo(target.dtype).tiny)
        terms.append((ours[name] - target).square().mean() / scale)
    return torch.stack(terms).mean()


def _cycle(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches over and over; an iterator cannot start over, so it has to last."""
    count = 0
    while True:
        before = count
        for batch in batches:
            count += 1
            yield batch
        if count == before:
            raise InputError(f"the batches ended after {count}; give a list or a loader that can start over.")
