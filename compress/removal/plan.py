"""A Plan: which channels of which layers stay. Data that replays on a fresh dense network, composes, and reads well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import channel_sizes
from slimtask.compress.graph.twins import adapt_, become_twin_, has_twin, twins_among
from slimtask.compress.network.trace import named_tensors
from slimtask.compress.removal.cuts import (
    LayerCut,
    TensorCut,
    check_layer,
    check_tensor,
    cut_layer_,
    retie_,
    slice_,
    tied_tensors,
)
from slimtask.compress.removal.sized import ModuleSizes, can_hold, hold_sizes_
from slimtask.errors import InputError
from slimtask.tasks import Frozen


class GroupCut(Frozen):
    """How many channels of one coupled group stay, and how many went for which reason."""

    name: str
    before: int
    after: int
    removed: dict[str, int] = Field(default_factory=dict)
    note: str = ""


class Plan(Frozen):
    """A replayable removal of channels: the cut of every touched layer and tensor, explained group by group.

    ``twins`` are modules whose code ties its sizes together and that run as their sliceable twin (``twins.py``);
    ``sizes`` are the answers of those whose code repeats sizes (``sized.py``). ``unreached`` names the modules that no
    pass through the network reached: they are left as they are, and may not run any more.

    Examples:
        >>> from slimtask.compress import Budget, prune
        >>> from torch import nn, zeros
        >>> def make():
        ...     return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> plan = prune(make(), zeros(1, 3, 8, 8), budget=Budget(keep=0.5)).plan
        >>> fresh = make()
        >>> plan.apply_(fresh)
        >>> fresh[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """

    kind: Literal["plan"] = "plan"
    layers: tuple[LayerCut, ...]
    groups: tuple[GroupCut, ...]
    tensors: tuple[TensorCut, ...] = ()
    twins: tuple[str, ...] = ()
    sizes: tuple[ModuleSizes, ...] = ()
    unreached: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything is cut."""
        return bool(self.layers or self.tensors)

    def apply_(self, model: nn.Module) -> None:
        """Cut ``model`` in place. Raises InputError, before anything is touched, if the plan does not fit it."""
        modules = dict(model.named_modules())
        for layer in self.layers:
            check_layer(layer, modules.get(layer.module))
        tensors = named_tensors(model)
        for cut in self.tensors:
            check_tensor(cut, tensors)
        for name in self.twins:
            if name not in modules or not has_twin(modules[name]):
                raise InputError(f"the plan does not fit this network: '{name}' is no attention module that it knows.")
        for held in self.sizes:
            if held.module not in modules or not can_hold(modules[held.module]):
                raise InputError(f"the plan does not fit this network: '{held.module}' has no code to give sizes to.")
        for name in self.twins:
            become_twin_(modules[name])
        tied = tied_tensors(model)
        for layer in self.layers:
            cut_layer_(modules[layer.module], layer)
        for cut in self.tensors:
            owner, _, leaf = cut.tensor.rpartition(".")
            slice_(modules[owner], (leaf,), cut.axis, torch.tensor(cut.kept, dtype=torch.int64))
        retie_(tied)
        for held in self.sizes:
            hold_sizes_(modules[held.module], held)
        adapt_(model)

    def then(self, later: Plan) -> Plan:
        """Return one plan that equals this one followed by ``later`` (made on the already cut network)."""
        first = {layer.module: layer for layer in self.layers}
        second = {layer.module: layer for layer in later.layers}
        merged = [_compose(first.get(name), second.get(name)) for name in {**first, **second}]
        befores = {group.name: group for group in self.groups}
        groups = [_compose_group(befores.pop(group.name, None), group) for group in later.groups]
        tensors = {(cut.tensor, cut.axis): cut for cut in self.tensors}
        for cut in later.tensors:
            before = tensors.get((cut.tensor, cut.axis))
            kept = cut.kept if before is None else tuple(before.kept[index] for index in cut.kept)
            tensors[cut.tensor, cut.axis] = (before or cut).model_copy(update={"kept": kept})
        sizes = {held.module: held for held in self.sizes}
        for held in later.sizes:
            sizes[held.module] = sizes[held.module].then(held) if held.module in sizes else held
        return Plan(
            layers=tuple(merged),
            groups=(*groups, *befores.values()),
            tensors=tuple(tensors.values()),
            twins=tuple(dict.fromkeys((*self.twins, *later.twins))),
            sizes=tuple(sizes.values()),
            unreached=later.unreached,
        )

    def __str__(self) -> str:
        """Return one line per group that lost channels (name, before -> after, reasons), and what nothing reached."""
        lines = [
            f"{group.name}: {group.before} -> {group.after}"
            f" ({', '.join(f'{count} {why}' for why, count in group.removed.items())})"
            for group in self.groups
            if group.after < group.before
        ]
        if self.unreached:
            lines.append(f"not reached, left as it is: {', '.join(self.unreached)}")
        return "\n".join(lines) or "nothing is removed"


def plan_from_keep(
    model: nn.Module, groups: Sequence[Group], keep: Sequence[torch.Tensor], cuts: Sequence[GroupCut] = ()
) -> Plan:
    """Return the Plan that keeps, of each group, the channels where ``keep[g]`` (boolean, [channels]) is true."""
    modules = dict(model.named_modules())
    kept: dict[tuple[str, str], torch.Tensor] = {}
    loose: dict[tuple[str, int], torch.Tensor] = {}
    tensors_of = named_tensors(model)
    for group, stays in zip(groups, keep, strict=True):
        if bool(stays.all()):
            continue
        for member in group.members:
            if member.kind == "parameter":
                size = tensors_of[member.parameter].shape[member.axis]
                mask = loose.setdefault((member.parameter, member.axis), torch.ones(size, dtype=torch.bool))
            else:
                size = channel_sizes(modules[member.module])[member.side == "in"]
                mask = kept.setdefault((member.module, member.side), torch.ones(size, dtype=torch.bool))
            mask[member.local[~stays[member.channel]]] = False
    touched = dict.fromkeys(name for name, _ in kept)
    layers = [_layer_cut(name, modules[name], kept.get((name, "out")), kept.get((name, "in"))) for name in touched]
    tensors = [
        TensorCut(tensor=name, axis=axis, before=len(mask), kept=kept_indices)
        for (name, axis), mask in loose.items()
        if (kept_indices := _indices(mask)) is not None
    ]
    twins = twins_among(modules, [*touched, *(cut.tensor for cut in tensors)])
    return Plan(layers=tuple(layers), groups=tuple(cuts), tensors=tuple(tensors), twins=twins)


def _layer_cut(name: str, module: nn.Module, out: torch.Tensor | None, into: torch.Tensor | None) -> LayerCut:
    outputs, inputs = channel_sizes(module)
    return LayerCut(
        module=name, outputs_before=outputs, inputs_before=inputs, outputs=_indices(out), inputs=_indices(into)
    )


def _indices(mask: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if mask is None or bool(mask.all()) else tuple(mask.nonzero().flatten().tolist())


def _compose(first: LayerCut | None, second: LayerCut | None) -> LayerCut:
    if first is None or second is None:
        chosen = first or second
        assert chosen is not None
        return chosen
    return first.model_copy(
        update={
            "outputs": _pick(first.outputs, second.outputs),
            "inputs": _pick(first.inputs, second.inputs),
            "adds_bias": first.adds_bias or second.adds_bias,
        }
    )


def _pick(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if first is None or second is None:
        return first or second
    return tuple(first[index] for index in second)


def _compose_group(first: GroupCut | None, second: GroupCut) -> GroupCut:
    if first is None:
        return second
    removed = {why: first.removed.get(why, 0) + second.removed.get(why, 0) for why in first.removed | second.removed}
    return second.model_copy(update={"before": first.before, "removed": removed})
