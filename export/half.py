"""Half precision as it is computed: operator by operator in float16, with what overflows or vanishes there in float32.

ONNX Runtime's CPU provider computes most of an fp16 graph in float32, so that a graph which gives nothing but zeros on
a GPU passes there. Here what every operator gives is rounded to float16, and only sums inside of one are in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from slimtask.differences import over_scale

KEPT = "_kept_in_float32"
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.clone.default}
_COMPUTE = (nn.modules.conv._ConvNd, nn.Linear)
_Seen = list[tuple[str, list[Tensor]]]


def in_half_(model: nn.Module) -> nn.Module:
    """Return ``model`` after giving it half precision, in place, but for the modules marked by ``keep_in_float32_``.

    Those take float16 and give it back, and compute in float32 between.
    """
    model.half()
    outer = ""
    for name, module in model.named_modules():
        if getattr(module, KEPT, False) and not (outer and name.startswith(outer)):
            outer = f"{name}."
            module.float()
            module.register_forward_pre_hook(_widened, with_kwargs=True)
            module.register_forward_hook(_narrowed)
    return model


class HalfArithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes every operator on float16 in float32 and rounds what it gives, as GPUs do.

    PyTorch's own float16 on a CPU gives the same numbers, but its convolutions take fifty times as long.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_flatten((args, kwargs))[0]
        if func in _MOVES or not any(isinstance(x, Tensor) and x.dtype == torch.float16 for x in leaves):
            return func(*args, **kwargs)
        aliases = [argument.alias_info for argument in func._schema.arguments]
        if any(info is not None and not info.is_write for info in aliases):
            return func(*args, **kwargs)  # a view, which computes nothing
        wide_args, wide_kwargs = _cast((args, kwargs), torch.float16, torch.float32)
        result = func(*wide_args, **wide_kwargs)
        if not any(info is not None for info in aliases):
            return _cast(result, torch.float32, torch.float16)
        written = zip(leaves, tree_flatten((wide_args, wide_kwargs))[0], strict=True)
        back = {id(wide): own.copy_(wide) for own, wide in written if isinstance(own, Tensor) and own is not wide}
        return tree_map_only(Tensor, lambda x: back.get(id(x), x), result)


def keep_in_float32_(model: nn.Module, names: Iterable[str]) -> None:
    """Mark the modules called ``names``: ``in_half_`` leaves them, and what they hold, in float32."""
    for name in names:
        setattr(model.get_submodule(name), KEPT, True)


def overflowing(whole: nn.Module, half: nn.Module, images: Sequence[Tensor], tolerance: float) -> tuple[str, ...]:
    """Return the modules to be marked next: the first one that goes wrong in half precision, and others of its class.

    ``whole`` and ``half`` call the same network, their ``model``, in float32 and after ``in_half_``, with each image of
    ``images``, float32 [N, 3, H, W]; names are the network's. One that is wrong though it is marked is given what is
    wrong already, by the code of the module around it, which is marked then. None are returned if that is the network.
    """
    modules = dict(whole.get_submodule("model").named_modules())
    for image in images:
        name = _first_wrong(whole, half, image, tolerance)
        while name and getattr(modules[name], KEPT, False):
            name = name.rpartition(".")[0]
        if name and isinstance(modules[name], _COMPUTE):
            return (name,)
        if name:
            return tuple(other for other, module in modules.items() if other and type(module) is type(modules[name]))
    return ()


def _first_wrong(whole: nn.Module, half: nn.Module, image: Tensor, tolerance: float) -> str:
    with _outputs_of(whole) as expected, torch.no_grad():
        whole(image.clone())
    with _outputs_of(half) as found, torch.no_grad(), HalfArithmetic():  # type: ignore[no-untyped-call]
        half(image.clone())
    for (name, right), (other, ours) in zip(expected, found, strict=False):
        if name != other or len(right) != len(ours):
            return ""
        if name and any(_wrong(a, b, tolerance) for a, b in zip(right, ours, strict=True)):
            return name
    return ""


@contextmanager
def _outputs_of(model: nn.Module) -> Iterator[_Seen]:
    """Give the list to which the outputs of every module of ``model.model`` are added as it ends."""
    seen: _Seen = []
    with ExitStack() as stack:
        for name, module in model.get_submodule("model").named_modules():

            def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                seen.append((name, [x.clone() for x in tree_flatten(output)[0] if isinstance(x, Tensor)]))

            stack.callback(module.register_forward_hook(note).remove)
        yield seen


def _wrong(right: Tensor, ours: Tensor, tolerance: float) -> bool:
    if not right.is_floating_point() or right.shape != ours.shape or right.numel() == 0:
        return False
    if not bool(right.isfinite().all()):
        return False
    if not bool(right.any()):
        return not float(ours.abs().max()) <= tolerance
    return over_scale(ours.float(), right) > tolerance


def _widened(_: nn.Module, args: Any, kwargs: Any) -> Any:
    return _cast((args, kwargs), torch.float16, torch.float32)


def _narrowed(_: nn.Module, __: Any, output: Any) -> Any:
    return _cast(output, torch.float32, torch.float16)


def _cast(tree: Any, old: torch.dtype, new: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda x: x.to(new) if x.dtype == old else x, tree)
