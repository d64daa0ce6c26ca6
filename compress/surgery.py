"""Cutting a copy of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from slimtask.compress.fold import Fold, absorb_
from slimtask.compress.groups import Group
from slimtask.compress.plan import GroupCut, Plan, plan_from_keep
from slimtask.compress.sized import ModuleSizes
from slimtask.compress.trace import shared_copy


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one group loses: the channels to ``keep``, why the others go, and the constants to absorb, if any."""

    group: Group
    keep: Tensor
    reasons: dict[str, int]
    note: str = ""
    fold: Fold | None = None


def own_tensors_(model: nn.Module, original: nn.Module) -> None:
    """Give ``model`` memory of its own for the tensors that it still shares with ``original``, in place."""
    shared = {id(tensor) for tensor in (*original.parameters(), *original.buffers())}
    copies: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None or id(tensor) not in shared:
                    continue
                if id(tensor) not in copies:
                    own = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if is_parameter else own
                table[name] = copies[id(tensor)]  # type: ignore[assignment]


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
