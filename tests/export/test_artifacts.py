"""What engines are built from: whole weights, and delta nodes only where the builder has kernels for them."""

from types import ModuleType

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from slimtask.export import artifacts
from slimtask.export.artifacts import Job, checked_engine
from slimtask.export.engines import Engine
from slimtask.tasks import Preprocessing, TaskSpec


@pytest.fixture
def job(tmp_path):
    """A job whose one graph has a delta node with a body that doubles its input."""
    body = [helper.make_node("Add", ["x_t", "x_t"], ["y"])]
    inputs = ["start", "column", "value", "x_t", "base", "delta_bias", "residual"]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("slimtask", "DeltaCsr", inputs, ["y"], body, opsets)
    node = helper.make_node("DeltaCsr", [*"abc", "image", "image", "image", "image"], ["depth"], domain="slimtask")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("image", "depth")]
    held = [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0]) for name in "abc"]
    model = helper.make_model(
        helper.make_graph([node], "g", edges[:1], edges[1:], held),
        functions=[function],
        opset_imports=[*opsets, helper.make_opsetid("slimtask", 1)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "depth.onnx")
    return Job(
        model=torch.nn.Identity(),
        folder=tmp_path,
        specs=(TaskSpec(name="depth", kind="depth", channels=1),),
        preprocessing=Preprocessing(height=8, width=8),
        roles={"depth": ("depth",)},
        precision="fp32",
        tolerance=1e-4,
        targets={"tensorrt": None, "tensorrt-rtx": ("sm_86",)},
    )


@pytest.mark.parametrize(("backend", "plugins"), [("tensorrt", ("DeltaCsr",)), ("tensorrt-rtx", ())])
def test_delta_nodes_stay_where_there_are_kernels_for_them(job, backend, plugins, monkeypatch):
    built = []

    def build(trt, graph, path, targets):
        built.append(onnx.load(graph))
        path.write_bytes(b"engine")
        return Engine(bytes=6, precision="fp32", precision_source="network", targets=("sm_86",))

    monkeypatch.setattr(artifacts, "build_engine", build)
    monkeypatch.setattr(artifacts, "register_plugins", lambda trt, names, dtype: tuple(names))
    monkeypatch.setattr(artifacts, "parity_of", lambda *_: None)
    artifact = checked_engine(job, "depth", backend, ModuleType("tensorrt"))
    assert artifact.plugins == plugins
    (node,) = built[0].graph.node
    assert node.op_type == ("DeltaCsr" if plugins else "Add")
    assert [attribute.name for attribute in node.attribute] == (["aot"] if plugins else [])
