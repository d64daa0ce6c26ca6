"""How the operations that only move data move per-index facts: arrays that broadcast against a value's shape.

A fact about the channels of a [N, C, H, W] value is an array of shape [1, C, 1, 1]: an axis of size 1 says that the
fact is the same along it. Views, permutations, slices and poolings carry such arrays without ever looking at the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimtask.compress.network.tape import Operation, Ref

Array = NDArray[Any]
Shape = Sequence[int]


class Mixed(Exception):
    """The operation mixes indices along an axis on which the array varies."""


def varies(array: Array, axis: int) -> bool:
    """Return whether the array differs along ``axis``."""
    return bool(array.shape[axis] > 1)


def varying(array: Array) -> frozenset[int]:
    """Return the axes along which the array differs."""
    return frozenset(axis for axis, size in enumerate(array.shape) if size > 1)


def squeeze_equal(array: Array) -> Array:
    """Return the array with every axis along which all entries are equal reduced to size 1."""
    for axis in varying(array):
        first = array.take([0], axis=axis)
        if same(array, first).all():
            array = first
    return array


def same(one: Array, other: Array) -> NDArray[np.bool_]:
    """Return where the two arrays are equal; NaN, the unknown, equals itself."""
    equal: NDArray[np.bool_] = one == other
    return equal | (np.isnan(one) & np.isnan(other)) if one.dtype.kind == "f" else equal


def align(array: Array, ndim: int) -> Array:
    """Return the array with leading axes of size 1 so that it has ``ndim``."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def reshape(array: Array, old: Shape, new: Shape) -> Array:
    """Return the array of a value that is viewed from shape ``old`` as ``new``."""
    parts: list[Array] = []
    result, expand = [], []
    for before, after in _blocks(old, new):
        if all(array.shape[axis] == 1 for axis in before):
            expand += [1] * len(before)
            result += [1] * len(after)
        else:
            expand += [old[axis] for axis in before]
            result += [new[axis] for axis in after]
    parts.append(np.broadcast_to(array, expand).reshape(result))
    return squeeze_equal(parts[0])


def _blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Return the finest matching of axes of ``old`` to axes of ``new`` with equal products, in order."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before: list[int] = []
        after: list[int] = []
        left = right = 1
        while True:
            if left == right and (before or after) and (left > 1 or (i >= len(old) and j >= len(new))):
                break
            if left <= right and i < len(old) and not (left == right and before and old[i] > 1 and not after):
                left *= old[i]
                before.append(i)
                i += 1
            elif j < len(new):
                right *= new[j]
                after.append(j)
                j += 1
            elif i < len(old):
                left *= old[i]
                before.append(i)
                i += 1
            else:
                break
        blocks.append((before, after))
    return blocks


def move(op: Operation, array: Array, source: Ref) -> list[Array] | None:
    """Return the array of each output of ``op``, None if the operation does not just move data.

    ``source`` is the argument the array belongs to, the operation's first tensor. Raises Mixed.
    """
    rule = MOVES.get(op.name)
    return None if rule is None else rule(op, array, source)


Move = Callable[[Operation, Array, Ref], list[Array]]


def _same(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [array]


def _restride(op: Operation, array: Array, source: Ref) -> list[Array]:
    """A change of memory layout, as pooling in channels-last form makes; anything else mixes."""
    if op.outputs[0].shape != source.shape:
        raise Mixed
    return [array]


def _view(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [reshape(array, source.shape, op.outputs[0].shape)]


def _permute(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [array.transpose([axis % array.ndim for axis in op.args[1]])]


def _transpose(op: Operation, array: Array, source: Ref) -> list[Array]:
    one, other = (0, 1) if op.name == "t" else (op.args[1], op.args[2])
    return [array.swapaxes(one, other) if array.ndim > 1 else array]


def _expand(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [align(array, len(op.outputs[0].shape))]


def _unsqueeze(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [np.expand_dims(array, op.args[1] % (array.ndim + 1))]


def _squeeze(op: Operation, array: Array, source: Ref) -> list[Array]:
    return [reshape(array, source.shape, op.outputs[0].shape)]


def _select(op: Operation, array: Array, source: Ref) -> list[Array]:
    axis, index = op.args[1] % array.ndim, op.args[2]
    return [np.asarray(array.take(index if varies(array, axis) else 0, axis=axis))]


def _slice(op: Operation, array: Array, source: Ref) -> list[Array]:
    axis, start, end = op.argument(1, "dim", 0) % array.ndim, op.argument(2, "start"), op.argument(3, "end")
    if not varies(array, axis):
        return [array]
    cut = [slice(None)] * array.ndim
    cut[axis] = slice(start, end, op.argument(4, "step", 1))
    return [array[tuple(cut)]]


def _split(op: Operation, array: Array, source: Ref) -> list[Array]:
    axis = op.argument(2, "dim", 0) % array.ndim
    sizes = [output.shape[axis] for output in op.outputs]
    if not varies(array, axis):
        return [array] * len(sizes)
    return np.split(array, list(accumulate(sizes))[:-1], axis=axis)


def _unbind(op: Operation, array: Array, source: Ref) -> list[Array]:
    axis = op.argument(1, "dim", 0) % array.ndim
    return [array.take(i if varies(array, axis) else 0, axis=axis) for i in range(len(op.outputs))]


def _along(op: Operation, array: Array, source: Ref) -> list[Array]:
    """Rolls and flips: fine unless along an axis on which the array varies."""
    axes = op.argument(2 if op.name == "roll" else 1, "dims", ())
    if not axes or any(varies(array, axis) for axis in axes):
        raise Mixed
    return [array]


def _positional(op: Operation, array: Array, source: Ref) -> list[Array]:
    """Resizing, padding: the array may vary only along axes whose size stays."""
    shape = op.outputs[0].shape
    if len(shape) != array.ndim or any(shape[axis] != source.shape[axis] for axis in varying(array)):
        raise Mixed
    return [array] * len(op.outputs)


def _pool(op: Operation, array: Array, source: Ref) -> list[Array]:
    """Pooling: the array may not vary along an axis of the window, whose size may well stay."""
    places = int(op.name[op.name.index("pool") + 4])
    if any(axis >= array.ndim - places for axis in varying(array)):
        raise Mixed
    return [array] * len(op.outputs)


def _reduce(op: Operation, array: Array, source: Ref) -> list[Array]:
    axes = reduced_axes(op, source)
    if any(varies(array, axis) for axis in axes):
        raise Mixed
    if len(op.outputs[0].shape) == array.ndim:
        return [array] * len(op.outputs)
    return [np.squeeze(array, axis=tuple(axes))] * len(op.outputs)


def reduced_axes(op: Operation, source: Ref) -> list[int]:
    """Return the axes that a reduction (or softmax) runs over; all for none named."""
    position = 2 if op.name == "linalg_vector_norm" else 1
    dims = op.argument(position, "dim")
    ndim = len(source.shape)
    if dims is None or dims == []:
        return list(range(ndim))
    return [dim % ndim for dim in ([dims] if isinstance(dims, int) else dims)]


def _softmax(op: Operation, array: Array, source: Ref) -> list[Array]:
    if varies(array, reduced_axes(op, source)[0]):
        raise Mixed
    return [array]


def _index(op: Operation, array: Array, source: Ref) -> list[Array]:
    """Advanced indexing with tensors: the array may not vary along an indexed axis."""
    indices = op.args[1]
    taken = [axis for axis, index in enumerate(indices) if index is not None]
    if any(varies(array, axis) for axis in taken):
        raise Mixed
    width = max(len(indices[axis].shape) for axis in taken)
    rest = np.squeeze(array, axis=tuple(taken))
    together = taken == list(range(taken[0], taken[0] + len(taken)))
    at = taken[0] if together else 0
    return [rest.reshape(rest.shape[:at] + (1,) * width + rest.shape[at:])]


def _index_select(op: Operation, array: Array, source: Ref) -> list[Array]:
    if varies(array, op.args[1]):
        raise Mixed
    return [array]


def _take(op: Operation, array: Array, source: Ref) -> list[Array]:
    """What is at the indices ``args[2]`` of an axis; a tape of ONNX says which they are."""
    axis, picks = op.args[1], list(op.args[2])
    return [array.take(picks, axis=axis) if varies(array, axis) else array]


def _repeat(op: Operation, array: Array, source: Ref) -> list[Array]:
    """A tensor laid several times behind itself: copies are as what they are copies of."""
    wide = align(array, len(op.args[1]))
    return [np.tile(wide, [times if varies(wide, axis) else 1 for axis, times in enumerate(op.args[1])])]


MOVES: dict[str, Move] = {
    **dict.fromkeys(
        (
            "alias",
            "clone",
            "detach",
            "_to_copy",
            "contiguous",
            "lift_fresh",
            "lift_fresh_copy",
            "zero_",
            "fill_",
            "native_dropout",
        ),
        _same,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    **dict.fromkeys(("transpose", "t"), _transpose),
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"), _same),
    **dict.fromkeys(("as_strided", "as_strided_"), _restride),
    "permute": _permute,
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("roll", "flip"), _along),
    **dict.fromkeys(
        (
            *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
            *(f"avg_pool{n}d" for n in (1, 2, 3)),
            *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
            *(f"adaptive_max_pool{n}d" for n in (2, 3)),
        ),
        _pool,
    ),
    **dict.fromkeys(
        (
            *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d")),
            *(f"upsample_{kind}" for kind in ("bicubic2d", "trilinear3d")),
            *(f"_upsample_{kind}_aa" for kind in ("bilinear2d", "bicubic2d")),
            *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
            "constant_pad_nd",
            "grid_sampler_2d",
            "grid_sampler_3d",
        ),
        _positional,
    ),
    **dict.fromkeys(
        (
            *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "any", "all", "prod", "logsumexp", "argmax"),
            *("argmin", "var_mean", "std_mean", "nansum", "median", "mode", "kthvalue", "aminmax", "norm"),
            "count_nonzero",
        ),
        _reduce,
    ),
    "linalg_vector_norm": _reduce,
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "cumsum"), _softmax),
    "index": _index,
    "index_select": _index_select,
    "repeat": _repeat,
    "take": _take,
}
