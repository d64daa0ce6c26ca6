"""The coupling rules of what lays out data anew: views, slices, concatenations, shuffles, new tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from slimtask.compress.graph.axes import Array, align, varies, varying
from slimtask.compress.graph.coupler import Coupler, rule
from slimtask.compress.graph.labels import Layers, along
from slimtask.compress.graph.operands import operands, vector_at
from slimtask.compress.network.tape import Operation, Ref

# fmt: off
_NEW = (
    "zeros", "ones", "full", "empty", "arange", "linspace", "rand", "randn", "empty_strided", "scalar_tensor",
    "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided",
)
# fmt: on


@rule(*_NEW)
def _new(c: Coupler, op: Operation) -> list[Layers]:
    """A tensor that the code makes has the sizes that the code gives: what it meets says which of them shrink."""
    return [c.labels.fresh(output.shape) for output in op.outputs]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(c: Coupler, op: Operation) -> list[Layers]:
    results = c.moved(op, op.args[0], c.of(op.args[0]))
    for layer in results[0]:
        c.labels.product(layer)
    return results


@rule("expand")
def _expand(c: Coupler, op: Operation) -> list[Layers]:
    """An axis that is copied is as long as the code says; it has labels of its own for what it meets."""
    source, shape = op.args[0], op.outputs[0].shape
    ndim = len(shape)
    layers = [align(layer, ndim) for layer in c.of(source)]
    before = (1,) * (ndim - len(source.shape)) + source.shape
    copied = [after if size == 1 and after > 1 else 1 for size, after in zip(before, shape, strict=True)]
    return [[*layers, *c.labels.fresh(copied)]]


@rule("select")
def _select(c: Coupler, op: Operation) -> list[Layers]:
    """A channel picked by its number stays; which number it then has, the call site knows."""
    x, axis, index = op.args[0], op.args[1] % len(op.args[0].shape), op.args[2]
    rest = []
    for layer in c.of(x):
        if varying(layer) == {axis}:
            c.labels.pin(layer.ravel()[[index]], "they are selected by number")
        else:
            rest.append(layer)
    return c.moved(op, x, rest)


@rule("unbind")
def _unbind(c: Coupler, op: Operation) -> list[Layers]:
    x, axis = op.args[0], op.argument(1, "dim", 0) % len(op.args[0].shape)
    rest = []
    for layer in c.of(x):
        if varying(layer) == {axis}:
            c.labels.pin(layer, "they are taken one by one")
        else:
            rest.append(layer)
    return c.moved(op, x, rest)


@rule("constant_pad_nd")
def _pad(c: Coupler, op: Operation) -> list[Layers]:
    """Channels padded on are new ones: what they meet says whether they go."""
    x, pads, ndim = op.args[0], op.args[1], len(op.args[0].shape)
    around = {ndim - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}
    result: Layers = []
    for layer in c.of(x):
        wide = [axis for axis in varying(layer) if any(around.get(axis, (0, 0)))]
        if len(wide) == 1 == len(varying(layer)) and min(around[wide[0]]) >= 0:
            left, right = (c.labels.fresh([n + 2])[0].ravel()[:n] for n in around[wide[0]])
            result.append(vector_at(np.concatenate([left, layer.ravel(), right]), wide[0], ndim))
        elif wide:
            c.labels.pin(layer, "'constant_pad_nd' runs over them")
        else:
            result.append(layer)
    return [result]


@rule("glu")
def _glu(c: Coupler, op: Operation) -> list[Layers]:
    """The first half of an axis gated by the second: a channel and its gate go together."""
    x, shape = op.args[0], op.outputs[0].shape
    axis = op.argument(1, "dim", -1) % len(shape)
    halves: list[Layers] = [[], []]
    for layer in c.of(x):
        parts = np.split(layer, 2, axis=axis) if varies(layer, axis) else [layer, layer]
        for half, part in zip(halves, parts, strict=True):
            half.append(part)
    return [c.labels.elementwise([(half, shape) for half in halves])]


@rule("cat")
def _cat(c: Coupler, op: Operation) -> list[Layers]:
    refs = [ref for ref in op.args[0] if ref.shape != (0,)]
    if not refs:
        return [[]]
    axis = op.argument(1, "dim", 0) % len(refs[0].shape)
    return [_join(c, [(c.of(ref), ref.shape) for ref in refs], axis)]


@rule("stack")
def _stack(c: Coupler, op: Operation) -> list[Layers]:
    refs = op.args[0]
    axis = op.argument(1, "dim", 0) % (len(refs[0].shape) + 1)
    wide = [([np.expand_dims(a, axis) for a in c.of(ref)], (*ref.shape[:axis], 1, *ref.shape[axis:])) for ref in refs]
    return [_join(c, wide, axis)]


def _join(c: Coupler, parts: list[tuple[Layers, tuple[int, ...]]], axis: int) -> Layers:
    """Return the labels of a concatenation: joined along ``axis``, tied along the others."""
    pieces = [(along(layers, axis), shape) for layers, shape in parts]
    headed = any(piece is not None and varying(piece) - {axis} for piece, _ in pieces)
    others = []
    for (layers, shape), (piece, _) in zip(parts, pieces, strict=True):
        rest = [layer for layer in layers if not varies(layer, axis)]
        if piece is not None and varying(piece) - {axis}:  # joined within each head: the head stays whole
            rest.append(c.labels.tie_along(piece, axis))
        others.append((rest, tuple(1 if i == axis else size for i, size in enumerate(shape))))
    result = c.labels.elementwise(others)
    labelled = [piece for piece, _ in pieces if piece is not None and not varying(piece) - {axis}]
    if not labelled or headed:
        for piece in labelled:
            c.labels.pin(piece, "they are concatenated head by head")
        return result
    zeros = [np.zeros(shape[axis], np.int64) if piece is None else piece.ravel() for piece, shape in pieces]
    return [*result, vector_at(np.concatenate(zeros), axis, len(parts[0][1]))]


@rule("pixel_shuffle")
def _pixel_shuffle(c: Coupler, op: Operation) -> list[Layers]:
    return [_in_units(c, op.args[0], op.args[1] ** 2, -3)]


@rule("pixel_unshuffle")
def _pixel_unshuffle(c: Coupler, op: Operation) -> list[Layers]:
    return [_spread(c, op.args[0], op.args[1] ** 2, -3)]


@rule("im2col")
def _im2col(c: Coupler, op: Operation) -> list[Layers]:
    """Patches: [N, C, H, W] -> [N, C * taps, places]."""
    layers = _spread(c, op.args[0], int(np.prod(op.args[1])), -3)
    return [[np.squeeze(layer, axis=layer.ndim - 1) for layer in layers if not varies(layer, -1)]]


@rule("col2im")
def _col2im(c: Coupler, op: Operation) -> list[Layers]:
    layers = _in_units(c, op.args[0], int(np.prod(op.args[2])), -2)
    return [[np.expand_dims(layer, layer.ndim) for layer in layers]]


def _in_units(c: Coupler, x: Ref, size: int, axis: int) -> Layers:
    """Return the labels of units of ``size`` channels in a row that become one channel."""
    channels, rest = _channels(c, x, axis)
    if channels is None:
        return rest
    units = channels.reshape(-1, size)
    c.labels.tie(units, units[:, :1])
    return [*rest, vector_at(units[:, :1], axis % len(x.shape), len(x.shape))]


def _spread(c: Coupler, x: Ref, times: int, axis: int) -> Layers:
    """Return the labels of channels of which each becomes ``times`` in a row."""
    channels, rest = _channels(c, x, axis)
    if channels is None:
        return rest
    return [*rest, vector_at(np.repeat(channels.ravel(), times), axis % len(x.shape), len(x.shape))]


def _channels(c: Coupler, x: Ref, axis: int) -> tuple[Array | None, Layers]:
    """Return the labels along ``axis`` and those of the leading axes; others are pinned."""
    axis %= len(x.shape)
    channels, rest = None, []
    for layer in c.of(x):
        if varying(layer) == {axis}:
            channels = layer
        elif min(varying(layer)) < axis:
            rest.append(layer)
        else:
            c.labels.pin(layer, "they become places")
    return channels, rest


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(c: Coupler, op: Operation) -> list[Layers]:
    x, groups, ndim = op.args[0], op.args[1], len(op.args[0].shape)
    channels, rest = _channels(c, x, 1)
    if channels is None:
        return [rest]
    units = channels.reshape(groups, -1)
    c.labels.tie(units, units[:1])
    return [[*rest, vector_at(units.T, 1, ndim)]]


@rule("roi_align", "roi_pool")
def _roi(c: Coupler, op: Operation) -> list[Layers]:
    """torchvision's: boxes are cut out of maps, channel by channel; [N, C, H, W] -> [boxes, C, h, w]."""
    channels, _ = _channels(c, op.args[0], 1)
    for layer in c.of(op.args[1]):
        c.labels.pin(layer, "they are boxes")
    return [[] if channels is None else [channels] for _ in op.outputs]


@rule("gather")
def _gather(c: Coupler, op: Operation) -> list[Layers]:
    x, axis, index = op.args[0], op.args[1] % len(op.args[0].shape), op.args[2]
    layers: Layers = []
    for layer in c.of(x):
        if varies(layer, axis):
            c.labels.pin(layer, "'gather' takes them by number")
        else:
            layers.append(layer)
    across = tuple(1 if i == axis else size for i, size in enumerate(index.shape))
    along_it = [layer for layer in c.of(index) if varies(layer, axis)]
    others = [layer for layer in c.of(index) if not varies(layer, axis)]
    return [[*c.labels.elementwise([(layers, across), (others, across)]), *along_it]]


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _transform(c: Coupler, op: Operation) -> list[Layers]:
    """A Fourier transform runs over places; over channels it mixes them."""
    axes = {axis % len(op.args[0].shape) for axis in op.args[1]}
    kept = []
    for layer in c.of(op.args[0]):
        if varying(layer) & axes:
            c.labels.pin(layer, "a Fourier transform runs over them")
        else:
            kept.append(layer)
    return [kept]


@rule("view_as_complex")
def _as_complex(c: Coupler, op: Operation) -> list[Layers]:
    result = []
    for layer in c.of(op.args[0]):
        if varies(layer, layer.ndim - 1):
            c.labels.pin(layer, "they are parts of complex numbers")
        else:
            result.append(np.squeeze(layer, axis=layer.ndim - 1))
    return [result]


@rule("view_as_real")
def _as_real(c: Coupler, op: Operation) -> list[Layers]:
    return [[np.expand_dims(layer, layer.ndim) for layer in c.of(op.args[0])]]


@rule("repeat_interleave")
def _repeat_interleave(c: Coupler, op: Operation) -> list[Layers]:
    """Each index several times in a row (grouped queries): copies go with what they are copies of."""
    times: Any = op.argument(1, "repeats")
    axis = op.argument(2, "dim")
    if not isinstance(times, int) or axis is None:
        c.pin_all(op, "they are repeated a number of times that is computed")
        return []
    x = op.args[0]
    axis %= len(x.shape)
    return [[np.repeat(layer, times, axis=axis) if varies(layer, axis) else layer for layer in c.of(x)]]


@rule("copy_")
def _copy(c: Coupler, op: Operation) -> list[Layers]:
    """What is written into a tensor, or into a part of it, has its channels."""
    target, source = op.args[0], op.args[1]
    written = c.labels.elementwise([(c.of(target), target.shape), (c.of(source), source.shape)])
    return [written if operands(op) else []]
