"""The normal form computes what the file does: constants folded, functions inlined, one constant for every use."""

import numpy as np
import pytest
from onnx import helper

from slimtask.compress.onnx.files import read_onnx
from slimtask.compress.onnx.network import assemble
from slimtask.compress.onnx.normalise import normalise
from slimtask.errors import InputError


def test_constants_between_an_initialiser_and_its_reader_are_computed(builder, same):
    b = builder()
    weight = b.op("Transpose", b.op("Identity", b.constant(b.weight(3, 8))), perm=[1, 0])
    kernel = b.op("Unsqueeze", weight, b.op("Constant", outputs=["axes"], value_ints=[2, 3]))
    model = b.model(b.op("Conv", "x", kernel))
    network = normalise(*read_onnx(model))
    assert [node.op_type for node in network.nodes] == ["Conv"]
    assert network.weights[network.nodes[0].input[1]].shape == (8, 3, 1, 1)
    same(model, assemble(network)[0])


def test_a_scalar_stays_a_scalar(builder, same):
    b = builder()
    last = b.op("Gather", b.conv("x", 3, 4), b.op("Identity", b.constant(-1, np.int64)), axis=2)
    model = b.model(last)
    again, _ = assemble(normalise(*read_onnx(model)))
    assert [list(t.dims) for t in again.graph.initializer] == [[4, 3, 1, 1], [4], []]
    same(model, again)


def test_a_constant_that_is_an_output_stays_where_it_is(builder):
    b = builder()
    name = b.op("Identity", b.constant(np.ones(3)))
    network = normalise(*read_onnx(b.model(b.conv("x", 3, 4), name)))
    assert [node.op_type for node in network.nodes] == ["Identity", "Conv"]


def test_large_constants_are_not_made(builder):
    b = builder()
    shape = b.constant([1 << 20, 1 << 20], np.int64)
    tall = b.op("ConstantOfShape", shape)
    network = normalise(*read_onnx(b.model(b.op("Add", b.op("GlobalMaxPool", "x"), tall))))
    assert "ConstantOfShape" in [node.op_type for node in network.nodes]


def test_every_use_has_a_constant_of_its_own_and_they_become_one_again(builder, same):
    b = builder()
    weight = b.constant(b.weight(3, 3, 1, 1))
    y = "x"
    for _ in range(3):
        y = b.op("Conv", y, weight)
    model = b.model(y)
    network = normalise(*read_onnx(model))
    assert len({node.input[1] for node in network.nodes}) == 3
    again, _ = assemble(network)
    assert [t.name for t in again.graph.initializer] == [weight]
    same(model, again)


def test_functions_are_inlined(builder, same):
    b = builder()
    z = b.op("Twice", b.conv("x", 3, 4), domain="my.ops")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    function = helper.make_function("my.ops", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    model = b.model("v0")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(z, 1, [2, 4, 12, 10]))
    model.functions.append(function)
    network = normalise(*read_onnx(model))
    assert [node.op_type for node in network.nodes] == ["Conv", "Add"]
    same(model, assemble(network)[0])


@pytest.mark.parametrize("opset", [11, 24])
def test_unknown_operator_sets_are_refused(builder, opset):
    b = builder(opset=20)
    model = b.model(b.conv("x", 3, 4))
    model.opset_import[0].version = opset
    with pytest.raises(InputError, match=f"opset {opset}; .* from 13 to 23"):
        normalise(*read_onnx(model))


def test_a_domain_that_is_not_declared_is_refused(builder):
    b = builder()
    model = b.model(b.op("Twice", b.conv("x", 3, 4), domain="my.ops"))
    del model.opset_import[1]
    with pytest.raises(InputError, match=r"cannot be inferred .*my\.ops"):
        normalise(*read_onnx(model))
