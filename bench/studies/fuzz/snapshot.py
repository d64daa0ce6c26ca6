"""What a user's network was before it was given away: every tensor, attribute, mode and module, to be held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 6
_OF_TORCH = ("_flat_weights", "_flat_weight_refs")  # lists that an LSTM makes anew whenever its weights are set
_SCALARS = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class Fact:
    """One thing that was there: the object itself, and what it held."""

    object: Any
    value: Any


def snapshot(model: nn.Module) -> dict[str, Fact]:
    """Return every fact about ``model`` by its place: modules, modes, attributes, also inside containers."""
    return dict(_facts(model))


def differences(before: Mapping[str, Fact], model: nn.Module) -> list[str]:
    """Return what is not as it was, one sentence for each place."""
    after = snapshot(model)
    gone = [f"{place} is gone" for place in before if place not in after]
    new = [f"{place} is new" for place in after if place not in before]
    kept = ((place, _change(fact, after[place])) for place, fact in before.items() if place in after)
    return [*gone, *new, *(f"{place} {change}" for place, change in kept if change)]


def tensors_in(model: nn.Module) -> list[Tensor]:
    """Return every tensor of the network once: parameters, buffers, and those in attributes of any kind."""
    found = {id(fact.object): fact.object for _, fact in _facts(model) if isinstance(fact.object, Tensor)}
    return list(found.values())


@torch.no_grad()
def disturb_(model: nn.Module) -> None:
    """Change every tensor of the network in place: whatever shares memory with it must not move."""
    for tensor in tensors_in(model):
        if tensor.is_meta or tensor.numel() == 0:
            continue
        if tensor.is_floating_point() or tensor.is_complex():
            tensor.detach().add_(1.5)
        else:
            tensor.detach().zero_()


def _facts(model: nn.Module) -> Iterator[tuple[str, Fact]]:
    seen: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        place = name or "the network"
        yield f"{place} (module)", Fact(module, type(module))
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield f"{place} (children)", Fact(module._modules, tuple(module._modules))
        for key, value in vars(module).items():
            if key != "_modules" and key not in _OF_TORCH:
                yield from _facts_of(f"{place}.{key}", value, seen, 0)


def _facts_of(place: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Fact]]:
    if isinstance(value, Tensor):
        plain = value.detach()
        about = (value.dtype, value.device, tuple(value.shape), value.requires_grad, value.grad is None)
        yield place, Fact(value, (about, plain if plain.is_meta else plain.clone()))
        return
    if isinstance(value, _SCALARS):
        yield place, Fact(None, value)
        return
    inner = list(_inside(value)) if depth < _DEEPEST and id(value) not in seen else []
    yield place, Fact(value, (type(value), tuple(key for key, _ in inner)))
    if not isinstance(value, nn.Module):
        seen.add(id(value))
        for key, item in inner:
            yield from _facts_of(f"{place}{key}", item, seen, depth + 1)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the items of a container, or the attributes of a plain object, by key."""
    if isinstance(value, nn.Module | type):
        return
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{{{index}}}", item) for index, item in enumerate(sorted(value, key=id)))
    elif hasattr(value, "__dict__") and not callable(value):
        yield from ((f".{key}", item) for key, item in vars(value).items())


def _change(was: Fact, now: Fact) -> str:
    """Return how a fact changed, "" if it did not."""
    if was.object is not now.object:
        return "is another object"
    if not isinstance(was.object, Tensor):
        same = type(was.value) is type(now.value) and (was.value == now.value or repr(was.value) == repr(now.value))
        return "" if same else f"was {was.value!r:.60} and is {now.value!r:.60}"
    (about, old), (about_now, new) = was.value, now.value
    if about != about_now:
        return f"was {about} and is {about_now}"
    if old.is_meta:
        return ""
    equal = (old == new) | (old.isnan() & new.isnan())
    return "" if bool(equal.all()) else "has other values"
