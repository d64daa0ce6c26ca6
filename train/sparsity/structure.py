"""What a sparsity recipe penalises in a network: the groups, the layer each belongs to, and how sparsity is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor, nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.score.cost import SizeModel
from slimtask.errors import InputError
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.layout import UNGROUPED, GroupLayout, Member, input_channel_layout, output_channel_layout


@dataclass(frozen=True, kw_only=True)
class SparseStructure:
    """The groups of a network (``layout``), the layer of each group, and two counts of sparsity.

    ``parameters_left`` maps alive channels per layer [..., layers] to the parameters left in the scope [...]: for
    coupled groups those that remain after the physical removal, for the others the weights in non-zero groups.
    """

    layout: GroupLayout
    layer_names: tuple[str, ...]
    layer_of: Int64[Tensor, " groups"]
    parameters_left: Callable[[Tensor], Tensor]
    measure: str

    @property
    def layer_sizes(self) -> Int64[Tensor, " layers"]:
        """Return the number of groups in each layer."""
        return torch.bincount(self.layer_of, minlength=len(self.layer_names))

    def alive_counts(self, alive: Bool[Tensor, " groups"]) -> Int64[Tensor, " layers"]:
        """Return how many groups of each layer are alive."""
        return torch.bincount(self.layer_of[alive], minlength=len(self.layer_names))

    def sparsity(self, counts: Shaped[Tensor, "*batch layers"]) -> Tensor:
        """Return the measured sparsity [*batch] when each layer has ``counts`` alive groups."""
        if self.measure == "groups":
            return 1 - counts.double().sum(dim=-1) / len(self.layout)
        return 1 - self.parameters_left(counts) / self.parameters_left(self.layer_sizes)

    def report(self, zero: Bool[Tensor, " groups"]) -> dict[str, float]:
        """Return both counts for a mask of zero groups: ``parameter_sparsity`` and ``group_sparsity``."""
        counts = self.alive_counts(~zero)
        left = self.parameters_left(counts) / self.parameters_left(self.layer_sizes)
        return {"parameter_sparsity": float(1 - left), "group_sparsity": float(zero.float().mean())}


def sparse_structure(model: nn.Module, example: Tensor, config: SparsityConfig) -> SparseStructure:
    """Return the structure that ``config`` penalises in ``model``; InputError if it selects nothing."""
    if config.groups == "coupled":
        return _coupled(model, example, config)
    build = input_channel_layout if config.groups == "input-channel" else output_channel_layout
    layout = build(model.named_parameters(), lambda name: within(name, config.scope))
    names = tuple(member.parameter for member in layout.members)
    layer_of = torch.cat([torch.full_like(m.groups, layer) for layer, m in enumerate(layout.members)])
    size = torch.stack([layout.group_sizes[member.groups[0]] for member in layout.members]).double()
    return SparseStructure(
        layout=layout,
        layer_names=names,
        layer_of=layer_of,
        parameters_left=lambda counts: counts.double() @ size,
        measure=config.measure,
    )


def _coupled(model: nn.Module, example: Tensor, config: SparsityConfig) -> SparseStructure:
    """One group = everything that must vanish for a channel of the dependency graph to be removable.

    That is every filter that writes the channel and the gamma and beta of every BatchNorm behind them: then the channel
    is zero and its readers may ignore it (the zero-invariant groups of OTO, Chen et al., NeurIPS 2021).
    """
    groups = [group for group in find_groups(model, example) if _penalised(group, config.scope)]
    if not groups:
        raise InputError(f"no removable channel group lies under '{config.scope}'; check sparsity.scope.")
    offsets = torch.tensor([0, *[group.channels for group in groups]]).cumsum(0).tolist()
    parameters = dict(model.named_parameters())
    slices: dict[str, Tensor] = {}
    for group, offset in zip(groups, offsets, strict=False):
        for member in group.producers:
            for name in (f"{member.module}.weight", f"{member.module}.bias"):
                if name in parameters:
                    index = slices.setdefault(name, torch.full((parameters[name].shape[0],), UNGROUPED))
                    index[member.local] = offset + member.channel
    layout = GroupLayout(
        members=[Member(parameter=name, axis=0, groups=index) for name, index in slices.items()],
        shapes={name: tuple(parameters[name].shape) for name in slices},
        names=[f"{group.name}[{channel}]" for group in groups for channel in range(group.channels)],
    )
    return SparseStructure(
        layout=layout,
        layer_names=tuple(group.name for group in groups),
        layer_of=torch.cat([torch.full((group.channels,), layer) for layer, group in enumerate(groups)]),
        parameters_left=SizeModel(model, groups, prefix=f"{config.scope}." if config.scope else ""),
        measure=config.measure,
    )


def _penalised(group: Group, scope: str) -> bool:
    return group.refused is None and all(within(member.module, scope) for member in group.producers)


def within(name: str, scope: str) -> bool:
    """Return whether the module or parameter ``name`` lies in the module ``scope``; an empty scope holds all."""
    return not scope or f"{name}.".startswith(f"{scope}.")
