"""Task heads over trunk features [batch, c, h, w]: three dense ones, two for image-level attributes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError, nearest
from slimtask.train.models.blocks import conv_bn
from slimtask.train.models.convnext_head import ConvNeXtHead


class LightHead(nn.Module):
    """Return a map [batch, outputs, h, w]: 3x3 convolution, BatchNorm, ReLU, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(*conv_bn(inputs, hidden, 3), nn.Conv2d(hidden, outputs, 1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs h w"]:
        """Return the task's map at the trunk's resolution."""
        out: Tensor = self.layers(x)
        return out


class SceneHead(nn.Module):
    """Return the sum of four dilated branches (6, 12, 18, 24), SceneNet's head (DiSparse, AdaShare; hidden 1024)."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 1024) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_scene_branch(inputs, hidden, outputs, rate) for rate in (6, 12, 18, 24))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs h w"]:
        """Return the task's map at the trunk's resolution."""
        total: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return total


class DeepLabHead(nn.Module):
    """Return a map by atrous spatial pyramid pooling (rates 12, 24, 36; hidden 256), the head of Less is More."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 256) -> None:
        super().__init__()
        branches = [nn.Sequential(*conv_bn(inputs, hidden, 1), nn.Dropout(0.3))]
        branches += [nn.Sequential(*conv_bn(inputs, hidden, 3, dilation=rate)) for rate in (12, 24, 36)]
        self.branches = nn.ModuleList(branches)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(inputs, hidden, 1))
        self.project = nn.Sequential(*conv_bn(5 * hidden, hidden, 1), nn.Dropout(0.3))
        self.classify = nn.Sequential(*conv_bn(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs h w"]:
        """Return the task's map at the trunk's resolution."""
        maps = [branch(x) for branch in self.branches]
        pooled = F.interpolate(self.pool(x), size=x.shape[-2:], mode="nearest")
        out: Tensor = self.classify(self.project(torch.cat([*maps, pooled], dim=1)))
        return out


class PooledHead(nn.Module):
    """Return one vector per image [batch, outputs]: global average pooling and a linear layer."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs"]:
        """Return the task's logits."""
        out: Tensor = self.linear(x.mean(dim=(2, 3)))
        return out


class AttributeHead(nn.Module):
    """Return one vector per image [batch, outputs]: the attribute head of Less is More (hidden 64), without sigmoid."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classify = nn.Sequential(
            nn.Dropout(0.6),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(inplace=True),
            nn.Dropout(0.4),
            nn.Linear(hidden // 2, outputs),
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs"]:
        """Return the task's logits."""
        out: Tensor = self.classify(self.features(x).mean(dim=(2, 3)))
        return out


DENSE_HEADS: dict[str, Callable[..., nn.Module]] = {
    "light": LightHead,
    "scene": SceneHead,
    "deeplab": DeepLabHead,
    "convnext": ConvNeXtHead,
}
IMAGE_HEADS: dict[str, Callable[..., nn.Module]] = {"pooled": PooledHead, "attribute": AttributeHead}


def build_head(name: str, inputs: int, outputs: int, *, dense: bool, hidden: int | None) -> nn.Module:
    """Return the head called ``name``; ``hidden`` None keeps its published width. InputError for an unknown name."""
    known = DENSE_HEADS if dense else IMAGE_HEADS
    if name not in known:
        kind = "dense" if dense else "image-level"
        raise InputError(f"unknown head '{name}' for a {kind} task{nearest(name, known)}")
    return known[name](inputs, outputs) if hidden is None else known[name](inputs, outputs, hidden=hidden)


def _scene_branch(inputs: int, hidden: int, outputs: int, rate: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(hidden, outputs, 1),
    )
