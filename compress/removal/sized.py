"""Modules whose code repeats sizes, run at other ones: each call that tells or takes a size is answered as it must be.

A cut network may contain ``x.view(B, N, 3, self.heads, self.width)``, ``C // 2`` or ``assert x.shape[1] == 64``. Such a
module is left its own code and believes that it is whole: where it asks for a shape it is told the dense one, and where
it gives a size it gets what is left of that. Which call gets which answer was read off the dense network's tape.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any, Literal, no_type_check

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimtask.compress.network.sites import CALL, kind_of_call, place_of
from slimtask.compress.removal.answers import ANSWERS
from slimtask.tasks import Frozen

Kind = Literal["shape", "view", "split", "index", "factory", "norm", "groups", "pad"]


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


# a compiler sees no frames, so it must not look inside
_run_uncompiled = torch._disable_dynamo(run_told)  # type: ignore[attr-defined]


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
        return ANSWERS[kind](dict(fix.values), name, func, args, kwargs)

    @no_type_check
    def _is_own(self) -> bool:
        """Return whether the call comes from the module's own forward, not from a module or a hook that it calls."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code is not CALL:
            if frame.f_code is run_told.__code__:
                return frame.f_locals.get("module") is self._module
            frame = frame.f_back
        return False
