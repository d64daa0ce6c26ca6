"""Why nothing could be removed, in one sentence that is true: how many channels are dead, and why they stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import slice_axis
from slimtask.compress.proof.certify import Refusal
from slimtask.compress.removal.dead import zero_entries
from slimtask.compress.removal.explain import coverage

_HOOKS = {
    "weight_mask": 'torch.nn.utils.prune.remove(module, "weight")',
    "weight_g": "torch.nn.utils.remove_weight_norm(module)",
    "weight_u": "torch.nn.utils.remove_spectral_norm(module)",
}


def nothing_prunable(model: nn.Module, groups: Sequence[Group]) -> str:
    """Return the sentence that says why no channel may be removed: the coverage, and the reasons by frequency."""
    reasons: dict[str, list[str]] = {}
    for group in groups:
        reasons.setdefault(group.refused or "", []).append(group.name)
    named = [
        f"{why.rstrip('.')} ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})"
        for why, names in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return (
        f"nothing can be removed: {coverage(model, groups)}; they are fixed because: {'; '.join(named)}. "
        f"Keep such constructs out of the layers that should shrink.{folding_hint(model)}"
    )


def dead_that_stay(model: nn.Module, groups: Sequence[Group], refused: Sequence[Refusal]) -> tuple[int, str]:
    """Return how many channels have zero filters although nothing was removed, and in words where and why they stay.

    ``refused`` are the certificate's refusals, by group. A group's outputs count as dead if every convolution and
    linear layer that writes them has only zeros there.
    """
    reasons = {refusal.group: refusal.reason for refusal in refused}
    counts = {group.name: silent_channels(model, group) for group in groups}
    words: dict[str, int] = {}
    for name, count in counts.items():
        if count:
            why = reasons.get(name, "what their readers see is needed")
            words[why] = words.get(why, 0) + count
    told = "; ".join(f"{count} because {why.rstrip('.')}" for why, count in words.items())
    return sum(words.values()), told


def silent_channels(model: nn.Module, group: Group) -> int:
    """Return how many channels of the group only zero filters write."""
    modules = dict(model.named_modules())
    silent = torch.ones(group.channels, dtype=torch.bool)
    writers = [member for member in group.producers if member.kind in ("conv", "linear")]
    for member in writers:
        module = modules[member.module]
        assert isinstance(module.weight, torch.Tensor)
        zero = zero_entries(module.weight, slice_axis(module, "out"))[member.local]
        silent[member.channel[~zero]] = False
    return int(silent.sum()) if writers else 0


def folding_hint(model: nn.Module) -> str:
    """Return the calls that turn computed weights (weight norm, spectral norm, masks) into plain ones, "" if none.

    Such a weight is no parameter that can be sliced. Example: a clause that begins with a space, for the end of a
    refusal.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        if parametrize.is_parametrized(module, "weight"):
            found.setdefault('torch.nn.utils.parametrize.remove_parametrizations(module, "weight")', name)
            continue
        for attribute, call in _HOOKS.items():
            if attribute in module._parameters or attribute in module._buffers:
                found.setdefault(call, name)
    words = "The weight of '{}' is computed from others; fold it with {}."
    return "".join(f" {words.format(name, call)}" for call, name in found.items())
