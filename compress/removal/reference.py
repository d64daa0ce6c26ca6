"""The network as it is with removed channels masked: what one that is cut by score must compute, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import Analysis
from slimtask.compress.graph.modules import axis_of
from slimtask.compress.graph.twins import is_twin
from slimtask.compress.proof.kept import ALONG, PRODUCTS, REDUCTIONS, KeptPlace
from slimtask.compress.removal.surgery import Cut, kept_atoms


def mask_(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Write zeros over what reads the channels that ``cuts`` remove, in the very tensors of ``model``.

    Ties, closures and hooks see them. Nothing else reads such a channel but the operations of ``kept_places``, which
    leave it out; what writes it stays, for a weight that is normalised by itself may not be zero.
    """
    for tensor, axis, entries in _read(model, cuts):
        tensor.detach().index_fill_(axis, entries, 0.0)


@contextmanager
def masked(model: nn.Module, cuts: Sequence[Cut]) -> Iterator[None]:
    """Mask as ``mask_`` does, and put back what it overwrote."""
    before = {id(tensor): (tensor, tensor.detach().clone()) for tensor, _, _ in _read(model, cuts)}
    mask_(model, cuts)
    try:
        yield
    finally:
        for tensor, values in before.values():
            tensor.detach().copy_(values)


def _read(model: nn.Module, cuts: Sequence[Cut]) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield (tensor, axis, entries along it) of everything that reads channels which ``cuts`` remove."""
    for cut in cuts:
        gone = ~cut.keep
        for member in cut.group.consumers if bool(gone.any()) else ():
            name, axis = axis_of(member, model)
            owner, _, leaf = name.rpartition(".")
            tensor: Tensor = getattr(model.get_submodule(owner), leaf)
            yield tensor, axis, member.local[gone[member.channel]]


def kept_places(analysis: Analysis, cuts: Sequence[Cut]) -> list[KeptPlace]:
    """Return the operations that sum over channels of which ``cuts`` take some: they see those that stay.

    Those inside a twin are not the user's module's, which needs none: zeroed weights leave whole heads out.
    """
    kept = kept_atoms(analysis, cuts)
    twins = {name for name, module in analysis.model.named_modules() if is_twin(module)}
    places: dict[tuple[str, str, int, int], KeptPlace] = {}
    for reading in analysis.coupling.readings:
        keep, op = kept[reading.labels], reading.operation
        if op.module in twins:
            continue
        if not analysis.tapes[reading.tape].training and not keep.all() and op.name in REDUCTIONS | ALONG | PRODUCTS:
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
