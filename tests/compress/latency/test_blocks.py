"""Which modules may go whole: known residual blocks do, what merely looks like one does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from slimtask.compress.edits.skip import check_skippable
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.latency.blocks import Block, goes_with, residual_blocks
from slimtask.compress.latency.specs import layer_specs
from slimtask.train.models import MultiTaskNet

tv = torchvision.models
IMAGE = torch.zeros(1, 3, 32, 32)

NAMED = {
    "resnet18": (tv.resnet18, [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]),
    "resnet50": (
        tv.resnet50,
        [f"layer{s}.{i}" for s, n in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for i in range(n)],
    ),
    "vit": (
        lambda: tv.VisionTransformer(32, 8, 2, 4, 32, 64),
        ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"],
    ),
    "swin": (
        lambda: tv.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4]),
        ["features.1.0", "features.1.1", "features.3.0", "features.3.1"],
    ),
    "convnext": (
        lambda: tv.ConvNeXt([CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)]),
        ["features.1.0", "features.1.1", "features.3.0"],
    ),
    "mobilenet_v2": (tv.mobilenet_v2, [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]),
    "efficientnet_b0": (
        tv.efficientnet_b0,
        [f"features.{s}.{i}" for s, n in ((2, 2), (3, 2), (4, 3), (5, 3), (6, 4)) for i in range(1, n)],
    ),
    "squeezenet": (tv.squeezenet1_1, []),
}


def blocks_of(model: nn.Module, example: Tensor = IMAGE) -> tuple[Block, ...]:
    groups = find_groups(model, example)
    return residual_blocks(model, groups, layer_specs(model, groups, example), example)


@pytest.mark.parametrize("name", NAMED)
def test_the_residual_blocks_of_known_networks_and_nothing_else(name: str) -> None:
    make, expected = NAMED[name]
    torch.manual_seed(0)
    model = make().eval()
    found = blocks_of(model)
    assert [block.name for block in found] == expected
    check_skippable(model, expected, IMAGE)
    for block in found:
        assert block.groups
        assert all(goes_with(block.name, layer) for layer in block.layers)


def test_the_house_trunk_and_no_layer_of_a_shortcut(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net(trunk="resnetd50")
    found = blocks_of(model)
    assert [block.name for block in found] == [f"trunk.{name}" for name in model.trunk.blocks]
    assert not any(".shortcut" in layer for block in found for layer in block.layers)
    first = next(block for block in found if block.name == "trunk.layer2.0")
    convolutions = {
        name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and name.startswith("trunk.layer2.0.")
    }
    assert convolutions > first.layers
    assert len(first.layers) == 3


class Residual(nn.Module):
    """``x + F(x)`` of 8 channels; variants do something else with the two."""

    def __init__(self, variant: str = "") -> None:
        super().__init__()
        self.variant = variant
        self.widen, self.narrow = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.widen(x).relu())
        if self.variant == "plain":
            return y
        if self.variant == "scaled":
            return 0.5 * x + y
        if self.variant == "gated":
            return x * self.gate(y).sigmoid()
        return x + y


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module, call: str = "") -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(*blocks), nn.Conv2d(8, 2, 1)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if self.call == "looks inside":
                x = x * block.widen.weight.mean()
            x = block(x=x) if self.call == "by name" else block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Net(Residual(), Residual()), ["blocks.0", "blocks.1"]),
        (lambda: Net(nn.Sequential(Residual())), ["blocks.0.0"]),  # the innermost
        (lambda: Net(Residual("plain")), []),
        (lambda: Net(Residual("scaled")), []),
        (lambda: Net(Residual("gated")), []),
        (lambda: Net(Residual(), call="looks inside"), []),
        (lambda: Net(Residual(), call="by name"), []),
    ],
)
def test_a_block_is_known_by_what_it_computes(make: Callable[[], nn.Module], expected: list[str]) -> None:
    torch.manual_seed(0)
    assert [block.name for block in blocks_of(make().eval())] == expected


def test_blocks_that_share_weights_stay() -> None:
    one, other, third = Residual(), Residual(), Residual()
    other.narrow = one.narrow
    assert [block.name for block in blocks_of(Net(one, other, third).eval())] == ["blocks.2"]


def test_a_block_whose_channels_say_little_of_it_stays() -> None:
    """The first block of EfficientNet-B1's first stage: its only own channels are a few of squeeze and excitation."""
    torch.manual_seed(0)
    names = [block.name for block in blocks_of(tv.efficientnet_b1().eval())]
    assert "features.1.1" not in names
    assert "features.2.1" in names


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = tv.resnet18().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
