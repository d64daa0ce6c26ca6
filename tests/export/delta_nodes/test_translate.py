"""The operators of the delta layers in a traced graph: nodes with bodies, or standard operators."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from slimtask.export.delta_nodes.functions import DOMAIN
from slimtask.export.onnx import subgraph, trace_onnx
from slimtask.kernels import layouts, ops
from slimtask.tasks import TaskSpec

TOKENS, INPUTS, OUTPUTS, TASKS = 12, 8, 12, 2
NAMES = ("blocks", "vectors", "csr", "channels", "rows")


class Layers(nn.Module):
    """A layer of every layout on the first channel of an image, each as a task."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        delta = np.zeros((TASKS, OUTPUTS, INPUTS), np.float32)
        delta[0, [0, 2]], delta[1, 5:8, 2] = 1, 2
        self.tasks = tuple(TaskSpec(name=name, kind="multilabel", channels=4) for name in NAMES)
        self.hold("blocks", layouts.BlockLayout.pack(delta, height=8, width=4))
        self.hold("vectors", layouts.VectorLayout.pack(delta, height=4))
        self.hold("csr", layouts.CsrLayout.pack(delta))
        self.hold("channels", layouts.OutChannelLayout.pack(delta))
        self.hold("rows", layouts.RowLayout.of([np.array([1, 2]), np.array([3])], TOKENS))
        for name, shape in {
            "weight": (OUTPUTS, INPUTS),
            "bias": (TASKS, OUTPUTS),
            "residual": (TOKENS, OUTPUTS),
        }.items():
            self.register_buffer(name, torch.randn(shape, generator=generator))
        weights, biases = ops.appended(self.weight, self.bias[0].clone(), self.channels_channel, self.channels_value)
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)
        self.register_buffer("merged", self.weight + torch.from_numpy(delta))

    def hold(self, form, layout):
        for name, tensor in ops.tensors_of(layout).items():
            self.register_buffer(f"{form}_{name}", tensor)

    def arrays(self, form, *names):
        return [getattr(self, f"{form}_{name}") for name in names]

    def forward(self, x, tasks=None):
        x = x[0, 0]
        base, rest = x @ self.weight.T, (self.bias, self.residual, True)
        sparse = self.arrays("blocks", "start", "column", "value")
        own = ops.delta_rows(
            self.rows_index, self.rows_count, 2 * x.expand(TASKS, -1, -1), self.merged, *rest, gather=True
        )
        made = {
            "blocks": lambda: ops.delta_blocks(*sparse, x, base, *rest),
            "vectors": lambda: ops.delta_vectors(*self.arrays("vectors", "column", "value"), x, base, self.bias),
            "csr": lambda: ops.delta_csr(*self.arrays("csr", "start", "column", "value"), x, base),
            "channels": lambda: ops.delta_out_channels(
                self.channels_channel, self.weights, x, self.biases, self.residual, True
            ),
            "rows": lambda: ops.scatter_rows(self.rows_index, self.rows_count, own, base),
        }
        return {name: self.squeezed(made[name]()) for name in tasks or NAMES}

    def squeezed(self, y):
        """Return four numbers that depend on every entry, [1, 4]."""
        flat = y.flatten()
        return (flat[: len(flat) // 4 * 4].reshape(4, -1) * torch.arange(len(flat) // 4).cos()).sum(dim=1)[None]


@pytest.fixture(scope="module")
def traced():
    layers, image = Layers().eval(), torch.randn(1, 3, TOKENS, INPUTS, generator=torch.Generator().manual_seed(1))
    return layers, image, trace_onnx(layers, None, image)


@torch.no_grad()
def test_the_graph_computes_what_the_operators_do(traced):
    layers, image, model = traced
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, (name, want) in zip(session.run(None, {"image": image.numpy()}), layers(image).items(), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_sparse_layers_are_nodes_and_the_others_standard_operators(traced):
    _, _, model = traced
    ours = [node.op_type for node in model.graph if node.domain == DOMAIN]
    assert sorted(ours) == ["DeltaBlocksBiasGeluResidual", "DeltaCsr", "DeltaVectorsBias"]
    assert {identifier[1] for identifier in model.functions} == set(ours)


def test_a_subgraph_keeps_the_functions_it_needs(traced):
    _, _, model = traced
    cut = subgraph(model, ["csr"])
    assert [identifier[:2] for identifier in cut.functions] == [(DOMAIN, "DeltaCsr")]
    onnx.checker.check_model(ir.to_proto(cut), full_check=True)
    plain = subgraph(model, ["rows"])
    assert not plain.functions
    assert DOMAIN not in plain.opset_imports
