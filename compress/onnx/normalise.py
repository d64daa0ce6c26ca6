"""The way into the normal form: functions inlined, constants computed, one constant per use, shapes inferred."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from jaxtyping import Shaped

from slimtask.compress.onnx.network import DOMAINS, Dims, Network, assemble, attributes, captured
from slimtask.errors import InputError

OPSETS = range(13, 24)
# What may be computed once instead of at every run when all inputs are constants: moves and scalar arithmetic that
# exporters leave between an initialiser and its reader.
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Greater", "Less", "Where")
# fmt: off
_FOLDABLE = frozenset((
    *_BROADCASTING, "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Shape", "Concat", "Gather",
    "Slice", "Neg", "Not", "Floor", "Ceil", "Sqrt", "Reciprocal", "ConstantOfShape", "Range", "Expand",
))
# fmt: on
_MOST_DIMS = 64
_FOLD_ELEMENTS = 1 << 20  # a constant made larger than its inputs is worth that much at most
_INLINE_BYTES = 1024  # shape inference reads small constants (target shapes), never the weights


def normalise(model: onnx.ModelProto, weights: dict[str, Shaped[np.ndarray, "..."]]) -> Network:
    """Return the Network of a ``model`` whose initialisers are ``weights``; ``model`` itself is used up.

    Initialisers that are listed as graph inputs too are taken at their value and are inputs no more; functions are
    inlined; nodes that only rearrange constants are computed. Raises InputError for an operator set it does not know.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    if not versions or versions[0] not in OPSETS:
        raise InputError(
            f"the graph uses ONNX opset {versions[0] if versions else 'none'}; "
            f"export it, or convert it with onnx.version_converter, to one from {OPSETS[0]} to {OPSETS[-1]}."
        )
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before 4 every initialiser had to be an input
    _fold_constants_(model, weights, versions[0])
    origin = _untie_(model, weights)
    network = Network(model=model, weights=weights, origin=origin)
    network.shapes.update(infer_shapes(network))
    return network


def _fold_constants_(model: onnx.ModelProto, weights: dict[str, Any], opset: int) -> None:
    """Turn nodes with nothing but constant inputs into constants, in place."""
    outputs = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        value = None if set(node.output) & outputs else constant(node, weights, opset)
        if value is None:
            kept.append(node)
        else:
            weights[node.output[0]] = value
    del model.graph.node[:]
    model.graph.node.extend(kept)


def constant(node: onnx.NodeProto, weights: dict[str, Any], opset: int) -> Any:
    """Return what ``node`` computes if that is constant and small enough, else None."""
    if node.op_type == "Constant" and node.domain in DOMAINS:
        return _constant_node(node)
    names = [name for name in node.input if name]
    if node.op_type not in _FOLDABLE or node.domain not in DOMAINS or not all(name in weights for name in names):
        return None
    arrays = {name: weights[name] for name in names}
    limit = max(_FOLD_ELEMENTS, *(array.size for array in arrays.values()), 0)
    made = _elements(node, [arrays[name] for name in names])
    if made is None or made > limit:
        return None
    if node.op_type == "Identity":
        return arrays[names[0]]
    from onnx.reference import ReferenceEvaluator

    try:
        results: Any = ReferenceEvaluator(node, opsets={"": opset}).run(None, arrays)
        value = results[0]
    except Exception:  # the reference has many ways to fail; such a node is simply not folded
        return None
    return value if isinstance(value, np.ndarray) and value.size <= limit else None


def _elements(node: onnx.NodeProto, arrays: list[Shaped[np.ndarray, "..."]]) -> int | None:
    """Return at least how many elements ``node`` makes of constants, before it makes them; None if it cannot."""
    try:
        return _count(node, arrays)
    except (ValueError, TypeError, IndexError, ArithmeticError):
        return None


def _count(node: onnx.NodeProto, arrays: list[Shaped[np.ndarray, "..."]]) -> int | None:
    if node.op_type == "ConstantOfShape":
        return int(math.prod(arrays[0].reshape(-1).tolist())) if arrays[0].size <= _MOST_DIMS else None
    if node.op_type == "Range":
        start, end, step = (float(array) for array in arrays)
        return max(math.ceil((end - start) / step), 0)
    if node.op_type == "Expand":
        return math.prod(np.broadcast_shapes(arrays[0].shape, tuple(arrays[1].tolist())))
    if node.op_type == "Gather":
        axis = int(attributes(node).get("axis", 0))
        return int(arrays[0].size // max(arrays[0].shape[axis], 1) * arrays[-1].size)
    return math.prod(np.broadcast_shapes(*(array.shape for array in arrays))) if node.op_type in _BROADCASTING else 0


def _constant_node(node: onnx.NodeProto) -> Any:
    """Return the value of a Constant node as an array; None if it is of a kind that no rule reads (strings, sparse)."""
    kinds: dict[str, type[np.generic]] = dict.fromkeys(("value_float", "value_floats"), np.float32)
    kinds |= dict.fromkeys(("value_int", "value_ints"), np.int64)
    try:
        given = attributes(node)
        if "value" in given:
            return onnx.numpy_helper.to_array(given["value"])
        return next((np.array(given[key], dtype) for key, dtype in kinds.items() if key in given), None)
    except (ValueError, TypeError, OverflowError):  # an attribute of no kind; ONNX Runtime says so
        return None


def _untie_(model: onnx.ModelProto, weights: dict[str, Any]) -> dict[str, str]:
    """Give every use of a constant its own name, in place; return name -> the name it had.

    Constants that a graph inside a node reads, and those that are outputs, keep their name there.
    """
    taken = set(weights) | {name for node in model.graph.node for name in (*node.input, *node.output)}
    origin = {name: name for name in weights}
    used = {value.name for value in model.graph.output} | {n for node in model.graph.node for n in captured(node)}
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name not in weights:
                continue
            if name in used:
                number = sum(1 for root in origin.values() if root == name)
                alias = next(a for a in (f"{name}.use{i}" for i in range(number, len(taken) + 2)) if a not in taken)
                taken.add(alias)
                weights[alias], origin[alias] = weights[name], name
                node.input[slot] = alias
            used.add(name)
    return origin


def infer_shapes(network: Network, inputs: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Dims]:
    """Return the inferred shape of every value whose rank is known; an unknown size is a name of its own.

    ``inputs`` are the shapes to give to the inputs of the graph, instead of those that it states.
    """
    skeleton, _ = assemble(network, inline_below_bytes=_INLINE_BYTES)
    del skeleton.graph.value_info[:]
    if inputs is not None:
        _fix_shapes_(skeleton.graph, inputs)
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the graph's shapes cannot be inferred ({str(error).splitlines()[0]}); export it again."
        ) from None
    shapes: dict[str, Dims] = {name: array.shape for name, array in network.weights.items()}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(_dim(dim, f"?{value.name}.{index}") for index, dim in enumerate(kind.shape.dim))
    return shapes


def _fix_shapes_(graph: onnx.GraphProto, inputs: Mapping[str, tuple[int, ...]]) -> None:
    """State the shapes of the inputs, in place, and none of the outputs, for those follow."""
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, inputs[value.name])
        value.type.tensor_type.shape.CopyFrom(shape.tensor_type.shape)


def _dim(dim: onnx.TensorShapeProto.Dimension, unknown: str) -> int | str:
    """Return a size, or its name if it is open: some exporters write -1 for that."""
    known = dim.HasField("dim_value") and dim.dim_value >= 0
    return int(dim.dim_value) if known else dim.dim_param or unknown
