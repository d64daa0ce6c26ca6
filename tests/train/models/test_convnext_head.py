"""The ConvNeXt adapter: EfficientMTL's sizes, and a block against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlock

from slimtask.train.models.convnext_head import ConvNeXtBlock, ConvNeXtHead


@pytest.mark.parametrize(("hidden", "millions"), [(3072, 2.98), (1536, 1.34)])
def test_it_has_the_published_number_of_parameters(hidden: int, millions: float) -> None:
    with torch.device("meta"):
        head = ConvNeXtHead(768, 1, hidden=hidden)
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_a_block_is_torchvisions_without_layer_scale() -> None:
    torch.manual_seed(0)
    ours, theirs = ConvNeXtBlock(8), CNBlock(8, 1.0, 0.0)
    for mine, other in zip(ours.parameters(), list(theirs.parameters())[1:], strict=True):  # the first is the scale
        nn.init.normal_(mine)
        other.data.copy_(mine.data)
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_every_token_becomes_four_by_four_predictions_of_its_own() -> None:
    torch.manual_seed(0)
    head = ConvNeXtHead(6, 2, hidden=128).eval()
    with torch.no_grad():
        for block in head.blocks:  # without the blocks no prediction sees another token
            nn.init.zeros_(block.reduce.weight)
            nn.init.zeros_(block.reduce.bias)
        x = torch.randn(1, 6, 3, 5)
        out = head(x)
        other = x.clone()
        other[:, :, 1, 2] += 1
        changed = (head(other) != out).any(dim=1)[0]
    assert out.shape == (1, 2, 12, 20)
    expected = torch.zeros(12, 20, dtype=torch.bool)
    expected[4:8, 8:12] = True
    assert torch.equal(changed, expected)
