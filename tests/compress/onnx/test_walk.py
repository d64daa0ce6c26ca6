"""The walk's claims against ONNX Runtime: a channel said to be constant is that constant at every place."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtask.compress.onnx.files import read_onnx
from slimtask.compress.onnx.normalise import normalise
from slimtask.compress.onnx.walk import walk


def flow_of(model):
    return walk(normalise(*read_onnx(model)))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_constants_hold_in_every_tensor_of_a_random_network(random_net, execute, seed):
    model = random_net(seed).model("y")
    flow = flow_of(model)
    names = [name for node in model.graph.node for name in node.output if name in flow.values and name != "y"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    x = np.random.default_rng(seed).uniform(-2, 2, (2, 3, 12, 10)).astype(np.float32)
    found = 0
    for name, array in zip(["y", *names], execute(model, x), strict=True):
        value = flow.values[name]
        rows = np.moveaxis(array, value.axis, 0).reshape(len(value.labels), -1)
        known = ~np.isnan(value.constant)
        found += known.sum()
        np.testing.assert_allclose(rows[known], value.constant[known, None] + 0 * rows[known], rtol=1e-5, atol=1e-5)
    assert len(names) > 3
    assert found or seed  # the first network, at least, has dead filters


@pytest.mark.parametrize("kind", ["Softmax", "LpNormalization", "DepthToSpace", "ArgMax"])
def test_what_mixes_channels_holds_them_and_is_named(builder, kind):
    b = builder()
    y = b.conv("x", 3, 8, dead=[1])
    axis = {"DepthToSpace": {"blocksize": 2}}.get(kind, {"axis": 1})
    classes = flow_of(b.model(b.op(kind, y, **axis), kind=7 if kind == "ArgMax" else 1)).classes
    assert (classes.held >= 0).all()
    assert classes.reasons == (f"{kind} 'n1' mixes its channels",)


def test_a_chosen_channel_stays_and_the_others_may_go(builder):
    b = builder()
    y = b.op("Gather", b.conv("x", 3, 8), b.constant(5, np.int64), axis=1)
    classes = flow_of(b.model(b.op("ReduceMax", y, keepdims=0))).classes
    assert (classes.held >= 0).nonzero()[0].tolist() == [5, 8]  # the last stands for all that is no channel


def test_a_softmax_over_another_axis_holds_nothing(builder):
    b = builder()
    y = b.op("Softmax", b.conv("x", 3, 8), axis=3)
    classes = flow_of(b.model(b.op("GlobalAveragePool", b.conv(y, 8, 4)))).classes
    assert (classes.held < 0).sum() == 8


def test_a_custom_operator_holds_its_channels(builder):
    b = builder()
    y = b.conv("x", 3, 8)
    z = b.op("Relu", y, domain="my.ops")
    classes = flow_of(b.model(z)).classes
    assert classes.reasons == ("Relu 'n1' mixes its channels",)


def test_channels_that_a_branch_reads_from_outside_are_held(builder):
    b = builder()
    y = b.op("Relu", b.conv("x", 3, 8, dead=[0, 1]))
    flag = b.constant([True], bool)
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(kind, [y], ["inner"])],
            kind,
            [],
            [onnx.helper.make_tensor_value_info("inner", 1, None)],
        )
        for kind in ("Neg", "Abs")
    ]
    z = b.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    classes = flow_of(b.model(z)).classes
    assert (classes.held >= 0).all()
    assert classes.reasons == ("If 'n2' reads it from inside",)


def test_a_node_outside_the_specification_holds_what_it_reads(builder):
    b = builder()
    y = b.conv("x", 3, 8)
    model = b.model(b.op("Relu", y))
    model.graph.node[1].op_type = "Concat"  # without its axis
    model.graph.node[1].input.append("nowhere")
    flow = walk(normalise_loosely(model))
    assert (flow.classes.held >= 0).all()


def normalise_loosely(model):
    network = normalise(*read_onnx(model))
    network.shapes.pop(model.graph.node[1].output[0], None)
    return network
