"""ONNX graphs that time one layer: parallel copies of it behind one producer, each ended by a one-pixel pool.

A layer alone is drowned by what surrounds it: on a 2-core AMD EPYC (Zen 5) a 64-to-64 3x3 convolution on a 56x56 map
takes 0.54 ms inside a network, but 0.63 ms as a graph of its own, since ONNX Runtime reorders the map into blocks of
16 channels and back. So the graph starts with a 1x1 convolution, whose output is blocked already, and the time of a
layer is the difference between several copies and one, divided by the further copies. The ending must be cheap and
read blocked maps: MaxPool of one pixel at the stride of the map adds nothing (0.539 ms), GlobalAveragePool 0.040 ms, a
graph output 0.076 ms. A chain of copies would need equal inputs and outputs and stride 1; parallel copies need neither.

A convolution whose inputs do not fill their blocks may read plain maps instead, which the producer's output must be
reordered to first, once for all copies. There the difference between one copy and the producer alone is the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slimtask.compress.latency.table import LayerShape

_OPSET, _IR = 20, 10
_IMAGE_CHANNELS = 3


def layer_graph(shape: LayerShape, inputs: int, outputs: int, copies: int) -> tuple[bytes, tuple[int, ...]]:
    """Return an ONNX graph with ``copies`` of one layer in parallel, serialised, and the shape of its input "x".

    Without copies the producer alone is ended by the pool; ``has_producer`` says which layers have one.
    """
    from onnx import TensorProto, helper

    if shape.one_axis:
        inputs = outputs
    make = _linear if shape.kind == "linear" else _convolutions
    nodes, weights, feed = make(shape, inputs, outputs, copies)
    floats = TensorProto.FLOAT
    result = [1, outputs] if shape.kind == "linear" else [shape.batch, outputs if copies else inputs, 1, 1]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", floats, feed)],
        [helper.make_tensor_value_info(f"y{i}", floats, result) for i in range(max(copies, 1))],
        initializer=[_tensor(name, values) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return model.SerializeToString(), feed


def has_producer(shape: LayerShape, inputs: int) -> bool:
    """Return whether the layer reads the output of a convolution rather than the image, or positions."""
    return shape.kind != "linear" and inputs != _IMAGE_CHANNELS


def _convolutions(
    shape: LayerShape, inputs: int, outputs: int, copies: int
) -> tuple[list[Any], dict[str, np.ndarray], tuple[int, ...]]:
    """Return nodes, weights and input shape of convolution copies; a layer that reads the image has no producer."""
    from onnx import helper

    feed, source = (shape.batch, inputs, *shape.size), "x"
    nodes, weights = [], {}
    if has_producer(shape, inputs):
        feed, source = (shape.batch, _IMAGE_CHANNELS, *shape.size), "map"
        weights["producer"] = _weights((inputs, _IMAGE_CHANNELS, 1, 1), 0)
        nodes = [helper.make_node("Conv", ["x", "producer"], ["raw"]), helper.make_node("Relu", ["raw"], ["map"])]
    if not copies:
        ending: dict[str, Any] = {"kernel_shape": [1, 1], "strides": list(shape.size)}
        return [*nodes, helper.make_node("MaxPool", [source], ["y0"], **ending)], weights, feed
    operator = "ConvTranspose" if shape.kind == "transposed" else "Conv"
    per_filter = shape.width if shape.one_axis else inputs
    axes = (inputs, outputs) if shape.kind == "transposed" else (outputs, per_filter)
    attributes: dict[str, Any] = {
        "strides": list(shape.stride),
        "pads": list(shape.padding) * 2,
        "dilations": list(shape.dilation),
        "group": max(1, inputs // shape.width) if shape.one_axis else 1,
    }
    for i in range(copies):
        weights |= {f"w{i}": _weights((*axes, *shape.kernel), i), f"b{i}": _weights((outputs,), i)}
        nodes += [
            helper.make_node(operator, [source, f"w{i}", f"b{i}"], [f"c{i}"], **attributes),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            helper.make_node("MaxPool", [f"r{i}"], [f"y{i}"], kernel_shape=[1, 1], strides=list(shape.out_size)),
        ]
    return nodes, weights, feed


def _linear(
    shape: LayerShape, inputs: int, outputs: int, copies: int
) -> tuple[list[Any], dict[str, np.ndarray], tuple[int, ...]]:
    """Return nodes, weights and input shape of matrix products with a bias, each ended by a slice of one position."""
    from onnx import helper

    positions = shape.size[0]
    weights = {"from": np.array([0], np.int64), "to": np.array([1], np.int64)}
    nodes = []
    for i in range(copies):
        weights |= {f"w{i}": _weights((inputs, outputs), i), f"b{i}": _weights((outputs,), i)}
        nodes += [
            helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
            helper.make_node("Slice", [f"a{i}", "from", "to"], [f"y{i}"]),
        ]
    return nodes, weights, (positions, inputs)


def _weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return small weights that differ between copies, so that none is merged with another, and cost no time to make.

    No value is near zero: denormal numbers would slow the multiplications down.
    """
    count = int(np.prod(shape))
    return np.resize(np.linspace(0.01, 0.02 + 0.001 * seed, 251, dtype=np.float32), count).reshape(shape)


def _tensor(name: str, values: np.ndarray) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)
