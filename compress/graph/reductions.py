"""The coupling rules of what runs over channels: norms, means, sums, softmax. What stays is all that they see."""

from __future__ import annotations

import numpy as np

from slimtask.compress.graph.axes import Array, reduced_axes, varies, varying
from slimtask.compress.graph.coupler import Coupler, rule
from slimtask.compress.graph.labels import Layers, along
from slimtask.compress.graph.operands import vector_at
from slimtask.compress.network.tape import Operation, Ref

_PLACES = "their numbers are used"


@rule("mean", "sum", "amax", "amin", "var", "std", "any", "all", "prod", "logsumexp", "linalg_vector_norm", "norm")
@rule("max", "min", "var_mean", "std_mean", "nansum", "count_nonzero", "median", "mode", "kthvalue", "aminmax")
def _reduce(c: Coupler, op: Operation) -> list[Layers]:
    """A reduction over channels sees those that stay; one within each head keeps the head whole."""
    x = op.args[0]
    axes = reduced_axes(op, x)
    if op.name in ("max", "min", "median", "mode") and len(op.args) > 1 and isinstance(op.args[1], Ref):
        return c.elementwise(op)
    rest = []
    for layer in c.of(x):
        left = _over(c, op, layer, axes)
        if left is not None:
            rest.append(left)
    if len(op.outputs) > 1 and op.name in ("max", "min", "median", "mode", "kthvalue"):
        _pin_if_used(c, op, axes)
    return c.moved(op, x, rest)


def _over(c: Coupler, op: Operation, layer: Array, axes: list[int]) -> Array | None:
    """Return what is left of the labels behind a reduction over ``axes``; None if it runs over all of them."""
    inside = [axis for axis in axes if varies(layer, axis)]
    if inside and len(inside) == len(varying(layer)):
        if len(inside) > 1:
            layer = _along_one(c, layer, inside)
            inside = [axis for axis in inside if varies(layer, axis)]
        c.labels.normalise(layer, f"'{op.name.strip('_')}' in '{op.module or 'the network'}'")
        c.read(op, 0, inside[0], layer)
        return None
    for axis in inside:
        layer = c.labels.tie_along(layer, axis)
    return layer


def _along_one(c: Coupler, layer: Array, axes: list[int]) -> Array:
    """Return the labels tied along all but the longest of ``axes``."""
    for axis in sorted(axes, key=lambda axis: layer.shape[axis])[:-1]:
        layer = c.labels.tie_along(layer, axis)
    return layer


def _pin_if_used(c: Coupler, op: Operation, axes: list[int]) -> None:
    """Pin the channels whose number, not whose value, goes on."""
    if op.outputs[1].number in c.read_numbers:
        for layer in c.of(op.args[0]):
            if any(varies(layer, axis) for axis in axes):
                c.labels.pin(layer, _PLACES)


@rule("argmax", "argmin")
def _numbers(c: Coupler, op: Operation) -> list[Layers]:
    x = op.args[0]
    axes = reduced_axes(op, x)
    rest = []
    for layer in c.of(x):
        if any(varies(layer, axis) for axis in axes):
            c.labels.pin(layer, _PLACES)
        else:
            rest.append(layer)
    return c.moved(op, x, rest)


@rule("topk", "sort")
def _ordered(c: Coupler, op: Operation) -> list[Layers]:
    """The largest along an axis: other axes stay as they are."""
    x = op.args[0]
    axis = (op.argument(2, "dim", -1) if op.name == "topk" else op.kwargs.get("dim", op.argument(1, "dim", -1))) % max(
        len(x.shape), 1
    )
    rest = []
    for layer in c.of(x):
        if varies(layer, axis):
            c.labels.pin(layer, f"'{op.name}' orders them")
        else:
            rest.append(layer)
    return [rest for _ in op.outputs]


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp")
def _softmax(c: Coupler, op: Operation) -> list[Layers]:
    """A softmax over channels runs over those that stay; over the members of each unit, the unit stays whole."""
    x = op.args[0]
    axis = op.args[1] % max(len(x.shape), 1)
    result = []
    for layer in c.of(x):
        if varies(layer, axis) and len(varying(layer)) > 1:
            result.append(c.labels.tie_along(layer, axis))
            continue
        if varies(layer, axis):
            c.labels.normalise(layer, f"'{op.name.strip('_')}' in '{op.module or 'the network'}'")
            c.read(op, 0, axis, layer)
        result.append(layer)
    return [result for _ in op.outputs]


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
@rule("_batch_norm_with_update", "_batch_norm_no_update", "_batch_norm_with_update_functional")
def _batch_norm(c: Coupler, op: Operation) -> list[Layers]:
    x = op.args[0]
    vectors = [_per_channel(c, ref, len(x.shape)) for ref in op.args[1:5] if isinstance(ref, Ref)]
    layers = []
    for layer in c.of(x):
        if varying(layer) - {0, 1} and _takes_statistics(op):  # a kernel that is standardised over its inputs
            if len(varying(layer)) > 1:
                c.labels.pin(layer, "a normalisation runs over them")
                continue
            c.labels.normalise(layer, f"'batch_norm' in '{op.module or 'the network'}'")
            c.read(op, 0, next(iter(varying(layer))), layer)
        layers.append(layer)
    result = c.labels.elementwise([(layers, x.shape), *vectors])
    return [result, *([] for _ in op.outputs[1:])]


def _takes_statistics(op: Operation) -> bool:
    """Return whether the batch norm's statistics are those of its input, as in InstanceNorm and in training."""
    return op.name != "_native_batch_norm_legit_no_training" and (len(op.args) < 6 or op.args[5] is not False)


def _per_channel(c: Coupler, ref: Ref, ndim: int) -> tuple[Layers, tuple[int, ...]]:
    """Return a vector's labels and shape as an operand that lies along axis 1 of ``ndim``."""
    shape = tuple(ref.shape[0] if axis == 1 else 1 for axis in range(ndim))
    return [vector_at(layer, 1, ndim) for layer in c.of(ref)], shape


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(c: Coupler, op: Operation) -> list[Layers]:
    x, shape = op.args[0], op.args[1]
    first = len(x.shape) - len(shape)
    layers = []
    for layer in c.of(x):
        over = [axis for axis in varying(layer) if axis >= first]
        if over and len(shape) > 1:
            c.labels.pin(layer, "a normalisation runs over them and other axes at once")
        elif over and len(varying(layer)) > 1:  # within each head
            layers.append(c.labels.tie_along(layer, over[0]))
            continue
        elif over:
            c.labels.normalise(layer, _norm_name(c, op, 2))
            c.read(op, 0, over[0], layer)
        layers.append(layer)
    vectors = [ref for ref in op.args[2:4] if isinstance(ref, Ref)]
    result = c.labels.elementwise([(layers, x.shape), *((c.of(ref), ref.shape) for ref in vectors)])
    return [result, *([] for _ in op.outputs[1:])]


@rule("native_group_norm")
def _group_norm(c: Coupler, op: Operation) -> list[Layers]:
    """A group of channels is normalised on its own, so it goes as a whole; of one group any channel may go."""
    x, groups = op.args[0], op.args[6]
    layers, ndim = c.of(x), len(x.shape)
    channels = along(layers, 1)
    if channels is not None and varying(channels) != {1}:
        c.labels.pin(channels, "a normalisation in groups runs over them")
    elif channels is not None and groups == 1:
        c.labels.normalise(channels, _norm_name(c, op, 1))
        c.read(op, 0, 1, channels)
    elif channels is not None and groups != x.shape[1]:
        units = np.broadcast_to(channels, [x.shape[1] if i == 1 else 1 for i in range(ndim)]).reshape(groups, -1)
        c.labels.tie(units, units[:, :1])
    vectors = [_per_channel(c, ref, ndim) for ref in op.args[1:3] if isinstance(ref, Ref)]
    result = c.labels.elementwise([(layers, x.shape), *vectors])
    return [result, *([] for _ in op.outputs[1:])]


def _norm_name(c: Coupler, op: Operation, position: int) -> str:
    """Return the module whose weight normalises, else the module that was running."""
    weight = op.args[position] if len(op.args) > position else None
    name = c.tape.leaves.get(weight.number) if isinstance(weight, Ref) else None
    return name.rpartition(".")[0] if name is not None else op.module or "the network"
