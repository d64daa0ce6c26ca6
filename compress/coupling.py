"""Which channels of a network are coupled, read off the tape of one forward pass, one rule per kind of operation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from slimtask.compress.axes import Array, Mixed, align, merges, move, reduced_axes, varies, varying
from slimtask.compress.labels import Labels, Layers, along, finest
from slimtask.compress.operands import axis_size, operands, shortens, vector_at
from slimtask.compress.tape import Operation, Ref, Tape

_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
_FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
_FACTORIES = ("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")


def couple(*tapes: Tape) -> Labels:
    """Return the Labels of every parameter of the traced network, with all ties and pins its operations imply.

    Several tapes of one network, e.g. in evaluation and in training, are tied together by its parameters.
    """
    labels, leaves = Labels(), dict[str, Layers]()
    for tape in tapes:
        _Coupler(tape, labels, leaves).run()
    return labels


class _Coupler:
    def __init__(self, tape: Tape, labels: Labels, leaves: dict[str, Layers]) -> None:
        self._tape = tape
        self._labels = labels
        self._leaves = leaves
        self._values: dict[int, Layers] = {}
        self._copied: dict[int, tuple[int, ...]] = {}  # shapes with axes along which a value is but a copy as 1
        self._rules: dict[str, Callable[[Operation], Layers]] = {
            "convolution": self._convolution,
            "mm": self._mm,
            "addmm": self._addmm,
            "bmm": self._bmm,
            "baddbmm": self._baddbmm,
            "linear": self._linear,
            "native_layer_norm": self._layer_norm,
            "native_group_norm": self._group_norm,
            "embedding": self._embedding,
            "cat": self._cat,
            "stack": self._stack,
            "copy_": self._elementwise,
            **dict.fromkeys(_NORMS, self._batch_norm),
            **dict.fromkeys(_FUSED_ATTENTION, self._attention),
        }

    def run(self) -> None:
        for op in self._tape.operations:
            results = self._apply(op)
            for output, layers in zip(op.outputs, results, strict=False):
                self._values[output.number] = layers
            if op.name == "expand":
                source = (1,) * (len(op.outputs[0].shape) - len(op.args[0].shape)) + op.args[0].shape
                self._copied[op.outputs[0].number] = source
        for name, output in self._tape.outputs.items():
            for layer in self._of(output):
                self._labels.pin(layer, f"they are channels of the network's output '{name}'")

    def _of(self, ref: Ref) -> Layers:
        if ref.number not in self._values:
            name = self._tape.leaves.get(ref.number)
            if name is not None and name not in self._leaves:
                self._leaves[name] = self._labels.leaf(name, ref.shape)
            self._values[ref.number] = [] if name is None else self._leaves[name]
        return self._values[ref.number]

    def _apply(self, op: Operation) -> list[Layers]:
        """Return the labels of each output of ``op``."""
        rule = self._rules.get(op.name)
        if rule is not None:
            return [rule(op)]
        if op.args and isinstance(op.args[0], Ref):
            moved = self._move(op, op.args[0])
            if moved is not None:
                return moved
        if op.pointwise:
            return [self._elementwise(op)]
        for ref in () if op.name in _FACTORIES else operands(op):
            for layer in self._of(ref):
                self._labels.pin(layer, f"'{op.name.strip('_')}' mixes them")
        return [[] for _ in op.outputs]

    def _move(self, op: Operation, source: Ref) -> list[Layers] | None:
        results: list[Layers] = [[] for _ in op.outputs]
        for original in self._of(source):
            layer = self._before(op, source, original)
            if layer is None:
                continue
            try:
                moved = move(op, layer, source)
            except Mixed:
                self._labels.pin(layer, f"'{op.name.strip('_')}' runs over them")
                continue
            if moved is None:
                return None
            for result, array in zip(results, moved, strict=False):
                if varying(array):
                    result.append(array)
        return [self._apart(result) for result in results]

    def _apart(self, layers: Layers) -> Layers:
        """Return the layers that share no axis with another; a view that lays one over another pins both."""
        alone = []
        for index, layer in enumerate(layers):
            others = layers[:index] + layers[index + 1 :]
            if any(varying(layer) & varying(other) for other in others):
                self._labels.pin(layer, "they are flattened with others")
            else:
                alone.append(layer)
        return alone

    def _before(self, op: Operation, source: Ref, layer: Array) -> Array | None:
        """Return the layer as ``op`` meets it: pinned and dropped where the code fixes sizes, heads tied to units."""
        if op.name in ("view", "_unsafe_view", "reshape") and merges(layer, source.shape, op.outputs[0].shape):
            flat = layer.ravel()
            if (np.diff(flat) <= 0).any():
                self._labels.pin(layer, "they are shuffled")
                return None
        if op.name == "slice" and varies(layer, op.argument(1, "dim", 0)) and shortens(op, source):
            self._labels.pin(layer, "they are sliced at fixed places")
            return None
        if op.name in ("split", "split_with_sizes"):
            axis = op.argument(2, "dim", 0) % layer.ndim
            uneven = len({output.shape[axis] for output in op.outputs}) > 1
            if varies(layer, axis) and (uneven or op.name == "split_with_sizes"):
                self._labels.pin(layer, "they are split at fixed places")
                return None
        if op.name in ("select", "unbind"):
            axis = op.argument(1, "dim", 0)
            if varies(layer, axis) and len(varying(layer)) == 1:
                self._labels.pin(layer, "they are selected by number")
                return None
        if op.name in ("linalg_vector_norm", "sum", "mean"):
            for axis in reduced_axes(op, source):
                if varies(layer, axis) and len(varying(layer)) > 1:  # a norm within each head
                    layer = self._labels.tie_along(layer, axis)
        return layer

    def _elementwise(self, op: Operation) -> Layers:
        return self._labels.elementwise(
            [(self._of(ref), self._copied.get(ref.number, ref.shape)) for ref in operands(op)]
        )

    def _convolution(self, op: Operation) -> Layers:
        x, weight, bias = op.args[:3]
        transposed, groups = op.args[6], op.args[8]
        layers, weights = self._of(x), self._of(weight)
        reads, writes = along(weights, int(not transposed)), along(weights, int(transposed))
        channels = along(layers, 1)
        result = [layer for layer in layers if varying(layer) == {0}]
        for layer in layers:
            if varying(layer) - {0, 1}:
                self._labels.pin(layer, "a convolution runs over them")
        if groups == 1:
            self._reads(channels, reads, x.shape[1])
            out = None if writes is None else writes.ravel()
        else:
            if channels is not None and varying(channels) == {0, 1}:  # the same filters for every head
                result.append(self._labels.tie_along(channels, 1))
                channels = None
            out = self._grouped(channels, weights, groups, weight.shape, transposed)
        offsets = None if bias is None else along(self._of(bias), 0)
        if offsets is not None and out is not None:
            self._labels.tie(offsets, out)
        return result if out is None else [*result, vector_at(out, 1, len(x.shape))]

    def _reads(self, channels: Array | None, reads: Array | None, size: int) -> None:
        """Tie the input channels of a layer to the axis of its weight that reads them."""
        if reads is None or (channels is None and size == 1):
            return
        if channels is None:
            self._labels.pin(reads, "they read the network's input or a tensor of fixed size")
            return
        ndim = channels.ndim
        self._labels.tie(channels, vector_at(reads.ravel(), 1, ndim))

    def _grouped(
        self, channels: Array | None, weights: Layers, groups: int, shape: tuple[int, ...], transposed: bool
    ) -> Array | None:
        """Tie, per group of a grouped convolution, all its inputs and outputs: a group goes as a whole."""
        writes = along(weights, 0)
        if writes is None:
            return None
        if transposed and (shape[0] != groups or shape[1] != 1):
            for array in (channels, *weights):
                if array is not None:
                    self._labels.pin(array, "a grouped transposed convolution mixes them")
            return None
        out = writes.ravel()
        if channels is None or varying(channels) - {1}:
            for array in (channels, out):
                if array is not None:
                    self._labels.pin(array, "they are computed from a tensor of fixed size")
            return None
        units = out.reshape(groups, -1)
        self._labels.tie(units, units[:, :1])
        self._labels.tie(channels.reshape(groups, -1), units[:, :1])
        return out

    def _mm(self, op: Operation) -> Layers:
        return self._matmul(op.args[0], op.args[1])

    def _bmm(self, op: Operation) -> Layers:
        return self._matmul(op.args[0], op.args[1])

    def _addmm(self, op: Operation) -> Layers:
        bias, a, b = op.args[:3]
        product = self._matmul(a, b)
        return self._labels.elementwise([(product, op.outputs[0].shape), (self._of(bias), bias.shape)])

    def _baddbmm(self, op: Operation) -> Layers:
        return self._addmm(op)

    def _linear(self, op: Operation) -> Layers:
        x, weight = op.args[:2]
        bias = op.argument(2, "bias")
        result = self._product(self._of(x), x.shape, [w.T for w in self._of(weight)], weight.shape[::-1])
        if bias is None:
            return result
        return self._labels.elementwise([(result, op.outputs[0].shape), (self._of(bias), bias.shape)])

    def _matmul(self, a: Ref, b: Ref) -> Layers:
        return self._product(self._of(a), a.shape, self._of(b), b.shape)

    def _attention(self, op: Operation) -> Layers:
        """softmax(q k^T) v on [batch, heads, length, width]."""
        q, k, v = op.args[:3]
        kt = [layer.swapaxes(-1, -2) for layer in self._of(k)]
        square = (*q.shape[:-1], k.shape[-2])
        scores = self._product(self._of(q), q.shape, kt, (*k.shape[:-2], k.shape[-1], k.shape[-2]))
        return self._product(scores, square, self._of(v), v.shape)

    def _product(self, A: Layers, a_shape: tuple[int, ...], B: Layers, b_shape: tuple[int, ...]) -> Layers:
        """Return the labels of the matrix product [..., m, k] @ [..., k, n].

        The two sides of the contraction are tied. If a side varies per batch entry too, the entries are attention
        heads: a head goes as a whole, and the result carries the label of its head.
        """
        ndim = max(len(a_shape), len(b_shape))
        A, B = [align(a, ndim) for a in A], [align(b, ndim) for b in B]
        left, right = along(A, -1), along(B, -2)
        result: Layers = []
        if left is not None and right is not None and not varies(left, -2) and not varies(right, -1):
            left = left.swapaxes(-1, -2)  # as right: [..., k, 1]
            self._labels.tie(left, right)
            for both in (left, right):
                if varying(both) - {ndim - 2}:
                    result.append(self._labels.tie_along(both, -2))
        else:
            for side, axis, size in ((left, -1, a_shape[-1]), (right, -2, b_shape[-2])):
                if side is None or size == 1:
                    continue
                if any(varies(side, batch) for batch in range(ndim - 2)):  # heads of a fixed width
                    result.append(self._labels.tie_along(side, axis))
                else:
                    self._labels.pin(side, "they are multiplied with a matrix of fixed size")
        result += [a for a in A if not varies(a, -1)] + [b for b in B if not varies(b, -2)]
        self._tie_heads(result, A, a_shape, B, b_shape)
        return finest(result)

    def _tie_heads(
        self, result: Layers, A: Layers, a_shape: tuple[int, ...], B: Layers, b_shape: tuple[int, ...]
    ) -> None:
        """Tie the labels that vary over the same batch axes; pin them if one operand has the axes without labels."""
        heads = [layer for layer in result if any(varies(layer, axis) for axis in range(layer.ndim - 2))]
        for one, other in pairwise(heads):
            self._labels.tie(one, other)
        for layers, shape in ((A, a_shape), (B, b_shape)):
            for head in heads:
                axes = [axis for axis in range(head.ndim - 2) if varies(head, axis)]
                known = any(varies(layer, axis) for layer in layers for axis in axes)
                if not known and any(axis_size(shape, axis, head.ndim) > 1 for axis in axes):
                    self._labels.pin(head, "the number of heads is fixed")

    def _batch_norm(self, op: Operation) -> Layers:
        x = op.args[0]
        vectors = [self._per_channel(ref, len(x.shape)) for ref in op.args[1:5] if isinstance(ref, Ref)]
        return self._labels.elementwise([(self._of(x), x.shape), *vectors])

    def _per_channel(self, ref: Ref, ndim: int) -> tuple[Layers, tuple[int, ...]]:
        """Return a vector's labels and shape as an operand that lies along axis 1 of ``ndim``."""
        shape = tuple(ref.shape[0] if axis == 1 else 1 for axis in range(ndim))
        return [vector_at(layer, 1, ndim) for layer in self._of(ref)], shape

    def _layer_norm(self, op: Operation) -> Layers:
        x, shape = op.args[0], op.args[1]
        layers, first = self._of(x), len(x.shape) - len(shape)
        over = [layer for layer in layers if any(axis >= first for axis in varying(layer))]
        for layer in over:
            if len(shape) > 1:
                self._labels.pin(layer, "a normalisation runs over them and other axes at once")
            self._normalise(layer, op.args[2])
        vectors = [ref for ref in op.args[2:4] if isinstance(ref, Ref)]
        return self._labels.elementwise([(layers, x.shape), *((self._of(ref), ref.shape) for ref in vectors)])

    def _group_norm(self, op: Operation) -> Layers:
        x, groups = op.args[0], op.args[6]
        layers, ndim = self._of(x), len(x.shape)
        channels = along(layers, 1)
        if channels is not None and groups not in (1, x.shape[1]):
            self._labels.pin(channels, "a normalisation in groups runs over them")
        if channels is not None and groups == 1:
            self._normalise(channels, op.args[1])
        vectors = [self._per_channel(ref, ndim) for ref in op.args[1:3] if isinstance(ref, Ref)]
        return self._labels.elementwise([(layers, x.shape), *vectors])

    def _normalise(self, layer: Array, weight: Ref | None) -> None:
        """Note a normalisation over all of the layer; one without a module's parameters cannot be cut."""
        name = self._tape.leaves.get(weight.number) if isinstance(weight, Ref) else None
        if name is None:
            self._labels.pin(layer, "a normalisation without parameters runs over them")
        else:
            self._labels.normalise(layer, name.rpartition(".")[0])

    def _embedding(self, op: Operation) -> Layers:
        table, indices = op.args[0], op.args[1]
        layers = self._of(table)
        rows, width = along(layers, 0), along(layers, 1)
        if rows is not None:
            self._labels.pin(rows, "they are looked up by number")
        return [] if width is None else [vector_at(width.ravel(), len(indices.shape), len(indices.shape) + 1)]

    def _cat(self, op: Operation) -> Layers:
        refs, axis = op.args[0], op.argument(1, "dim", 0)
        refs = [ref for ref in refs if ref.shape != (0,)]
        axis %= len(refs[0].shape)
        return self._join([(self._of(ref), ref.shape) for ref in refs], axis)

    def _stack(self, op: Operation) -> Layers:
        refs, axis = op.args[0], op.argument(1, "dim", 0)
        axis %= len(refs[0].shape) + 1
        wide = [
            ([np.expand_dims(a, axis) for a in self._of(ref)], (*ref.shape[:axis], 1, *ref.shape[axis:]))
            for ref in refs
        ]
        return self._join(wide, axis)

    def _join(self, parts: list[tuple[Layers, tuple[int, ...]]], axis: int) -> Layers:
        """Return the labels of a concatenation: joined along ``axis``, tied along the others."""
        others = [([layer for layer in layers if not varies(layer, axis)], shape) for layers, shape in parts]
        result = self._labels.elementwise(others)
        pieces = [(along(layers, axis), shape) for layers, shape in parts]
        labelled = [piece for piece, _ in pieces if piece is not None]
        if not labelled:
            return result
        if any(varying(piece) - {axis} for piece in labelled):
            for piece in labelled:
                self._labels.pin(piece, "they are concatenated head by head")
            return result
        zeros = [
            np.zeros(1, np.int64).repeat(shape[axis]) if piece is None else piece.ravel() for piece, shape in pieces
        ]
        return [*result, vector_at(np.concatenate(zeros), axis, len(parts[0][1]))]
