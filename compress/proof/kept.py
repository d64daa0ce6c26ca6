"""Operations taken over the channels that stay: what a masked network must not take over all of them.

Zeros in place of removed channels are as good as their absence to a sum of products, but not to a mean, a maximum, a
norm or a softmax over the channels. At the places given, such an operation sees only what stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimtask.compress.network.sites import Passes
from slimtask.errors import SlimtaskError

# fmt: off
REDUCTIONS = frozenset((
    "mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "aminmax", "max", "min", "prod", "logsumexp",
    "linalg_vector_norm", "norm", "any", "all", "median", "nansum",
))
ALONG = frozenset((
    "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "native_layer_norm", "native_group_norm",
    "_fused_rms_norm", "native_batch_norm", "_native_batch_norm_legit", "logcumsumexp",
))
PRODUCTS = frozenset((
    "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
))
# fmt: on


@dataclass(frozen=True, kw_only=True)
class KeptPlace:
    """One ATen call of a pass, numbered as on a tape, that takes an operand only where ``keep`` is true along ``axis``.

    ``module``, ``name`` and ``turn`` are those of ``tape.Operation``; ``operand`` is its place among the arguments. A
    call that keeps the axis (a norm, a softmax) gives zeros where ``keep`` is false.
    """

    module: str
    turn: int
    name: str
    operand: int
    axis: int
    keep: Bool[Tensor, " entries"]


class NotComparable(SlimtaskError):
    """An input on which the masked network makes other calls than the places say, so that nothing is compared on it."""


class KeptPlaces(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows ``places`` in every pass through their modules. ``passes`` must be followed while it is on."""

    def __init__(self, places: Iterable[KeptPlace], passes: Passes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._passes = passes
        self._places: dict[tuple[str, str, int], list[KeptPlace]] = {}
        for place in places:
            self._places.setdefault((place.module, place.name, place.turn), []).append(place)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func.overloadpacket.__name__)
        here = self._places.get((self._passes.module, name, self._passes.count(f"op {name}")), [])
        if not here:
            return func(*args, **(kwargs or {}))
        return kept_call(func, args, dict(kwargs or {}), here)


def kept_call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], places: Sequence[KeptPlace]) -> Any:
    """Return ``func(*args, **kwargs)`` taken over what ``places``, all of this call, keep.

    Raises NotComparable if the call is not the one that they name, or an operand has another size.
    """
    name, taken = str(func.overloadpacket.__name__), list(args)
    for place in places:
        _check(place, name, taken)
        kept = place.keep.nonzero().flatten()
        taken[place.operand] = taken[place.operand].index_select(place.axis, kept)
        if name in ("native_layer_norm", "_fused_rms_norm"):
            _shrink_layer_norm_(taken, place.axis, kept)
        elif name == "native_group_norm":
            _shrink_group_norm_(taken, place.axis, kept)
    if name not in ALONG:
        return func(*taken, **kwargs)
    result = func(*taken, **kwargs)
    first, *rest = result if isinstance(result, tuple) else (result,)
    for place in reversed(places):
        first = _spread(first, place)
    return (first, *rest) if isinstance(result, tuple) else first


def _check(place: KeptPlace, name: str, args: Sequence[Any]) -> None:
    where = f"'{place.name}' number {place.turn} of module '{place.module}'"
    operand = args[place.operand] if place.operand < len(args) else None
    if name != place.name or not isinstance(operand, Tensor):
        raise NotComparable(f"{where} is '{name}', not '{place.name}' as on the example input")
    if place.axis >= operand.ndim or operand.shape[place.axis] != len(place.keep):
        raise NotComparable(
            f"{where} ('{name}') reads {list(operand.shape)}, not {len(place.keep)} channels along axis {place.axis}"
        )
    if name not in REDUCTIONS | ALONG | PRODUCTS:
        raise NotComparable(f"{where} ('{name}') cannot be taken over some of its channels only")


def _shrink_layer_norm_(args: list[Any], axis: int, kept: Tensor) -> None:
    """Take the shape and the parameters of a layer norm over what is kept; its input is so already."""
    inner = axis - (args[0].ndim - len(args[1]))
    if inner < 0:
        return
    args[1] = [len(kept) if place == inner else size for place, size in enumerate(args[1])]
    for position in (2, 3):
        if position < len(args) and isinstance(args[position], Tensor):
            args[position] = args[position].index_select(inner, kept)


def _shrink_group_norm_(args: list[Any], axis: int, kept: Tensor) -> None:
    """Take the sizes and the parameters of a group norm over what is kept; its input is so already."""
    if axis == 1:
        args[1:3] = [x.index_select(0, kept) if isinstance(x, Tensor) else x for x in args[1:3]]
        args[4] = len(kept)
    elif axis > 1:
        args[5] = args[0].numel() // (args[3] * args[4])
    args[0] = args[0].contiguous()


def _spread(result: Tensor, place: KeptPlace) -> Tensor:
    """Return the result with zeros where the operand was left out."""
    shape = list(result.shape)
    shape[place.axis] = len(place.keep)
    return result.new_zeros(shape).index_copy(place.axis, place.keep.nonzero().flatten(), result)
