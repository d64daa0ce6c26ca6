"""Graphs of one layer: valid for every kind, and the layer of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slimtask.bench.layers.graph import has_producer, layer_graph
from slimtask.compress.latency.table import LayerShape

CONV = LayerShape(kind="conv", size=(8, 8), kernel=(3, 3), padding=(1, 1))


DEPTHWISE = LayerShape(kind="depthwise", size=(8, 8), kernel=(3, 3), padding=(1, 1))


SHAPES = [
    CONV,
    LayerShape(kind="conv", batch=2, size=(9, 7), kernel=(1, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    DEPTHWISE,
    LayerShape(kind="grouped", size=(8, 8), kernel=(3, 3), width=4),
    LayerShape(kind="transposed", size=(5, 6), kernel=(2, 2), stride=(2, 2)),
    LayerShape(kind="linear", size=(12, 1)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_every_kind_of_layer_is_a_valid_graph_that_runs(shape: LayerShape) -> None:
    import onnx
    import onnxruntime

    graph, feed = layer_graph(shape, 8, 12, 3)
    onnx.checker.check_model(onnx.load_from_string(graph))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"x": np.ones(feed, np.float32)})
    assert len(outputs) == 3
    assert outputs[0].shape == ((1, 12) if shape.kind == "linear" else (shape.batch, 12, 1, 1))


def test_the_producer_alone_is_a_graph_of_its_own() -> None:
    import onnxruntime

    graph, feed = layer_graph(CONV, 20, 12, 0)
    outputs = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(
        None, {"x": np.ones(feed, np.float32)}
    )
    assert [output.shape for output in outputs] == [(1, 20, 1, 1)]
    assert has_producer(CONV, 20)
    assert not has_producer(CONV, 3)
    assert not has_producer(LayerShape(kind="linear"), 20)


def test_a_graphs_layer_is_the_layer_of_torch() -> None:
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    graph, feed = layer_graph(CONV, 3, 5, 1)
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in onnx.load_from_string(graph).graph.initializer}
    x = np.random.default_rng(0).standard_normal(feed).astype(np.float32)
    conv = nn.functional.conv2d(torch.from_numpy(x), weights["w0"], weights["b0"], padding=1).relu()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0][0, :, 0, 0], conv[0, :, 0, 0], rtol=1e-4)
