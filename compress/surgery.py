"""Cutting a copy of a network, and finding out which cuts its code does not survive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from slimtask.compress.fold import Fold, absorb_
from slimtask.compress.groups import Group
from slimtask.compress.inputs import Inputs
from slimtask.compress.plan import GroupCut, Plan, plan_from_keep
from slimtask.compress.tape import Tape
from slimtask.compress.trace import record, shared_copy
from slimtask.errors import InputError


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


def make_cut(model: nn.Module, cuts: Sequence[Cut]) -> tuple[nn.Module, Plan]:
    """Return a cut copy of ``model``, sharing what is not cut, and the plan that cut it."""
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
    plan = plan.model_copy(update={"layers": layers})
    plan.apply_(smaller)
    return smaller, plan


def survivable(model: nn.Module, cuts: Sequence[Cut], example: Inputs) -> tuple[list[Cut], list[tuple[Cut, str]]]:
    """Return the cuts that the network's code survives together, and each other one with what it breaks.

    A forward pass that reshapes to a number written in its source fails once the channels are fewer; the module it
    fails in tells which cuts to take back.
    """
    tape = record(model, example)
    good: list[Cut] = []
    lost: list[tuple[Cut, str]] = []
    pending = [[cut for cut in cuts if not bool(cut.keep.all())]]
    while pending:
        tried = pending.pop()
        failure = _failure(model, [*good, *tried], example, tape)
        if failure is None:
            good += tried
        elif len(tried) == 1:
            lost.append((tried[0], failure.why))
        else:
            pending += _split(tried, failure)
    return good, lost


@dataclass(frozen=True)
class _Failure:
    why: str
    modules: tuple[str, ...]  # those the exception passed through, innermost first


def _failure(model: nn.Module, cuts: Sequence[Cut], example: Inputs, whole: Tape) -> _Failure | None:
    """Return why the network does not run with ``cuts``, None if it does and its outputs keep their shapes."""
    if not cuts:
        return None
    smaller, _ = make_cut(model, cuts)
    try:
        outputs = record(smaller, example, compute=whole.computed).outputs
    except InputError as error:
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        return _Failure(f"the network does not run without them: {first}", _modules_in(cause, smaller))
    changed = [name for name, ref in outputs.items() if whole.outputs[name].shape != ref.shape]
    return _Failure(f"output '{changed[0]}' changes its shape", ()) if changed else None


def _modules_in(error: BaseException, model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules whose code the exception passed through, innermost first."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found, trace = [], error.__traceback__
    while trace is not None:
        name = names.get(id(trace.tb_frame.f_locals.get("self")))
        if name is not None:
            found.append(name)
        trace = trace.tb_next
    return tuple(dict.fromkeys(reversed(found)))


def _split(cuts: list[Cut], failure: _Failure) -> list[list[Cut]]:
    """Return the cuts in two lists: those that touch the innermost module that tells them apart, or halves.

    The last list is tried first: the one less likely to fail.
    """
    for name in failure.modules:
        inside = [cut for cut in cuts if _touches(cut, name)]
        if 0 < len(inside) < len(cuts):
            return [inside, [cut for cut in cuts if not _touches(cut, name)]]
    half = len(cuts) // 2
    return [cuts[half:], cuts[:half]]


def _touches(cut: Cut, module: str) -> bool:
    return any(f"{member.module}.".startswith(f"{module}.") for member in cut.group.members)
