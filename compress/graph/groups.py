"""Coupled channel groups of any network: which slices of which modules must go together when one channel goes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.graph.labels import Axis, Ints
from slimtask.compress.graph.modules import Kind, Member, Side, kind_of
from slimtask.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that are coupled: ``producers`` write them, ``consumers`` read them.

    ``refused`` says why no channel of the group may be removed (it is a task's output, or a construct in between is
    not understood); None means that they may. ``normalised`` names a norm, mean or softmax over the channels: removing
    one, even a dead one, changes the others. ``contracted`` says that an operation that is no weight's sums over them.

    Examples:
        >>> from slimtask.compress import find_groups
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
        >>> group, _ = find_groups(net, zeros(1, 3, 8, 8))
        >>> [member.module for member in group.producers], [member.module for member in group.consumers]
        (['0', '1'], ['2'])
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    refused: str | None = None
    normalised: str | None = None
    contracted: bool = False

    @property
    def producers(self) -> tuple[Member, ...]:
        """Return the members whose outputs are the group's channels (convolutions, linear layers, norms)."""
        return tuple(member for member in self.members if member.side == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Return the members that read the group's channels as input."""
        return tuple(member for member in self.members if member.side == "in")


def groups_of(model: nn.Module, coupling: Coupling) -> tuple[Group, ...]:
    """Return every coupled channel group of ``model`` from its coupling. Raises InputError if there is no layer."""
    groups = tuple(_Builder(model, coupling).groups())
    if not groups:
        raise InputError(f"{type(model).__name__} has no convolution or linear layer, so there is nothing to remove.")
    return groups


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """An axis of a parameter with the module side it stands for and the channel of each of its indices."""

    module: str
    kind: Kind
    side: Side
    parameter: str
    axis: int
    channels: Ints


class _Builder:
    """Gathers channels into groups: those with the same members that share one fate."""

    def __init__(self, model: nn.Module, coupling: Coupling) -> None:
        modules = dict(model.named_modules())
        labels, classes = coupling.labels, coupling.classes
        self._reasons, self._norms = labels.reasons(classes), labels.normalised(classes)
        self._read, self._written = labels.read_classes(classes), labels.written_classes(classes)
        known, reading = {axis.tensor for axis in labels.axes}, labels.reading()
        self._slots = [
            slot
            for axis in labels.axes
            if (slot := _slot(axis, modules, known, bool(reading[axis.atoms].all()), classes[axis.atoms])) is not None
        ]
        self._count = int(classes.max()) + 1

    def groups(self) -> Iterator[Group]:
        group_of = self._gather()
        slots_of: dict[int, list[_Slot]] = {}
        for slot in self._slots:
            for number in np.unique(group_of[slot.channels]).tolist():
                slots_of.setdefault(number, []).append(slot)
        taken: dict[str, int] = {}
        for number, slots in slots_of.items():
            writers = [slot.kind for slot in slots if slot.side == "out"]
            bare = not set(writers) - {"batchnorm", "layernorm", "parameter"} and len(writers) in (0, len(slots))
            if bare and not self._is_computed(slots, number, group_of):
                continue  # tables, tokens, the network's input: nothing computes them, or nothing reads them
            yield self._group(number, slots, group_of, taken)

    def _is_computed(self, slots: list[_Slot], number: int, group_of: Ints) -> bool:
        """Return whether a weight writes channels of the group."""
        return any(not self._written.isdisjoint(s.channels[group_of[s.channels] == number].tolist()) for s in slots)

    def _gather(self) -> Ints:
        """Return for every channel the number of its group: channels with the same layers on both sides and one fate.

        A concatenation, or a norm over one, so keeps the channels of its parts apart: each can be cut on its own.
        """
        random = np.random.default_rng(0)
        sign = np.zeros(self._count, np.int64)
        for slot in self._slots:
            channels, times = np.unique(slot.channels, return_counts=True)
            sign[channels] += random.integers(1, 1 << 40) * times
        fates = {reason: int(random.integers(1, 1 << 40)) for reason in dict.fromkeys(self._reasons.values())}
        for channel, reason in self._reasons.items():
            sign[channel] += fates[reason]
        found: Ints = np.unique(sign, return_inverse=True)[1].astype(np.int64)
        return found

    def _group(self, number: int, slots: list[_Slot], group_of: Ints, taken: dict[str, int]) -> Group:
        rank = np.full(self._count, -1, np.int64)
        channels: list[int] = []
        for slot in sorted(slots, key=lambda slot: slot.side == "in"):
            own = slot.channels[(group_of[slot.channels] == number) & (rank[slot.channels] < 0)]
            fresh = own[np.sort(np.unique(own, return_index=True)[1])]
            rank[fresh] = np.arange(len(channels), len(channels) + len(fresh))
            channels += fresh.tolist()
        slots = sorted(slots, key=lambda slot: slot.kind in ("batchnorm", "layernorm", "parameter"))
        members = tuple(_member(slot, group_of[slot.channels] == number, rank) for slot in slots)
        refused = next((self._reasons[c] for c in channels if c in self._reasons), None)
        if not any(member.side == "in" for member in members) and self._read.isdisjoint(channels):
            refused = refused or "nothing reads its channels but the network's output"
        name = next(slot.module or slot.parameter or "network" for slot in slots if slot.side == "out")
        taken[name] = taken.get(name, 0) + 1
        return Group(
            name=name if taken[name] == 1 else f"{name}:{taken[name]}",
            channels=len(channels),
            members=members,
            refused=refused,
            normalised=next((self._norms[c] for c in channels if c in self._norms), None),
            contracted=not self._read.isdisjoint(channels),
        )


def _member(slot: _Slot, inside: np.ndarray, rank: Ints) -> Member:
    local = np.flatnonzero(inside)
    return Member(
        module=slot.module,
        kind=slot.kind,
        side=slot.side,
        local=torch.from_numpy(local.astype(np.int64)),
        channel=torch.from_numpy(rank[slot.channels[local]]),
        parameter=slot.parameter if slot.kind == "parameter" else "",
        axis=slot.axis,
    )


def _slot(
    axis: Axis, modules: dict[str, nn.Module], known: Collection[str], reads: bool, channels: Ints
) -> _Slot | None:
    """Return what an axis of a parameter stands for, None if another axis of its module says the same.

    ``known`` are the tensors that the network reads, ``reads`` says whether a weight only reads by this axis.
    """
    owner, _, leaf = axis.tensor.rpartition(".")
    module = modules[owner]
    kind = kind_of(module)
    prefix = f"{owner}." if owner else ""
    computed = f"{prefix}weight" not in known and f"{prefix}running_mean" not in known  # weight_norm, spectral_norm
    if kind == "parameter" or computed or not _standard(module, leaf):
        bare: Side = "in" if reads else "out"
        return _Slot(
            module=owner, kind="parameter", side=bare, parameter=axis.tensor, axis=axis.axis, channels=channels
        )
    if kind in ("batchnorm", "layernorm"):
        # without a weight of its own, or with one that is tied to another's, it is known by its statistics
        first = leaf == "weight" or (leaf == "running_mean" and f"{prefix}weight" not in known)
        side: Side | None = "out" if first else None
    else:
        side = _side(module, axis.axis) if leaf == "weight" else None
    if side is None:
        return None
    if kind in ("depthwise", "grouped") and side == "in":
        return None
    return _Slot(module=owner, kind=kind, side=side, parameter="", axis=axis.axis, channels=channels)


def _side(module: nn.Module, axis: int) -> Side | None:
    if axis > 1:
        return None
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1
    return "in" if (axis == 1) != transposed else "out"


def _standard(module: nn.Module, leaf: str) -> bool:
    """Return whether the tensor is one of those that cutting its module cuts."""
    own = getattr(module, leaf, None)
    known = ("weight", "bias", "running_mean", "running_var")
    return leaf in known and own is not None
