"""What the operators refuse, with ValueError, before anything is computed: shapes, dtypes, devices, indices."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtask.kernels.ops.tensors import Size

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def shape(name: str, tensor: Tensor | None, *expected: Size | None) -> None:
    """Raise unless ``tensor`` is None or has the expected shape; None stands for any length."""
    if tensor is None:
        return
    if tensor.ndim != len(expected) or any(
        want is not None and want != got for want, got in zip(expected, tensor.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, the other arguments ask for [{wanted}]; mend one.")


def alike(x: Tensor, base: Tensor | None = None, **others: Tensor | None) -> None:
    """Raise unless all have the float dtype and the device of ``x``; ``base`` may be float32 as well."""
    if x.dtype not in FLOATS:
        raise ValueError(f"x is {_name(x.dtype)}; give {', '.join(map(_name, FLOATS))}.")
    for name, tensor in {"base": base, **others}.items():
        if tensor is None:
            continue
        allowed = {x.dtype, torch.float32} if name == "base" else {x.dtype}
        if tensor.dtype not in allowed or tensor.device != x.device:
            here, there = f"{_name(tensor.dtype)} on {tensor.device}", f"{_name(x.dtype)} on {x.device}"
            raise ValueError(f"{name} is {here} but x is {there}; give both alike.")


def indices(x: Tensor, **tensors: Tensor) -> None:
    """Raise unless all are int32 on the device of ``x``."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.device != x.device:
            raise ValueError(f"{name} is {_name(tensor.dtype)} on {tensor.device}; give int32 on {x.device}.")


def below(name: str, tensor: Tensor, limit: Size) -> None:
    """Raise unless all entries are in [0, limit). On a GPU this would wait for it: indices are trusted there."""
    if _readable(tensor) and tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < limit:
        raise ValueError(f"{name} holds an index beyond 0 to {limit - 1}; take the arrays of a layout as they are.")


def rising(name: str, start: Tensor, entries: Size) -> None:
    """Raise unless ``start`` rises from 0 to ``entries``; trusted on a GPU."""
    if _readable(start) and (start[0] != 0 or start[-1] != entries or bool((start.diff() < 0).any())):
        raise ValueError(f"{name} does not rise from 0 to {entries}; take the arrays of a layout as they are.")


def tasks_of(start: Tensor, rows: Size) -> Size:
    """Return T, where ``start`` has T * rows + 1 entries; ValueError if it has another number of them."""
    count = start.shape[0] - 1
    if start.ndim != 1 or count < 1 or count % rows:
        raise ValueError(
            f"start has {start.shape[0]} entries, not one more than a multiple of {rows}; mend base or layout."
        )
    return count // rows


def _readable(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu" and not torch.compiler.is_compiling()
    )  # while a graph is traced there are no values


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
