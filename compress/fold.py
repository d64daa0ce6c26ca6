"""Which dead channels go, and how the readers absorb the constants that go with them, exactly.

A reader without zero padding takes a constant into its bias. Behind zero padding a bias would be wrong at the border;
there one dead channel stays as the *carrier*: its input weights take over those of the others, scaled by the ratio of
the constants, which is exact everywhere because the carrier is padded just as they were.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimtask.compress.groups import Group, Member
from slimtask.compress.zeros import Deadness


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one group loses: channels to ``keep``, why the others go, and the constants each reader must absorb.

    ``constants[i]`` [channels] is what reader i loses with each removed channel; ``carriers[i]`` is the channel that
    takes it over and its own constant, None for the reader's bias. ``stuck`` counts the dead channels that must stay
    because what a reader sees of them is not one constant.
    """

    keep: Bool[Tensor, " channels"]
    reasons: dict[str, int]
    note: str
    stuck: int
    constants: tuple[Float[Tensor, " channels"], ...]
    carriers: tuple[tuple[int, float] | None, ...]


def plan_fold(group: Group, dead: Deadness, model: nn.Module, align: int = 1) -> Fold:
    """Return which dead channels of ``group`` go; at least one channel always stays.

    Dead channels are kept to fill up the next multiple of ``align``: they cost next to nothing where the backend
    computes in blocks of channels, and an odd count costs more than the block it saves.
    """
    modules = dict(model.named_modules())
    known = torch.ones(group.channels, dtype=torch.bool)
    for values in dead.values:
        known &= ~values.isnan()
    removable = dead.ignored | (dead.constant & known)
    carriers = [_carrier(modules[m.module], v, removable & ~dead.ignored) for m, v in _readers(group, dead)]
    stays = ~removable
    carrying = sorted({carrier[0] for carrier in carriers if carrier})
    stays[carrying] = True
    notes = [f"channels {carrying} carry the constants of the removed ones"] if carrying else []
    if not stays.any():
        stays[0] = True
        notes.append("one channel stays so that the layer exists")
    filled = _fill_up_(stays, align)
    if filled:
        notes.append(f"{filled} dead channels stay to make a multiple of {align}")
    stuck = int((dead.constant & ~known & ~dead.ignored).sum())
    constants = tuple(torch.where(stays | dead.ignored, 0.0, values.nan_to_num()) for values in dead.values)
    return Fold(
        keep=stays,
        reasons=_reasons(dead, stays, constants),
        note="; ".join(notes),
        stuck=stuck,
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
        weight = module.weight.detach()
        scale = constant.double()[member.channel].view(1, -1, *[1] * (weight.ndim - 2))
        lost = (weight[:, member.local].double() * scale).sum(dim=1)
        if carrier:
            channel, value = carrier
            weight[:, member.local[member.channel == channel]] += (lost / value).to(weight.dtype).unsqueeze(1)
            continue
        if module.bias is None:
            module.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))
            gained.append(member.module)
        module.bias.detach().add_(lost.reshape(len(lost), -1).sum(dim=1).to(weight.dtype))
    return gained


def _fill_up_(stays: Tensor, align: int) -> int:
    """Keep further channels, in place, until their number is a multiple of ``align`` or all stay; return how many."""
    missing = -int(stays.sum()) % align
    fillers = (~stays).nonzero().flatten()[:missing]
    stays[fillers] = True
    return len(fillers)


def _readers(group: Group, dead: Deadness) -> list[tuple[Member, Tensor]]:
    return list(zip(group.consumers, dead.values, strict=True))


def _carrier(module: nn.Module, values: Tensor, candidates: Tensor) -> tuple[int, float] | None:
    """Return the channel that carries the constants for one reader, None if its bias can or nothing is to carry."""
    strength = torch.where(candidates, values.nan_to_num().abs(), 0.0)
    if not bool((strength > 0).any()) or not _pads_with_zeros(module):
        return None
    channel = int(strength.argmax())
    return channel, float(values[channel])


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.conv._ConvNd) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" or any(pad != 0 for pad in module.padding)


def _reasons(dead: Deadness, stays: Tensor, constants: tuple[Tensor, ...]) -> dict[str, int]:
    gone = ~stays
    emits = torch.zeros_like(stays)
    for constant in constants:
        emits |= constant != 0
    reasons = Counter(
        {
            "ignored by every reader": int((gone & dead.ignored).sum()),
            "zero": int((gone & ~dead.ignored & ~emits).sum()),
            "constant, absorbed by the readers": int((gone & ~dead.ignored & emits).sum()),
        }
    )
    return {why: count for why, count in reasons.items() if count}
