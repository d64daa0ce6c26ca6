"""Graphs of others: nothing is read beside them, nothing runs without an end, everything is one sentence."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from slimtask.compress.onnx import proof
from slimtask.compress.onnx.compressing import compress_onnx
from slimtask.compress.onnx.files import read_onnx
from slimtask.compress.onnx.normalise import normalise
from slimtask.errors import InputError, SlimtaskError
from tests.cpu_time import at_most
from tests.slimtask import onnx_samples as samples


@pytest.fixture
def model(builder):
    b = builder(dims=(1, 3, 12, 10))
    y = b.op("Relu", b.conv("x", 3, 16, 3, dead=range(6)))
    z = b.op("Concat", y, b.op("Cast", b.op("Transpose", y, perm=[0, 1, 2, 3]), to=1), axis=1)
    return b.model(b.conv(b.op("Clip", z, b.constant(-1), b.constant(1)), 32, 4, 3))


@pytest.mark.parametrize("place", samples.PLACES)
def test_a_graph_in_memory_names_no_file(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(samples.VALUES.tobytes())
    with pytest.raises(InputError, match="the weights 'w' cannot be read"):
        read_onnx(samples.PLACES[place](samples.tensor("w.bin")))


@pytest.mark.parametrize("trips", [10**12, None])
def test_a_loop_without_an_end_is_refused_where_it_would_run(model, monkeypatch, trips):
    monkeypatch.setattr(proof, "LOOP_SECONDS", 0.5)
    loop = samples.loop(trips)
    loop.graph.node[0].input[2], loop.graph.node[0].output[0] = "l", "m2"
    del loop.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.node.append(onnx.helper.make_node("ReduceMax", ["x"], ["peak"], keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Add", ["peak", "w"], ["l"]))
    model.graph.node.extend(loop.graph.node)
    model.graph.initializer.extend(loop.graph.initializer)
    model.graph.output.append(onnx.helper.make_tensor_value_info("m2", 1, [4]))
    with at_most(5), pytest.raises(InputError, match="repeats itself"):
        compress_onnx(model)


def set_dims(tensor, dims):
    del tensor.dims[:]
    tensor.dims.extend(dims)


def edits(model):
    """Yield what can be broken in a graph, each as a function that breaks it in place."""
    for index, node in enumerate(model.graph.node):
        for slot in range(len(node.attribute)):
            yield lambda m, i=index, s=slot: m.graph.node[i].attribute.pop(s)
            yield lambda m, i=index, s=slot: setattr(m.graph.node[i].attribute[s], "type", 3)
            yield lambda m, i=index, s=slot: m.graph.node[i].attribute[s].ints.extend([-(2**62), 2**62])
            yield lambda m, i=index, s=slot: setattr(m.graph.node[i].attribute[s], "i", 2**62)
        for slot in range(len(node.input)):
            yield lambda m, i=index, s=slot: m.graph.node[i].input.pop(s)
            yield lambda m, i=index, s=slot: m.graph.node[i].input.__setitem__(s, "")
            yield lambda m, i=index, s=slot: m.graph.node[i].input.__setitem__(s, "nowhere")
        yield lambda m, i=index: m.graph.node[i].ClearField("output")
        yield lambda m, i=index: m.graph.node[i].input.extend(["x"] * 5)
        yield lambda m, i=index: setattr(m.graph.node[i], "op_type", "Transpose")
        yield lambda m, i=index: setattr(m.graph.node[i], "domain", "elsewhere")
    for index in range(len(model.graph.initializer)):
        for dims in ([], [0], [1], [2**31], [-1], [2**62, 4]):
            yield lambda m, i=index, d=dims: (
                m.graph.initializer[i].ClearField("dims"),
                m.graph.initializer[i].dims.extend(d),
            )
        for kind in (0, 2, 6, 7, 8, 16, 99):
            yield lambda m, i=index, k=kind: setattr(m.graph.initializer[i], "data_type", k)
        yield lambda m, i=index: m.graph.initializer.pop(i)
    for dim in (-1, 0, 2**31, 2**62):
        for axis in range(4):
            yield lambda m, d=dim, a=axis: setattr(m.graph.input[0].type.tensor_type.shape.dim[a], "dim_value", d)
    for kind in (0, 2, 7, 8, 10, 99):
        yield lambda m, k=kind: setattr(m.graph.input[0].type.tensor_type, "elem_type", k)
    yield lambda m: m.graph.input[0].ClearField("type")
    yield lambda m: m.graph.ClearField("input")
    yield lambda m: m.graph.output[0].ClearField("type")
    yield lambda m: m.ClearField("opset_import")
    yield lambda m: setattr(m.opset_import[0], "version", 2**62)


def test_a_broken_graph_is_one_sentence_or_right(model, tmp_path):
    path, said = tmp_path / "g.onnx", []
    for edit in edits(model):
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        edit(broken)
        path.write_bytes(broken.SerializeToString())
        try:
            compress_onnx(path)
        except SlimtaskError as error:
            said.append(str(error))
    assert len(said) > 80
    assert max(map(len, said)) < 1500


def test_constants_are_not_made_larger_before_they_are_refused(builder):
    b = builder()
    rows, columns = b.constant(np.ones((2**16, 1))), b.constant(np.ones((1, 2**16)))
    wide = b.op("ReduceMax", b.op("Add", rows, columns), keepdims=0)
    indices = b.constant(np.zeros(2**15), np.int64)
    many = b.op("ReduceMax", b.op("Gather", b.constant(np.ones((4, 2**17))), indices), keepdims=0)
    model = b.model(b.op("Add", b.op("Add", "x", wide), many))
    with at_most(2):
        normalise(*read_onnx(model))
