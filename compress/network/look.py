"""Running a network only to look at it: what is seen is data, and the caller's network is never run or switched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import FORKS, apart, first_line
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.inputs import Inputs, map_tensors, meta_like
from slimtask.compress.network.trace import empty_, plain_attention, refuse_unfit
from slimtask.errors import InputError, SlimtaskError

T = TypeVar("T")
See = Callable[[nn.Module, Inputs], T]
"""Called with a network that is nobody's, in eval mode, and the inputs; returns data. It may do what it likes."""


def look(model: nn.Module, example: Inputs, see: See[T], *, compute: bool | None = None) -> T:
    """Return ``see(network, inputs)``, where ``network`` is all that ``model`` is and may be run, switched and broken.

    It is ``model`` itself in a process apart (``apart.py``), or a copy where there can be none. ``compute`` says
    whether values matter; without, the tensors have none (the meta device), and None tries that first. Raises
    InputError, with the exception in words, if ``see`` raises one.
    """
    refuse_unfit(model)
    for real in (False, True) if compute is None else (compute,):
        try:
            return _seen(model, example, see, real)
        except SlimtaskError:
            raise
        except Exception as error:
            failure = error
    raise InputError(not_run(model, failure)) from None


def not_run(model: nn.Module, error: Exception) -> str:
    """Return the sentence that says that ``model`` raised ``error`` on the example."""
    told = first_line(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first_line(error)}"
    return (
        f"{type(model).__name__} does not run on the example input ({told}); check the input's shape and what the "
        "network expects."
    )


def _seen(model: nn.Module, example: Inputs, see: See[T], real: bool) -> T:
    if FORKS and not (real and _elsewhere(model, example)):
        return apart(lambda: _shown(model, example, see, real))
    return _shown(independent_copy(model), example, see, real)  # a forked process cannot use a GPU


def _shown(model: nn.Module, example: Inputs, see: See[T], real: bool) -> T:
    """Return what ``see`` makes of ``model``, which is switched, emptied and run here: it must be nobody's."""
    with plain_attention(), torch.no_grad():
        model.eval()
        if real:
            return see(model, example)
        empty_(model)
        with torch.device("meta"):
            return see(model, map_tensors(meta_like, example))


def _elsewhere(model: nn.Module, example: Inputs) -> bool:
    devices = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    map_tensors(lambda tensor: devices.add(tensor.device.type), example)
    return not devices <= {"cpu", "meta"}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
