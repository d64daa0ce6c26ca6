"""All that there is to a network in one dictionary, so that what a tool did to it can be told afterwards."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 6  # objects inside of objects; what lies deeper is known by its type
_OPAQUE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)


def snapshot(model: nn.Module) -> dict[str, str]:
    """Return what every place of ``model`` holds: types, flags, attributes, and the tensors with their values.

    Places are named as in Python, e.g. ``layer1.0.weight``; tensors inside lists, dictionaries and plain objects count.
    How torch itself is set (grad mode, default type) stands beside them.
    """
    found = {
        "torch grad mode": str(torch.is_grad_enabled()),
        "torch default dtype": str(torch.get_default_dtype()),
        "torch attention fast path": str(torch.backends.mha.get_fastpath_enabled()),
    }
    seen: set[int] = set()
    for name, module in model.named_modules():
        found |= dict(_module(module, name, seen))
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return one phrase for every place that is not as it was."""
    lost = [f"'{place}' is gone" for place in before if place not in after]
    new = [f"'{place}' is new" for place in after if place not in before]
    changed = [place for place in before if place in after and before[place] != after[place]]
    return [*(f"'{place}' changed from {before[place]} to {after[place]}" for place in changed), *lost, *new]


def _module(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield what the module itself holds; its children are only named, they are looked at on their own."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield f"{name or 'the network'}:", f"{type(module).__qualname__} {sorted(vars(module))}"
    for key, value in vars(module).items():
        place = f"{name}.{key}" if name else key
        if key == "_modules":
            yield place, str({child: type(each).__qualname__ for child, each in value.items()})
        elif key in ("_parameters", "_buffers"):
            for leaf, tensor in value.items():
                yield from _value(tensor, f"{name}.{leaf}" if name else leaf, seen, 0)
        else:
            yield from _value(value, place, seen, 0)


def _value(value: Any, place: str, seen: set[int], depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Tensor):
        yield place, _tensor(value)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        yield place, repr(value)
    elif isinstance(value, nn.Module):  # kept in a plain list or attribute, unknown to its parent
        yield from _module(value, place, seen)
    elif isinstance(value, _OPAQUE) or depth >= _DEEPEST or id(value) in seen:
        yield place, type(value).__qualname__
    else:
        seen.add(id(value))
        yield from _inside(value, place, seen, depth + 1)


def _inside(value: Any, place: str, seen: set[int], depth: int) -> Iterator[tuple[str, str]]:
    """Yield what a container or an object holds."""
    if isinstance(value, Mapping):
        parts = {f"{place}[{key!r}]": each for key, each in value.items()}
    elif isinstance(value, list | tuple):
        parts = {f"{place}[{index}]": each for index, each in enumerate(value)}
    elif isinstance(value, set | frozenset):
        parts = {place: str(sorted(map(str, value)))}
    else:
        parts = {f"{place}.{key}": each for key, each in getattr(value, "__dict__", {}).items()}
    yield f"{place}:", f"{type(value).__qualname__} of {len(parts)}"
    for name, each in parts.items():
        yield from _value(each, name, seen, depth)


def _tensor(tensor: Tensor) -> str:
    """Return a tensor as text: shape, type, device, whether it is trained, and a digest of its values."""
    told = f"{type(tensor).__name__} {list(tensor.shape)} {tensor.dtype} {tensor.device} {tensor.requires_grad}"
    if tensor.is_meta:
        return told
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    grad = "" if tensor.grad_fn is not None or tensor.grad is None else " with a gradient"
    return f"{told} {hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()}{grad}"
