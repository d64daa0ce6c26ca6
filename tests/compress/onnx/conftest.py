"""A builder of small ONNX graphs, and a run of them by ONNX Runtime that shares no code with the proof."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper


class Builder:
    """Writes a graph node by node; every method that adds one returns the name of its output."""

    def __init__(self, seed=0, dims=(2, 3, 12, 10), opset=20):
        self.rng = np.random.default_rng(seed)
        self.dims, self.opset = dims, opset
        self.nodes, self.initialisers = [], {}

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.initialisers)}"
        self.initialisers[name] = np.asarray(value, dtype)
        return name

    def op(self, kind, *inputs, outputs=None, **attributes):
        number = len(self.nodes)
        names = outputs or [f"v{number}"]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{number}", **attributes))
        return names[0]

    def weight(self, *shape):
        return self.rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))

    def conv(self, x, inputs, outputs, kernel=1, bias=None, dead=(), ignored=(), **attributes):
        """A convolution; the filters ``dead`` are zero, and so are its weights on the inputs ``ignored``."""
        weight = self.weight(outputs, inputs // attributes.get("group", 1), kernel, kernel)
        weight[list(dead)] = 0
        weight[:, list(ignored)] = 0
        bias = self.rng.standard_normal(outputs) if bias is None else bias
        return self.op("Conv", x, self.constant(weight), self.constant(bias), **attributes)

    def model(self, *outputs, kind=onnx.TensorProto.FLOAT):
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.dims)],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.initialisers.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("my.ops", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        return inferred


def run(model, x):
    """Return the outputs of a graph (a ModelProto or the path of one) for the input ``x``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


@pytest.fixture
def builder() -> type[Builder]:
    return Builder


@pytest.fixture
def execute() -> Callable[..., list[np.ndarray]]:
    return run


@pytest.fixture
def same() -> Callable[..., None]:
    """Return a check that two graphs agree on an input of ``dims`` that the proof has not seen."""

    def check(before, after, dims=(2, 3, 12, 10), seed=123):
        x = np.random.default_rng(seed).uniform(-3, 3, dims).astype(np.float32)
        for expected, got in zip(run(before, x), run(after, x), strict=True):
            assert np.isfinite(expected).all()
            assert np.ptp(expected) > 0  # an output that is one number would prove nothing
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    return check


@pytest.fixture
def random_net() -> Callable[[int], Builder]:
    """Return a maker of seeded random networks of up to ten layers with dead filters; output "y"."""
    return random_network


def random_network(seed):
    b = Builder(seed)
    rng = b.rng
    x, channels = b.conv("x", 3, 8, 3, pads=[1, 1, 1, 1], dead=_some(rng, 8)), 8
    for _ in range(int(rng.integers(2, 8))):
        x, channels = _LAYERS[rng.integers(len(_LAYERS))](b, x, channels)
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    b.op("Gemm", pooled, b.constant(b.weight(4, channels)), b.constant(b.weight(4)), outputs=["y"], transB=1)
    return b


def _some(rng, count):
    return rng.permutation(count)[: int(rng.integers(0, count // 2 + 1))]


def _bias(b, count):
    return np.where(b.rng.random(count) < 0.5, 0.0, b.rng.standard_normal(count))


def _conv(b, x, channels):
    outputs, pad = int(b.rng.integers(4, 10)), int(b.rng.integers(0, 2))
    dead, bias = _some(b.rng, outputs), _bias(b, outputs)
    return b.conv(x, channels, outputs, 1 + 2 * pad, bias, dead, pads=[pad] * 4), outputs


def _depthwise(b, x, channels):
    pad = int(b.rng.integers(0, 2))
    dead, bias = _some(b.rng, channels), _bias(b, channels)
    return b.conv(x, channels, channels, 1 + 2 * pad, bias, dead, pads=[pad] * 4, group=channels), channels


def _grouped(b, x, channels):
    x = b.conv(x, channels, 8, bias=_bias(b, 8), dead=[0, 1, 2, *_some(b.rng, 8)])
    return b.conv(x, 8, 12, bias=_bias(b, 12), dead=[0, 1, 2, *_some(b.rng, 12)], group=4), 12


def _residual(b, x, channels):
    y = b.conv(x, channels, channels, 3, _bias(b, channels), _some(b.rng, channels), pads=[1] * 4)
    return b.op("Add", x, b.op("Relu", y)), channels


def _branches(b, x, channels):
    y, more = _conv(b, b.op("Relu", x), channels)
    pooled = b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    if b.rng.random() < 0.5:
        y = b.op("HardSwish", b.conv(x, channels, more, dead=_some(b.rng, more)))
    y = b.op("Resize", y, "", "", _sizes(b, x, more), mode="linear")
    return b.op("Concat", pooled, y, axis=1), channels + more


def _sizes(b, x, channels):
    shape = b.op("Shape", x)
    space = b.op("Slice", shape, b.constant([2], np.int64), b.constant([4], np.int64))
    return b.op("Concat", b.constant([2, channels], np.int64), space, axis=0)


def _gate(b, x, channels):
    pooled = b.op("GlobalAveragePool", x)
    hidden = b.op("Relu", b.conv(pooled, channels, 4, dead=_some(b.rng, 4)))
    return b.op("Mul", x, b.op("Sigmoid", b.conv(hidden, 4, channels))), channels


def _norm(b, x, channels):
    scale = np.where(b.rng.random(channels) < 0.3, 0.0, b.rng.uniform(0.5, 1.5, channels))
    values = scale, _bias(b, channels), b.rng.standard_normal(channels), b.rng.uniform(0.5, 2, channels)
    return b.op("Relu", b.op("BatchNormalization", x, *(b.constant(value) for value in values))), channels


def _linear(b, x, channels):
    last = b.op("Transpose", x, perm=[0, 2, 3, 1])
    weight = b.weight(channels, 6)
    weight[:, _some(b.rng, 6)] = 0
    y = b.op("Gelu", b.op("Add", b.op("MatMul", last, b.constant(weight)), b.constant(_bias(b, 6))))
    return b.op("Transpose", y, perm=[0, 3, 1, 2]), 6


def _up(b, x, channels):
    weight = b.weight(channels, 5, 2, 2)
    weight[:, _some(b.rng, 5)] = 0
    y = b.op("ConvTranspose", x, b.constant(weight), b.constant(_bias(b, 5)), strides=[2, 2])
    return b.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2]), 5


_LAYERS = (_conv, _depthwise, _grouped, _residual, _branches, _gate, _norm, _linear, _up)
