"""The functions behind the operators leave standard operators alone in an exported graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.kernels.layouts import BlockLayout, Layout, OutChannelLayout, RowLayout, VectorLayout
from slimtask.kernels.ops import appended, complete, split, tensors_of
from slimtask.kernels.ops.channels import out_channels
from slimtask.kernels.ops.rows import rows, scatter
from slimtask.kernels.ops.sparse import blocks, vectors


class Layers(nn.Module):
    """Every form one after the other, on one input."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        delta = np.zeros((3, 6, 9), np.float32)
        delta[0, [0, 2]], delta[1, 5] = 1, 2
        self.hold("channels", OutChannelLayout.pack(delta))
        self.hold("blocks", BlockLayout.pack(delta, height=2, width=4))
        self.hold("vectors", VectorLayout.pack(delta, height=2))
        self.hold("rows", RowLayout.of([np.array([1, 2]), np.array([3]), np.array([], int)], 4))
        weight, bias = torch.randn(6, 9, generator=generator), torch.randn(6, generator=generator)
        weights, biases = appended(weight, bias, self.channels_channel, self.channels_value)
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)
        self.register_buffer("merged", weight + torch.from_numpy(delta))

    def hold(self, form: str, layout: Layout) -> None:
        for name, tensor in tensors_of(layout).items():
            self.register_buffer(f"{form}_{name}", tensor)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        base, changed = split(out_channels(self.channels_channel, self.weights, x, self.biases), self.channels_channel)
        whole = complete(base, changed, self.channels_channel, self.channels_count)
        own = rows(self.rows_index, self.rows_count, x.expand(3, 4, 9), self.merged, gather=True)
        return (
            whole,
            scatter(self.rows_index, self.rows_count, own, whole),
            blocks(self.blocks_start, self.blocks_column, self.blocks_value, x, base),
            vectors(self.vectors_column, self.vectors_value, x, base),
        )


def test_the_graph_holds_standard_operators_and_computes_the_same() -> None:
    layers, x = Layers(), torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    exported = torch.export.export(layers, (x,))
    used = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    assert {str(target).partition(".")[0] for target in used} == {"aten"}
    assert torch.ops.aten.index.Tensor not in used  # with int32 indices it becomes a GatherND that ONNX forbids
    for actual, expected in zip(exported.module()(x), layers(x), strict=True):
        torch.testing.assert_close(actual, expected)
    whole, _, by_blocks, by_vectors = layers(x)
    torch.testing.assert_close(by_blocks, whole)
    torch.testing.assert_close(by_vectors, whole)
