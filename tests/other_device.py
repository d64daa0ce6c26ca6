"""A device beside the CPU for machines without a GPU: it computes on the CPU and refuses CPU tensors as a GPU does.

Its name is that of torch's lazy backend, which the autograd engine runs in the calling thread. What it cannot show:
kernels, streams, autocast, and where a GPU rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device("lazy:0")
MOVES = ("aten::_to_copy", "aten::copy_")
BY_INDEX = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class There(Tensor):
    """A tensor on the device; ``here`` is the one that holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        sizes = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.size(), device=DEVICE, layout=here.layout, **sizes)
        made.here = here
        return made

    def __repr__(self) -> str:
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return There(self.here.new_tensor(data, **{name: o for name, o in options.items() if name != "device"}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if There in types or "device" in kwargs or "pin_memory" in kwargs:
            return _run(func, args, kwargs)
        return func(*args, **kwargs)  # a scene is rendered by a million small operations, all of the CPU


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if torch.device(device) == DEVICE else device)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Give the device while the context lasts."""
    tensor, as_tensor = torch.tensor, torch.as_tensor

    def made(*data: Any, device: Any = None, **options: Any) -> Tensor:
        return tensor(*data, **options).to(device=device) if device is not None else tensor(*data, **options)

    def taken(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        here = data.to(dtype=dtype) if isinstance(data, Tensor) and dtype else data
        here = here if isinstance(here, Tensor) else as_tensor(here, dtype=dtype)
        return here if device is None else here.to(device=device)

    replaced = {"tensor": made, "as_tensor": taken, "Generator": _Generator}  # these never reach a dispatch mode
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter that moves to a GPU stays the same object
    try:
        with patch.multiple(torch, **replaced), _Mode():
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    there = any(isinstance(each, There) for each in flat)
    name = func.name()
    if there and not name.startswith(MOVES):
        _refuse_mixture(name, args, flat)
    here_args, here_kwargs = tree_unflatten([each.here if isinstance(each, There) else each for each in flat], spec)
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted) == DEVICE:
        here_kwargs = {**here_kwargs, "device": torch.device("cpu")}
    if here_kwargs.get("pin_memory"):
        here_kwargs = {**here_kwargs, "pin_memory": False}
    out = func(*here_args, **here_kwargs)
    if name.startswith("aten::copy_"):
        return args[0]
    stays = there if wanted is None else torch.device(wanted) == DEVICE
    if not stays:
        return out
    wrapped = tree_map_only(Tensor, There, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _refuse_mixture(name: str, args: Any, flat: list[Any]) -> None:
    """Raise as CUDA does; numbers of no dimension, and what indexes, may lie on the CPU."""
    here = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, There) and each.dim() > 0]
    if name.startswith(BY_INDEX) and isinstance(args[0], There):
        here = [each for each in here if each.dtype.is_floating_point]
    if here:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but some are on the CPU")
