"""What each ONNX operator is in PyTorch's operations, as far as channels and constants go.

Nothing is computed: the operations run on tensors without memory and are recorded. So places need no care, only who
meets whom: a pool or an interpolation is a choice of places (``_at_places``), whatever its weights, for those sum to
one; what lets zeros in from outside, or adds places up, keeps no constant but zero (``_only_zero``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from slimtask.compress.onnx.call import Call, Unknown
from slimtask.compress.onnx.network import attributes

Operator = Callable[[Call], Tensor | Sequence[Tensor]]


def is_padded(node: onnx.NodeProto) -> bool:
    """Return whether a convolution or a pool sees zeros around its input."""
    given = attributes(node)
    return given.get("auto_pad", b"NOTSET").startswith(b"SAME") or any(given.get("pads", ()))


def _conv(c: Call) -> Tensor:
    x, weight, bias = c.x(), c.weight(1), c.weight(2)
    assert weight is not None
    kernel, places = weight.shape[2:], weight.ndim - 3
    dilation, groups = list(c.attribute("dilations", [1] * len(kernel))), int(c.attribute("group", 1))
    if c.node.op_type == "ConvTranspose":
        turned: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[places]
        y = turned(x, weight, bias, list(c.attribute("strides", [1] * len(kernel))), 0, 0, groups, dilation)
        return _at_places(c, y, range(2, y.ndim), c.shape)
    padding = [d * k for d, k in zip(dilation, kernel, strict=True)] if is_padded(c.node) else 0
    plain: Any = (F.conv1d, F.conv2d, F.conv3d)[places]
    y = plain(x, weight, bias, 1, padding, dilation, groups)
    return _at_places(c, y, range(2, y.ndim), (*y.shape[:2], *_windows(c, x.shape[2:], kernel)))


def _windows(c: Call, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return how many places a window takes along each axis of ``sizes``, by the formulas of the specification."""
    ones = [1] * len(sizes)
    strides, dilations = c.attribute("strides", ones), c.attribute("dilations", ones)
    pads, automatic = c.attribute("pads", [0] * 2 * len(sizes)), c.attribute("auto_pad", b"NOTSET")
    found = []
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        room = size - dilations[axis] * (kernel[axis] - 1) - 1
        room += 0 if automatic == b"VALID" else pads[axis] + pads[axis + len(sizes)]
        found.append(-(-size // stride) if automatic.startswith(b"SAME") else room // stride + 1)
    return found


def _at_places(c: Call, x: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return ``x`` with other places along ``axes``."""
    if len(shape) != x.ndim:
        raise Unknown
    for axis in axes:
        x = x.index_select(axis, c.values.blank([shape[axis]], torch.int64))
    return x


def _only_zero(c: Call, x: Tensor) -> Tensor:
    return x * c.values.blank(())


def _gemm(c: Call) -> Tensor:
    """Return alpha A B + beta C; the constants that B's inputs lose go to C."""
    alpha, beta = float(c.attribute("alpha", 1.0)), float(c.attribute("beta", 1.0))
    weight, bias = c.weight(1), c.weight(2)
    if c.attribute("transA", 0) or beta == 0 or weight is None:
        raise Unknown
    y = F.linear(c.x(), weight) if c.attribute("transB", 0) else c.x() @ weight
    y = y if alpha == 1 else y * alpha
    return y if bias is None else y + (bias if beta == 1 else bias * beta)


def _matmul(c: Call) -> Tensor:
    """A matrix maps the rows, of however many axes."""
    x, other = c.x(), c.x(1)
    if other.ndim != 2 or x.ndim < 3:
        return torch.matmul(x, other)
    return (x.reshape(-1, x.shape[-1]) @ other).reshape(*x.shape[:-1], other.shape[1])


def _batch_norm(c: Call) -> Tensor:
    c.alone()
    if c.attribute("training_mode", 0):
        raise Unknown
    scale, shift, mean, variance = (c.weight(slot) for slot in range(1, 5))
    return F.batch_norm(c.x(), mean, variance, scale, shift, False, 0.0, c.attribute("epsilon", 1e-5))


def _instance_norm(c: Call) -> Tensor:
    return F.instance_norm(c.x(), None, None, c.weight(1), c.weight(2), True, 0.0, c.attribute("epsilon", 1e-5))


def _layer_norm(c: Call) -> Tensor:
    c.alone()
    x = c.x()
    shape = x.shape[c.axis(-1, x.ndim) :]
    return F.layer_norm(x, shape, c.weight(1), c.weight(2), c.attribute("epsilon", 1e-5))


def _dropout(c: Call) -> Tensor:
    c.alone()
    if c.has(2) and c.values.numbers(c.node.input[2]).any():
        raise Unknown
    return c.x()


def _pool(c: Call) -> Tensor:
    c.alone()
    x = c.x()
    places = _windows(c, x.shape[2:], c.attribute("kernel_shape"))
    if c.attribute("ceil_mode", 0):
        places = list(c.shape[2:])  # the last window may start outside
    x = _at_places(c, x, range(2, x.ndim), (*x.shape[:2], *places))
    zeros_count = c.node.op_type == "AveragePool" and c.attribute("count_include_pad", 0)
    return _only_zero(c, x) if zeros_count and (is_padded(c.node) or c.attribute("ceil_mode", 0)) else x


def _pad(c: Call) -> Tensor:
    x = c.x()
    pads, axes = c.integers(1, "pads") or [], c.integers(3, "axes") or list(range(x.ndim))
    sides = {axis % x.ndim: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    if not any(map(any, sides.values())):
        return x
    if c.attribute("mode", b"constant") != b"constant":
        return _at_places(c, x, [axis for axis, around in sides.items() if any(around)], c.shape)
    value = float(c.values.numbers(c.node.input[2]).reshape(-1)[0]) if c.has(2) else 0.0
    return F.pad(x, [n for axis in reversed(range(x.ndim)) for n in sides.get(axis, (0, 0))], value=value)


def _resize(c: Call) -> Tensor:
    x, shape = c.x(), c.shape
    x = _at_places(c, x, [axis for axis in range(x.ndim) if x.shape[axis] != shape[axis]], shape)
    crops = c.attribute("coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize"
    return _only_zero(c, x) if crops else x


def _reducer(function: Callable[..., Tensor]) -> Operator:
    def reduced(c: Call) -> Tensor:
        x, axes = c.x(), c.integers(1, "axes")
        if not axes and c.attribute("noop_with_empty_axes", 0):
            return x
        return function(x, [axis % x.ndim for axis in axes or range(x.ndim)], bool(c.attribute("keepdims", 1)))

    return reduced


def _overall(function: Callable[..., Tensor]) -> Operator:
    return lambda c: function(c.x(), list(range(2, c.x().ndim)), True)


def _concat(c: Call) -> Tensor:
    parts = c.all()
    return torch.cat(parts, c.axis(0, parts[0].ndim))


def _split(c: Call) -> Sequence[Tensor]:
    x = c.x()
    axis = c.axis(0, x.ndim)
    sizes = c.integers(1, "split")
    if sizes is None:
        sizes = [c.values.shape(name)[axis] for name in c.node.output]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [_part(x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


def _slice(c: Call) -> Tensor:
    x = c.x()
    starts, ends, steps = (c.integers(slot) for slot in (1, 2, 4))
    if starts is None or ends is None:
        raise Unknown
    axes = [axis % x.ndim for axis in c.integers(3) or range(len(starts))]
    for place, axis in enumerate(axes):
        start, end, step = slice(starts[place], ends[place], steps[place] if steps else 1).indices(x.shape[axis])
        if step != 1 or c.constant(1) is None or c.constant(2) is None:
            x = _at_places(c, x, [axis], [len(range(start, end, step))] * x.ndim)
        elif (start, end) != (0, x.shape[axis]):
            x = _part(x, axis, start, max(end - start, 0))
    return x


def _gather(c: Call) -> Tensor:
    x = c.x()
    axis = c.axis(0, x.ndim)
    chosen = c.constant(1)
    if chosen is None or chosen.ndim > 1 or not chosen.size:
        return x[(slice(None),) * axis + (c.values.blank(c.x(1).shape, torch.int64),)]
    if chosen.ndim == 0:
        return x.select(axis, int(chosen))
    picks = (chosen % x.shape[axis]).tolist()
    return c.values.taken(x, axis, picks) if len(picks) > 1 else _part(x, axis, picks[0], 1)


def _part(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    """Return a run of channels; a single one stays, like every last channel of a tensor."""
    if length == 1 < x.shape[axis]:
        return x.select(axis, start).unsqueeze(axis)
    return x.narrow(axis, start, length)


def _reshape(c: Call) -> Tensor:
    """The shape that was inferred or, where sizes are computed, what the target comes to: 0 is "as before"."""
    x = c.x()
    try:
        return x.reshape(c.shape)
    except Unknown:
        target = c.integers(1) or []
        as_before = not c.attribute("allowzero", 0)
        return x.reshape([x.shape[i] if size == 0 and as_before else size for i, size in enumerate(target)])


def _transpose(c: Call) -> Tensor:
    x = c.x()
    return x.permute(list(c.attribute("perm", range(x.ndim - 1, -1, -1))))


def _clip(c: Call) -> Tensor:
    x = torch.maximum(c.x(), c.x(1)) if c.has(1) else c.x()
    return torch.minimum(x, c.x(2)) if c.has(2) else x


def _cast(c: Call) -> Tensor:
    dtype = torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(c.attribute("to")))).dtype
    return c.x().to(dtype)


def _prelu(c: Call) -> Tensor:
    return c.x().clamp_min(0) + c.x(1) * c.x().clamp_max(0)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda c: function(c.x())


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda c: function(c.x(), c.x(1))


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda c: reduce(function, c.all())


# The formulas and defaults are those of the ONNX operator specification (onnx.ai/onnx/operators).
OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Dropout": _dropout,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "GlobalAveragePool": _overall(torch.mean),
    "GlobalMaxPool": _overall(torch.amax),
    "ReduceMean": _reducer(torch.mean),
    "ReduceMax": _reducer(torch.amax),
    "ReduceMin": _reducer(torch.amin),
    "ReduceSum": _reducer(torch.sum),
    "ReduceL1": _reducer(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reducer(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "Softmax": lambda c: c.x().softmax(c.axis(-1, c.x().ndim)),
    "LogSoftmax": lambda c: c.x().log_softmax(c.axis(-1, c.x().ndim)),
    "Pad": _pad,
    "Resize": _resize,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Transpose": _transpose,
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), lambda c: c.x().reshape(c.shape)),
    "Reshape": _reshape,
    "Expand": lambda c: c.x().expand(c.shape),
    "Identity": lambda c: c.x(),
    "Cast": _cast,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(torch.div),
    "Pow": _binary(torch.pow),
    "Mod": _binary(torch.remainder),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Mean": lambda c: reduce(torch.add, c.all()) / len(c.all()),
    "PRelu": _prelu,
    "Relu": _unary(torch.relu),
    "LeakyRelu": lambda c: F.leaky_relu(c.x(), c.attribute("alpha", 0.01)),
    "Elu": lambda c: F.elu(c.x(), c.attribute("alpha", 1.0)),
    "Selu": lambda c: F.selu(c.x()),
    "Celu": lambda c: F.celu(c.x(), c.attribute("alpha", 1.0)),
    "ThresholdedRelu": lambda c: c.x() * (c.x() > c.attribute("alpha", 1.0)),
    "Clip": _clip,
    "Sigmoid": _unary(torch.sigmoid),
    "HardSigmoid": lambda c: (c.x() * c.attribute("alpha", 0.2) + c.attribute("beta", 0.5)).clamp(0, 1),
    "HardSwish": _unary(F.hardswish),
    "Mish": _unary(F.mish),
    "Gelu": lambda c: F.gelu(c.x(), approximate=c.attribute("approximate", b"none").decode()),
    "Erf": _unary(torch.erf),
    "Tanh": _unary(torch.tanh),
    "Softplus": _unary(F.softplus),
    "Softsign": lambda c: c.x() / (1 + c.x().abs()),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Reciprocal": _unary(torch.reciprocal),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Tan": _unary(torch.tan),
    "Atan": _unary(torch.atan),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Not": _unary(torch.logical_not),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Where": lambda c: torch.where(c.x(), c.x(1), c.x(2)),
}
