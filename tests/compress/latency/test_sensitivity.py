"""How far outputs move without channels or blocks, against closed forms and the user's own network run by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from slimtask.compress.graph.analysis import analyse
from slimtask.compress.latency.sensitivity import Judge, moved
from slimtask.errors import InputError


class Sum(nn.Module):
    """Two layers whose hidden channel k adds ``gains[k]`` times the input to one output."""

    def __init__(self, gains: list[float]) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(1, len(gains), 1, bias=False), nn.Conv2d(len(gains), 1, 1, bias=False)
        nn.init.ones_(self.into.weight)
        self.out.weight = nn.Parameter(torch.tensor(gains).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.into(x))


def test_the_damage_of_a_sum_is_the_square_of_the_share_that_is_gone() -> None:
    net = Sum([4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    before = copy.deepcopy(net.state_dict())
    image = torch.randn(2, 1, 5, 5)
    judge = Judge(analyse(net, image[:1]), [image])
    (hidden,) = judge.damage([torch.tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])])
    gone = {1: 10 / 14, 2: 7 / 14, 4: 4 / 14, 6: 2 / 14, 8: 0.0}
    assert hidden.counts == tuple(gone)
    assert hidden.distance == pytest.approx([share**2 for share in gone.values()], rel=1e-5)
    assert hidden.curve()[[0, 3, 8]] == pytest.approx([gone[1] ** 2, (gone[2] ** 2 + gone[4] ** 2) / 2, 0.0], rel=1e-5)
    assert all(torch.equal(now, before[name]) for name, now in net.state_dict().items())


class Blocks(nn.Module):
    """A stem and two residual blocks with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x).relu())


def test_a_block_and_channels_that_go_are_those_of_the_network_run_by_hand_on_batch_statistics() -> None:
    net, image = Blocks().eval(), torch.randn(8, 3, 12, 12)
    analysis = analyse(net, image[:1])
    keep = [torch.arange(group.channels) % 2 == 0 for group in analysis.groups]
    inner = next(i for i, group in enumerate(analysis.groups) if group.name == "blocks.0.conv1")
    whole = [torch.ones(group.channels, dtype=torch.bool) for group in analysis.groups]
    found = Judge(analysis, [image]).without([*whole[:inner], keep[inner], *whole[inner + 1 :]], ["blocks.1"])

    dense, by_hand = copy.deepcopy(net).train(), copy.deepcopy(net).train()
    by_hand.blocks[1] = nn.Identity()
    with torch.no_grad():
        by_hand.blocks[0].conv2.weight[:, 1::2] = 0.0
        wanted, got = dense(image), by_hand(image)
    assert found == pytest.approx(float((got - wanted).square().sum() / wanted.square().sum()), rel=1e-4)


def test_what_counts_as_moved() -> None:
    classes = torch.tensor([1, 2, 3, 4])
    assert moved({"a": classes}, {"a": torch.tensor([1, 2, 0, 0])}) == pytest.approx(0.5)
    wide = torch.tensor([1.0, -torch.inf, 2.0])
    assert moved(wide, wide) == 0.0
    assert moved(torch.tensor([torch.nan, 0.0]), torch.tensor([1.0, 1.0])) == torch.inf
    assert moved(torch.zeros(3), torch.zeros(3)) == 0.0


def test_images_that_the_network_does_not_take_are_one_sentence() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"does not run on a batch of images \[2, 3, 4, 4\]"):
        Judge(analyse(net, torch.zeros(1, 3, 2, 2)), [torch.zeros(2, 3, 4, 4)])
