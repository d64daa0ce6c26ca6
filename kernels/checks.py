"""What operators and launchers refuse, by ValueError, before anything is computed: shapes, dtypes, devices, indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Size = int | torch.SymInt  # the latter while a graph with unknown sizes is traced
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


def alike(
    x: Tensor, base: Tensor | None = None, *, floats: Sequence[torch.dtype] = FLOATS, **others: Tensor | None
) -> None:
    """Raise unless all have the device of ``x`` and its dtype, one of ``floats``; ``base`` may be float32 as well."""
    if x.dtype not in floats:
        raise ValueError(f"x is {name_of(x.dtype)}; give {', '.join(map(name_of, floats))}.")
    for name, tensor in {"base": base, **others}.items():
        if tensor is None:
            continue
        allowed = {x.dtype, torch.float32} if name == "base" else {x.dtype}
        if tensor.dtype not in allowed or tensor.device != x.device:
            here, there = f"{name_of(tensor.dtype)} on {tensor.device}", f"{name_of(x.dtype)} on {x.device}"
            raise ValueError(f"{name} is {here} but x is {there}; give both alike.")


def indices(x: Tensor, **tensors: Tensor) -> None:
    """Raise unless all are int32 on the device of ``x``."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.device != x.device:
            raise ValueError(f"{name} is {name_of(tensor.dtype)} on {tensor.device}; give int32 on {x.device}.")


def contiguous(**tensors: Tensor | None) -> None:
    """Raise unless all are contiguous: kernels compute addresses from sizes alone."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous; call .contiguous() on it.")


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


def name_of(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
