"""A Plan: which channels of which layers stay. Data that replays on a fresh dense network, composes, and reads well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from slimtask.compress.groups import Group
from slimtask.errors import InputError
from slimtask.tasks import Frozen


class LayerCut(Frozen):
    """What stays of one module: ``outputs`` and ``inputs`` are the kept indices of each axis, None for all.

    ``adds_bias`` says that the module gains a bias parameter, into which constants of removed channels were folded.
    """

    module: str
    outputs_before: int = Field(ge=1)
    inputs_before: int = Field(ge=1)
    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None
    adds_bias: bool = False


class GroupCut(Frozen):
    """How many channels of one coupled group stay, and how many went for which reason."""

    name: str
    before: int
    after: int
    removed: dict[str, int] = Field(default_factory=dict)
    note: str = ""


class Plan(Frozen):
    """A replayable removal of channels: the cut of every touched module, explained group by group."""

    kind: Literal["plan"] = "plan"
    layers: tuple[LayerCut, ...]
    groups: tuple[GroupCut, ...]

    def apply_(self, model: nn.Module) -> None:
        """Cut ``model`` in place. Raises InputError, before anything is touched, if the plan does not fit it."""
        modules = dict(model.named_modules())
        for layer in self.layers:
            _check_fit(layer, modules.get(layer.module))
        for layer in self.layers:
            cut_module_(modules[layer.module], layer)

    def then(self, later: Plan) -> Plan:
        """Return one plan that equals this one followed by ``later`` (made on the already cut network)."""
        first = {layer.module: layer for layer in self.layers}
        second = {layer.module: layer for layer in later.layers}
        merged = [_compose(first.get(name), second.get(name)) for name in {**first, **second}]
        befores = {group.name: group for group in self.groups}
        groups = [_compose_group(befores.pop(group.name, None), group) for group in later.groups]
        return Plan(layers=tuple(merged), groups=(*groups, *befores.values()))

    def __str__(self) -> str:
        """Return one line per group that lost channels: name, before -> after, reasons."""
        lines = [
            f"{group.name}: {group.before} -> {group.after}"
            f" ({', '.join(f'{count} {why}' for why, count in group.removed.items())})"
            for group in self.groups
            if group.after < group.before
        ]
        return "\n".join(lines) or "nothing is removed"


def plan_from_keep(
    model: nn.Module, groups: Sequence[Group], keep: Sequence[torch.Tensor], cuts: Sequence[GroupCut] = ()
) -> Plan:
    """Return the Plan that keeps, of each group, the channels where ``keep[g]`` (boolean, [channels]) is true."""
    modules = dict(model.named_modules())
    kept: dict[tuple[str, str], torch.Tensor] = {}
    for group, stays in zip(groups, keep, strict=True):
        if bool(stays.all()):
            continue
        for member in group.members:
            size = channel_sizes(modules[member.module])[member.side == "in"]
            mask = kept.setdefault((member.module, member.side), torch.ones(size, dtype=torch.bool))
            mask[member.local[~stays[member.channel]]] = False
    touched = dict.fromkeys(name for name, _ in kept)
    layers = [_layer_cut(name, modules[name], kept.get((name, "out")), kept.get((name, "in"))) for name in touched]
    return Plan(layers=tuple(layers), groups=tuple(cuts))


def channel_sizes(module: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a convolution, linear layer or BatchNorm."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels, module.in_channels
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    return module.num_features, module.num_features


def cut_module_(module: nn.Module, layer: LayerCut) -> None:
    """Slice the parameters, buffers and attributes of one module in place, as ``layer`` says."""
    outputs = None if layer.outputs is None else torch.tensor(layer.outputs, dtype=torch.int64)
    inputs = None if layer.inputs is None else torch.tensor(layer.inputs, dtype=torch.int64)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        _slice_(module, ("weight", "bias", "running_mean", "running_var"), 0, outputs)
        module.num_features = len(module.running_mean) if module.running_mean is not None else len(module.weight)
        return
    assert isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    if layer.adds_bias and module.bias is None:
        module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]))
    _slice_(module, ("weight", "bias"), 0, outputs)
    depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1
    if not depthwise:
        _slice_(module, ("weight",), 1, inputs)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[0] if depthwise else module.weight.shape[1]
        module.groups = module.weight.shape[0] if depthwise else 1


def _slice_(module: nn.Module, names: Sequence[str], axis: int, index: torch.Tensor | None) -> None:
    for name in names:
        tensor = getattr(module, name)
        if tensor is None or index is None:
            continue
        sliced = tensor.detach().index_select(axis, index.to(tensor.device)).clone()
        if isinstance(tensor, nn.Parameter):
            sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
        setattr(module, name, sliced)


def _layer_cut(name: str, module: nn.Module, out: torch.Tensor | None, into: torch.Tensor | None) -> LayerCut:
    outputs, inputs = channel_sizes(module)
    return LayerCut(
        module=name, outputs_before=outputs, inputs_before=inputs, outputs=_indices(out), inputs=_indices(into)
    )


def _indices(mask: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if mask is None or bool(mask.all()) else tuple(mask.nonzero().flatten().tolist())


def _check_fit(layer: LayerCut, module: nn.Module | None) -> None:
    cuttable = nn.Linear | nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm
    if module is None or not isinstance(module, cuttable):
        raise InputError(f"the plan does not fit this network: it has no layer '{layer.module}' that can be cut.")
    sizes = channel_sizes(module)
    if sizes != (layer.outputs_before, layer.inputs_before):
        raise InputError(
            f"the plan does not fit this network: '{layer.module}' has {sizes[0]} outputs and {sizes[1]} inputs, "
            f"the plan was made for {layer.outputs_before} and {layer.inputs_before}."
        )
    for kept, size in ((layer.outputs, sizes[0]), (layer.inputs, sizes[1])):
        if kept is not None and (not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size):
            raise InputError(f"the plan is damaged: '{layer.module}' must keep rising channels within 0..{size - 1}.")
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups not in (1, module.out_channels):
        raise InputError(f"the plan does not fit this network: '{layer.module}' is a grouped convolution.")


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
