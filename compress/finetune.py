"""What a network needs after channels went by score: fresh BatchNorm statistics, and teaching by the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.inputs import named_outputs
from slimtask.compress.modes import modes_kept
from slimtask.errors import InputError

OwnLoss = Callable[[Any, Any], Tensor]
_Norm = nn.modules.batchnorm._BatchNorm


def inputs_of(batch: Any) -> Tensor:
    """Return the images of a batch: the batch itself, or the first of a tuple (images, targets)."""
    images = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(images, Tensor):
        raise InputError(f"a batch must be a tensor or a tuple that starts with one; this one is a {type(batch)}.")
    return images


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Return how many batches the running statistics of ``model`` were estimated anew from, in place.

    They become the plain average over the batches (momentum None); dropout is off, and nothing else changes. A removal
    shifts what the later layers see, so the dense statistics no longer fit (Yu and Huang, ICCV 2019, section 3.4).
    Raises InputError if there is no batch; the old statistics come back on any error.
    """
    norms = [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]
    supply = iter(batches)
    first = next(supply, None)
    if first is None:
        raise InputError("BatchNorm statistics cannot be estimated from no batch; give at least one.")
    before = [(norm, norm.momentum, {n: buffer.clone() for n, buffer in norm.named_buffers()}) for norm in norms]
    count = 0
    with modes_kept(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True
        try:
            for batch in chain([first], supply):
                model(inputs_of(batch))
                count += 1
        except BaseException:
            for norm, _, buffers in before:
                norm.load_state_dict(buffers, strict=False)
            raise
        finally:
            for norm, momentum, _ in before:
                norm.momentum = momentum
    return count


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float,
    loss: OwnLoss | None = None,
    alpha: float = 0.5,
) -> list[float]:
    """Return the loss of every step of training ``student``, in place, towards the outputs of ``teacher``.

    The distance of an output is its mean squared error divided by the mean square of the teacher's, so that every task
    counts alike whatever its unit. With ``loss(outputs, batch)``, the tasks' own loss on the student's outputs, the sum
    is alpha * distance + (1 - alpha) * loss. Adam, cosine decay to zero, BatchNorm as in training; ``batches`` starts
    over when it ends. Raises InputError if the outputs differ in name or shape, or the loss is not finite.
    """
    if steps < 1 or not 0 <= alpha <= 1:
        raise InputError(f"distil needs at least one step and alpha in 0..1; they are {steps} and {alpha}.")
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    history: list[float] = []
    with modes_kept(student, teacher), torch.enable_grad():
        student.train()
        teacher.eval()
        for step, batch in zip(range(steps), _cycle(batches), strict=False):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            images = inputs_of(batch)
            with torch.no_grad():
                wanted = teacher(images)
            outputs = student(images)
            total = output_distance(outputs, wanted)
            if loss is not None:
                total = alpha * total + (1 - alpha) * loss(outputs, batch)
            if not bool(total.isfinite()):
                raise InputError(f"the loss of step {step} is not finite; take a smaller learning rate than {lr}.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            history.append(float(total.detach()))
    optimiser.zero_grad(set_to_none=True)
    return history


def output_distance(outputs: Any, wanted: Any) -> Tensor:
    """Return the mean over the outputs (a tensor, or any nest of them) of |outputs - wanted|² / |wanted|², a scalar."""
    ours, theirs = named_outputs(outputs), named_outputs(wanted)
    if {name: x.shape for name, x in ours.items()} != {name: x.shape for name, x in theirs.items()}:
        raise InputError(
            "the student's outputs differ from the teacher's in name or shape; give its own dense network."
        )
    terms = []
    for name, target in theirs.items():
        scale = target.square().mean().clamp_min(torch.finfo(target.dtype).tiny)
        terms.append((ours[name] - target).square().mean() / scale)
    return torch.stack(terms).mean()


def keep_schedule(keep: float, rounds: int) -> list[float]:
    """Return the share of what is there that each round keeps so that all together keep ``keep``: a constant one."""
    if not 0 < keep <= 1 or rounds < 1:
        raise InputError(f"the schedule needs a share in 0..1 and at least one round; they are {keep} and {rounds}.")
    return [keep ** (1 / rounds)] * rounds


def iterative(
    model: nn.Module,
    keep: float,
    rounds: int,
    prune_once: Callable[[nn.Module, float], nn.Module],
    between: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Return the network pruned to ``keep`` of ``model`` in several ``rounds``, with ``between`` called after each.

    ``prune_once(model, share)`` returns a new network with that share of what it was given (a ratio of channels,
    parameters or FLOPs, as the caller's Budget says); ``between(network, round)`` trains it in place after each round.
    Several small rounds with training between them lose less than one large one (Han et al., NeurIPS 2015, section 3).
    """
    for number, share in enumerate(keep_schedule(keep, rounds)):
        model = prune_once(model, share)
        if between is not None:
            between(model, number)
    return model


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
