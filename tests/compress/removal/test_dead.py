"""What is dead: ignored by every reader that evaluation runs, and by no reader that is left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from slimtask.compress.removal.remove import remove_zeros
from slimtask.train.models import MultiTaskNet
from tests.compress.difference import difference

EXAMPLE = torch.zeros(1, 3, 64, 64)


def test_channels_that_every_reader_ignores_go_too(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    model.trunk.layer1[0].residual[3].weight.data[:, :10] = 0
    done = remove_zeros(model, EXAMPLE)
    cut = next(group for group in done.plan.groups if group.name == "trunk.layer1.0.residual.0")
    assert (cut.before, cut.after, cut.removed) == (16, 6, {"ignored by every reader": 10})
    assert difference(model, done.model, (64, 64)) < 1e-6


class TwoReaders(nn.Module):
    """A BatchNorm of zero gamma is not the only reader: its channels are alive for the other one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.a.weight.data.fill_(1 / 75)  # averages: white noise never lifts it over the threshold, a flat image does
        self.a.bias.data.fill_(-1.5)
        self.norm.weight.data[:5] = 0
        self.norm.bias.data[:5] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(self.norm(y).relu()) + self.c(y.relu())


def test_a_zero_gamma_kills_nothing_that_is_read_elsewhere() -> None:
    model = TwoReaders().eval()
    done = remove_zeros(model, EXAMPLE)
    flat = torch.full((1, 3, 64, 64), 2.4)
    with torch.no_grad():
        torch.testing.assert_close(done.model(flat), model(flat))
    assert done.model.a.out_channels == 8


def test_what_an_idle_head_reads_has_no_say() -> None:
    """A head that only training runs does not keep a dead channel alive."""

    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.out, self.aux = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)
            self.a.weight.data[:5] = 0

        def forward(self, x: torch.Tensor) -> object:
            y = self.a(x)
            return (self.out(y), self.aux(y)) if self.training else self.out(y)

    done = remove_zeros(Aux().eval(), EXAMPLE)
    assert (done.model.a.out_channels, done.model.aux.in_channels) == (3, 3)
