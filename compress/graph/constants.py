"""Which channels are constant whatever the input, and their values, from the weights alone.

The trap this answers: a zero filter behind BatchNorm emits ``act(beta - gamma * mean / std)``, not zero; dropping that
constant costs 11 to 13 % on a ResNet-18. The tape of one forward pass is run on what is known of every value, in
float64; NaN stands for all that depends on the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtask.compress.graph.affine import affine, as_numpy, per_index
from slimtask.compress.graph.axes import Array, Mixed, align, move, squeeze_equal
from slimtask.compress.network.tape import Operation, Ref, Tape

# What may be evaluated on known values: unknown in, unknown out.
# fmt: off
_FUNCTIONS = frozenset(
    {
        "relu", "_prelu_kernel", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "clamp",
        "clamp_min", "clamp_max", "leaky_relu", "elu", "selu", "celu", "softplus", "mish", "exp", "log", "sqrt",
        "rsqrt", "pow", "abs", "neg", "add", "sub", "rsub", "mul", "div", "maximum", "minimum", "square",
        "reciprocal", "erf", "sin", "cos"
    }
)
# carried by axes.move, whose answer is where the data went, not what it became
_COMPUTES = frozenset(
    {
        "var", "std", "argmax", "prod", "cumsum", "logsumexp", "any", "all", "linalg_vector_norm", "_softmax",
        "_log_softmax", "_safe_softmax", "zero_", "fill_", "native_dropout", "zeros_like", "ones_like", "empty_like",
        "full_like", "rand_like", "randn_like"
    }
)
# fmt: on
_LARGEST_TABLE = 1 << 20
_KEEPS_ROWS = ("view", "_unsafe_view", "expand", "clone", "alias", "detach", "_to_copy", "reshape")


def read_constants(tape: Tape, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return for the weight of each convolution or linear layer the constant it reads at each of its inputs, [inputs].

    NaN where the input is not one number at every position of every use. ``tensors`` are the parameters and buffers by
    name. Nothing here depends on an example: what is called constant is so for every input.
    """
    return evaluate(tape, tensors)[0]


def evaluate(tape: Tape, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Array], dict[int, Array]]:
    """Return what ``read_constants`` does, and what is known of each value by number, NaN where it varies."""
    evaluator = _Evaluator(tape, tensors)
    return evaluator.run(), evaluator.values


def agreed(reads: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return what several passes agree on of what each layer reads: NaN where they differ."""
    result = dict(reads[0])
    for further in reads[1:]:
        for name, vector in further.items():
            known = result.get(name)
            result[name] = vector if known is None else np.where(known == vector, vector, np.nan)
    return result


class _Evaluator:
    def __init__(self, tape: Tape, tensors: Mapping[str, Tensor]) -> None:
        self._tape = tape
        self._tensors = tensors
        self.values: dict[int, Array] = {}
        self._weights: dict[int, str] = {}  # values that are the transpose of a weight
        self._copies: dict[int, int] = {}  # values that are a weight, or its transpose, in another type
        self._rows: set[int] = set()  # values whose last axis sums to one
        self._reads: dict[str, Array] = {}
        self._alias: dict[int, list[int]] = {}
        self._rules: dict[str, Callable[[Operation], Array | None]] = {
            "convolution": self._convolution,
            "addmm": self._addmm,
            "mm": self._mm,
            "linear": self._linear,
            "bmm": self._bmm,
            "cat": self._cat,
            "native_batch_norm": self._batch_norm,
            "_native_batch_norm_legit_no_training": self._batch_norm,
            "cudnn_batch_norm": self._batch_norm,
            "_to_copy": self._copied,
            "repeat": self._repeat,
        }
        for number, storage in tape.storages.items():
            self._alias.setdefault(storage, []).append(number)

    def run(self) -> dict[str, Array]:
        for op in self._tape.operations:
            first = op.args[0] if op.args and isinstance(op.args[0], Ref) else None
            if op.name == "t" and first is not None and (name := self._leaf(first)) is not None:
                self._weights[op.outputs[0].number] = name
                continue
            results = self._apply(op, first)
            for output, array in zip_longest(op.outputs, results):
                self._write(op, output, np.full((), np.nan) if array is None else array)
            self._follow_rows(op, first)
        return self._reads

    def _leaf(self, ref: Ref) -> str | None:
        """Return the name of the parameter or buffer that a value is, itself or in another type."""
        return self._tape.leaves.get(self._copies.get(ref.number, ref.number))

    def _apply(self, op: Operation, first: Ref | None) -> Sequence[Array]:
        rule = self._rules.get(op.name)
        if rule is not None:
            array = rule(op)
            return [] if array is None else [array]
        plain = op.name.removesuffix("_")
        if plain in _FUNCTIONS:
            return [self._function(op, plain)]
        if first is None or op.name in _COMPUTES:
            return []
        try:
            moved = move(op, self._before_move(op, first), first)
        except Mixed:
            return []
        return moved[:1] if moved is not None and op.name.endswith("_with_indices") else moved or []

    def _write(self, op: Operation, output: Ref, array: Array) -> None:
        if op.name.endswith("_") or "out" in op.kwargs:  # another view of what was written to is no longer known
            for other in self._alias.get(self._tape.storages[output.number], ()):
                if other != output.number:
                    self.values[other] = np.full((), np.nan)
        self.values[output.number] = squeeze_equal(array)

    def _of(self, ref: Ref) -> Array:
        """Return what is known of a value, as an array that broadcasts to its shape."""
        found = self.values.get(ref.number)
        if found is None:
            name = self._tape.leaves.get(ref.number)
            tensor = None if name is None else self._tensors[name]
            if tensor is None or tensor.numel() > _LARGEST_TABLE or not tensor.is_floating_point():
                found = np.full((), np.nan)
            else:
                found = squeeze_equal(as_numpy(tensor))
            self.values[ref.number] = found
        return align(found, len(ref.shape)) if found.ndim != len(ref.shape) else found

    def _function(self, op: Operation, name: str) -> Array:
        """Return an element-wise function of known values; anything finite times zero is zero."""
        ndim = len(op.outputs[0].shape)
        arrays = [align(self._of(arg), ndim) for arg in op.args if isinstance(arg, Ref)]
        if len(arrays) > 1:  # not every kernel broadcasts
            arrays = list(np.broadcast_arrays(*arrays))
        tensors = iter([torch.from_numpy(array.copy()) for array in arrays])
        args = [next(tensors) if isinstance(arg, Ref) else arg for arg in op.args]
        named = {key: value for key, value in op.kwargs.items() if key != "out"}
        result: Array = getattr(torch.ops.aten, name)(*args, **named).numpy()
        unknown = np.isnan(arrays[0])
        zero = arrays[0] == 0
        for array in arrays[1:]:
            unknown, zero = unknown | np.isnan(array), zero | (array == 0)
        if name == "mul" and len(arrays) == 2:
            unknown &= ~zero
            result = np.where(zero, 0.0, result)
        return np.where(unknown | ~np.isfinite(result), np.nan, result)

    def _before_move(self, op: Operation, source: Ref) -> Array:
        """Return the value as a pooling or padding keeps it: where zeros come in from outside only zero stays."""
        array = self._of(source)
        fill: Any = None
        if op.name == "constant_pad_nd":
            fill = op.argument(2, "value", 0)
        elif (
            (op.name.startswith("avg_pool") and any(op.argument(3, "padding", (0,))) and op.argument(5, "", True))
            or op.name == "sum"
            or (op.name.startswith("grid_sampler") and op.args[3] == 0)
        ):
            fill = 0
        elif op.name == "copy_":
            fill = np.nan
        return array if fill is None else np.where(array == fill, array, np.nan)

    def _follow_rows(self, op: Operation, first: Ref | None) -> None:
        """Keep track of the values that are weights of a mean: softmax over the last axis, however viewed."""
        output = op.outputs[0] if op.outputs else None
        if first is None or output is None:
            return
        if op.name in ("_softmax", "_safe_softmax"):
            if op.args[1] % len(first.shape) == len(first.shape) - 1:
                self._rows.add(output.number)
        elif op.name in _KEEPS_ROWS and first.number in self._rows and output.shape[-1:] == first.shape[-1:]:
            self._rows.add(output.number)
        else:
            self._rows.discard(output.number)

    def _read(self, name: str, vector: Array) -> None:
        """Note what the layer with weight ``name`` reads; several uses must agree."""
        before = self._reads.get(name)
        self._reads[name] = vector if before is None else np.where(before == vector, vector, np.nan)

    def _convolution(self, op: Operation) -> Array | None:
        x, weight, bias = op.args[:3]
        padding, transposed, groups = op.args[4], op.args[6], op.args[8]
        name = self._leaf(weight)
        if name is None:
            return None
        vector = per_index(self._of(x), 1, x.shape[1])
        if groups == 1:
            self._read(name, vector)
        known = np.where(vector == 0, 0.0, np.nan) if transposed or any(padding) else vector
        taps = self._tensors[name].detach()
        if transposed and groups == 1:
            taps = taps.transpose(0, 1)
        elif transposed and (taps.shape[1] != 1 or len(taps) != groups):
            return None
        out = affine(taps.flatten(2), known, self._bias(bias, len(taps)), groups)
        return out.reshape([-1 if axis == 1 else 1 for axis in range(len(x.shape))])

    def _bias(self, ref: Ref | None, size: int) -> Array:
        return np.zeros(size) if ref is None else np.broadcast_to(self._of(ref), (size,))

    def _mm(self, op: Operation) -> Array | None:
        return self._product(op.args[0], op.args[1], None)

    def _addmm(self, op: Operation) -> Array | None:
        return self._product(op.args[1], op.args[2], op.args[0])

    def _product(self, x: Ref, b: Ref, bias: Ref | None) -> Array | None:
        name = self._weights.get(self._copies.get(b.number, b.number))
        if name is not None:
            return self._layer(x, name, self._tensors[name].detach(), bias)
        name = self._leaf(b)
        return None if name is None else self._layer(x, name, self._tensors[name].detach().T, bias)

    def _linear(self, op: Operation) -> Array | None:
        name = self._leaf(op.args[1])
        return (
            None
            if name is None
            else self._layer(op.args[0], name, self._tensors[name].detach(), op.argument(2, "bias"))
        )

    def _layer(self, x: Ref, name: str, weight: Tensor, bias: Ref | None) -> Array:
        """Return what a layer with ``weight`` [outputs, inputs], the tensor ``name`` or its transpose, makes of x."""
        array = self._of(x)
        vector = per_index(array, len(x.shape) - 1, x.shape[-1])
        self._read(name, vector)
        out = affine(weight.unsqueeze(2), vector, self._bias(bias, len(weight)), 1)
        out = out.reshape([1] * (len(x.shape) - 1) + [-1])
        # a row of zeros stays one, whatever the others are
        return out if bias is not None else np.where((array == 0).all(axis=-1, keepdims=True), 0.0, out)

    def _bmm(self, op: Operation) -> Array:
        """A weighted mean of one constant is the constant; so attention over a dead value channel emits it."""
        weights, values = op.args[:2]
        array = self._of(values)
        first = array.take([0], axis=1)
        steady = ((array == first) | (array.shape[1] == 1)).all(axis=1, keepdims=True)
        known = first if weights.number in self._rows else np.where(first == 0, 0.0, np.nan)
        return np.where(steady, known, np.nan)

    def _batch_norm(self, op: Operation) -> Array:
        x = op.args[0]
        ndim = len(x.shape)
        gamma, beta, mean, var = (
            np.full((), default) if ref is None else self._of(ref)
            for ref, default in zip(op.args[1:5], (1.0, 0.0, np.nan, np.nan), strict=True)
        )
        training, eps = (
            (op.args[5], op.args[7]) if op.name != "_native_batch_norm_legit_no_training" else (False, op.args[6])
        )
        shape = [-1 if axis == 1 else 1 for axis in range(ndim)]
        gamma, beta, mean, var = (array.reshape(shape) for array in (gamma, beta, mean, var))
        if training:  # a map less its own mean: zero where the map is one number, whatever number that is
            steady = ~np.isnan(per_index(self._of(x), 1, x.shape[1])).reshape(shape)
            scaled = np.where(steady & ~np.isnan(gamma), 0.0, np.nan)
        else:
            scaled = (self._of(x) - mean) / np.sqrt(var + eps) * gamma
        return np.where(gamma == 0, 0.0, scaled) + beta

    def _copied(self, op: Operation) -> Array:
        """Return the value once more; a copy of a weight in another type (autocast) reads as the weight."""
        source, output = op.args[0], op.outputs[0]
        for table in (self._tape.leaves, self._weights):
            if source.number in table:
                self._copies[output.number] = source.number
        self._copies.update({output.number: self._copies[source.number]} if source.number in self._copies else {})
        array, dtype = self._of(source), op.kwargs.get("dtype")
        if not isinstance(dtype, torch.dtype) or dtype in (torch.float32, torch.float64):
            return array
        known = np.asarray(np.nan_to_num(array))
        return np.where(np.isnan(array), np.nan, as_numpy(torch.from_numpy(known).to(dtype)))

    def _repeat(self, op: Operation) -> Array:
        source, times = op.args[0], op.args[1]
        array = np.broadcast_to(align(self._of(source), len(source.shape)), source.shape)
        return np.tile(array, times)

    def _cat(self, op: Operation) -> Array | None:
        refs = [ref for ref in op.args[0] if ref.shape != (0,)]
        if not refs:  # lists of what was found, of which there was nothing
            return None
        axis = op.argument(1, "dim", 0) % len(refs[0].shape)
        arrays = [self._of(ref) for ref in refs]
        common = np.broadcast_shapes(*(a.take([0], axis=axis).shape for a in arrays))
        parts = [
            np.broadcast_to(a, [r.shape[axis] if i == axis else size for i, size in enumerate(common)])
            for a, r in zip(arrays, refs, strict=True)
        ]
        return np.concatenate(parts, axis=axis)
