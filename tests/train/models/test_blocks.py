"""Residual blocks against their sum run by hand, and which of them project their shortcut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.train.models.blocks import ResidualBlock, basic_block, bottleneck, conv_bn


@pytest.mark.parametrize(
    ("stride", "dilation", "planes", "first", "projects"),
    [
        (1, 1, 8, True, False),
        (2, 1, 8, True, True),
        (1, 2, 8, True, True),
        (1, 1, 16, True, True),
        (1, 2, 8, False, False),
    ],
)
def test_the_first_block_of_a_stage_projects_where_it_must(
    stride: int, dilation: int, planes: int, first: bool, projects: bool
) -> None:
    block = basic_block(8, planes, stride=stride, dilation=dilation, first=first).eval()
    assert isinstance(block.shortcut, nn.Identity) is not projects
    x = torch.randn(1, 8, 12, 12)
    with torch.no_grad():
        expected = (block.shortcut(x) + block.residual(x)).relu()
        assert torch.equal(block(x), expected)
    assert expected.shape == (1, planes, 12 // stride, 12 // stride)


def test_a_bottleneck_widens_four_times_and_strides_in_its_middle() -> None:
    block = bottleneck(16, 4, stride=2, dilation=1, first=True)
    convolutions = [m for m in block.residual if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convolutions] == [(1, 1, 4), (3, 2, 4), (1, 1, 16)]
    assert not isinstance(block.shortcut, nn.Identity)
    assert isinstance(bottleneck(16, 4, stride=1, dilation=2, first=True).shortcut, nn.Identity)


def test_the_shortcut_is_not_rectified() -> None:
    block = ResidualBlock(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Identity())
    nn.init.zeros_(block.residual[0].weight), nn.init.constant_(block.residual[0].bias, 2.0)
    x = torch.tensor([[[[-3.0, -1.0, 1.0]]]])
    assert block(x).flatten().tolist() == [0.0, 1.0, 3.0]
    assert x.flatten().tolist() == [-3.0, -1.0, 1.0]


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (7, 1)])
def test_padding_keeps_the_size(kernel: int, dilation: int) -> None:
    layers = nn.Sequential(*conv_bn(2, 3, kernel, dilation=dilation, relu=False))
    assert layers(torch.zeros(2, 2, 9, 11)).shape == (2, 3, 9, 11)
