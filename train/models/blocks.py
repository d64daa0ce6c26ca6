"""Residual blocks of the two reference trunks: F(x) added to a shortcut, ReLU outside."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Return ``relu(shortcut(x) + residual(x))`` for features [batch, in, h, w] -> [batch, out, h/stride, w/stride]."""

    def __init__(self, residual: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        """Return the block's output features."""
        out: Tensor = self.relu(self.shortcut(x) + self.residual(x))
        return out


def conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, relu: bool = True
) -> list[nn.Module]:
    """Return convolution (no bias, "same" padding), BatchNorm and, if asked, ReLU as a list of modules."""
    padding = dilation * (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return [*layers, nn.ReLU(inplace=True)] if relu else layers


def basic_block(inputs: int, planes: int, *, stride: int, dilation: int, first: bool) -> ResidualBlock:
    """Return SceneNet's two-convolution block; both 3x3 are dilated (DiSparse and AdaShare, ResNet-18/34).

    The ``first`` block of a stage projects its shortcut if it strides, widens or dilates; the others add the identity.
    """
    residual = nn.Sequential(
        *conv_bn(inputs, planes, 3, stride=stride, dilation=dilation),
        *conv_bn(planes, planes, 3, dilation=dilation, relu=False),
    )
    project = first and (stride != 1 or inputs != planes or dilation > 1)
    return ResidualBlock(residual, _shortcut(inputs, planes, stride) if project else nn.Identity())


def bottleneck(inputs: int, planes: int, *, stride: int, dilation: int, first: bool) -> ResidualBlock:
    """Return the 1x1, 3x3, 1x1 bottleneck with expansion 4 (Less is More, ResNetD-50)."""
    residual = nn.Sequential(
        *conv_bn(inputs, planes, 1),
        *conv_bn(planes, planes, 3, stride=stride, dilation=dilation),
        *conv_bn(planes, 4 * planes, 1, relu=False),
    )
    project = first and (stride != 1 or inputs != 4 * planes)
    return ResidualBlock(residual, _shortcut(inputs, 4 * planes, stride) if project else nn.Identity())


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, 1, stride=stride, relu=False))
