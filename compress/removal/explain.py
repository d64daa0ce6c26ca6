"""A removal in words: how much of a network may be removed at all, and what each layer of a plan lost and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import kind_of
from slimtask.compress.proof.certify import Refusal
from slimtask.compress.removal.cuts import LayerCut
from slimtask.compress.removal.plan import GroupCut, Plan
from slimtask.compress.score.cost import SizeModel


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a network may be removed: ``open_`` is the part in groups that are not refused, and who is.

    ``open_params`` are the parameters that belong to at least one channel that may go.

    Examples:
        >>> from slimtask.compress import coverage, find_groups
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> found = coverage(net, find_groups(net, zeros(1, 3, 8, 8)))
        >>> found.refused[0].reason
        "they are channels of the network's output 'output'"
    """

    groups: int
    open_groups: int
    channels: int
    open_channels: int
    params: int
    open_params: int
    refused: tuple[Refusal, ...]

    def __str__(self) -> str:
        """Return the coverage as one phrase."""
        share = self.open_params / self.params if self.params else 0.0
        return (
            f"{self.open_channels:,} of {self.channels:,} channels may be removed ({self.open_groups} of {self.groups} "
            f"groups, which hold {share:.1%} of {self.params:,} parameters)"
        )


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """What one layer (or bare tensor) lost: its size before and after, outputs x inputs, and why."""

    layer: str
    before: str
    after: str
    why: str


def coverage(model: nn.Module, groups: Sequence[Group]) -> Coverage:
    """Return the Coverage of ``model`` with its ``groups``.

    Examples:
        >>> from slimtask.compress import coverage, find_groups
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> found = coverage(net, find_groups(net, zeros(1, 3, 8, 8)))
        >>> found.open_channels, found.channels
        (16, 20)
    """
    size = SizeModel(model, groups)
    counts = torch.tensor([group.channels for group in groups])
    unlocked = torch.tensor([group.refused is None for group in groups])
    return Coverage(
        groups=len(groups),
        open_groups=int(unlocked.sum()),
        channels=int(counts.sum()),
        open_channels=int(counts[unlocked].sum()),
        params=size.total,
        open_params=size.total - round(float(size(counts * ~unlocked))),
        refused=tuple(Refusal(group=g.name, channels=g.channels, reason=g.refused) for g in groups if g.refused),
    )


def layer_rows(model: nn.Module, plan: Plan, groups: Sequence[Group]) -> list[LayerRow]:
    """Return one row for each layer, then each bare tensor, that ``plan`` cuts of ``model``, in the network's order.

    ``groups`` are those of ``model``, the network before the cut; without them only the layers that a group is called
    after have a reason.
    """
    cuts = {cut.name: cut for cut in plan.groups if cut.after < cut.before}
    modules = dict(model.named_modules())
    order = {name: place for place, name in enumerate(modules)}
    outs: dict[str, list[str]] = {name: [name] for name in cuts} if not groups else {}
    ins: dict[str, list[str]] = {}
    for group in groups:
        for member in group.members if group.name in cuts else ():
            name = member.parameter or member.module
            known = (outs if member.side == "out" else ins).setdefault(name, [])
            if group.name not in known:
                known.append(group.name)
    layers = sorted(plan.layers, key=lambda layer: order.get(layer.module, len(order)))
    rows = [_layer(layer, kind_of(modules[layer.module]), cuts, outs, ins) for layer in layers]
    for cut in plan.tensors:
        why = _why(cut.tensor, outs.get(cut.tensor, []), [], cuts)
        after = f"{len(cut.kept)} along axis {cut.axis}"
        rows.append(LayerRow(layer=cut.tensor, before=f"{cut.before} along axis {cut.axis}", after=after, why=why))
    return rows


def _layer(
    layer: LayerCut, kind: str, cuts: dict[str, GroupCut], outs: dict[str, list[str]], ins: dict[str, list[str]]
) -> LayerRow:
    outputs = layer.outputs_before if layer.outputs is None else len(layer.outputs)
    inputs = layer.inputs_before if layer.inputs is None else len(layer.inputs)
    name = layer.module
    why = _why(name, outs.get(name, []), ins.get(name, []), cuts)
    if layer.adds_bias:
        why = f"{why}; gains a bias".removeprefix("; ")
    if kind in ("batchnorm", "layernorm", "depthwise", "grouped"):
        return LayerRow(layer=name, before=str(layer.outputs_before), after=str(outputs), why=why)
    before = f"{layer.outputs_before} x {layer.inputs_before}"
    return LayerRow(layer=name, before=before, after=f"{outputs} x {inputs}", why=why)


def _why(name: str, outs: Sequence[str], ins: Sequence[str], cuts: dict[str, GroupCut]) -> str:
    """Return the reasons of the layer's own channels, and whose removed channels it read."""
    parts = []
    for group in outs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in cuts[group].removed.items())
        parts.append(reasons if group == name else f"{reasons} (with {group})")
    parts += [f"reads {group}" for group in ins]
    return "; ".join(parts)
