"""The rules of the linear maps, which make channels and read them: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Shaped

from slimtask.compress.onnx.flow import Constants, Flow, Keep, Mixes, Reader, Value
from slimtask.compress.onnx.network import Network, described

Weight = Shaped[np.ndarray, "..."]


def conv(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the channels through a convolution, transposed or not, dense, grouped or depthwise."""
    weight = flow.weight(node.input[1])
    groups = int(flow.attribute(node, "group", 1))
    transposed = node.op_type == "ConvTranspose"
    x = flow.values.get(node.input[0])
    if x is not None and x.axis != 1:
        raise Mixes("convolves over its channels")
    bias = flow.weight(node.input[2]) if _given(node, 2) else None
    if groups > 1:
        _grouped(flow, index, node, weight, bias, groups, x)
        return
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    # A transposed convolution answers a constant differently at the border, and between the steps of its stride.
    value = _dense(flow, index, node, in_axis, out_axis, x, transposed or _zero_padded(flow, node), 1.0)
    _finish(flow, node, 1, value, _plus(value.constant, bias))
    if bias is not None:
        flow.tie(node.input[2], 0, value.labels)


def gemm(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the features through ``alpha * A @ B + beta * C``."""
    flow.weight(node.input[1])
    x = flow.values.get(node.input[0])
    alpha, beta = float(flow.attribute(node, "alpha", 1.0)), float(flow.attribute(node, "beta", 1.0))
    if flow.attribute(node, "transA", 0) or beta == 0 or (x is not None and x.axis != 1):
        raise Mixes("sums over what are not its channels")
    bias = flow.weight(node.input[2]) if _given(node, 2) else None
    in_axis, out_axis = (1, 0) if flow.attribute(node, "transB", 0) else (0, 1)
    value = _dense(flow, index, node, in_axis, out_axis, x, False, alpha / beta)
    outputs = len(value.labels)
    constant = alpha * value.constant
    if bias is not None:
        per_output = bias.ndim > 0 and bias.shape[-1] == outputs
        if per_output:
            flow.tie(node.input[2], bias.ndim - 1, value.labels)
        known = bias.size == 1 or (per_output and bias.size == outputs)
        constant = constant + (beta * bias.reshape(-1).astype(np.float64) if known else np.nan)
    _finish(flow, node, 1, value, constant)


def matmul(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """Follow the features through a product with a constant matrix on the right."""
    weight = flow.network.weights.get(node.input[1])
    if weight is None or weight.ndim != 2:
        raise Mixes("mixes its channels")
    x, last = flow.values.get(node.input[0]), len(flow.dims(node.input[0])) - 1
    if x is not None and x.axis != last:  # the channels are rows here: each is mapped by itself
        zero = np.where(x.constant == 0, 0.0, np.nan)
        flow.values[node.output[0]] = Value(axis=x.axis, labels=x.labels, constant=zero)
        return
    value = _dense(flow, index, node, 0, 1, x, False, 1.0)
    _finish(flow, node, last, value, value.constant)


def _dense(
    flow: Flow,
    index: int,
    node: onnx.NodeProto,
    in_axis: int,
    out_axis: int,
    x: Value | None,
    padded: bool,
    scale: float,
) -> Value:
    """Return the channels that a dense map makes, with what it makes of constant inputs before its bias."""
    matrix = np.moveaxis(flow.weight(node.input[1]), (out_axis, in_axis), (0, 1))
    if x is not None and len(x.labels) != matrix.shape[1]:
        raise Mixes("reads another number of channels than it is given")
    reads = (matrix != 0).any(axis=tuple(range(2, matrix.ndim)))
    out = flow.labels.fresh(len(matrix), described(node))
    flow.tie(node.input[1], out_axis, out)
    if x is None:
        seen = np.full(matrix.shape[1], np.nan)
    else:
        seen = x.constant
        flow.tie(node.input[1], in_axis, x.labels)
        reader = Reader(
            node=index, weight=node.input[1], in_axis=in_axis, out_axis=out_axis, seen=x, out=out, padded=padded,
            scale=scale, reads=reads,
        )  # fmt: skip
        flow.readers.append(reader)
    return Value(axis=1, labels=out, constant=_response(matrix, reads, seen, padded))


def _response(matrix: Weight, reads: Weight, seen: Constants, padded: bool) -> Constants:
    """Return the constant that each row of ``matrix`` [outputs, inputs, ...] makes of ``seen``, NaN if it varies."""
    varies = np.isnan(seen) | (padded & (seen != 0))
    fixed = ~reads[:, varies].any(axis=1)
    constant = np.full(len(matrix), np.nan)
    rows = matrix[fixed][:, ~varies].astype(np.float64)
    constant[fixed] = rows.sum(axis=tuple(range(2, rows.ndim))) @ seen[~varies]
    return constant


def _grouped(
    flow: Flow, index: int, node: onnx.NodeProto, weight: Weight, bias: Weight | None, groups: int, x: Value | None
) -> None:
    """Follow the channels through a convolution in groups: the inputs and outputs of one group are one channel."""
    if x is None:
        raise Mixes("convolves in groups what has to keep its channels")
    transposed = node.op_type == "ConvTranspose"
    split = weight.reshape(groups, -1, *weight.shape[1:])
    rows = np.swapaxes(split, 1, 2) if transposed else split  # [groups, outputs, inputs, ...] of each group
    firsts = x.labels.reshape(groups, -1)[:, :1]
    flow.labels.join(np.broadcast_to(firsts, (groups, rows.shape[2])).reshape(-1), x.labels)
    out = np.repeat(firsts[:, 0], rows.shape[1])
    flow.tie(node.input[1], 0, x.labels if transposed else out)
    if bias is not None:
        flow.tie(node.input[2], 0, out)
    padded = transposed or _zero_padded(flow, node)
    seen = x.constant.reshape(groups, -1)
    constants = [
        _response(one, (one != 0).any(axis=tuple(range(2, one.ndim))), v, padded)
        for one, v in zip(rows, seen, strict=True)
    ]
    value = Value(axis=1, labels=out, constant=_plus(np.concatenate(constants), bias))
    flow.values[node.output[0]] = value
    flow.refits.append(lambda network, keep: _regroup(network, keep, index, firsts[:, 0]))


def _regroup(network: Network, keep: Keep, index: int, firsts: Weight) -> None:
    node = network.model.graph.node[index]
    attribute = next(one for one in node.attribute if one.name == "group")
    attribute.i = int(keep(firsts).sum())


def _finish(flow: Flow, node: onnx.NodeProto, axis: int, value: Value, constant: Constants) -> None:
    made = Value(axis=axis, labels=value.labels, constant=constant)
    flow.values[node.output[0]] = made
    flow.makers.append(made)


def _plus(constant: Constants, bias: Weight | None) -> Constants:
    return constant if bias is None else constant + bias.astype(np.float64)


def _given(node: onnx.NodeProto, slot: int) -> bool:
    return len(node.input) > slot and bool(node.input[slot])


def _zero_padded(flow: Flow, node: onnx.NodeProto) -> bool:
    automatic = flow.attribute(node, "auto_pad", b"NOTSET")
    return automatic.startswith(b"SAME") or any(flow.attribute(node, "pads", []))
