"""Modules whose code repeats sizes, run at other ones: each call that tells or takes a size is answered as it must be.

A cut network may contain ``x.view(B, N, 3, self.heads, self.width)``, ``C // 2`` or ``assert x.shape[1] == 64``. Such a
module is left its own code and believes that it is whole: where it asks for a shape it is told the dense one, and where
it gives a size it gets what is left of that. Which call gets which answer was read off the dense network's tape.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, no_type_check

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimtask.compress.sites import kind_of_call, place_of
from slimtask.tasks import Frozen

Kind = Literal["shape", "view", "split", "index", "factory", "norm", "groups", "pad"]
_CALL = nn.Module._call_impl.__code__


class SizeFix(Frozen):
    """The answer to the call that tells or takes a size ``at`` a place of a module's code (``sites.place_of``, #turn).

    ``values`` are by axis: (dense, left), the channels of a "shape" or a "view", whose size is a multiple of them; the
    parts of a "split"; the positions of an "index" (one for a number); the indices that stay of a "factory"'s new
    tensor; left and right of a "pad"; the number of "groups" (axis 0); none for a "norm", whose shape is its input's.
    """

    at: str
    kind: Kind
    values: tuple[tuple[int, tuple[int, ...]], ...] = ()


class ModuleSizes(Frozen):
    """The fixes of one module, by its name in the network."""

    module: str
    fixes: tuple[SizeFix, ...]

    def then(self, later: ModuleSizes) -> ModuleSizes:
        """Return the fixes after a second cut, whose own were made on the network after the first.

        A fix of a place holds for every turn of it that has none of its own.
        """
        fixes = {fix.at: fix for fix in self.fixes}
        for fix in later.fixes:
            place, _, turn = fix.at.partition("#")
            before = fixes.get(fix.at) or fixes.get(place)
            turns = [] if turn else [at for at in fixes if at.startswith(f"{place}#")]
            for at in turns:
                fixes[at] = _compose(fixes[at], fix, at)
            fixes[fix.at] = fix if before is None else _compose(before, fix, fix.at)
        return ModuleSizes(module=self.module, fixes=tuple(fixes[at] for at in sorted(fixes)))


def _compose(first: SizeFix, second: SizeFix, at: str) -> SizeFix:
    """Return one answer ``at`` a place: a shape stays the dense one, indices are the first's that the second keeps."""
    before, after = dict(first.values), dict(second.values)
    if first.kind in ("shape", "view"):
        spans = {axis: (before[axis][0], left) for axis, (_, left) in after.items() if axis in before}
        merged = {**before, **after, **spans}
    elif first.kind == "factory":
        picked = {axis: tuple(before[axis][i] for i in kept) for axis, kept in after.items() if axis in before}
        merged = {**before, **after, **picked}
    else:
        merged = {**before, **after}
    return SizeFix(at=at, kind=second.kind, values=tuple(sorted(merged.items())))


class Sized:
    """Mixed in before a module's own class: its forward with the answers of its fixes."""

    _slimtask_sizes: dict[str, SizeFix]

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Enter no registry of the module's own class: this one is not for others to find."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle as the module's own class and what it is told, for the made class has no place to be found at."""
        return _made_again, (type(self).__bases__[1],), dict(vars(self))


def _made_again(original: type) -> Any:
    return object.__new__(sized_class(original))


_made: dict[type, type] = {}


def sized_class(original: type) -> type:
    """Return the class that runs ``original``'s forward with the answers that its instances hold."""
    if original not in _made:

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            run = _run_uncompiled if torch.compiler.is_dynamo_compiling() else run_told
            return run(self, original, args, kwargs)

        wrapped = functools.wraps(original.forward)(forward)  # type: ignore[attr-defined]
        _made[original] = type(f"Sized{original.__name__}", (Sized, original), {"forward": wrapped})
    return _made[original]


@no_type_check
def run_told(module: Any, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what the forward of ``original`` gives on a module whose calls are answered."""
    with _Answers(module._slimtask_sizes, module):
        return original.forward(module, *args, **kwargs)


_run_uncompiled = torch._disable_dynamo(run_told)  # type: ignore[attr-defined]  # a compiler sees no frames, so it must not look inside


def hold_sizes_(module: nn.Module, sizes: ModuleSizes) -> None:
    """Let ``module`` run with the answers of ``sizes``, in place; earlier ones stay where ``sizes`` has none."""
    known = getattr(module, "_slimtask_sizes", None)
    if known:
        sizes = ModuleSizes(module=sizes.module, fixes=tuple(known.values())).then(sizes)
    module._slimtask_sizes = {fix.at: fix for fix in sizes.fixes}  # type: ignore[assignment]
    if not isinstance(module, Sized):
        module.__class__ = sized_class(type(module))


def can_hold(module: nn.Module) -> bool:
    """Return whether the module's forward is its class's, which another class can stand before."""
    return "forward" not in vars(module)


class _Answers(TorchFunctionMode):
    def __init__(self, fixes: Mapping[str, SizeFix], module: object) -> None:
        super().__init__()
        self._fixes, self._module = fixes, module
        self._turns: dict[str, int] = {}

    @no_type_check
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind, name = kind_of_call(func)
        if not kind or not self._is_own():
            return func(*args, **kwargs)
        place = place_of(sys._getframe(1))
        turn = self._turns.get(place, 0)
        self._turns[place] = turn + 1
        fix = self._fixes.get(f"{place}#{turn}") or self._fixes.get(place)
        if fix is None or fix.kind != kind:
            return func(*args, **kwargs)
        if not args:
            args = tuple(kwargs.pop(key) for key in ("input", "self", "tensor") if key in kwargs)
        return _ANSWERS[kind](dict(fix.values), name, func, args, kwargs)

    @no_type_check
    def _is_own(self) -> bool:
        """Return whether the call comes from the module's own forward, not from a module or a hook that it calls."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code is not _CALL:
            if frame.f_code is run_told.__code__:
                return frame.f_locals.get("module") is self._module
            frame = frame.f_back
        return False


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


_ANSWERS: dict[str, Answer] = {
    "shape": _shape,
    "view": _view,
    "split": _split,
    "index": _index,
    "factory": _factory,
    "norm": _norm,
    "groups": _groups,
    "pad": _pad,
}
