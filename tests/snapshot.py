"""What a caller can see of a network, so that two looks at it can be compared: nothing that hangs on it is left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.network.contents import reachable

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


class Snapshot:
    """Every tensor, mode, attribute, hook, flag, gradient and cache of a network, by identity and by value."""

    def __init__(self, model: nn.Module) -> None:
        self._held = list(reachable(model))  # alive, so that no identity is given twice
        self.tensors = {id(item): _tensor(item) for item in self._held if isinstance(item, Tensor)}
        self.containers = {id(item): _container(item) for item in self._held if isinstance(item, dict | list | set)}
        self.caches = {id(item): item.cache_info() for item in self._held if hasattr(item, "cache_info")}
        self.modules = [_module(name, module) for name, module in model.named_modules(remove_duplicate=False)]

    def difference(self, other: Snapshot) -> list[str]:
        """Return what differs, in words; empty if nothing does."""
        found = [
            f"module {a[0]!r}: {k}" for a, b in zip(self.modules, other.modules, strict=False) for k in _keys(a, b)
        ]
        if len(self.modules) != len(other.modules):
            found.append("modules came or went")
        for what in ("tensors", "containers", "caches"):
            mine, theirs = getattr(self, what), getattr(other, what)
            found += [f"{what}: {mine[key]!s:.80}" for key in mine.keys() - theirs.keys()]
            found += [f"new in {what}: {theirs[key]!s:.80}" for key in theirs.keys() - mine.keys()]
            found += [f"{what} changed" for key in mine.keys() & theirs.keys() if not _same(mine[key], theirs[key])]
        return found


def _tensor(x: Tensor) -> tuple[Any, ...]:
    meta = x.device.type == "meta"
    values = None if meta else x.detach().clone()
    gradient = None if not x.is_leaf or x.grad is None else (id(x.grad), x.grad.detach().clone())
    facts = tuple(x.shape), x.dtype, str(x.device), x.requires_grad, x._version
    return values, facts, 0 if meta else x.data_ptr(), gradient


def _container(item: Any) -> Any:
    if isinstance(item, dict):
        return [(key if isinstance(key, str | int) else id(key), id(value)) for key, value in item.items()]
    return sorted(map(id, item)) if isinstance(item, set) else list(map(id, item))


def _module(name: str, module: nn.Module) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = {"identity": id(module), "class": id(type(module)), "training": module.training}
    facts |= {f"attribute {key}": id(value) for key, value in vars(module).items()}
    facts |= {
        f"hooks {key}": [id(hook) for hook in getattr(module, key).values()] for key in _HOOKS if _is_table(module, key)
    }
    return name, facts


def _is_table(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), dict)


def _keys(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> list[str]:
    a, b = one[1], other[1]
    return [key for key in {**a, **b} if a.get(key) != b.get(key)] + ([] if one[0] == other[0] else ["name"])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.shape == other.shape
            and one.dtype == other.dtype
            and torch.equal(one.isnan(), other.isnan())
            and (torch.equal(one.nan_to_num(), other.nan_to_num()))
        )
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
