"""Graphs that hold the base once and what differs: the same outputs to the bit, from fewer stored numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from slimtask.export.weights.shared import delta_nodes, share_base, whole

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((48, 40)).astype(np.float32)
X = RNG.standard_normal((3, 40)).astype(np.float32)


def rows_changed() -> np.ndarray:
    weight = BASE.copy()
    weight[[3, 17]] += 1
    return weight


def entries_changed() -> np.ndarray:
    weight = BASE.copy()
    weight[RNG.random(BASE.shape) < 0.03] = 0.5
    return weight


WEIGHTS = {
    "rows": rows_changed(),
    "entries": entries_changed(),
    "more units": np.concatenate([BASE, RNG.standard_normal((5, 40)).astype(np.float32)]),
    "in another order": np.ascontiguousarray(BASE[RNG.permutation(48)]),
}


def graph(weight: np.ndarray) -> ir.Model:
    """Return x W^T as a graph whose initializer is ``weight``."""
    x = ir.Value(name="x", shape=ir.Shape((3, 40)), type=ir.TensorType(ir.DataType.FLOAT))
    held = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT))
    held.const_value = ir.tensor(weight, name="w")
    turned = ir.node("Transpose", [held], attributes={"perm": [1, 0]})
    product = ir.node("MatMul", [x, turned.outputs[0]])
    product.outputs[0].name, product.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    product.outputs[0].shape = ir.Shape((3, len(weight)))
    inner = ir.Graph(
        [x], [product.outputs[0]], nodes=[turned, product], initializers=[held], opset_imports={"": 20}, name="g"
    )
    return ir.Model(inner, ir_version=10)


def outputs(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": X})[0])


def stored(model: ir.Model, but: str = "") -> int:
    values = model.graph.initializers.values()
    return sum(value.const_value.size for value in values if value.name != but)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_told_by_the_base_is_the_weight_to_the_bit(kind: str) -> None:
    model, plain = graph(WEIGHTS[kind]), graph(WEIGHTS[kind])
    share_base([model], {"fc.weight": BASE})
    assert "w" not in model.graph.initializers
    assert np.array_equal(model.graph.initializers["base.fc.weight"].const_value.numpy(), BASE)
    assert stored(model, but="base.fc.weight") < 0.2 * BASE.size
    assert np.array_equal(outputs(model), outputs(plain))
    again = whole(model)
    assert {node.op_type for node in again.graph} <= {"Transpose", "MatMul"}
    assert np.array_equal(outputs(again), outputs(plain))


def test_what_is_no_kin_or_too_small_stays_as_it_is() -> None:
    other = RNG.standard_normal((48, 40)).astype(np.float32)
    model = graph(other)
    share_base([model], {"fc.weight": BASE})
    assert list(model.graph.initializers) == ["w"]
    small = graph(BASE[:2])
    share_base([small], {"fc.weight": BASE[:2] + 1})
    assert list(small.graph.initializers) == ["w"]


def test_standard_graphs_have_no_delta_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("g") / "g.onnx"
    ir.save(graph(BASE), path)
    assert delta_nodes(path) == ()
