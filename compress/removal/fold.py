"""Which dead channels go, and how the readers absorb the constants that go with them, exactly.

A reader without zero padding takes a constant into its bias. Behind zero padding a bias would be wrong at the border;
there one dead channel stays as the *carrier*: its input weights take over those of the others, scaled by the ratio of
the constants, which is exact everywhere because the carrier is padded just as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import slice_axis
from slimtask.compress.removal.dead import Deadness
from slimtask.compress.score.counts import Align, counts_of


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one group loses: channels to ``keep``, why the others go, and the constants each reader must absorb.

    ``constants[i]`` [entries] is what reader i loses at each of its entries; ``carriers[i]`` is the entry that takes it
    over and its own constant, None for the reader's bias.
    """

    keep: Bool[Tensor, " channels"]
    reasons: dict[str, int]
    note: str
    constants: tuple[Float64[Tensor, " _entries"], ...]
    carriers: tuple[tuple[int, float] | None, ...]


def plan_fold(group: Group, dead: Deadness, model: nn.Module, align: Align = 1) -> Fold:
    """Return which dead channels of ``group`` go; at least one channel always stays.

    Dead channels are kept to fill up the next count that ``align`` allows: they cost next to nothing where the backend
    computes in blocks of channels, and an odd count costs more than the block it saves.
    """
    modules = dict(model.named_modules())
    removable = dead.ignored | dead.constant
    carriers = [
        _carrier(modules[member.module], values, dead.constant[member.channel])
        for member, values in zip(group.consumers, dead.values, strict=True)
    ]
    stays = ~removable
    carrying = sorted(
        {int(m.channel[carrier[0]]) for m, carrier in zip(group.consumers, carriers, strict=True) if carrier}
    )
    stays[carrying] = True
    notes = [f"channels {carrying} carry the constants of the removed ones"] if carrying else []
    if not stays.any():
        stays[0] = True
        notes.append("one channel stays so that the layer exists")
    filled = _fill_up_(stays, counts_of(group, align))
    if filled:
        notes.append(f"{filled} dead channels stay to make {int(stays.sum())}, the next count allowed")
    constants = tuple(
        torch.where((stays | dead.ignored)[member.channel], 0.0, values.nan_to_num())
        for member, values in zip(group.consumers, dead.values, strict=True)
    )
    return Fold(
        keep=stays,
        reasons=_reasons(group, dead, stays, constants),
        note="; ".join(notes),
        constants=constants,
        carriers=tuple(carriers),
    )


def absorb_(group: Group, fold: Fold, model: nn.Module) -> list[str]:
    """Move the constants of the channels that go into the readers' weights, in place; return who gained a bias."""
    modules = dict(model.named_modules())
    gained = []
    for member, constant, carrier in zip(group.consumers, fold.constants, fold.carriers, strict=True):
        module = modules[member.module]
        if not bool((constant != 0).any()):
            continue
        assert isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        # a weight of its own, for the caller's network may share this one's memory
        module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=module.weight.requires_grad)
        weight = module.weight.detach()
        by_output = weight.transpose(0, 1) if slice_axis(module, "in") == 0 else weight  # [outputs, inputs, ...]
        scale = constant.to(weight.device).view(1, -1, *[1] * (weight.ndim - 2))
        lost = (by_output[:, member.local].double() * scale).sum(dim=1)
        if carrier:
            entry, value = carrier
            by_output[:, member.local[entry]] += (lost / value).to(weight.dtype)
            continue
        bias = weight.new_zeros(len(lost)) if module.bias is None else module.bias.detach().clone()
        if module.bias is None:
            gained.append(member.module)
        module.bias = nn.Parameter(bias + lost.reshape(len(lost), -1).sum(dim=1).to(weight.dtype))
    return gained


def _fill_up_(stays: Tensor, counts: Sequence[int]) -> int:
    """Keep further channels, in place, until their number is one of the rising ``counts``; return how many."""
    alive = int(stays.sum())
    missing = next(count for count in counts if count >= alive) - alive
    stays[(~stays).nonzero().flatten()[:missing]] = True
    return missing


def _carrier(module: nn.Module, values: Tensor, candidates: Tensor) -> tuple[int, float] | None:
    """Return the entry that carries the constants for one reader, None if its bias can or nothing is to carry."""
    strength = torch.where(candidates, values.nan_to_num().abs(), 0.0)
    if not bool((strength > 0).any()) or not _pads_with_zeros(module):
        return None
    entry = int(strength.argmax())
    return entry, float(values[entry])


def _pads_with_zeros(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return True  # the border sees fewer taps
    if not isinstance(module, nn.modules.conv._ConvNd) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" or any(pad != 0 for pad in module.padding)


def _reasons(group: Group, dead: Deadness, stays: Tensor, constants: tuple[Tensor, ...]) -> dict[str, int]:
    gone = ~stays
    emits = torch.zeros_like(stays)
    for member, constant in zip(group.consumers, constants, strict=True):
        emits[member.channel[constant != 0]] = True
    reasons = {
        "ignored by every reader": int((gone & dead.ignored).sum()),
        "zero": int((gone & ~dead.ignored & ~emits).sum()),
        "constant, absorbed by the readers": int((gone & ~dead.ignored & emits).sum()),
    }
    return {why: count for why, count in reasons.items() if count}
