"""Run a network in another mode and give it back as it was, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Return a context after which every module is in the mode, training or not, in which it was.

    ``model.train(was)`` would not do: it puts the parts that the caller froze in eval mode back into training.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was
