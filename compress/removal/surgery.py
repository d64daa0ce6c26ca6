"""Cutting a copy of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import Analysis
from slimtask.compress.graph.axes import Array
from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import axis_of
from slimtask.compress.network.trace import shared_copy
from slimtask.compress.removal.fold import Fold, absorb_
from slimtask.compress.removal.plan import GroupCut, Plan, plan_from_keep
from slimtask.compress.removal.sized import ModuleSizes


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one group loses: the channels to ``keep``, why the others go, and the constants to absorb, if any."""

    group: Group
    keep: Tensor
    reasons: dict[str, int]
    note: str = ""
    fold: Fold | None = None


def make_cut(model: nn.Module, cuts: Sequence[Cut], sizes: Sequence[ModuleSizes] = ()) -> tuple[nn.Module, Plan]:
    """Return a cut copy of ``model``, sharing what is not cut, and the plan that cut it.

    ``sizes`` are the answers that modules need whose code repeats sizes, see ``fitting.fit``.
    """
    smaller = shared_copy(model)
    gained = [name for cut in cuts if cut.fold is not None for name in absorb_(cut.group, cut.fold, smaller)]
    words = [
        GroupCut(
            name=cut.group.name,
            before=cut.group.channels,
            after=int(cut.keep.sum()),
            removed=cut.reasons,
            note=cut.note,
        )
        for cut in cuts
    ]
    plan = plan_from_keep(smaller, [cut.group for cut in cuts], [cut.keep for cut in cuts], words)
    layers = tuple(layer.model_copy(update={"adds_bias": layer.module in gained}) for layer in plan.layers)
    plan = plan.model_copy(update={"layers": layers, "sizes": tuple(sizes)})
    plan.apply_(smaller)
    return smaller, plan


def kept_atoms(analysis: Analysis, cuts: Sequence[Cut]) -> Array:
    """Return which atoms of the labels of ``analysis`` stay after ``cuts``, boolean [atoms]."""
    classes = analysis.coupling.classes
    gone = np.zeros(int(classes.max()) + 1, bool)
    first = {(axis.tensor, axis.axis): axis.first for axis in analysis.coupling.labels.axes}
    for cut in cuts:
        leaves = (~cut.keep).numpy()
        for member in cut.group.members if leaves.any() else ():
            start = first.get(axis_of(member, analysis.model))
            if start is not None:
                local = member.local[torch.from_numpy(leaves[member.channel.numpy()])].numpy()
                gone[classes[start + local]] = True
    return ~gone[classes]
