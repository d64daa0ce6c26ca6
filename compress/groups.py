"""Coupled channel groups of any network: which slices of which modules must go together when one channel goes.

The coupling is found by torch-pruning's dependency graph (DepGraph, Fang et al., CVPR 2023), which traces one forward
pass; this module turns its objects into plain data, so that nothing else in slimtask knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from slimtask.errors import InputError

Kind = Literal["conv", "depthwise", "linear", "batchnorm"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One side of one module in a group: its channel number ``local[j]`` is the group's channel ``channel[j]``.

    ``normalised_by`` names the BatchNorms behind a producing convolution or linear layer if nothing else reads it.
    """

    module: str
    kind: Kind
    side: Literal["out", "in"]
    local: Int64[Tensor, " entries"]
    channel: Int64[Tensor, " entries"]
    normalised_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that are coupled: ``producers`` write them, ``consumers`` read them.

    ``refused`` says why no channel of the group may be removed (it is a task's output, or a construct in between is
    not understood); None means that they may.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    refused: str | None = None

    @property
    def producers(self) -> tuple[Member, ...]:
        """Return the members whose outputs are the group's channels (convolutions, linear layers, BatchNorms)."""
        return tuple(member for member in self.members if member.side == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Return the members that read the group's channels as input."""
        return tuple(member for member in self.members if member.side == "in")


def find_groups(model: nn.Module, example: Tensor) -> tuple[Group, ...]:
    """Return every coupled channel group of ``model``, traced with one forward pass on ``example``.

    ``example`` is a valid input, e.g. [1, 3, height, width]. Every parameter is found in at most one group per side.
    Raises InputError if the network cannot be traced or has no convolution or linear layer.
    """
    import torch_pruning as tp

    names = {module: name for name, module in model.named_modules()}
    was_training, frozen = model.training, [p for p in model.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:  # the trace follows gradients
            parameter.requires_grad_(True)
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(model.eval(), example, verbose=False)
            roots = graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])
            groups = tuple(_group(root, names) for root in roots)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the dependency graph of {type(model).__name__} cannot be traced ({type(error).__name__}: {error}); "
            "check that the example input fits the network."
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(was_training)
    if not groups:
        raise InputError(f"{type(model).__name__} has no convolution or linear layer, so there is nothing to remove.")
    return groups


def _group(root: Any, names: dict[nn.Module, str]) -> Group:
    """Return our Group of a torch-pruning group (a list of dependencies with their indices)."""
    members, refused = [], None
    for item in root:
        module, side = item.dep.target.module, _side(item.dep.handler.__name__)
        if type(module).__name__ == "_OutputOp":
            refused = refused or "its channels are outputs of the network"
        elif isinstance(module, nn.Parameter):
            refused = refused or "a bare parameter is as wide as its channels"
        elif module in names:
            kind = _kind(module)
            if kind is None:
                refused = refused or f"{type(module).__name__} '{names[module]}' mixes its channels"
            else:
                members.append(_member(item, names, kind, "out" if kind in ("depthwise", "batchnorm") else side))
                if not _fits(members[-1], module, len(root[0].idxs)):
                    refused = refused or f"the trace mistakes which channels '{names[module]}' reads or writes"
    name = names[root[0].dep.target.module]
    if not any(member.side == "in" for member in members):
        refused = refused or "nothing reads its channels but the network's output"
    channels = len(root[0].idxs)
    return Group(name=name, channels=channels, members=tuple(members), refused=refused)


def _member(item: Any, names: dict[nn.Module, str], kind: Kind, side: Literal["out", "in"]) -> Member:
    local = torch.as_tensor(list(item.idxs), dtype=torch.int64)
    roots = item.idxs if item.root_idxs is None else item.root_idxs
    readers = [node.module for node in item.dep.target.outputs]
    only_norms = all(isinstance(reader, nn.Module) and _kind(reader) == "batchnorm" for reader in readers)
    return Member(
        module=names[item.dep.target.module],
        kind=kind,
        side=side,
        local=local,
        channel=torch.as_tensor(list(roots), dtype=torch.int64),
        normalised_by=tuple(names[reader] for reader in readers) if side == "out" and only_norms else (),
    )


def _side(handler: str) -> Literal["out", "in"]:
    return "in" if handler == "prune_in_channels" else "out"


def _fits(member: Member, module: Any, channels: int) -> bool:
    """Return whether the traced indices lie on the module's axis and every channel has its share of them."""
    sizes = {"linear": ("out_features", "in_features"), "batchnorm": ("num_features", "num_features")}
    outputs, inputs = sizes.get(member.kind, ("out_channels", "in_channels"))
    size = int(getattr(module, inputs if member.side == "in" else outputs))
    counts = torch.bincount(member.channel, minlength=channels)
    inside = int(member.local.min()) >= 0 and int(member.local.max()) < size
    return inside and len(counts) == channels and bool((counts == counts[0]).all()) and int(counts[0]) > 0


def _kind(module: Any) -> Kind | None:
    """Return the kind of a module whose channels can be sliced exactly, None for every other one."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups == 1:
            return "conv"
        return "depthwise" if module.groups == module.in_channels == module.out_channels else None
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return "batchnorm"
    return None
