"""A network as users bring it: a ResNet-34 with a feature pyramid and three heads, which knows nothing of slimtask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet34

WIDTHS = (64, 128, 256, 512)


class PyramidNet(nn.Module):
    """Segmentation and edges off a top-down pyramid over the four stages, the presence of classes off the last stage.

    ``forward`` takes images [batch, 3, height, width] and returns logits: segmentation [batch, classes, height, width],
    edges [batch, 1, height, width], presence [batch, classes].
    """

    def __init__(self, classes: int = 11, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        net = resnet34(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.lateral = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in WIDTHS])
        self.smooth = _convolution(width, width)
        self.segmentation = nn.Sequential(_convolution(width, width), nn.Conv2d(width, classes, 1))
        self.edges = nn.Sequential(_convolution(width, width), nn.Conv2d(width, 1, 1))
        self.presence = nn.Sequential(nn.Linear(WIDTHS[-1], 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits of every task."""
        size, maps = x.shape[-2:], []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        y = self.lateral[3](maps[3])
        for level in (2, 1, 0):
            here = self.lateral[level](maps[level])
            y = here + F.interpolate(y, size=here.shape[-2:], mode="nearest")
        y = self.smooth(y)
        return {
            "segmentation": F.interpolate(self.segmentation(y), size=size, mode="bilinear"),
            "edges": F.interpolate(self.edges(y), size=size, mode="bilinear"),
            "presence": self.presence(x.mean((2, 3))),
        }

    def outputs(self) -> list[nn.Module]:
        """Return the last layer of every task."""
        return [self.segmentation[-1], self.edges[-1], self.presence[-1]]


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
