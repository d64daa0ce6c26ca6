"""What the tasks carry from branch to branch beside the base's stream, and the rows of it that they read anew.

Rows are a fixed number, chosen by size, gathered and put back. Static shapes, no NonZero: CUDA graphs can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from slimtask.compress.structures.patterns import row_norms

Stream = Float[Tensor, "batch tokens width"]
AnyStream = Float[Tensor, "*tasks batch tokens width"]
Stack = Float[Tensor, "tasks batch tokens width"]
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
    stack = streams.get(tuple(tasks))
    return torch.stack([streams[task] for task in tasks]) if stack is None else stack


def freshest(own: AnyStream, base: Stream, count: int) -> Int64[Tensor, " rows"]:
    """Return the ``count`` rows of each image in which ``own`` differs most from ``base`` (Euclidean norm).

    They are numbers of rows of the flattened [batch * tokens, width], of several streams [tasks * batch * tokens,
    width]; the same choice as ``patterns.Rows``.
    """
    in_order = torch.compiler.is_exporting()  # costs a launch, and TensorRT takes no other TopK
    chosen = row_norms(own - base).flatten(0, -2).topk(count, dim=1, sorted=in_order).indices
    tokens = own.shape[-2]
    first = torch.arange(0, len(chosen) * tokens, tokens, device=own.device)
    return (chosen + first.unsqueeze(1)).flatten()


def take(x: Stream, rows: Int64[Tensor, " rows"]) -> Float[Tensor, "batch few width"]:
    """Return the rows of every image, equally many each."""
    return x.flatten(0, 1).index_select(0, rows).view(len(x), -1, x.shape[-1])


def put(x: Stream, rows: Int64[Tensor, " rows"], values: Float[Tensor, "batch few width"]) -> Stream:
    """Return ``x`` with ``values`` in its ``rows``."""
    return x.flatten(0, 1).index_put((rows,), values.flatten(0, 1)).view(x.shape)
