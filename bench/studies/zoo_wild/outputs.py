"""What networks put out, compared without a tool's help: structure, shapes, types, finite values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def described(outputs: Any, *, counted: bool = True) -> Any:
    """Return the nested structure of ``outputs`` with every tensor's shape and type.

    Unless ``counted``, the first dimension is left open: a detector finds as many boxes as it finds.
    """
    if isinstance(outputs, Tensor):
        shape = list(outputs.shape) if counted else ["any", *outputs.shape[1:]]
        return f"{shape} {outputs.dtype}"
    inside = children(outputs)
    if inside is None:
        return repr(outputs)
    return {"type": type(outputs).__name__, **{str(key): described(x, counted=counted) for key, x in inside.items()}}


def tensors(outputs: Any) -> list[Tensor]:
    """Return every tensor in ``outputs``, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for each in (children(outputs) or {}).values() for tensor in tensors(each)]


def children(outputs: Any) -> dict[Any, Any] | None:
    """Return what a dictionary, sequence or dataclass holds, by key; None for anything else."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if isinstance(outputs, list | tuple):
        return dict(enumerate(outputs))
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    return None


def complaint(dense: Any, smaller: Any, *, counted: bool = True) -> str:
    """Return what is wrong with the outputs of a smaller network beside the dense one's, "" if nothing is."""
    expected, got = described(dense, counted=counted), described(smaller, counted=counted)
    if expected != got:
        return f"its outputs are {got} instead of {expected}"[:400]
    for number, (reference, tensor) in enumerate(zip(tensors(dense), tensors(smaller), strict=True)):
        if bool(reference.isfinite().all()) and not bool(tensor.isfinite().all()):
            return f"output {number} is not finite"
    return ""
