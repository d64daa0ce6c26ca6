"""What no given input reaches is named by its outermost module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.graph.unreached import unreached_modules
from slimtask.compress.network.trace import record
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget


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


class Chosen(Net):
    """Its auxiliary head has a name, which no further pass guesses."""

    def forward(self, x: Tensor, head: str = "h") -> Tensor:
        return super().forward(x, head == "aux")


def test_the_certificate_names_it() -> None:
    done = prune(Chosen(), torch.zeros(1, 3, 16, 16), budget=Budget(keep=0.5))
    assert done.certificate.unreached == ("loose", "aux")


def test_what_is_behind_a_switch_is_reached_and_cut_along() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 16, 16)
    done = prune(net, torch.zeros(1, 3, 16, 16), budget=Budget(keep=0.5))
    assert done.certificate.unreached == ("loose",)
    kept = {layer.module: list(layer.outputs) for layer in done.plan.layers if layer.outputs}
    assert len(kept["a"]) == done.model.aux[0].in_channels < 16
    assert len(kept["aux.0"]) == done.model.aux[2].in_channels < 8
    with torch.no_grad():
        y = F.conv2d(
            net.a(x)[:, kept["a"]], net.aux[0].weight[kept["aux.0"]][:, kept["a"]], net.aux[0].bias[kept["aux.0"]]
        )
        expected = F.conv2d(y.relu(), net.aux[2].weight[:, kept["aux.0"]], net.aux[2].bias)
        torch.testing.assert_close(done.model(x, aux=True), expected)
