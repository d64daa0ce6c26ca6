"""The network as it is with removed channels masked: what one that is cut by score must compute, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimtask.compress.cuts import channel_sizes, slice_axis
from slimtask.compress.groups import Member
from slimtask.compress.kept import KeptPlace
from slimtask.compress.surgery import Cut
from slimtask.compress.tape import Operation, Ref, Tape


def mask_(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Write zeros over what ``cuts`` remove, in the very tensors of ``model``: ties, closures and hooks see them."""
    modules = dict(model.named_modules())
    for cut in cuts:
        gone = ~cut.keep
        for member in cut.group.members if bool(gone.any()) else ():
            _zero_(modules[member.module], member, member.local[gone[member.channel]])


def kept_places(tape: Tape, cuts: Sequence[Cut], model: nn.Module) -> list[KeptPlace]:
    """Return the norms over cut channels on ``tape``, which take their mean over those that stay.

    ``model`` is the dense network that the tape is of.
    """
    modules = dict(model.named_modules())
    keeps: dict[str, Tensor] = {}
    for cut in cuts:
        gone = ~cut.keep
        for member in cut.group.members if bool(gone.any()) else ():
            module = modules[member.module]
            if isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1):
                size = channel_sizes(module)[0]
                keep = keeps.setdefault(f"{member.module}.weight", torch.ones(size, dtype=torch.bool))
                keep[member.local[gone[member.channel]]] = False
    return [place for op in tape.operations if (place := _norm_place(op, tape, keeps)) is not None]


def _norm_place(op: Operation, tape: Tape, keeps: dict[str, Tensor]) -> KeptPlace | None:
    if op.name not in ("native_layer_norm", "native_group_norm"):
        return None
    layer = op.name == "native_layer_norm"
    weight = op.args[2 if layer else 1]
    keep = keeps.get(tape.leaves.get(weight.number, "")) if isinstance(weight, Ref) else None
    if keep is None:
        return None
    axis = len(op.args[0].shape) - 1 if layer else 1
    return KeptPlace(module=op.module, place=op.place, name=op.name, operand=0, axis=axis, keep=keep)


def _zero_(module: nn.Module, member: Member, dropped: Tensor) -> None:
    """Zero what the module writes to, or reads from, the ``dropped`` entries of its axis."""
    if member.kind == "parameter":
        names: tuple[str, ...] = (member.parameter.rpartition(".")[2],)
        axis = member.axis
    elif member.side == "in":
        names, axis = ("weight",), slice_axis(module, "in")
    else:
        names, axis = ("weight", "bias"), slice_axis(module, "out")
    for name in names:
        tensor = getattr(module, name, None)
        if tensor is not None:
            tensor.detach().index_fill_(0 if name == "bias" else axis, dropped, 0.0)
