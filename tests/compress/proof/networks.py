"""A network with code at three places, to be proven something about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """Two convolutions with code at three places between."""

    def __init__(self, **at: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h, self.at = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), at

    def forward(self, x: Tensor) -> Any:
        y = self.a(self.at.get("start", nn.Identity())(x)).relu()
        return self.at.get("end", nn.Identity())(self.h(self.at.get("middle", nn.Identity())(y)))


def dead(net: Net) -> Net:
    with torch.no_grad():
        net.a.weight[:8] = 0
        net.a.bias[:8] = 0
    return net
