"""Passes that reach what an example does not: a switch of the forward thrown, other values, the training mode.

A network may have an auxiliary head behind ``forward(x, aux=False)``, a second stage that runs if the first is unsure,
a loss branch for training. What no pass reaches cannot be cut along, and is named in the certificate instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.network.inputs import Inputs, map_tensors
from slimtask.compress.network.tape import Tape
from slimtask.compress.network.trace import try_record, unused

_LEVELS = (4.0, -4.0)
_MOST = 4


Passes = list[tuple[Tape, Inputs]]


def further_passes(model: nn.Module, tapes: Sequence[Tape], example: Inputs) -> Passes:
    """Return tapes in evaluation that reach parameters which ``tapes`` do not, with their inputs.

    Switches are thrown and, for a network that looks at values, flat images are shown.
    """
    idle = _idle(model, tapes)
    found: Passes = []
    for inputs, compute in _others(model, tapes, example) if idle else ():
        tape = try_record(model, inputs, compute=compute)
        left = idle & set(unused(tape, model))
        if tape.failure is None and left < idle:
            found.append((tape, inputs))
            idle = left
        if not idle:
            break
    return found


def training_pass(model: nn.Module, tapes: Sequence[Tape], example: Inputs) -> Passes:
    """Return the tape in training mode, with its inputs, if that runs and reads parameters which ``tapes`` do not."""
    idle = _idle(model, tapes)
    if not idle or tapes[0].computed:
        return []
    pair = map_tensors(lambda x: torch.cat([x, x]) if x.ndim else x, example)  # BatchNorm needs more than one value
    trained = try_record(model, pair, compute=False, training=True)
    return [(trained, pair)] if trained.failure is None and idle - set(unused(trained, model)) else []


def _idle(model: nn.Module, tapes: Sequence[Tape]) -> set[str]:
    return set.intersection(*(set(unused(tape, model)) for tape in tapes))


def _others(model: nn.Module, tapes: Sequence[Tape], example: Inputs) -> Iterator[tuple[Inputs, bool]]:
    """Yield inputs that may take another way, and whether their values decide it."""
    named = _by_name(model, example)
    for switch in _switches(model)[:_MOST]:
        if named is not None and not switch.keys() & named.keys():
            yield {**named, **switch}, tapes[0].computed
    if tapes[0].computed:
        for level in _LEVELS:
            yield map_tensors(partial(_flat, level), example), True


def _switches(model: nn.Module) -> list[dict[str, Any]]:
    """Return each keyword of the network's forward that is a switch, thrown."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [{p.name: not p.default} for p in parameters if isinstance(p.default, bool) and p.kind in named]


def _by_name(model: nn.Module, example: Inputs) -> dict[str, Any] | None:
    """Return the example as keyword arguments of the network's forward, None where that cannot be."""
    if isinstance(example, Mapping):
        return dict(example)
    try:
        bound = inspect.signature(model.forward).bind_partial(
            *(example if isinstance(example, tuple | list) else [example])
        )
    except (TypeError, ValueError):
        return None
    kinds = {name: inspect.signature(model.forward).parameters[name].kind for name in bound.arguments}
    good = all(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds.values())
    return dict(bound.arguments) if good else None


def _flat(level: float, x: Tensor) -> Tensor:
    return torch.full_like(x, level) if x.is_floating_point() else x
