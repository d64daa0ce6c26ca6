"""The ConvNeXt adapter of MultiMAE (Bachmann et al., ECCV 2022) and EfficientMTL: a dense head over tokens."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SPLIT = 4
"""Every token becomes SPLIT x SPLIT predictions."""


class ConvNeXtBlock(nn.Module):
    """Return ``x + MLP(norm(depthwise 7x7(x)))`` of a map (Liu et al., CVPR 2022), without layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.reduce = nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Return the block's output map."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out: Tensor = x + self.reduce(F.gelu(self.expand(y))).permute(0, 3, 1, 2)
        return out


class ConvNeXtHead(nn.Module):
    """Return a map [batch, outputs, 4 h, 4 w]: a linear layer to ``hidden``, tokens split 4 x 4, two ConvNeXt blocks.

    EfficientMTL's ``hidden`` is 3072 for segmentation, edges and saliency, 1536 for human parts and normals.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 3072) -> None:
        super().__init__()
        channels = max(8, hidden // SPLIT**2)
        self.project = nn.Conv2d(inputs, channels * SPLIT**2, 1)
        self.blocks = nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels))
        self.classify = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch outputs h4 w4"]:
        """Return the task's map at four times the trunk's resolution."""
        out: Tensor = self.classify(self.blocks(F.pixel_shuffle(self.project(x), SPLIT)))
        return out
