"""The FLOP model against PyTorch's counter, on the dense network and on networks that are really cut."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.trace import record
from slimtask.compress.removal.plan import plan_from_keep
from slimtask.compress.score.cost import count_flops
from slimtask.compress.score.flops import FlopModel
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(2, 3, 32, 32)


class Twice(nn.Module):
    """One convolution called on two maps of unequal size, a flattened map, and a Linear on many positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.both = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 5, 3, padding=1)
        self.pool, self.flat = nn.AdaptiveAvgPool2d(2), nn.Linear(20, 7)
        self.pixels = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x).relu()
        big, small = self.both(x).relu(), self.both(x[:, :, ::2, ::2]).relu()
        return {"a": self.flat(self.pool(big).flatten(1)), "b": self.pixels(small.movedim(1, -1))}


def layouts() -> nn.Module:
    """Plain, depthwise, grouped and transposed convolutions in one chain."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, (1, 3), groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )


def random_keep(groups: tuple[Group, ...], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keep = []
    for group in groups:
        mask = torch.rand(group.channels, generator=generator) < 0.6
        mask[0] = True
        keep.append(mask if group.refused is None else torch.ones_like(mask))
    return keep


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("net", ["multitask", "twice", "layouts"])
def test_flops_equal_the_count_on_the_cut_network(net: str, seed: int, small_net: Callable[..., MultiTaskNet]) -> None:
    model = {"multitask": small_net, "twice": Twice, "layouts": layouts}[net]().eval()
    groups = find_groups(model, EXAMPLE)
    flops = FlopModel(model, groups, record(model, EXAMPLE))
    assert flops.total == count_flops(model, EXAMPLE)
    keep = random_keep(groups, seed)
    cut = copy.deepcopy(model)
    plan_from_keep(model, groups, keep).apply_(cut)
    counted = count_flops(cut, EXAMPLE)
    assert counted < flops.total
    assert float(flops(torch.tensor([int(mask.sum()) for mask in keep]))) == counted


def test_several_removals_at_once(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    flops = FlopModel(model, groups, record(model, EXAMPLE))
    full = torch.tensor([group.channels for group in groups])
    batch = torch.stack([full, full // 2])
    assert torch.equal(flops(batch), torch.stack([flops(full), flops(full // 2)]))


def test_packed_attention_weights_are_priced_and_its_products_are_fixed() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.attend = nn.Conv2d(3, 12, 8, stride=8), nn.MultiheadAttention(12, 3, batch_first=True)
            self.wide, self.out = nn.Linear(12, 9), nn.Linear(9, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.lift(x).flatten(2).transpose(1, 2)
            return self.out(self.wide(self.attend(x, x, x, need_weights=False)[0]).relu())

    model = Attends().eval()
    groups = find_groups(model, EXAMPLE)
    flops = FlopModel(model, groups, record(model, EXAMPLE))
    tokens, images = 16, 2
    lift, packed = images * tokens * 12 * 3 * 64, images * tokens * (36 * 12 + 12 * 12)
    products, rest = 2 * images * tokens * tokens * 12, images * tokens * (12 * 9 + 9 * 2)
    assert flops.total - 2 * (lift + packed + rest) in (0, 2 * products)  # PyTorch has no count for some backends
    packed_rows = [{(m.parameter, m.axis) for m in group.members} for group in groups]
    heads = next(i for i, rows in enumerate(packed_rows) if ("attend.in_proj_weight", 0) in rows)
    assert groups[heads].channels == 3
    kept = torch.tensor([group.channels for group in groups])
    kept[heads] -= 1  # one head of three goes: a third of the packed weights, none of the products
    assert flops.total - float(flops(kept)) == 2 * packed / 3


def test_products_inside_attention_are_counted_as_fixed() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.lift(x).flatten(2).transpose(1, 2)
            return self.out(tokens @ tokens.transpose(1, 2) @ tokens)

    model = Attends().eval()
    flops = FlopModel(model, (), record(model, EXAMPLE))
    assert flops.total == count_flops(model, EXAMPLE)
    assert float(flops(torch.zeros(0))) == flops.total
