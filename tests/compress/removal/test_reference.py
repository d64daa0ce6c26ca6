"""The masked network against the one with its channels taken out by hand; masks come off again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.graph.analysis import Analysis, analyse
from slimtask.compress.removal.reference import kept_places, mask_, masked
from slimtask.compress.removal.surgery import Cut

X = torch.zeros(1, 3, 5, 5)
KEEP = torch.tensor([True, False, True, True, False, True])
KEPT = KEEP.nonzero()[:, 0]


class Net(nn.Module):
    """Two layers with something between."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.between, self.b = nn.Conv2d(3, 6, 1), between, nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.between(self.a(x)))
        return made


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


def cut_of(model: nn.Module) -> tuple[Analysis, list[Cut]]:
    analysis = analyse(model, X)
    group = next(group for group in analysis.groups if group.name == "a")
    return analysis, [Cut(group=group, keep=KEEP, reasons={})]


def by_hand(net: Net, x: Tensor) -> Tensor:
    return F.conv2d(net.between(net.a(x))[:, KEPT], net.b.weight[:, KEPT], net.b.bias)


def test_readers_see_zeros_and_writers_stay() -> None:
    net = Net(nn.ReLU()).eval()
    _, cuts = cut_of(net)
    x, before = torch.randn(2, 3, 5, 5), net.a.weight.clone()
    expected = by_hand(net, x)
    with masked(net, cuts):
        torch.testing.assert_close(net(x), expected)
        assert torch.equal(net.a.weight, before)
        assert not net.b.weight[:, ~KEEP].any()
    assert net.b.weight[:, ~KEEP].all()
    mask_(net, cuts)
    torch.testing.assert_close(net(x), expected)


def test_the_mask_comes_off_after_an_error_too() -> None:
    net = Net(nn.ReLU()).eval()
    weight = net.b.weight.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), masked(net, cut_of(net)[1]):
        raise RuntimeError("stop")
    assert torch.equal(net.b.weight, weight)


def test_what_sums_over_channels_is_told_which_stay() -> None:
    analysis, cuts = cut_of(Net(Softmax()).eval())
    (place,) = kept_places(analysis, cuts)
    assert (place.module, place.axis) == ("between", 1)
    assert torch.equal(place.keep, KEEP)
    plain, nothing = cut_of(Net(nn.ReLU()).eval())
    assert kept_places(plain, nothing) == []
