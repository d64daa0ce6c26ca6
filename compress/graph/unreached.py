"""Which parts of a network no given input reaches: they cannot be cut along, so they must be told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from slimtask.compress.network.tape import Tape
from slimtask.compress.network.trace import unused


def unreached_modules(model: nn.Module, tapes: Sequence[Tape]) -> tuple[str, ...]:
    """Return the outermost modules none of whose parameters an operation of any tape reads, in the network's order.

    A parameter that no module of its own holds wholly unread is named itself. Example: ``("aux",)``.
    """
    idle = set.intersection(*(set(unused(tape, model)) for tape in tapes)) if tapes else set()
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, None] = {}
    for name in names:
        if name in idle:
            found.setdefault(_outermost(name, names, idle))
    return tuple(found)


def _outermost(name: str, names: Sequence[str], idle: set[str]) -> str:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        owner = ".".join(parts[:depth])
        if all(each in idle for each in names if each.startswith(f"{owner}.")):
            return owner
    return name
