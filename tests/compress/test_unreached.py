"""What no given input reaches is named by its outermost module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimtask.compress.budget import Budget
from slimtask.compress.prune import prune
from slimtask.compress.trace import record
from slimtask.compress.unreached import unreached_modules


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.aux = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.loose = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, aux: bool = False) -> Tensor:
        y = self.a(x)
        out: Tensor = self.aux(y) if aux else self.h(y)
        return out


def test_the_outermost_module_is_named() -> None:
    net, x = Net(), torch.zeros(1, 3, 16, 16)
    without, both = record(net, x), record(net, {"x": x, "aux": True})
    assert unreached_modules(net, [without]) == ("loose", "aux")
    assert unreached_modules(net, [both]) == ("loose", "h")
    assert unreached_modules(net, [without, both]) == ("loose",)


def test_the_certificate_names_it() -> None:
    net, x = Net(), torch.zeros(1, 3, 16, 16)
    assert "aux" in prune(net, x, budget=Budget(keep=0.5)).certificate.unreached
