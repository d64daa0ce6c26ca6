"""Element-wise constants, as the analysis of the tape knows them, against ONNX Runtime's own operators."""

import numpy as np
import onnx
import pytest

from slimtask.compress.onnx.files import read_onnx
from slimtask.compress.onnx.normalise import normalise
from slimtask.compress.onnx.operators import OPERATORS
from slimtask.compress.onnx.walk import walk

VALUES = [-3.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 4.5]
OTHERS = [0.5, -2.0, 1.0, 3.0, -0.5, 1.5, 2.5, 0.25]
VARIANTS = {
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "Elu": [{}, {"alpha": 0.5}],
    "HardSigmoid": [{}, {"alpha": 0.3, "beta": 0.1}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "Cast": [{"to": onnx.TensorProto.DOUBLE}, {"to": onnx.TensorProto.INT32}],
}
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu", "Pow")
UNARY = (
    *("Identity", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Gelu"),
    *("Erf", "Tanh", "Softplus", "Softsign", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Sin", "Cos", "Cast"),
)
POSITIVE = ("Log", "Sqrt", "Reciprocal", "Pow")
# What these make of a constant is not followed.
UNFOLLOWED = ("Floor", "Ceil", "Round", "Sign", "Atan", "Tan", "ThresholdedRelu")
CASES = [(kind, given) for kind in (*UNARY, *BINARY, "Clip") for given in VARIANTS.get(kind, [{}])]


def graph(b, kind, given, values=VALUES):
    """x -> eight filters of zeros with ``values`` as biases -> ``kind`` -> output."""
    more = {"Clip": [b.constant(-1.0), b.constant(2.0)]}
    more |= {name: [b.constant(np.reshape(OTHERS, (8, 1, 1)))] for name in BINARY}
    y = b.conv("x", 3, 8, bias=values, dead=range(8))
    z = b.op(kind, y, *more.get(kind, []), **given)
    return b.model(z, kind=given.get("to", onnx.TensorProto.FLOAT)), z


def constants(model, name):
    return walk(normalise(*read_onnx(model))).values[name].constant


@pytest.mark.parametrize(("kind", "given"), CASES)
def test_every_function_is_the_operators(builder, execute, kind, given):
    values = np.abs(VALUES) + 0.1 if kind in POSITIVE else np.array(VALUES)
    model, name = graph(builder(), kind, given, values)
    (expected,) = execute(model, np.zeros((2, 3, 12, 10), np.float32))
    np.testing.assert_allclose(constants(model, name), expected[0, :, 0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", UNFOLLOWED)
def test_an_operator_without_a_function_gives_no_constant_and_holds_nothing(builder, kind):
    model, name = graph(builder(), kind, {})
    flow = walk(normalise(*read_onnx(model)))
    constant = flow.values[name].constant
    assert (np.isnan(constant) | ((kind == "ThresholdedRelu") & (constant == 0))).all()  # a gate keeps zero
    assert set(flow.classes.reasons) == {f"'{name}' is an output of the graph"}


@pytest.mark.parametrize("kind", [*BINARY, "Where"])
def test_what_varies_stays_unknown_except_behind_an_exact_zero(builder, kind):
    b = builder()
    known, varies = b.conv("x", 3, 2, bias=[0.0, 2.0], dead=[0, 1]), b.conv("x", 3, 2)
    z = b.op(kind, *([b.op("Greater", varies, known)] if kind == "Where" else []), varies, known)
    np.testing.assert_array_equal(constants(b.model(z), z), [0.0 if kind == "Mul" else np.nan, np.nan])


def test_what_is_not_finite_is_no_constant(builder):
    b = builder()
    z = b.op("Div", b.conv("x", 3, 2, bias=[0.0, 2.0], dead=[0, 1]), b.constant(0.0))
    assert np.isnan(constants(b.model(z), z)).all()


def test_every_element_wise_operator_is_tried():
    logic = ("Not", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where", "Mod")
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Dropout", "Softmax", "LogSoftmax", "Pad", "Resize", "Concat")
    moves = ("Split", "Slice", "Gather", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
    others = {kind for kind in OPERATORS if "Pool" in kind or "Normalization" in kind or "Reduce" in kind}
    assert set(OPERATORS) == {*UNARY, *BINARY, "Clip", *UNFOLLOWED, *logic, *layers, *moves, *others}
