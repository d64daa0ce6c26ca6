"""The bodies of delta nodes in ONNX Runtime and TensorRT-RTX, against the definition in float64."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from slimtask.export.delta_nodes.functions import DOMAIN, INPUTS, Layer, attach_functions, layers
from slimtask.export.weights.shared import whole
from slimtask.kernels.layouts import BlockLayout, CsrLayout, VectorLayout
from slimtask.kernels.ref import delta_linear

TASKS, TOKENS, INPUT, OUTPUT = 3, 11, 50, 70
PACK = {
    "DeltaBlocks": lambda delta: BlockLayout.pack(delta, height=16, width=32),
    "DeltaVectors": lambda delta: VectorLayout.pack(delta, height=32),
    "DeltaCsr": CsrLayout.pack,
}


def arrays(kind, dtype=np.float32):
    """Return x, W, D, biases, a residual and the node's inputs; the second task has no delta, ragged everywhere."""
    rng = np.random.default_rng(0)
    delta = np.zeros((TASKS, OUTPUT, INPUT), dtype)
    delta[0, 3:20, 5:9], delta[2, 66:] = rng.standard_normal((17, 4)), rng.standard_normal((4, INPUT))
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in ((TOKENS, INPUT), (OUTPUT, INPUT)))
    bias, residual = (rng.standard_normal(shape).astype(dtype) for shape in ((TASKS, OUTPUT), (TOKENS, OUTPUT)))
    given = PACK[kind](delta).arrays() | {"x": x, "base": (x @ weight.T).astype(dtype)}
    given |= {"x_t": np.pad(x.T, ((0, 0), (0, -TOKENS % 8))), "delta_bias": bias, "residual": residual}
    return x, weight, delta, given


def model_of(layer, given):
    """Return a model of the one node, with x and the base as inputs and everything else constant."""
    names = ["x" if layer.kind == "DeltaBlocks" else "x_t", "base"]
    edges = [
        ir.Value(name=n, shape=ir.Shape(given[n].shape), type=ir.TensorType(ir.DataType.from_numpy(given[n].dtype)))
        for n in names
    ]
    held = {}
    for name in set(layer.inputs) - set(names):
        held[name] = ir.Value(name=name, const_value=ir.tensor(given[name], name=name))
        held[name].shape, held[name].dtype = held[name].const_value.shape, held[name].const_value.dtype
    node = ir.node(
        layer.name, [dict(zip(names, edges, strict=True)).get(n) or held[n] for n in layer.inputs], domain=DOMAIN
    )
    node.name, node.outputs[0].name = "delta", "y"
    node.outputs[0].shape, node.outputs[0].dtype = ir.Shape((TASKS, TOKENS, OUTPUT)), edges[0].dtype
    graph = ir.Graph(
        edges, node.outputs, nodes=[node], initializers=list(held.values()), opset_imports={"": 20}, name="one"
    )
    model = ir.Model(graph, ir_version=10)
    attach_functions(model)
    return model


def run(proto, given, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {edge.name: given[edge.name] for edge in session.get_inputs()})
    return y, [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: layer.name)
def test_every_body_is_the_definition(layer, tmp_path):
    x, weight, delta, given = arrays(layer.kind)
    proto = ir.to_proto(model_of(layer, given))
    onnx.checker.check_model(proto, full_check=True)
    y, ops = run(proto, given, tmp_path)
    exact = [np.asarray(a, np.float64) for a in (x, weight, delta, given["delta_bias"], given["residual"])]
    bias, residual = exact[3] if layer.bias else None, exact[4] if layer.residual else None
    _, want = delta_linear(*exact[:3], delta_bias_TM=bias, residual_NM=residual, gelu=layer.gelu)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=2e-5)
    assert not {"ScatterElements", "CumSum", "Range"} & set(ops)  # the weights were made when it was loaded


@pytest.mark.parametrize("kind", INPUTS)
def test_half_precision_is_rounded_once(kind, tmp_path):
    x, weight, delta, given = arrays(kind, np.float16)
    base = given["base"] = x.astype(np.float32) @ weight.T.astype(np.float32)  # kernels take a base in float32
    y, _ = run(ir.to_proto(model_of(Layer(kind=kind), given)), given, tmp_path)
    want = base + np.einsum("nk,tmk->tnm", x.astype(np.float64), delta.astype(np.float64))
    assert y.dtype == np.float16
    assert np.abs(y - want).max() <= np.abs(want).max() * 2**-11 * 1.01


@pytest.mark.parametrize("kind", INPUTS)
def test_tensorrt_rtx_takes_the_bodies(kind, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from slimtask.export.engines import build_engine

    _, _, _, given = arrays(kind)
    model = model_of(Layer(kind=kind, bias=True, gelu=True), given)
    ir.save(model, tmp_path / "node.onnx")
    onnx.checker.check_model(tmp_path / "node.onnx", full_check=True)
    engine = build_engine(trt, tmp_path / "node.onnx", tmp_path / "node.engine", targets=["sm_86"])
    assert engine.bytes > 1000


def test_a_whole_graph_has_standard_operators_and_constant_weights(tmp_path):
    _, _, _, given = arrays("DeltaBlocks")
    model = model_of(Layer(kind="DeltaBlocks"), given)
    plain = whole(model)
    assert {node.op_type for node in plain.graph} <= {"Constant", "MatMul", "Add", "Cast"}
    assert not plain.functions
    expected, _ = run(ir.to_proto(model), given, tmp_path)
    np.testing.assert_array_equal(run(ir.to_proto(plain), given, tmp_path)[0], expected)
    kept = whole(model, keep=["DeltaBlocks"])
    (node,) = kept.graph
    assert (node.domain, node.op_type, node.attributes["aot"].value) == (DOMAIN, "DeltaBlocks", 1)


def test_only_functions_in_use_are_attached():
    _, _, _, given = arrays("DeltaCsr")
    model = model_of(Layer(kind="DeltaCsr", gelu=True), given)
    assert [identifier[1] for identifier in model.functions] == ["DeltaCsrGelu"]
    assert model.opset_imports == {"": 20, DOMAIN: 1}
