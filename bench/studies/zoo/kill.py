"""Zeroing whole coupled channels at random, as sparse training leaves them, to hold removals against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import Member, slice_axis

Kind = Literal["filter", "gamma", "beta", "readers"]
WRITERS: tuple[Kind, ...] = ("filter", "gamma", "beta")
# of a weight under weight_norm the magnitude dies: a direction of zero is not a number
_MAGNITUDES = {"original1": "original0", "weight_v": "weight_g"}
_FILTERS = ("conv", "linear", "depthwise", "grouped")


@dataclass(frozen=True, kw_only=True)
class Killed:
    """The channels of one group that were zeroed, and how: see ``kill_``."""

    group: str
    kind: Kind
    channels: Bool[Tensor, " channels"]


def kill_half_(
    model: nn.Module, groups: Sequence[Group], seed: int, kinds: Sequence[Kind] = get_args(Kind)
) -> list[Killed]:
    """Return which channels were killed: a random half of every group that may lose dead ones, each in one random way.

    A group whose channels a LayerNorm ties together is left alone: not even dead ones can go from it.
    """
    generator = torch.Generator().manual_seed(seed)
    done = []
    for group in groups:
        if group.refused is not None or group.normalised is not None or group.contracted or group.channels < 2:
            continue
        kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
        dead = torch.zeros(group.channels, dtype=torch.bool)
        dead[torch.randperm(group.channels, generator=generator)[: group.channels // 2]] = True
        kill_(model, group, dead, kind)
        done.append(Killed(group=group.name, kind=kind, channels=dead))
    return done


@torch.no_grad()
def kill_(model: nn.Module, group: Group, dead: Bool[Tensor, " channels"], kind: Kind) -> None:
    """Zero the ``dead`` channels of ``group`` in place, in all its members.

    "filter": the weights of everything that writes them, which leaves what BatchNorm and the biases emit; "gamma": the
    norms' gammas too; "beta": the betas and biases too; "readers": the input weights of everything that reads them.
    """
    modules = dict(model.named_modules())
    for member in group.consumers if kind == "readers" else group.producers:
        entries = member.local[dead[member.channel]]
        for tensor, axis in _tensors(member, modules[member.module], kind):
            tensor.index_fill_(axis, entries, 0.0)


def _tensors(member: Member, module: nn.Module, kind: Kind) -> list[tuple[Tensor, int]]:
    """Return the tensors to zero of one member and the axis of each."""
    if member.kind == "parameter":
        leaf = member.parameter.rpartition(".")[2]
        if member.side == "out" and hasattr(module, _MAGNITUDES.get(leaf, "")):
            return []
        tensor = getattr(module, leaf)
        return [(tensor, member.axis)] if tensor.is_floating_point() else []
    if kind == "readers":
        weight = module.weight
        assert isinstance(weight, Tensor)
        return [(weight, slice_axis(module, "in"))]
    names = [("weight", slice_axis(module, "out"))] if member.kind in _FILTERS else []
    if member.kind not in _FILTERS and kind in ("gamma", "beta"):
        names.append(("weight", 0))
    if kind == "beta":
        names.append(("bias", 0))
    return [(tensor, axis) for name, axis in names if isinstance(tensor := getattr(module, name, None), Tensor)]
