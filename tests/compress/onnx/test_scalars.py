"""Element-wise constants against ONNX Runtime's own operators."""

import numpy as np
import onnx
import pytest
from onnx import helper

from slimtask.compress.onnx.scalars import ELEMENTWISE, FUNCTIONS, evaluate

VALUES = np.array([-3.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 4.5])
OTHERS = np.array([0.5, -2.0, 1.0, 3.0, -0.5, 1.5, 2.5, 0.25])
ATTRIBUTES = {
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "Elu": [{}, {"alpha": 0.5}],
    "HardSigmoid": [{}, {"alpha": 0.3, "beta": 0.1}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "Cast": [{"to": onnx.TensorProto.DOUBLE}],
}
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")
CASES = [(kind, given) for kind in sorted(FUNCTIONS) for given in ATTRIBUTES.get(kind, [{}])]


@pytest.mark.parametrize(("kind", "given"), CASES)
def test_every_function_is_the_operators(execute, kind, given):
    x = np.abs(VALUES) + 0.1 if kind in ("Log", "Sqrt", "Reciprocal", "Pow") else VALUES
    more = {"Clip": [np.array(-1.0), np.array(2.0)], **{key: [OTHERS] for key in (*BINARY, "Pow")}}
    operands = [x, *more.get(kind, [])]
    names = ["x", "a", "b"][: len(operands)]
    out = onnx.TensorProto.DOUBLE if kind == "Cast" else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], **given)],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", out, None)],
        [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in zip(names[1:], operands[1:], strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    (expected,) = execute(model, x.astype(np.float32))
    read = {key: value.encode() if isinstance(value, str) else value for key, value in given.items()}
    got = evaluate(kind, read, [np.broadcast_to(operand, (8,)).copy() for operand in operands], 8)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_what_varies_stays_unknown_except_behind_an_exact_zero():
    known, varies = np.array([0.0, 2.0]), np.array([np.nan, np.nan])
    np.testing.assert_array_equal(evaluate("Mul", {}, [known, varies], 2), [0.0, np.nan])
    for kind in sorted(ELEMENTWISE - {"Mul"}):
        operands = [varies, known] if kind in (*BINARY, "Pow") else [varies]
        assert np.isnan(evaluate(kind, {"to": 1}, operands, 2)).all(), kind
    assert np.isnan(evaluate("Div", {}, [known, np.zeros(2)], 2)).all()  # what is not finite is no constant


def test_an_operator_without_a_function_gives_no_constant():
    assert np.isnan(evaluate("Where", {}, [np.ones(3), np.ones(3), np.ones(3)], 3)).all()
