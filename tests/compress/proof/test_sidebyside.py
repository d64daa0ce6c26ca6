"""Two networks side by side: what stops one of them is told, and rounding is told from a difference in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.network.probes import Probes, certificate_inputs
from slimtask.compress.proof.certify import certify
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget
from slimtask.errors import CheckFailed, InputError
from tests.compress.proof.networks import IMAGE, Net


def test_networks_that_do_not_run_are_a_sentence() -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Any:
            assert float(x.abs().max()) == 0, "only zeros"
            return super().forward(x)

    probes = Probes(ordinary=(torch.ones(1, 3, 8, 8),), unit=(torch.ones(1, 3, 8, 8),))
    with pytest.raises(InputError, match=r"Picky does not run on noise .*AssertionError: only zeros"):
        certify(Picky(), Net(), probes)
    with pytest.raises(CheckFailed, match=r"the smaller network does not run .*AssertionError"):
        certify(Net(), Picky(), probes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decided_in_float64(dtype: torch.dtype) -> None:
    done = prune(Net().to(dtype), IMAGE.to(dtype), budget=Budget(keep=0.5))
    assert done.certificate.decided_in == "float64"
    assert done.model.a.weight.dtype == dtype


class Ranked(nn.Module):
    """So many scores that some are equal to all but the last digits of float32; their order is an output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 128, 3)
        self.score, self.value = nn.Conv2d(128, 90, 3), nn.Conv2d(128, 90, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.b(self.a(x).relu()).relu()
        order = self.score(features).flatten(1).argsort(dim=1)
        return order, self.value(features).flatten(1).gather(1, order)


def test_an_order_that_rounding_decides_is_compared_in_float64() -> None:
    net = Ranked()
    image = torch.zeros(1, 3, 24, 24)
    done = prune(net, image, budget=Budget(keep=0.5))
    assert done.model.b.in_channels < 32
    assert done.certificate.decided_in == "float64"
    broken = copy.deepcopy(net)
    broken.value.weight.data[:, 0] *= 1.1
    assert not certify(net, broken, certificate_inputs(net, image))
    turned = copy.deepcopy(net)
    turned.score.bias.data[0] += 1.0
    proof = certify(net, turned, certificate_inputs(net, image))
    assert not proof
    assert proof.differs


def test_rounding_is_told_from_a_difference_in_float64() -> None:
    """A huge offset that is taken away again leaves float32 no digits; the same in float64 agrees, a wrong one not."""

    class Cancelling(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(gain))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.gain + 3000.0) - 3000.0

    one, other = Cancelling(1.0), Cancelling(1.0)
    probes = certificate_inputs(one, torch.zeros(1, 3, 64, 64))
    other.forward = lambda x: (x * other.gain + 9000.0) - 9000.0  # type: ignore[method-assign]
    proof = certify(one, other, probes)
    assert proof
    assert proof.decided_in == "float64"
    assert not certify(one, Cancelling(1.0005), probes)
