import ast
import json
import types
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import slimtask.export.engines
import slimtask.export.precision
import slimtask.export.runtime.trt
from slimtask.errors import InputError, Unsupported
from slimtask.export.engines import RTX_TARGETS, build_engine, check_targets
from slimtask.export.onnx import export_onnx
from slimtask.export.precision import _COMPUTE_LAYERS, _NETWORK_TYPES

API = Path(__file__).parents[3] / "shared" / "reference" / "tensorrt-api"
VERSIONS = ("10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106")
# What only TensorRT-RTX has; the code asks for it with hasattr before it touches it.
RTX_ONLY = {("ComputeCapability",), ("IBuilderConfig", "num_compute_capabilities")} | {
    ("IBuilderConfig", "set_compute_capability")
}
CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
}


@pytest.fixture
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def used_members(module):
    """Return what a module uses of TensorRT: ("Class",), ("Class", "member") from ``trt.`` and from typed names."""
    used = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("_"):
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id == "trt":
            used.add((node.attr,))
        elif isinstance(owner, ast.Name) and owner.id in CLASS_OF:
            used.add((CLASS_OF[owner.id], node.attr))
        elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
            used.add((owner.attr, node.attr))
    return used


@pytest.fixture
def used():
    modules = (slimtask.export.engines, slimtask.export.precision, slimtask.export.runtime.trt)
    by_name = {("LayerType", name) for name in _COMPUTE_LAYERS} | {("DataType", name) for name in _NETWORK_TYPES}
    return set().union(*map(used_members, modules)) | by_name | {("ITensor", "dtype")}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_used_exists_in_the_bindings(used, version):
    file = API / f"api_{version}.json"
    if not file.exists():
        pytest.skip(f"the member list of TensorRT {version} is not beside the project")
    classes = {name: set(members) for name, members in json.loads(file.read_text()).items()}
    assert len(used) > 35, "the walk over the code found too little to mean anything"
    missing = {name for name in used if name[0] not in classes or (len(name) == 2 and name[1] not in classes[name[0]])}
    assert missing == RTX_ONLY


def test_every_name_used_exists_in_tensorrt_rtx(trt, used):
    for owner, *member in used:
        assert all(hasattr(getattr(trt, owner), name) for name in member), (owner, member)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_for_four_gpus_without_one_and_tells_its_precision(tmp_path, trt, net, precision):
    graph = export_onnx(net, None, torch.zeros(1, 3, 32, 48), tmp_path / "g.onnx", precision=precision)
    engine = build_engine(trt, graph, tmp_path / "g.engine")
    assert engine.targets == RTX_TARGETS == ("sm_80", "sm_86", "sm_89", "sm_120")
    assert (engine.precision, engine.precision_source) == (precision, "network")
    assert engine.bytes == (tmp_path / "g.engine").stat().st_size > 10_000


def node_model(path, op, domain="", **attributes):
    node = helper.make_node(op, ["image"], ["y"], name="the_node", domain=domain, **attributes)
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("image", "y")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph([node], "g", edges[:1], edges[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_the_parsers_complaint_names_the_node_in_one_sentence(tmp_path, trt):
    graph = node_model(tmp_path / "odd.onnx", "Frobnicate", "com.example")
    with pytest.raises(Unsupported, match=r"node 'the_node' \(Frobnicate\)") as failure:
        build_engine(trt, graph, tmp_path / "odd.engine")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "odd.engine").exists()


def test_what_is_no_graph_is_bad_input(tmp_path, trt):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"cannot read 'junk\.onnx'"):
        build_engine(trt, tmp_path / "junk.onnx", tmp_path / "junk.engine")
    with pytest.raises(InputError, match="does not exist"):
        build_engine(trt, tmp_path / "absent.onnx", tmp_path / "absent.engine")


def test_targets_are_checked_against_the_product(trt):
    assert check_targets(trt, ["sm_86"]) == ("sm_86",)
    with pytest.raises(InputError, match=r"unknown target 'sm_90' .* did you mean"):
        check_targets(trt, ["sm_90"])


def test_a_product_without_ahead_of_time_targets_builds_for_the_gpu_present(tmp_path, trt, monkeypatch):
    enterprise = types.ModuleType("tensorrt")
    enterprise.__dict__.update({name: value for name, value in vars(trt).items() if name != "ComputeCapability"})
    graph = node_model(tmp_path / "relu.onnx", "Relu")
    with pytest.raises(InputError, match="builds for the GPU of this machine only"):
        build_engine(enterprise, graph, tmp_path / "relu.engine", targets=["sm_86"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="without a GPU"):
        build_engine(enterprise, graph, tmp_path / "relu.engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    told = json.dumps({"Layers": [{"Outputs": [{"Name": "t", "Format/Datatype": "Row major linear FP32"}]}]})
    inspector = types.SimpleNamespace(get_engine_information=lambda form: told)
    opened = types.SimpleNamespace(create_engine_inspector=lambda: inspector)
    enterprise.Runtime = lambda log: types.SimpleNamespace(deserialize_cuda_engine=lambda content: opened)
    engine = build_engine(enterprise, graph, tmp_path / "relu.engine")
    assert (engine.targets, engine.precision, engine.precision_source) == (("sm_86",), "fp32", "engine")
