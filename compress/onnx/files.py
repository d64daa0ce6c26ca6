"""ONNX files in and out: weights apart from the graph, large ones in a file beside it, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Shaped

from slimtask.compress.onnx.network import Network, assemble, external, graphs
from slimtask.errors import InputError
from slimtask.files import atomic_file, refuse_existing
from slimtask.onnx_bytes import unreadable
from slimtask.onnx_file import OnnxFile, held_onnx, is_external, open_onnx

SPLIT_BYTES = 1_900_000_000  # protobuf ends at 2 GiB
_ALIGNMENT_BYTES = 64
_INLINE_BYTES = 1024
_FLOATS = {onnx.TensorProto.FLOAT}
_LINEAR = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_QUANTISED = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"))
_QUANTISED |= {"ConvInteger", "MatMulInteger"}

Weights = dict[str, Shaped[np.ndarray, "..."]]


def read_onnx(source: onnx.ModelProto | Path | str) -> tuple[onnx.ModelProto, Weights]:
    """Return a graph without its initialisers, and the initialisers by name; a ModelProto given is not changed.

    Raises InputError for what is not a whole ONNX file and for a graph that does not compute in float32.
    """
    file = _in_memory(source) if isinstance(source, onnx.ModelProto) else open_onnx(source)
    what = file.contents.what
    model = file.model
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{what} holds no graph; give an .onnx file that an exporter wrote.")
    if not model.opset_import:
        raise InputError(f"{what} is no ONNX model; give an .onnx file that an exporter wrote.")
    _refuse_other_precisions(model, what)
    weights = {tensor.name: file.array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    return model, weights


def uses_external_data(source: onnx.ModelProto | Path | str) -> bool:
    """Return whether the weights of a file lie in another file beside it."""
    if isinstance(source, onnx.ModelProto):
        return False
    return any(not tensor.inside for tensor in open_onnx(source).contents.external)


def write_onnx(network: Network, path: Path | str, *, external_data: bool = False) -> tuple[Path, ...]:
    """Return the files written: the graph and, if asked for or if it is too large, ``<name>.data`` with its weights.

    Raises InputError if the file for the weights exists: another graph may need it.
    """
    path = Path(path)
    if not external_data and sum(array.nbytes for array in network.weights.values()) < SPLIT_BYTES:
        model, _ = assemble(network)
        with atomic_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        return (path,)
    beside = path.with_name(f"{path.name}.data")
    refuse_existing(beside)
    model, data = assemble(network, inline_below_bytes=_INLINE_BYTES)
    offset = 0
    with atomic_file(beside) as temporary, temporary.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                content = data[tensor.external_data[0].value]
                offset += file.write(b"\0" * (-offset % _ALIGNMENT_BYTES))
                tensor.CopyFrom(external(tensor.name, network.weights[tensor.name], beside.name, offset))
                offset += file.write(content)
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return path, beside


def _in_memory(source: onnx.ModelProto) -> OnnxFile:
    """Return a copy of a graph that was given as such, checked like one in a file; it can name no file."""
    what, model, bare = "the ONNX graph", onnx.ModelProto(), onnx.ModelProto()
    model.CopyFrom(source)
    bare.CopyFrom(source)
    del bare.graph.initializer[:]  # protobuf writes 2 GiB at most; what is in memory has its size already
    file = held_onnx(bare.SerializeToString(), {}, what)
    for tensor in model.graph.initializer:
        if is_external(tensor):
            raise unreadable(what, tensor.name, "they lie in a file; give the path of the graph")
    return file.with_model(model)


def _refuse_other_precisions(model: onnx.ModelProto, what: str) -> None:
    """Raise InputError naming the first node whose weights are not float32."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        if node.op_type in _QUANTISED:
            raise InputError(
                f"{what} is quantised ({node.op_type} '{node.name or node.output[0]}'); "
                "compress the float32 graph and quantise the result."
            )
        for name in node.input[1:2] if node.op_type in _LINEAR else ():
            if kinds.get(name, onnx.TensorProto.FLOAT) not in _FLOATS:
                raise InputError(
                    f"{what}: the weights '{name}' of {node.op_type} '{node.name or node.output[0]}' are "
                    f"{onnx.TensorProto.DataType.Name(kinds[name]).lower()}, not float32; "
                    "compress the float32 graph and convert the result."
                )
