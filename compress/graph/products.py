"""The coupling rules of convolutions and matrix products: what reads which channels, and what it writes."""

from __future__ import annotations

from itertools import pairwise

from slimtask.compress.graph.axes import Array, align, varies, varying
from slimtask.compress.graph.coupler import Coupler, rule
from slimtask.compress.graph.labels import Layers, along, finest
from slimtask.compress.graph.operands import axis_size, vector_at
from slimtask.compress.network.tape import Operation, Ref

_FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
_FIXED = "they are computed from a tensor of fixed size"


@rule("convolution")
def _convolution(c: Coupler, op: Operation) -> list[Layers]:
    x, weight, bias = op.args[:3]
    return [_convolve(c, x, weight, bias, transposed=op.args[6], groups=op.args[8])]


@rule("deform_conv2d")
def _deformable(c: Coupler, op: Operation) -> list[Layers]:
    """torchvision's: offsets and masks say where to read, so their channels are places."""
    x, weight, offset, mask, bias = op.args[:5]
    for ref in (offset, mask):
        for layer in c.of(ref):
            c.labels.pin(layer, "they say where a deformable convolution reads")
    return [_convolve(c, x, weight, bias, transposed=False, groups=op.args[11])]


def _convolve(c: Coupler, x: Ref, weight: Ref, bias: Ref | None, *, transposed: bool, groups: int) -> Layers:
    layers, weights = c.of(x), _kernel(c, c.of(weight))
    reads, writes = along(weights, int(not transposed)), along(weights, int(transposed))
    layers = [_at_places(c, layer) for layer in layers]
    channels = along(layers, 1)
    result = [layer for layer in layers if varying(layer) == {0}]
    for layer in layers:
        if varying(layer) - {0, 1}:
            c.labels.pin(layer, "a convolution runs over them")
    if groups == 1:
        _reads(c, channels, reads, x.shape[1])
        out = None if writes is None else writes.ravel()
    else:
        if channels is not None and varying(channels) == {0, 1}:  # the same filters for every head
            result.append(c.labels.tie_along(channels, 1))
            channels = None
        out = _grouped(c, channels, weights, groups, weight.shape, transposed)
    if out is not None:
        c.labels.note_output(out)
    offsets = None if bias is None else along(c.of(bias), 0)
    if offsets is not None and out is not None:
        c.labels.tie(offsets, out)
    return result if out is None else [*result, vector_at(out, 1, len(x.shape))]


def _at_places(c: Coupler, layer: Array) -> Array:
    """Return the labels of units that were spread over channels and places: a unit stays whole."""
    for axis in range(2, layer.ndim) if varies(layer, 1) else ():
        if varies(layer, axis):
            layer = c.labels.tie_along(layer, axis)
    return layer


def _kernel(c: Coupler, layers: Layers) -> Layers:
    """Return the labels of a kernel that has one for its outputs and one for its inputs; others are pinned."""
    found = []
    for layer in (_one_tap(c, layer) for layer in layers):
        if len(varying(layer)) > 1:
            c.labels.pin(layer, "they are inputs and outputs of a kernel at once")
        elif varying(layer):
            found.append(layer)
    return found


def _one_tap(c: Coupler, layer: Array) -> Array:
    """Return the labels of a kernel that was computed, the same at every tap."""
    for axis in range(2, layer.ndim):
        if varies(layer, axis):
            layer = c.labels.tie_along(layer, axis)
    return layer


def _reads(c: Coupler, channels: Array | None, reads: Array | None, size: int) -> None:
    """Tie the input channels of a layer to the axis of its weight that reads them."""
    if reads is None or (channels is None and size == 1):
        return
    c.labels.note_input(reads)
    if channels is None or channels.size != reads.size:
        for array in (channels, reads):
            if array is not None:
                c.labels.pin(array, "they read the network's input or a tensor of fixed size")
        return
    c.labels.tie(channels, vector_at(reads.ravel(), 1, channels.ndim))


def _grouped(
    c: Coupler, channels: Array | None, weights: Layers, groups: int, shape: tuple[int, ...], transposed: bool
) -> Array | None:
    """Tie, per group of a grouped convolution, all its inputs and outputs: a group goes as a whole."""
    writes = along(weights, 0)
    if writes is None:
        return None
    if transposed and (shape[0] != groups or shape[1] != 1):
        for array in (channels, *weights):
            if array is not None:
                c.labels.pin(array, "a grouped transposed convolution mixes them")
        return None
    out = writes.ravel()
    if channels is None or varying(channels) - {1}:
        for array in (channels, out):
            if array is not None:
                c.labels.pin(array, _FIXED)
        return None
    units = out.reshape(groups, -1)
    c.labels.tie(units, units[:, :1])
    c.labels.tie(channels.reshape(groups, -1), units[:, :1])
    return out


@rule("mm", "bmm")
def _matmul(c: Coupler, op: Operation) -> list[Layers]:
    return [_product(c, op, 0, 1)]


@rule("addmm", "baddbmm")
def _addmm(c: Coupler, op: Operation) -> list[Layers]:
    bias = op.args[0]
    product = _product(c, op, 1, 2)
    return [c.labels.elementwise([(product, op.outputs[0].shape), (c.of(bias), bias.shape)])]


@rule("linear")
def _linear(c: Coupler, op: Operation) -> list[Layers]:
    x, weight = op.args[:2]
    bias = op.argument(2, "bias")
    transposed = Ref(weight.number, weight.shape[::-1])
    result = contract(c, op, (0, x, c.of(x)), (1, transposed, [w.T for w in c.of(weight)]))
    if bias is not None:
        result = c.labels.elementwise([(result, op.outputs[0].shape), (c.of(bias), bias.shape)])
    return [result]


@rule(*_FUSED_ATTENTION)
def _attention(c: Coupler, op: Operation) -> list[Layers]:
    """softmax(q k^T) v on [batch, heads, length, width]."""
    q, k, v = op.args[:3]
    kt = [layer.swapaxes(-1, -2) for layer in c.of(k)]
    turned = Ref(k.number, (*k.shape[:-2], k.shape[-1], k.shape[-2]))
    scores = contract(c, op, (0, q, c.of(q)), (1, turned, kt), swapped=True)
    square = Ref(-1, (*q.shape[:-1], k.shape[-2]))
    return [contract(c, op, (-1, square, scores), (2, v, c.of(v)))]


def _product(c: Coupler, op: Operation, one: int, other: int) -> Layers:
    a, b = op.args[one], op.args[other]
    return contract(c, op, (one, a, c.of(a)), (other, b, c.of(b)))


Side = tuple[int, Ref, Layers]
"""An operand: its position among the arguments (-1: none), the value, its labels."""


def contract(c: Coupler, op: Operation, one: Side, other: Side, *, swapped: bool = False) -> Layers:
    """Return the labels of the matrix product [..., m, k] @ [..., k, n].

    The two sides of the contraction are tied. If a side varies per batch entry too, the entries are attention heads: a
    head goes as a whole, and the result carries the label of its head. ``swapped`` says that the second operand is
    stored as [..., n, k].
    """
    ndim = max(len(one[1].shape), len(other[1].shape))
    A, B = [align(a, ndim) for a in one[2]], [align(b, ndim) for b in other[2]]
    left, right = along(A, -1), along(B, -2)
    _note_roles(c, one, other, A, B, left, right)
    result: Layers = []
    if left is not None and right is not None and not varies(left, -2) and not varies(right, -1):
        computed = not c.is_leaf(one[1]) and not c.is_leaf(other[1])  # a weight's zeroed slices speak for themselves
        if computed and len(varying(left)) == len(varying(right)) == 1 and min(one[0], other[0]) >= 0:
            c.read(op, one[0], len(one[1].shape) - 1, left)
            c.read(op, other[0], len(other[1].shape) - (1 if swapped else 2), right)
        left = left.swapaxes(-1, -2)  # as right: [..., k, 1]
        c.labels.tie(left, right)
        for both in (left, right):
            if varying(both) - {ndim - 2}:
                result.append(c.labels.tie_along(both, -2))
    else:
        for side, axis, size in ((left, -1, one[1].shape[-1]), (right, -2, other[1].shape[-2])):
            if side is None or size == 1:
                continue
            if any(varies(side, batch) for batch in range(ndim - 2)):  # heads of a fixed width
                result.append(c.labels.tie_along(side, axis))
            else:
                c.labels.pin(side, "they are multiplied with a matrix of fixed size")
    result += [a for a in A if not varies(a, -1)] + [b for b in B if not varies(b, -2)]
    _tie_heads(c, result, A, one[1].shape, B, other[1].shape)
    return finest(result)


def _note_roles(
    c: Coupler, one: Side, other: Side, A: Layers, B: Layers, left: Array | None, right: Array | None
) -> None:
    """Note by which labels a weight among the operands reads and writes."""
    if c.is_weight(one[1]):
        sides = (left, along(A, -2))
    elif c.is_weight(other[1]):
        sides = (right, along(B, -1))
    else:
        return
    if sides[0] is not None:
        c.labels.note_input(sides[0])
    if sides[1] is not None:
        c.labels.note_output(sides[1])


def _tie_heads(
    c: Coupler, result: Layers, A: Layers, a_shape: tuple[int, ...], B: Layers, b_shape: tuple[int, ...]
) -> None:
    """Tie the labels that vary over the same batch axes; pin them if one operand has the axes without labels."""
    heads = [layer for layer in result if any(varies(layer, axis) for axis in range(layer.ndim - 2))]
    for one, other in pairwise(heads):
        c.labels.tie(one, other)
    for layers, shape in ((A, a_shape), (B, b_shape)):
        for head in heads:
            axes = [axis for axis in range(head.ndim - 2) if varies(head, axis)]
            known = any(varies(layer, axis) for layer in layers for axis in axes)
            if not known and any(axis_size(shape, axis, head.ndim) > 1 for axis in axes):
                c.labels.pin(head, "the number of heads is fixed")


@rule("embedding")
def _embedding(c: Coupler, op: Operation) -> list[Layers]:
    table, indices = op.args[0], op.args[1]
    layers = c.of(table)
    rows, width = along(layers, 0), along(layers, 1)
    if rows is not None:
        c.labels.pin(rows, "they are looked up by number")
    if width is None:
        return [[]]
    c.labels.note_output(width)
    return [[vector_at(width.ravel(), len(indices.shape), len(indices.shape) + 1)]]


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(c: Coupler, op: Operation) -> list[Layers]:
    """v / |v| * g, the norm over all axes but ``dim``: zeroed inputs fall out of it by themselves."""
    v, g = op.args[:2]
    return [c.labels.elementwise([(c.of(v), v.shape), (c.of(g), g.shape)]), c.of(g)]
