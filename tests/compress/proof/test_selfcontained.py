"""A copy whose code reaches the network it was made from is refused by the tensor it reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.proof.certify import certify
from slimtask.compress.removal.remove import remove_zeros
from slimtask.errors import CheckFailed
from tests.compress.proof.networks import IMAGE, Net, dead

GLOBAL: dict[str, Any] = {}


def scaled(y: Tensor) -> Tensor:
    scale: Tensor = GLOBAL["net"].scale
    return y * scale


class Reaching(Net):
    def __init__(self) -> None:
        super().__init__(end=scaled)
        self.scale = nn.Parameter(torch.tensor(2.0))


def test_a_copy_that_reaches_a_global_is_refused_by_name() -> None:
    GLOBAL["net"] = net = Reaching()
    with pytest.raises(CheckFailed, match=r"copy of Reaching is not self-contained.*'scale'"):
        certify(net, independent_copy(net), certificate_inputs(net, IMAGE))
    with pytest.raises(CheckFailed, match="not self-contained"):
        remove_zeros(dead(net), IMAGE)
    assert net.scale.item() == 2.0


def test_a_hook_that_closes_over_the_network_is_copied_with_it() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 2, 1)
            self.kept: dict[str, Tensor] = {}
            self.a.register_forward_hook(lambda module, args, out: self.kept.__setitem__("a", out.detach()))

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            return self.h(torch.cat([self.kept["a"], y], 1))

    net = Hooked().eval()
    with torch.no_grad():
        net.b.weight[:4] = 0
        net.b.bias[:4] = 0
        net(torch.ones(1, 3, 8, 8))
        done = remove_zeros(net, torch.ones(1, 3, 8, 8))
        assert len(done.model.b.weight) == 4
        for _ in range(2):
            x = torch.randn(1, 3, 8, 8)
            torch.testing.assert_close(done.model(x), net(x))
