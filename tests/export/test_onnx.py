import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from slimtask.errors import InputError, Unsupported
from slimtask.export.onnx import IR_VERSION, OPSET, export_onnx, subgraph, trace_onnx
from slimtask.tasks import TaskSpec

EXAMPLE = torch.zeros(1, 3, 32, 48)


class OneTask(nn.Module):
    """A module around any function of the image."""

    def __init__(self, function, *specs):
        super().__init__()
        self.function = function
        self.tasks = specs or (TaskSpec(name="depth", kind="depth", channels=1),)

    def forward(self, x, tasks=None):
        outputs = self.function(x)
        return outputs if isinstance(outputs, dict) else {task.name: outputs for task in self.tasks}


def run(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image.numpy()}), strict=True))


def ops(model):
    return [node.op_type for node in model.graph.node]


def test_a_graph_has_names_versions_static_shapes_and_the_models_values(tmp_path, net):
    path = export_onnx(net, ["depth", "attributes"], EXAMPLE, tmp_path / "two.onnx")
    assert b".py" not in path.read_bytes(), "paths of source files do not belong in a product"
    model = onnx.load(path)
    assert "trunk/0/1/Conv" in {node.name for node in model.graph.node}, "nodes are named after their modules"
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET) == (10, 20)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": [1, 3, 32, 48], "depth": [1, 1, 32, 48], "attributes": [1, 4]}
    image = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = net(image, tasks=["depth", "attributes"])
    for name, output in run(path, image).items():
        torch.testing.assert_close(torch.from_numpy(output), expected[name], rtol=1e-5, atol=1e-5)


def test_batch_norm_is_folded_and_weights_equal_the_fold_by_hand(tmp_path, net):
    model = onnx.load(export_onnx(net, None, EXAMPLE, tmp_path / "g.onnx"))
    assert "BatchNormalization" not in ops(model)
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}
    conv, norm = net.trunk[0][0], net.trunk[0][1]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(stored["trunk.0.0.weight"], conv.weight.detach() * scale.detach()[:, None, None, None])


def test_fp16_computes_in_half_between_float32_edges(tmp_path, net):
    model = onnx.load(export_onnx(net, None, EXAMPLE, tmp_path / "half.onnx", precision="fp16"))
    edges = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert edges == {onnx.TensorProto.FLOAT}
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("weight")]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert ops(model).count("Cast") == 1 + len(net.tasks)


def test_a_subgraph_keeps_only_what_its_output_needs(net):
    fused = trace_onnx(net, None, EXAMPLE)
    depth = subgraph(fused, ["depth"])
    assert [output.name for output in depth.graph.outputs] == ["depth"]
    assert [output.name for output in fused.graph.outputs] == [task.name for task in net.tasks], "the source changed"
    names = set(depth.graph.initializers)
    assert {"trunk.0.0.weight", "trunk.1.0.weight", "heads.depth.weight"} <= names
    assert not [name for name in names if name.startswith("heads.") and "depth" not in name]
    assert "Gemm" not in {node.op_type for node in depth.graph}
    assert len(list(depth.graph)) < len(list(fused.graph))


def test_the_model_is_left_as_it_was(make_net):
    net = make_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trace_onnx(net, None, EXAMPLE, precision="fp16")
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_two_tasks_may_return_the_same_tensor(tmp_path):
    specs = (TaskSpec(name="edges", kind="edges", channels=1), TaskSpec(name="saliency", kind="saliency", channels=1))
    path = export_onnx(OneTask(lambda x: x.mean(1, keepdim=True), *specs), None, EXAMPLE, tmp_path / "same.onnx")
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    outputs = run(path, image)
    for name in ("edges", "saliency"):
        torch.testing.assert_close(torch.from_numpy(outputs[name]), image.mean(1, keepdim=True))


def test_models_that_break_the_contract_are_told_how():
    with pytest.raises(
        InputError, match=r"task 'depth' \(depth\) gives an output of shape \(1, 3, 32, 48\) instead of"
    ):
        trace_onnx(OneTask(lambda x: x), None, EXAMPLE)
    with pytest.raises(InputError, match="must return a dict with these keys"):
        trace_onnx(OneTask(lambda x: {"height": x}), None, EXAMPLE)
    with pytest.raises(InputError, match="no 'tasks'"):
        trace_onnx(nn.Conv2d(3, 1, 1), None, EXAMPLE)
    positional = nn.Identity()
    positional.tasks = (TaskSpec(name="depth", kind="depth", channels=1),)
    with pytest.raises(InputError, match="takes no 'tasks'"):
        trace_onnx(positional, None, EXAMPLE)
    with pytest.raises(InputError, match="did you mean 'depth'"):
        trace_onnx(OneTask(lambda x: x), ["dept"], EXAMPLE)


def test_an_operation_without_onnx_form_is_named():
    def fft(x):
        return torch.linalg.svdvals(x).sum() * x[:, :1]

    with pytest.raises(Unsupported, match="svd"):
        trace_onnx(OneTask(fft), None, EXAMPLE)
