"""A network back from the file that training or compression wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

import slimtask.train.models  # noqa: F401  registers the architectures
from slimtask.checkpoint import Checkpoint
from slimtask.compress.rebuilding import rebuild


def load(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the network of the checkpoint file ``path`` in eval mode, cut as it was saved, with its ``tasks``.

    ``factory()`` makes the dense network if it is one of the caller's own: a file never says what to import. Raises
    InputError if the file is damaged or the network does not fit it.

    Examples:
        >>> from slimtask import Architecture, Checkpoint, load
        >>> from torch import nn
        >>> own = Architecture(name="mynet:make", arguments={})
        >>> weights, inputs = nn.Conv2d(3, 2, 1).state_dict(), ((1, 3, 8, 8),)
        >>> net = Checkpoint(weights=weights, architecture=own, tasks=(), preprocessing=None, inputs=inputs)
        >>> net.save("net.safetensors")
        >>> load("net.safetensors", factory=lambda: nn.Conv2d(3, 2, 1))
        Conv2d(3, 2, kernel_size=(1, 1), stride=(1, 1))
    """
    return rebuild(Checkpoint.load(path), factory)
