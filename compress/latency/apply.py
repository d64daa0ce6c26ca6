"""From the program's choice to a smaller network: blocks become their shortcuts, then channels go, with a proof."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from slimtask.compress.edits.skip import SkipBlocks, skip_blocks_
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import Member
from slimtask.compress.latency.choose import Chosen
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.removal.remove import Compressed, remove_channels

_WHY = "chosen for latency"
Keep = Sequence[Bool[Tensor, " _channels"]]


def remove_chosen(
    model: nn.Module, example: Tensor, groups: Sequence[Group], chosen: Chosen
) -> tuple[SkipBlocks | None, Compressed]:
    """Return the edit that skips the chosen blocks (None without one) and the network cut after it; ``model`` stays.

    Blocks, like channels, are removed by score. The certificate proves the removal of the channels: it compares the
    cut network with the skipped one whose removed channels are masked. Raises CheckFailed if they differ.
    """
    if not chosen.blocks:
        return None, remove_channels(model, example, groups, chosen.keep, why=_WHY)
    skip = SkipBlocks(blocks=chosen.blocks)
    skipped = independent_copy(model).eval()
    skip_blocks_(skipped, skip.blocks)
    left = find_groups(skipped, example)
    done = remove_channels(skipped, example, left, carried_over(groups, chosen.keep, left), why=_WHY)
    return skip, done


def carried_over(groups: Sequence[Group], keep: Keep, left: Sequence[Group]) -> list[Bool[Tensor, " _channels"]]:
    """Return ``keep`` (per group of ``groups``) for the groups ``left`` when blocks went, by their members.

    Without its blocks a network couples no channels that it did not couple before. A channel that any of its slices
    still says to keep stays.
    """
    stays: dict[tuple[str, str, str, int], dict[int, bool]] = {}
    for group, wanted in zip(groups, keep, strict=True):
        for member in group.members:
            entries = zip(member.local.tolist(), wanted[member.channel].tolist(), strict=True)
            stays.setdefault(_slot(member), {}).update(entries)
    carried = []
    for group in left:
        mask = torch.zeros(group.channels, dtype=torch.bool)
        for member in group.members:
            known = stays.get(_slot(member), {})
            kept = torch.tensor([known.get(index, True) for index in member.local.tolist()], dtype=torch.bool)
            mask[member.channel[kept]] = True
        carried.append(mask)
    return carried


def _slot(member: Member) -> tuple[str, str, str, int]:
    return member.module, member.side, member.parameter, member.axis
