"""Dilated residual trunks of output stride 8, made of named blocks, with a width multiplier.

``resnet18`` and ``resnet34`` are SceneNet's trunks (DiSparse, AdaShare); ``resnetd50`` is that of Less is More.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError, nearest
from slimtask.train.models.blocks import ResidualBlock, basic_block, bottleneck, conv_bn

OUTPUT_STRIDE = 8
_STRIDES, _DILATIONS, _PLANES = (1, 2, 1, 1), (1, 1, 2, 4), (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class TrunkShape:
    """Blocks per stage, block builder, its channel expansion, and whether the stem is the three-convolution one."""

    depths: tuple[int, int, int, int]
    block: Callable[..., ResidualBlock]
    expansion: int
    deep_stem: bool


TRUNKS: dict[str, TrunkShape] = {
    "resnet18": TrunkShape(depths=(2, 2, 2, 2), block=basic_block, expansion=1, deep_stem=False),
    "resnet34": TrunkShape(depths=(3, 4, 6, 3), block=basic_block, expansion=1, deep_stem=False),
    "resnetd50": TrunkShape(depths=(3, 4, 6, 3), block=bottleneck, expansion=4, deep_stem=True),
}


class ResNetTrunk(nn.Module):
    """A dilated ResNet; ``blocks`` names its residual blocks in order of execution, e.g. ``layer3.1``."""

    def __init__(self, name: str, *, width: float = 1.0) -> None:
        super().__init__()
        if name not in TRUNKS:
            raise InputError(f"unknown trunk '{name}'{nearest(name, TRUNKS)}")
        check_width(width)
        shape = TRUNKS[name]
        channels = scaled(64, width)
        self.stem, channels = _stem(channels, deep=shape.deep_stem)
        for stage, (depth, published) in enumerate(zip(shape.depths, _PLANES, strict=True), start=1):
            planes = scaled(published, width)
            blocks = []
            for index in range(depth):
                stride = _STRIDES[stage - 1] if index == 0 else 1
                blocks.append(
                    shape.block(channels, planes, stride=stride, dilation=_DILATIONS[stage - 1], first=index == 0)
                )
                channels = planes * shape.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.out_channels = channels
        _initialise(self)

    @property
    def blocks(self) -> dict[str, ResidualBlock]:
        """Return the residual blocks by name, in order of execution."""
        return {name: module for name, module in self.named_modules() if isinstance(module, ResidualBlock)}

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Return features at one eighth of the input's resolution."""
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return x


def check_width(width: float) -> None:
    """Raise InputError for a width multiplier that makes no trunk."""
    if not 0 < width <= 8:
        raise InputError(f"the trunk's width multiplier is {width}; give one in (0, 8], 1 being the published width.")


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` rounded to a multiple of 8, at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def _stem(channels: int, *, deep: bool) -> tuple[nn.Sequential, int]:
    if deep:
        convs = [
            *conv_bn(3, channels, 3, stride=2),
            *conv_bn(channels, channels, 3),
            *conv_bn(channels, 2 * channels, 3),
        ]
        return nn.Sequential(*convs, nn.MaxPool2d(3, stride=2, padding=1)), 2 * channels
    pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    return nn.Sequential(*conv_bn(3, channels, 7, stride=2), pool), channels


def _initialise(trunk: nn.Module) -> None:
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
