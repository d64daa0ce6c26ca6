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

    Example:
        >>> load("runs/scenes70/small.safetensors")  # doctest: +SKIP
    """
    return rebuild(Checkpoint.load(path), factory)
