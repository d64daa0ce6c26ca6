"""What hangs on a network: every tensor, module and closure that its code can reach through it, and copies of it."""

from __future__ import annotations

import copy
import functools
import threading
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import first_line
from slimtask.errors import InputError

_ATOMS = (type, types.ModuleType, str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, range)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_CACHED = type(functools.lru_cache(lambda: None))
_STATE = (nn.Module, Tensor, dict, list, set)
_MOST = 1_000_000


def reachable(root: Any) -> Iterator[Any]:
    """Yield every object that ``root`` holds, directly or through attributes, containers, closures and hooks, once.

    Modules of Python, classes and what functions find among their globals do not belong to a network and are left out.
    """
    seen: set[int] = set()
    queue = deque([root])
    while queue and len(seen) < _MOST:
        item = queue.popleft()
        if isinstance(item, _ATOMS) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        queue.extend(_parts(item))


def _parts(item: Any) -> list[Any]:  # noqa: PLR0911
    if isinstance(item, Tensor):
        return [] if item.grad_fn is not None else list(getattr(item, "__dict__", {}).values())
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset | deque):
        return list(item)
    if isinstance(item, types.FunctionType):
        return [*_held(item), item.__dict__]
    if isinstance(item, types.MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, item.args, item.keywords]
    slots = [getattr(item, name, None) for name in getattr(type(item), "__slots__", ()) if isinstance(name, str)]
    return [*slots, getattr(item, "__dict__", None)]


def _held(function: types.FunctionType) -> list[Any]:
    """Return what a function holds: its closure and its defaults."""
    return [*_cells(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _cells(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return found


def tensors_in(root: Any) -> list[Tensor]:
    """Return every tensor that ``root`` holds, each once."""
    return [item for item in reachable(root) if isinstance(item, Tensor)]


def independent_copy(model: nn.Module, *, sharing: Iterable[Any] = ()) -> nn.Module:
    """Return a copy of ``model`` that shares nothing with it but ``sharing``: no attribute, no closure of its hooks.

    Locks and caches of functions are made anew; what cannot be copied and holds neither tensors nor modules (a file, a
    pool of threads) is shared. Raises InputError that names the attribute if something else cannot be copied.
    """
    shared: dict[int, Any] = {id(item): item for item in sharing}
    while True:
        memo: dict[int, Any] = dict(shared)
        functions = _prepare_(memo, model)
        try:
            copied: nn.Module = copy.deepcopy(model, memo)
            for original, function in functions:
                _rebind_(original, function, memo)
        except Exception as error:
            place, value = _culprit(model)
            if value is None or id(value) in shared or any(isinstance(x, Tensor | nn.Module) for x in reachable(value)):
                raise InputError(
                    f"{type(model).__name__} cannot be copied, so it cannot be cut: {place} ({first_line(error)}); "
                    "keep it outside the network, or give its class a __deepcopy__."
                ) from error
            shared[id(value)] = value
            continue
        return copied


def _prepare_(memo: dict[int, Any], model: nn.Module) -> list[tuple[types.FunctionType, types.FunctionType]]:
    """Enter into ``memo`` the copies that ``copy.deepcopy`` would not make; return functions with empty closures."""
    functions, caches = [], []
    for item in reachable(model):
        if id(item) in memo:
            continue
        if isinstance(item, _LOCKS):
            memo[id(item)] = threading.Lock() if isinstance(item, _LOCKS[0]) else threading.RLock()
        elif isinstance(item, Tensor) and item.grad_fn is not None:  # kept from a pass that the user has run
            memo[id(item)] = item.detach().clone()
        elif isinstance(item, types.FunctionType) and any(isinstance(x, _STATE) for x in _within(_held(item))):
            memo[id(item)] = _unbound(item)
            functions.append((item, memo[id(item)]))
        elif isinstance(item, _CACHED):
            caches.append(item)
    for cached in caches:  # empty ones, for what a copy computes is not the user's to keep
        function = memo.get(id(cached.__wrapped__), cached.__wrapped__)
        memo[id(cached)] = functools.lru_cache(**cached.cache_parameters())(function)
    return functions


def _within(parts: list[Any]) -> Iterator[Any]:
    """Yield what the parts hold, themselves among it, down to modules and tensors."""
    for part in parts:
        yield from reachable(part)


def _unbound(function: types.FunctionType) -> types.FunctionType:
    """Return the function with closure cells of its own, still empty."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    return made


def _rebind_(original: types.FunctionType, function: types.FunctionType, memo: dict[int, Any]) -> None:
    """Fill the cells of ``function`` with the copies of what those of ``original`` hold, in place."""
    function.__defaults__ = copy.deepcopy(original.__defaults__, memo)
    function.__kwdefaults__ = copy.deepcopy(original.__kwdefaults__, memo)
    for old, new in zip(original.__closure__ or (), function.__closure__ or (), strict=True):
        try:
            new.cell_contents = copy.deepcopy(old.cell_contents, memo)
        except ValueError:  # an empty cell stays empty
            continue


def _culprit(model: nn.Module) -> tuple[str, Any]:
    """Return which attribute of which module it is that cannot be copied, in words and itself; None if none is."""
    modules = {id(module): module for module in model.modules()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(modules))
            except Exception:
                place = f"module '{name}'" if name else "the network"
                return f"{place} holds '{attribute}', a {type(value).__name__}", value
    return "a tensor or module of its own class refuses", None


def own_tensors_(model: nn.Module, original: nn.Module) -> None:
    """Give ``model`` memory of its own for the tensors that it still shares with ``original``, in place."""
    shared = {id(tensor) for tensor in (*original.parameters(), *original.buffers())}
    copies: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None or id(tensor) not in shared:
                    continue
                if id(tensor) not in copies:
                    own = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if is_parameter else own
                table[name] = copies[id(tensor)]  # type: ignore[assignment]
