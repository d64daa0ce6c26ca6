"""Run a network in another mode and give it back as it was, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from slimtask.compress.network.contents import independent_copy


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Return a context with ``model`` in eval mode, to be run there without gradients as a training run does.

    Switching only sets flags, which come back module by module, unless a class of the network overrides ``train`` or
    ``eval``: layers that merge or fold their weights then, and undo it on the way back, would be left half-way by
    flags alone, and by ``train(was)`` where a part is frozen. Of such a network a copy is switched and run instead.
    """
    if any(type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval for m in model.modules()):
        yield independent_copy(model).eval()
        return
    with modes_kept(model):
        yield model.eval()
