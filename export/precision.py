"""Precision read back from what was built, never assumed: from an ONNX graph, a TensorRT network, or an engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

_COMPUTE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_COMPUTE_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_NETWORK_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}
_ENGINE_TYPES = {
    "fp32": r"\bFP32\b|\bFloat\b",
    "fp16": r"\bFP16\b|\bHalf\b",
    "bf16": r"\bBF16\b|\bBFloat16\b",
    "int8": r"\bInt8\b",
    "fp8": r"\bFP8\b",
}


def graph_precision(model: Any) -> str:
    """Return the precision an ``onnx.ModelProto`` computes in: "fp32", "fp16", or "fp16+fp32" where it is mixed.

    It is the type of the operands of the convolutions and matrix products; without any, that of all float weights.
    """
    import onnx

    names = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
        onnx.TensorProto.DOUBLE: "fp64",
    }
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    operands = [name for node in model.graph.node if node.op_type in _COMPUTE_OPS for name in node.input[:2]]
    weights = [tensor.name for tensor in model.graph.initializer]
    outputs = [value.name for value in model.graph.output]
    for group in (operands, weights, outputs):
        found = {names[types[name]] for name in group if types.get(name) in names}
        if found:
            return _join(found)
    return "unknown"


def network_precision(trt: ModuleType, network: Any) -> str:
    """Return the precision of a strongly typed TensorRT ``network``: its convolutions' and products' output types."""
    kinds = tuple(getattr(trt.LayerType, name) for name in _COMPUTE_LAYERS)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    compute = [layer for layer in layers if layer.type in kinds]
    found = {
        _NETWORK_TYPES[dtype.name]
        for layer in compute or layers
        for dtype in _output_types(layer)
        if dtype.name in _NETWORK_TYPES
    }
    return _join(found) if found else "unknown"


def engine_precision(information: str) -> str | None:
    """Return the precision in the JSON of an engine inspector (detailed profiling), or None if it does not tell.

    The tensors between layers count, not the engine's own inputs and outputs, which stay float32 by design. Reads
    both spellings: "Format/Datatype" of TensorRT 10 and the separate "DataType" of TensorRT 11.
    """
    try:
        content = json.loads(information)
    except json.JSONDecodeError:
        return None
    entries = [entry for entry in content.get("Layers", ()) if isinstance(entry, dict)]
    edges = {_name(item) for item in (*content.get("Bindings", ()), *content.get("I/O Tensors", ()))}
    tensors = [tensor for entry in entries for tensor in entry.get("Outputs", ())]
    described = [_describe(tensor) for tensor in tensors if _name(tensor) not in edges]
    found = {name for name, pattern in _ENGINE_TYPES.items() if any(re.search(pattern, text) for text in described)}
    return _join(found) if found else None


def _output_types(layer: Any) -> Iterator[Any]:
    for index in range(layer.num_outputs):
        yield layer.get_output(index).dtype


def _name(item: Any) -> str:
    return str(item.get("Name", "")) if isinstance(item, dict) else str(item)


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, dict):
        return ""
    return " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "DataType", "Datatype"))


def _join(found: Iterable[str]) -> str:
    return "+".join(sorted(found))
