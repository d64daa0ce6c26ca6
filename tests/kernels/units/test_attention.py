"""Attention with changed heads against nn.MultiheadAttention with every task's own weights, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.kernels.units.attention import head_attention, rows_of
from slimtask.kernels.units.correction import Layer

HEADS, WIDTH, N = 5, 4, 9
K = HEADS * WIDTH
CHANGED = ([0, 3], [4], [])


def layer(outputs: int) -> Layer:
    return Layer(torch.randn(outputs, K).double(), torch.randn(outputs).double())


def dense(x: torch.Tensor, packed: Layer, projection: Layer) -> torch.Tensor:
    module = nn.MultiheadAttention(K, HEADS, batch_first=True).double()
    module.load_state_dict(
        {
            "in_proj_weight": packed.weight,
            "in_proj_bias": packed.bias,
            "out_proj.weight": projection.weight,
            "out_proj.bias": projection.bias,
        }
    )
    return module(x, x, x, need_weights=False)[0].detach()


def case():
    torch.manual_seed(0)
    x, packed, projection = torch.randn(2, N, K).double(), layer(3 * K), layer(K)
    heads, packeds, projections = [torch.tensor(h, dtype=torch.long) for h in CHANGED], [], []
    for which in heads:
        channels = [h * WIDTH + i for h in which.tolist() for i in range(WIDTH)]
        rows = [part * K + c for part in range(3) for c in channels]
        own, after = (
            Layer(packed.weight.clone(), packed.bias.clone()),
            Layer(projection.weight.clone(), projection.bias + 1),
        )
        own.weight[rows] += torch.randn(len(rows), K).double()
        own.bias[rows] -= 1
        after.weight[:, channels] += torch.randn(K, len(channels)).double()
        assert rows_of(which, HEADS, WIDTH).tolist() == rows
        packeds.append(own)
        projections.append(after)
    return x, packed, projection, heads, packeds, projections


@pytest.mark.parametrize("batched", [False, True])
def test_it_is_every_tasks_dense_attention(batched: bool) -> None:
    x, packed, projection, heads, packeds, projections = case()
    new = [Layer(*(t[rows_of(h, HEADS, WIDTH)] for t in own)) for own, h in zip(packeds, heads, strict=True)]
    made = head_attention(x, packed, projection, heads, new, projections, width=WIDTH, batched=batched)
    torch.testing.assert_close(made.base, dense(x, packed, projection), rtol=1e-11, atol=1e-11)
    for difference, own, after in zip(made.differences, packeds, projections, strict=True):
        assert difference.abs().max() > 0.1
        torch.testing.assert_close(made.base + difference, dense(x, own, after), rtol=1e-11, atol=1e-11)


def test_bad_heads_are_named() -> None:
    x, packed, projection, _, packeds, projections = case()
    new = Layer(*(t[rows_of(torch.tensor([4]), HEADS, WIDTH)] for t in packeds[1]))
    with pytest.raises(ValueError, match=r"heads \[5\] are not rising numbers below 5"):
        head_attention(x, packed, projection, [torch.tensor([5])], [new], projections[1:2], width=WIDTH)
    with pytest.raises(ValueError, match="1 heads of width 4 change, but there are 60 new rows; give 12"):
        head_attention(x, packed, projection, [torch.tensor([4])], packeds[1:2], projections[1:2], width=WIDTH)
