"""A choice of blocks and channels becomes a network: what it computes, and what of the choice reached which layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from slimtask.compress.edits.skip import skip_blocks_
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.apply import carried_over, remove_chosen
from slimtask.compress.latency.choose import Chosen
from slimtask.train.models import MultiTaskNet

IMAGE = torch.zeros(1, 3, 32, 32)
X = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(5))


def chosen(groups: tuple[Group, ...], blocks: tuple[str, ...], seed: int | None = 0) -> Chosen:
    """Half of every open group at random (seed None: all), nothing of what lies inside the blocks."""
    generator = torch.Generator().manual_seed(seed or 0)
    keep = []
    for group in groups:
        mask = torch.ones(group.channels, dtype=torch.bool)
        if seed is not None and group.refused is None:
            mask[torch.randperm(group.channels, generator=generator)[: group.channels // 2]] = False
        keep.append(mask)
    return Chosen(keep=tuple(keep), predicted_ms={}, importance=1.0, blocks=blocks)


def zeroed_outputs(model: nn.Module, groups: tuple[Group, ...], keep: tuple[torch.Tensor, ...]) -> nn.Module:
    """The network with every slice of a removed channel at zero, written without the code under test."""
    net = copy.deepcopy(model)
    for group, mask in zip(groups, keep, strict=True):
        for member in group.members:
            module, gone = net.get_submodule(member.module), member.local[~mask[member.channel]]
            if member.side == "in":
                module.weight.data[:, gone] = 0
            else:
                for name in ("weight", "bias", "running_mean"):
                    if getattr(module, name, None) is not None:
                        getattr(module, name).data[gone] = 0
    return net


BLOCKS = ("trunk.layer1.1", "trunk.layer2.0", "trunk.layer4.0", "trunk.layer4.1")


@pytest.mark.parametrize("blocks", [BLOCKS[:1], BLOCKS])
def test_blocks_become_shortcuts_and_the_chosen_channels_go(
    small_net: Callable[..., MultiTaskNet], blocks: tuple[str, ...]
) -> None:
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = find_groups(model, IMAGE)
    wanted = chosen(groups, blocks)
    skip, done = remove_chosen(model, IMAGE, groups, wanted)
    assert skip is not None
    assert skip.blocks == blocks
    expected = zeroed_outputs(model, groups, wanted.keep)
    skip_blocks_(expected, blocks)
    with torch.no_grad():
        outputs, truth = done.model(X), expected(X)
        for task in truth:
            torch.testing.assert_close(outputs[task], truth[task], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    stem = next(g for g in groups if g.name.startswith("trunk.stem"))
    kept = wanted.keep[groups.index(stem)]
    layer = next(m for n, m in done.model.named_modules() if n == stem.producers[0].module)
    assert layer.out_channels == int(kept.sum()) < stem.channels


def test_a_choice_of_blocks_alone_cuts_no_channel(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    groups = find_groups(model, IMAGE)
    skip, done = remove_chosen(model, IMAGE, groups, chosen(groups, BLOCKS[:2], seed=None))
    assert skip is not None
    assert not done.plan
    assert done.certificate
    skip_blocks_(model, BLOCKS[:2])
    with torch.no_grad():
        assert all(torch.equal(out, model(X)[task]) for task, out in done.model(X).items())
    none, whole = remove_chosen(model, IMAGE, find_groups(model, IMAGE), chosen(find_groups(model, IMAGE), (), None))
    assert none is None
    assert not whole.plan


def test_attention_and_layer_scale_carry_their_choice_over() -> None:
    """A transformer and a ConvNeXt: heads, bare parameters and normalised streams are found again."""
    torch.manual_seed(0)
    swin = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5).eval()
    convnext = torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(16, None, 3)], num_classes=5
    ).eval()
    for model, block in ((swin, "features.1.1"), (convnext, "features.1.1")):
        groups = find_groups(model, IMAGE)
        wanted = chosen(groups, (block,))
        skip, done = remove_chosen(model, IMAGE, groups, wanted)
        assert skip is not None
        assert done.certificate
        left = [g for g in groups if any(not m.module.startswith(block) for m in g.members)]
        removed = {cut.name: cut.before - cut.after for cut in done.plan.groups if cut.removed}
        halves = {g.name: g.channels // 2 for g in left if g.refused is None}
        assert removed == {name: half for name, half in halves.items() if half}


def test_a_channel_that_is_kept_anywhere_stays(small_net: Callable[..., MultiTaskNet]) -> None:
    groups = find_groups(small_net(), IMAGE)
    keep = chosen(groups, ()).keep
    assert all(torch.equal(mask, same) for mask, same in zip(keep, carried_over(groups, keep, groups), strict=True))
    assert all(bool(mask.all()) for mask in carried_over((), (), groups))
