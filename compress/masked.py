"""The network as it is with removed channels masked: what one that is cut by score must compute, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimtask.compress.analysis import Analysis
from slimtask.compress.cuts import slice_axis
from slimtask.compress.groups import Member
from slimtask.compress.kept import ALONG, REDUCTIONS, KeptPlace
from slimtask.compress.surgery import Cut


def mask_(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Write zeros over what ``cuts`` remove, in the very tensors of ``model``: ties, closures and hooks see them."""
    modules = dict(model.named_modules())
    for cut in cuts:
        gone = ~cut.keep
        for member in cut.group.members if bool(gone.any()) else ():
            _zero_(modules[member.module], member, member.local[gone[member.channel]])


def kept_places(analysis: Analysis, cuts: Sequence[Cut]) -> list[KeptPlace]:
    """Return the operations that run over channels of which ``cuts`` take some: they see those that stay.

    Products are none of them: what a masked channel adds to a product is zero.
    """
    kept = analysis.kept(cuts)
    places: dict[tuple[str, str, int, int], KeptPlace] = {}
    for reading in analysis.coupling.readings:
        keep, op = kept[reading.labels], reading.operation
        if reading.tape < analysis.evaluated and not keep.all() and op.name in REDUCTIONS | ALONG:
            place = KeptPlace(
                module=op.module,
                turn=op.turn,
                name=op.name,
                operand=reading.operand,
                axis=reading.axis,
                keep=torch.from_numpy(keep),
            )
            places.setdefault((op.module, op.name, op.turn, reading.operand), place)  # passes share most of them
    return list(places.values())


def _zero_(module: nn.Module, member: Member, dropped: Tensor) -> None:
    """Zero what the module writes to, or reads from, the ``dropped`` entries of its axis."""
    if member.kind == "parameter":
        if member.side == "out":  # zeroed, a weight that is normalised by itself would be 0 / 0; its readers are
            return
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
