"""A network's outputs of any form: every tensor in them by name, and every plain value beside the tensors."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import types
from collections import deque
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.errors import InputError

_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), enum.Enum, pathlib.PurePath),
    *(type, types.ModuleType, np.generic, np.ndarray, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_CODE = (nn.Module, types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return every tensor of a network's output by name, whatever holds it.

    Looked into are mappings, lists, tuples, sets, dataclasses and plain objects, nested: ``{"a": (x, y)}`` gives
    ``a.0`` and ``a.1``, a bare tensor ``output``. Raises InputError as ``named_leaves``.
    """
    return {name: leaf for name, leaf in named_leaves(outputs).items() if isinstance(leaf, Tensor)}


def named_leaves(outputs: Any) -> dict[str, Any]:
    """Return every tensor and every plain value (a number, a string, None) of a network's output by name.

    Raises InputError that names what can be neither: a generator, a function, several tensors in a set (which have no
    order), a tensor that is sparse, nested or quantized.
    """
    found: dict[str, Any] = {}
    for path, leaf in _leaves(outputs, (), ()):
        name = ".".join(path) or "output"
        while name in found:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        found[name] = leaf
    return found


def _leaves(item: Any, path: tuple[str, ...], above: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if id(item) in above:  # it holds itself; its parts are named already
        return
    parts: Iterator[tuple[str, Any]]
    if isinstance(item, Tensor):
        _refuse_unlike(item, path)
        yield path, item
        parts = ((name, value) for name, value in _attributes(item) if isinstance(value, Tensor))
    elif isinstance(item, _PLAIN):
        yield path, item
        return
    elif isinstance(item, Set):
        parts = _members(item, path)
    elif isinstance(item, _CODE) or hasattr(item, "__next__"):
        raise _refusal(item, path)
    else:
        parts = _parts(item, path)
    for name, part in parts:
        yield from _leaves(part, (*path, name), (*above, id(item)))


def _parts(item: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield what a container or an object holds: its items, then the attributes that are none of the items."""
    if isinstance(item, Mapping):
        items = [(_key(key, path), value) for key, value in item.items()]
    elif isinstance(item, tuple | list | deque):
        items = [(str(index), value) for index, value in enumerate(item)]
    elif dataclasses.is_dataclass(item) or _has_attributes(item):
        items = []
    else:
        raise _refusal(item, path)
    yield from items
    known = {id(value) for _, value in items}
    data = getattr(item, "data", None) if isinstance(item, Mapping) else None  # that of a UserDict is its items
    yield from ((name, value) for name, value in _attributes(item) if id(value) not in known and value is not data)


def _key(key: Any, path: tuple[str, ...]) -> str:
    if isinstance(key, (*_PLAIN, tuple)):
        return str(key)
    raise InputError(
        f"output '{'.'.join(path) or 'output'}' has a key that is {_a(key)}, which cannot be compared; use strings."
    )


def _members(item: Set[Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the member of a set of one, or the whole set if it is plain data."""
    if len(item) == 1:
        yield "0", next(iter(item))
    elif all(isinstance(member, _PLAIN) for member in item):
        yield "members", str(sorted(map(repr, item)))
    else:
        raise InputError(
            f"output '{'.'.join(path) or 'output'}' is a set of {len(item)} tensors or objects, which have no order to "
            "compare them in; return a list or a dictionary."
        )


def _has_attributes(item: Any) -> bool:
    return hasattr(item, "__dict__") or any(_slots(kind) for kind in type(item).__mro__)


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that an object itself has, those in slots included."""
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        for name in _slots(kind):
            if hasattr(item, name):
                yield name, getattr(item, name)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ()) if kind.__module__ not in ("builtins", "collections") else ()
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _refuse_unlike(tensor: Tensor, path: tuple[str, ...]) -> None:
    for is_so, word in (
        (tensor.is_nested, "nested"),
        (tensor.layout != torch.strided, "sparse"),
        (tensor.is_quantized, "quantized"),
    ):
        if is_so:
            raise InputError(
                f"output '{'.'.join(path) or 'output'}' is a {word} tensor, which cannot be compared; "
                "return a dense one."
            )


def _refusal(item: Any, path: tuple[str, ...]) -> InputError:
    return InputError(
        f"output '{'.'.join(path) or 'output'}' is {_a(item)}, which cannot be compared; "
        "return tensors, plain data, or containers of them."
    )


def _a(item: Any) -> str:
    kind = type(item).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
