"""The proof can fail: another weight, another shape, a graph that does not run."""

import numpy as np
import pytest

from slimtask.compress.onnx.files import read_onnx
from slimtask.compress.onnx.normalise import normalise
from slimtask.compress.onnx.proof import certify, probes
from slimtask.errors import InputError


@pytest.fixture
def network(builder):
    b = builder(dims=("n", 3, "h", "w"))
    return normalise(*read_onnx(b.model(b.conv("x", 3, 4, 3), b.conv("x", 3, 2, 1))))


def test_the_same_network_is_the_same(network):
    certificate = certify(network, probes(network), 1e-5, ())
    assert certificate
    assert certificate.max_rel_error == 0
    assert certificate.sizes == ((64, 96), (224, 224))
    assert certificate.inputs == 3 * (1 + 2)
    assert set(certificate.tasks) == {"v0", "v1"}


@pytest.mark.parametrize(("change", "holds"), [(1e-6, True), (1e-3, False)])
def test_a_changed_bias_shows_in_its_output_alone(network, change, holds):
    other = network.copy()
    name = other.nodes[1].input[2]
    other.weights[name] = other.weights[name] + np.float32(change)
    certificate = certify(other, probes(network), 1e-5, ())
    assert bool(certificate) is holds
    assert certificate.tasks["v0"].max_abs == 0
    assert certificate.tasks["v1"].max_abs == pytest.approx(change, abs=2e-6)


def test_another_shape_or_a_nan_is_infinitely_different(network):
    expected = probes(network)
    other = network.copy()
    node = other.nodes[1]
    other.weights[node.input[1]] = other.weights[node.input[1]][:1]
    other.weights[node.input[2]] = other.weights[node.input[2]][:1]
    del other.model.graph.output[1].type.tensor_type.shape.dim[:]
    other.model.graph.output[1].type.tensor_type.ClearField("shape")
    assert certify(other, expected, 1e-5, ()).max_rel_error == float("inf")
    other = network.copy()
    other.weights[node.input[2]] = np.full(2, np.nan, np.float32)
    assert certify(other, expected, 1e-5, ()).max_rel_error == float("inf")


def test_a_graph_that_does_not_load_or_run_is_an_error(network, builder):
    other = network.copy()
    other.weights[other.nodes[1].input[1]] = np.zeros((2, 5, 1, 1), np.float32)
    with pytest.raises(RuntimeError):
        certify(other, probes(network), 1e-5, ())
    with pytest.raises(InputError, match="ONNX Runtime cannot"):
        probes(other)


def test_only_a_size_that_the_graph_takes_is_used(builder):
    b = builder(dims=("n", 3, "h", "w"))
    fixed = b.op("Reshape", b.op("Relu", "x"), b.constant([-1, 3, 256, 320], np.int64))
    network = normalise(*read_onnx(b.model(b.conv(fixed, 3, 4))))
    assert {feed["x"].shape[2:] for feed, _ in probes(network)} == {(256, 320)}


def test_inputs_depend_on_the_seed_alone(network):
    one, again, other = (probes(network, seed)[0][0]["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
