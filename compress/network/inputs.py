"""A network's inputs of any form: tensors, tuples and dictionaries of them; of its outputs, see ``outputs.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.network.outputs import named_outputs

__all__ = ["Inputs", "batch_size", "call", "map_tensors", "meta_like", "named_outputs", "tensors_of"]

Inputs = Any
"""One tensor, a tuple of positional arguments, or a dictionary of keyword arguments."""


def call(model: nn.Module | Callable[..., Any], inputs: Inputs) -> Any:
    """Return ``model`` of ``inputs``: one tensor, a tuple of positional or a dictionary of keyword arguments."""
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


def map_tensors(function: Callable[[Tensor], Any], inputs: Inputs) -> Inputs:
    """Return ``inputs`` with ``function`` applied to every tensor in it."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: map_tensors(function, value) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(map_tensors(function, value) for value in inputs)
    return inputs


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return every tensor in ``inputs``, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, inputs)
    return found


def batch_size(inputs: Inputs) -> int:
    """Return the first dimension of the first tensor in ``inputs``, 1 if there is none."""
    return next((len(tensor) for tensor in tensors_of(inputs) if tensor.ndim), 1)


def meta_like(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and type without memory."""
    return torch.empty_like(tensor, device="meta", requires_grad=False)
