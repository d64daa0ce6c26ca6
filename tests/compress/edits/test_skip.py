"""Skipped blocks are their shortcuts: compared with the network's own blocks, run by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from torch import nn

from slimtask.compress.edits.skip import SkipBlocks, check_skippable, shortcut_of, skip_blocks_
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet, multitask_net

X = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(3))


def trunk_by_hand(trunk: nn.Module, skipped: Sequence[str], x: torch.Tensor) -> torch.Tensor:
    x = trunk.stem(x)
    for name, block in trunk.blocks.items():
        shortcut = block.shortcut(x)  # AdaShare: no ReLU on the skip path
        x = shortcut if name in skipped else torch.relu(shortcut + block.residual(x))
    return x


@pytest.mark.parametrize("trunk", ["resnet18", "resnetd50"])
@pytest.mark.parametrize(
    "skipped", [(), ("layer1.1",), ("layer2.0", "layer2.1"), ("layer1.0", "layer3.0", "layer4.0", "layer4.1")]
)
def test_the_house_trunk_equals_its_blocks_run_by_hand(
    trunk: str, skipped: tuple[str, ...], small_net: Callable[..., MultiTaskNet]
) -> None:
    model = small_net(trunk=trunk)
    with torch.no_grad():
        expected = trunk_by_hand(model.trunk, skipped, X)
        before = model.state_dict()
        smaller = copy.deepcopy(model)
        skip_blocks_(smaller, skipped)
        assert torch.equal(smaller.trunk(X), expected)
        skip_blocks_(smaller, [f"trunk.{block}" for block in skipped])  # once more, by full name, changes nothing
        assert torch.equal(copy.deepcopy(smaller).trunk(X), expected)
    gone = {name for name in before if any(name.startswith(f"trunk.{block}.residual") for block in skipped)}
    assert set(smaller.state_dict()) == set(before) - gone
    assert all(torch.equal(tensor, before[name]) for name, tensor in smaller.state_dict().items())


def test_a_skipped_projection_may_be_negative(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    skip_blocks_(model, ["layer4.0", "layer4.1"])
    with torch.no_grad():
        assert float(model.trunk(X).min()) < 0


def test_torchvisions_blocks_and_their_downsample() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    with torch.no_grad():
        y = model.maxpool(model.relu(model.bn1(model.conv1(X))))
        y = model.layer2[1](model.layer2[0].downsample(model.layer1[0](y)))
        expected = model.fc(model.avgpool(model.layer4(model.layer3(y))).flatten(1))
        size = count_parameters(model.layer1[1])
        total = count_parameters(model)
        skip_blocks_(model, ["layer1.1", "layer2.0"])
        assert torch.equal(model(X), expected)
    kept = count_parameters(model.layer2[0].downsample)
    assert total - count_parameters(model) == size + 64 * 128 * 9 + 128 * 128 * 9 + 4 * 128
    assert kept == 64 * 128 + 2 * 128


def test_the_edit_replays_from_json_on_a_network_without_memory(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    edit = SkipBlocks(blocks=("layer1.1", "layer3.0"))
    with torch.device("meta"):
        fresh = multitask_net(tasks=model.tasks, width=0.25, head_hidden=16)
    SkipBlocks.model_validate_json(edit.model_dump_json()).apply_(fresh)
    edit.apply_(model)
    assert {name: t.shape for name, t in fresh.state_dict().items()} == {
        name: t.shape for name, t in model.state_dict().items()
    }


def test_a_skipped_trunk_still_exports(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    skip_blocks_(model, ["layer1.1", "layer2.0"])
    program = torch.export.export(model.trunk, (X,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(X), model.trunk(X))


def test_a_block_that_cannot_be_skipped_or_found_is_said(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    check_skippable(model, list(model.trunk.blocks), X)
    with pytest.raises(InputError, match="block 'stem' cannot be skipped: it changes the shape"):
        check_skippable(model, ["stem"], X)
    with pytest.raises(InputError, match=r"no block 'layer9\.0'"):
        skip_blocks_(model, ["layer1.0", "layer9.0"])
    with pytest.raises(InputError, match=r"no block 'stage_1'; known: layer1\.0, layer1\.1, .*layer4\.1$"):
        skip_blocks_(model, ["stage_1"])  # a policy of another network: its blocks, not every module
    assert hasattr(model.trunk.layer1[0], "residual")  # nothing was touched
    assert isinstance(shortcut_of(nn.Linear(2, 2)), nn.Identity)
    assert len(model.trunk.layer1[0]._forward_hooks) == 0
