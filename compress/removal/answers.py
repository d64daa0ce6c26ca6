"""The answers to calls that tell or take sizes, one for each kind (``sites.KINDS``), as ``sized.SizeFix`` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Values = Mapping[int, Sequence[int]]
Answer = Callable[[Values, str, Any, tuple[Any, ...], dict[str, Any]], Any]


def _shape(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    told = func(*args, **kwargs)
    if isinstance(told, torch.Size | tuple):
        return torch.Size(
            _scaled(size, *values[axis][::-1]) if axis in values else size for axis, size in enumerate(told)
        )
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % args[0].ndim
    return _scaled(told, *values[dim][::-1]) if dim in values else told


def _scaled(size: int, before: int, after: int) -> int:
    """Return a size that is a multiple of ``before`` channels for ``after`` of them; one that is none stays."""
    return size // before * after if size % before == 0 else size


def _view(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first = 2 if name == "unflatten" else 1
    given = args[first:] or tuple(kwargs[key] for key in ("size", "shape", "sizes") if key in kwargs)
    sizes = list(given[0]) if isinstance(given[0], tuple | list) else list(given)
    shift = args[1] % _ndim(args[0]) if name == "unflatten" else 0
    for axis, (dense, left) in values.items():
        if 0 <= axis - shift < len(sizes) and sizes[axis - shift] != -1:
            sizes[axis - shift] = _scaled(sizes[axis - shift], dense, left)
    return func(*args[:first], tuple(sizes))


def _ndim(x: Tensor) -> int:
    """Return the number of axes, without a call that what watches this one would see."""
    with torch._C.DisableTorchFunction():
        return x.ndim


def _split(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    ((dim, sizes),) = values.items()
    return torch.split(args[0], list(sizes), dim)


def _index(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name == "narrow":
        ((dim, places),) = values.items()
        return _taken(args[0], dim, places)
    entries = full_index(args[1], args[0].ndim)
    axis = 0
    for place, entry in enumerate(entries):
        if entry is None:
            continue
        if axis in values:
            entries[place] = values[axis][0] if isinstance(entry, int) else as_slice(values[axis])
        axis += entry.ndim if isinstance(entry, Tensor) and entry.dtype == torch.bool else 1
    return func(args[0], tuple(entries), *args[2:])


def full_index(index: Any, ndim: int) -> list[Any]:
    """Return the parts of an index with every axis named: an ellipsis as the full slices that it stands for."""
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(
        part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else part is not None and part is not ...
        for part in parts
    )
    place = next((i for i, part in enumerate(parts) if part is ...), None)
    rest = [slice(None)] * (ndim - used)
    return [*parts, *rest] if place is None else [*parts[:place], *rest, *parts[place + 1 :]]


def as_slice(places: Sequence[int]) -> slice | list[int]:
    """Return rising places as a slice if they have no gap, else as they are."""
    if not places:
        return slice(0, 0)
    return slice(places[0], places[-1] + 1) if places[-1] - places[0] + 1 == len(places) else list(places)


def _taken(x: Tensor, dim: int, places: Sequence[int]) -> Tensor:
    found = as_slice(places)
    if isinstance(found, slice):
        return x.narrow(dim, found.start, found.stop - found.start)
    return x.index_select(dim, torch.tensor(found, device=x.device))


def _factory(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    made = func(*args, **kwargs)
    for axis, places in values.items():
        made = made.index_select(axis, torch.tensor(places, device=made.device))
    return made


def _norm(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = args[1] if len(args) > 1 else kwargs.pop("normalized_shape")
    with torch._C.DisableTorchFunction():
        shape = tuple(args[0].shape[-len(given) :])
    return func(args[0], shape, *args[2:], **kwargs)


def _groups(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    keyword, place = ("num_groups", 1) if name == "group_norm" else ("groups", 6)
    if keyword in kwargs:
        return func(*args, **{**kwargs, keyword: values[0][0]})
    return func(*args[:place], values[0][0], *args[place + 1 :], **kwargs)


def _pad(values: Values, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    pads = list(args[1] if len(args) > 1 else kwargs.pop("pad"))
    for axis, (left, right) in values.items():
        first = 2 * (args[0].ndim - 1 - axis)
        pads[first : first + 2] = [left, right]
    return func(args[0], pads, *args[2:], **kwargs)


ANSWERS: dict[str, Answer] = {
    "shape": _shape,
    "view": _view,
    "split": _split,
    "index": _index,
    "factory": _factory,
    "norm": _norm,
    "groups": _groups,
    "pad": _pad,
}
