"""FLOPs of single operations against their closed forms, on tapes without values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.graph.operands import axis_size, operands, shortens, vector_at
from slimtask.compress.graph.operations import operation_flops
from slimtask.compress.network.trace import record


class Attends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 10, 10), 2 * (2 * 8 * 5 * 5) * 3 * 9),
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 6, 6), 2 * (8 * 4 * 4) * 9),
        (nn.Linear(5, 7), (4, 5), 2 * 4 * 5 * 7),
        (Attends(), (1, 2, 6, 4), 2 * (2 * 2 * 6 * 6 * 4)),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3)), (1, 3, 4, 4), 0),
    ],
    ids=["convolution", "depthwise", "linear", "attention", "what is not counted"],
)
def test_a_multiply_add_is_two(network: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    tape = record(network.eval(), torch.zeros(shape))
    assert sum(map(operation_flops, tape.operations)) == expected


def test_the_tensors_of_an_operation_come_in_order_wherever_they_are() -> None:
    class Joins(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x.relu()], 1)[:, :2].add(x.mean(), alpha=2)

    tape = record(Joins(), torch.zeros(1, 3, 4, 4))
    names = [op.name for op in tape.operations]
    relu, joined, added = (tape.operations[names.index(name)] for name in ("relu", "cat", "add"))
    assert operands(joined) == [relu.args[0], relu.outputs[0]]
    assert [ref.shape for ref in operands(added)] == [(1, 2, 4, 4), ()]
    assert any(shortens(op, joined.outputs[0]) for op in tape.operations if op.name == "slice")
    assert not shortens(relu, relu.args[0])


def test_axes_are_counted_from_the_last_as_broadcasting_does() -> None:
    for shape in ((3, 4), (4,), (2, 3, 4), ()):
        whole = torch.zeros(shape)[(None,) * (4 - len(shape))].shape
        assert [axis_size(shape, axis, 4) for axis in range(4)] == list(whole)
    assert vector_at(torch.arange(3).numpy(), 1, 3).shape == (1, 3, 1)
