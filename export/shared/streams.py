"""What the tasks carry from branch to branch beside the base's stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Streams = dict[str | tuple[str, ...], Tensor]
"""By task what is not the base's: its own stream, or of a base-fed task its difference from the base's stream.

Each is [batch, tokens, width]. Tasks computed together have theirs stacked besides, by their names, so that nothing is
copied between branches. A plain dictionary, since compilers follow it.
"""


def advance(streams: Streams, task: str, value: Tensor) -> None:
    """Take the task's new one, in place."""
    for names in [names for names in streams if isinstance(names, tuple) and task in names]:
        del streams[names]
    streams[task] = value


def advance_all(streams: Streams, tasks: Sequence[str], stack: Tensor) -> None:
    """Take new ones of several tasks [tasks, batch, tokens, width], in place."""
    for task, value in zip(tasks, stack.unbind(0), strict=True):
        advance(streams, task, value)
    streams[tuple(tasks)] = stack


def stacked(streams: Streams, tasks: Sequence[str]) -> Tensor:
    """Return those of several tasks, which all have one [tasks, batch, tokens, width]."""
    found = streams.get(tuple(tasks))
    return torch.stack([streams[task] for task in tasks]) if found is None else found
