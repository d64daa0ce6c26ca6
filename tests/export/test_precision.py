import json

import onnx
import pytest
from onnx import TensorProto, helper

from slimtask.export.precision import engine_precision, graph_precision, network_precision

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def product(name, source, dtype):
    weight = helper.make_tensor(f"{name}_w", dtype, [2, 2], [1.0] * 4)
    return helper.make_node("MatMul", [source, weight.name], [name]), weight


def model(*steps, edge=FLOAT):
    nodes, weights = zip(*steps, strict=True)
    tensors = [helper.make_tensor_value_info(name, edge, [2, 2]) for name in ("image", nodes[-1].output[0])]
    graph = helper.make_graph(list(nodes), "g", [tensors[0]], [tensors[1]], [w for w in weights if w])
    return helper.make_model(graph)


def test_the_operands_of_products_decide_not_the_edges():
    assert graph_precision(model(product("y", "image", FLOAT))) == "fp32"
    cast = helper.make_node("Cast", ["image"], ["half"], to=HALF), None
    back = helper.make_node("Cast", ["y"], ["z"], to=FLOAT), None
    assert graph_precision(model(cast, product("y", "half", HALF), back)) == "fp16"


def test_a_mixture_is_called_one():
    cast = helper.make_node("Cast", ["image"], ["half"], to=HALF), None
    back = helper.make_node("Cast", ["y"], ["wide"], to=FLOAT), None
    assert graph_precision(model(cast, product("y", "half", HALF), back, product("z", "wide", FLOAT))) == "fp16+fp32"


def test_a_graph_without_products_is_read_by_its_outputs():
    relu = helper.make_node("Relu", ["image"], ["y"]), None
    assert graph_precision(model(relu, edge=HALF)) == "fp16"


TENSORRT_10 = {
    "Layers": [
        {"Name": "cast", "Outputs": [{"Name": "a", "Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "conv", "Outputs": [{"Name": "b", "Format/Datatype": "Channel major FP16 format where C % 8 == 0"}]},
        {"Name": "out", "Outputs": [{"Name": "depth", "Format/Datatype": "Row major linear FP32"}]},
    ],
    "Bindings": ["image", "depth"],
}
TENSORRT_11 = {
    "Layers": [
        {"Name": "conv", "Outputs": [{"Name": "b", "Format": "Row major", "DataType": "Float"}]},
        {"Name": "out", "Outputs": [{"Name": "depth", "Format": "Row major", "DataType": "Float"}]},
    ],
    "I/O Tensors": [{"Name": "image"}, {"Name": "depth"}],
}


@pytest.mark.parametrize(("content", "expected"), [(TENSORRT_10, "fp16"), (TENSORRT_11, "fp32")])
def test_both_spellings_of_the_inspector_are_read_without_the_edges(content, expected):
    assert engine_precision(json.dumps(content)) == expected


def test_an_inspector_that_tells_nothing_gives_none():
    assert engine_precision("not json") is None
    assert engine_precision(json.dumps({"Layers": ["conv", "relu"], "Bindings": []})) is None
    assert engine_precision(json.dumps({"Layers": [TENSORRT_10["Layers"][2]], "Bindings": ["depth"]})) is None


@pytest.mark.parametrize(("dtype", "expected"), [(FLOAT, "fp32"), (HALF, "fp16")])
def test_a_parsed_network_tells_its_precision(tmp_path, dtype, expected):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    made = model(product("y", "image", dtype), edge=dtype)
    made.ir_version, made.opset_import[0].version = 10, 20
    onnx.save(made, tmp_path / "g.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(tmp_path / "g.onnx"))
    assert network_precision(trt, network) == expected
