"""The calls in a network's own code that tell or take sizes: ``x.shape``, ``x.view(...)``, ``x[:, :n]``, ``zeros(n)``.

A network that loses channels may repeat their number anywhere in its code. Such calls are known by their place in the
code of the module that makes them, so that ``sized.py`` can answer each of them as the cut network needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from slimtask.compress.network.tape import Ref, Site

# fmt: off
KINDS: dict[str, tuple[str, ...]] = {
    "shape": ("shape", "size"),
    "view": ("view", "reshape", "expand", "unflatten", "broadcast_to"),
    "like": ("expand_as",),
    "split": ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split"),
    "index": ("__getitem__", "__setitem__", "narrow"),
    "factory": (
        "zeros", "ones", "full", "empty", "arange", "linspace", "rand", "randn", "new_zeros", "new_ones", "new_full",
        "new_empty",
    ),
    "norm": ("layer_norm", "rms_norm"),
    "groups": ("group_norm", "conv1d", "conv2d", "conv3d"),
    "pad": ("pad",),
}
# fmt: on
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


def kind_of_call(func: Any) -> tuple[str, str]:
    """Return (kind, name) of a function that a TorchFunctionMode was handed; the kind is empty if it is of none."""
    owner = getattr(func, "__self__", None)
    if owner is torch.Tensor.shape:
        return "shape", "shape"
    name = str(getattr(func, "__name__", ""))
    return _KIND_OF.get(name, ""), name


class Passes:
    """The modules that are running, innermost last, each with how many calls of each sort its pass has made."""

    def __init__(self, model: nn.Module) -> None:
        self._names: dict[int, str] = {}
        for name, module in model.named_modules():
            self._names.setdefault(id(module), name)
        self._stack: list[tuple[str, dict[str, int]]] = [("", {})]
        self._error: BaseException | None = None
        self._fell = ("", 0)

    def name_of(self, module: nn.Module) -> str:
        """Return the name of a module, of several the first."""
        return self._names.get(id(module), "")

    @property
    def module(self) -> str:
        """Return the name of the innermost module that is running."""
        return self._stack[-1][0]

    def where(self, error: BaseException) -> tuple[str, int]:
        """Return the innermost module that ``error`` left, and how many operations its pass had made."""
        return self._fell if error is self._error else (self.module, self.counted("op"))

    def count(self, sort: str) -> int:
        """Return how many calls of ``sort`` the running pass made before, and count one more."""
        counts = self._stack[-1][1]
        counts[sort] = counts.get(sort, 0) + 1
        return counts[sort] - 1

    def counted(self, sort: str) -> int:
        """Return how many calls of ``sort`` the running pass has made."""
        return self._stack[-1][1].get(sort, 0)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Return a context in which the passes through the modules are followed."""

        def enter(module: nn.Module, _: Any) -> None:
            self._stack.append((self._names.get(id(module), self.module), {}))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            error = sys.exc_info()[1]
            if error is not None and error is not self._error:
                self._error, self._fell = error, (self.module, self.counted("op"))
            self._stack.pop()

        before = nn.modules.module.register_module_forward_pre_hook(enter)
        after = nn.modules.module.register_module_forward_hook(leave, always_call=True)  # a caught exception leaves too
        try:
            yield
        finally:
            before.remove()
            after.remove()


CALL = nn.Module._call_impl.__code__
"""The code that runs a module's forward between its hooks."""
_ANSWERING = ("slimtask.compress.removal.sized", "slimtask.compress.removal.answers")


def owner_of(frame: FrameType | None) -> nn.Module | None:
    """Return the module whose own ``forward`` led to ``frame``; None for hooks and for code outside of any module."""
    below = None
    while frame is not None and frame.f_code is not CALL:
        if frame.f_code.co_filename != CALL.co_filename or frame.f_code.co_name != "inner":  # a part of CALL
            below = frame
        frame = frame.f_back
    if frame is None or below is None:
        return None
    module: nn.Module = frame.f_locals["self"]
    forward: Any = getattr(module.forward, "__func__", module.forward)
    return module if below.f_code is getattr(forward, "__code__", None) else None


def place_of(frame: FrameType) -> str:
    """Return where in its function a frame stands: name, line behind the first, column, e.g. ``forward:4:12``.

    A call that a cache spares in a later pass does not move the others, as a number in order would.
    """
    while frame.f_globals.get("__name__") in _ANSWERING and frame.f_back is not None:  # which pass a call on
        frame = frame.f_back
    return _place(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=4096)
def _place(code: CodeType, instruction: int) -> str:
    line, _, column, _ = next(islice(code.co_positions(), instruction // 2, None), (None, None, None, None))
    return f"{code.co_qualname}:{(line or 0) - code.co_firstlineno}:{-1 if column is None else column}"


class SiteRecorder(TorchFunctionMode):
    """Notes every call of ``KINDS`` that a module's own code makes, with the values that it reads and makes."""

    def __init__(self, passes: Passes, ref: Callable[[Tensor], Ref]) -> None:
        super().__init__()
        self._passes, self._ref = passes, ref
        self.sites: list[Site] = []

    @no_type_check
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind, name = kind_of_call(func)
        frame = sys._getframe(1)
        module = owner_of(frame) if kind else None
        if module is None:
            return func(*args, **kwargs)
        place = place_of(frame)
        turn = self._passes.count(f"site {place}")
        first = args[0] if args else next((kwargs[key] for key in ("input", "self", "tensor") if key in kwargs), None)
        source = first if isinstance(first, Tensor) else None
        before = None if source is None else self._ref(source)
        result = func(*args, **kwargs)
        made = result if isinstance(result, tuple | list) and kind == "split" else [result]
        self.sites.append(
            Site(
                module=self._passes.name_of(module),
                at=f"{place}#{turn}",
                kind=kind,
                function=name,
                source=before,
                arguments=self._plain(tuple(args if source is None else args[1:])),
                keywords=self._plain(dict(kwargs)),
                outputs=tuple(self._ref(x) for x in made if isinstance(x, Tensor)),
            )
        )
        return result

    def _plain(self, tree: Any) -> Any:
        return tree_map(lambda x: self._ref(x) if isinstance(x, Tensor) else plain(x), tree)


# fmt: off
_PLAIN: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, slice, type(...), torch.dtype, torch.device, torch.layout,
    torch.memory_format,
)
# fmt: on


def plain(value: Any) -> Any:
    """Return the value if it is data that a process can hand to another, else its name."""
    if isinstance(value, np.integer):
        return int(value)
    return value if type(value) in _PLAIN else str(value)
