"""Half the channels of every group of a network by slimtask, with every check that needs nothing of slimtask's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.zoo.models import noise_like
from slimtask.bench.studies.zoo.steps import Row, warm_up
from slimtask.bench.studies.zoo_wild.outputs import complaint
from slimtask.bench.studies.zoo_wild.snapshot import differences, snapshot
from slimtask.bench.studies.zoo_wild.subjects import Subject
from slimtask.bench.studies.zoo_wild.zeroed import rel_error
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.inputs import call
from slimtask.compress.network.trace import named_tensors
from slimtask.compress.proof.certify import Refusal
from slimtask.compress.pruning import prune
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import CheckFailed, InputError

KEEP = 0.5


def halve(what: Subject, row: Row) -> None:
    """Remove half of every group by l2, layer by layer, and write what came of it into ``row``."""
    model = as_left_by_a_user_(what.model)
    warm_up()
    before = snapshot(model)
    row.set(status="fail", kind="wrong", reason="no verdict")
    groups = _analysed(model, what, row)
    started = _cpu_seconds()
    done: Compressed | None = None
    try:
        done = prune(model, what.example, budget=Budget(keep=KEEP), criterion="l2", scope="layer")
    except InputError as error:
        row.set(status="refused", kind="", reason=str(error))
    except CheckFailed as error:
        row.set(status="fail", kind="wrong", reason=str(error))
    row.set(seconds=round(_cpu_seconds() - started, 2))
    damage = differences(before, snapshot(model))
    if done is not None:
        row.set(**_figures(model, done, groups))
    if damage:  # and a damaged network is nothing to compare with
        said = f" (and: {row.values['reason']})" if done is None else ""
        row.set(status="fail", kind="damage", reason=f"{len(damage)} places: {'; '.join(damage[:3])}"[:600] + said)
    elif done is not None:
        row.set(**_verdict(what, done, groups))


def as_left_by_a_user_(model: nn.Module) -> nn.Module:
    """Return ``model`` in training mode with frozen BatchNorms, in place: flags that eval() alone would not restore."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    return model


def _analysed(model: nn.Module, what: Subject, row: Row) -> tuple[Group, ...]:
    """Return the groups, none if there are none to be had; the time of the analysis goes into the row."""
    row.set(part="analysis")
    started = _cpu_seconds()
    try:
        groups = find_groups(model, what.example)
    except InputError:  # prune says the same, and is asked
        groups = ()
    row.set(
        seconds_analysis=round(_cpu_seconds() - started, 2),
        groups_open=sum(group.refused is None for group in groups),
        groups_refused=sum(group.refused is not None for group in groups),
        reasons=_by_reason(model, groups, [_refusal(group) for group in groups if group.refused]),
        part="removal",
    )
    return groups


def _figures(model: nn.Module, done: Compressed, groups: Sequence[Group]) -> dict[str, Any]:
    before, after = count_parameters(model), count_parameters(done.model)
    return {
        "params_after": after,
        "share": round(1 - after / before, 4),
        "channels_removed": sum(cut.before - cut.after for cut in done.plan.groups),
        "channels": sum(group.channels for group in groups),
        "reasons": _by_reason(model, groups, done.certificate.refused),
        "certificate_max_rel_error": _finite(done.certificate.max_rel_error),
        "unreached": _unreached(model, groups),
    }


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it forked to run the network in."""
    return sum(os.times()[:4])


def _verdict(what: Subject, done: Compressed, groups: Sequence[Group]) -> dict[str, Any]:
    """Return the status of a removal by running both networks on noise that nobody has seen yet."""
    if not done.certificate:
        return {"status": "fail", "kind": "wrong", "reason": f"certificate {done.certificate.max_rel_error:.1e}"}
    if shared := _memory(what.model).keys() & _memory(done.model).keys():
        names = [_memory(done.model)[place] for place in shared]
        return {"status": "fail", "kind": "damage", "reason": f"it shares memory with the user's: {names[:3]}"}
    fresh = noise_like(what.example, seed=11)
    with torch.no_grad():
        dense, smaller = call(what.model.eval(), fresh), call(done.model.eval(), fresh)
    wrong = complaint(dense, smaller, counted=what.counted)
    by_hand = {group.normalised for group in groups if group.refused is None and _by_hand(group)}
    zeroed = (
        f"{sorted(map(str, by_hand))[0]} is taken over the channels that stay, so zeros are no reference"
        if by_hand
        else rel_error(what.model, done.model, fresh)
    )
    return {
        "status": "fail" if wrong else "pass",
        "kind": "wrong" if wrong else "",
        "reason": wrong,
        "zeroed_rel_error": zeroed if isinstance(zeroed, str) else _finite(zeroed),
    }


def _memory(model: nn.Module) -> dict[int, str]:
    """Return the name of every tensor of ``model`` by where its memory is."""
    return {tensor.data_ptr(): name for name, tensor in named_tensors(model).items() if tensor.numel()}


def _by_hand(group: Group) -> bool:
    """Return whether an operation of the code, not a norm that ``zeroed`` follows, runs over the group's channels."""
    name = group.normalised or ""
    return name.startswith("'") and not name.startswith(("'batch_norm'", "'layer_norm'"))


def _refusal(group: Group) -> Refusal:
    return Refusal(group=group.name, channels=group.channels, reason=group.refused or "")


def _by_reason(model: nn.Module, groups: Sequence[Group], refused: Sequence[Refusal]) -> dict[str, dict[str, int]]:
    """Return groups, channels, and parameters that these touch, of every reason; most parameters first."""
    named, sizes = {group.name: group for group in groups}, named_tensors(model)
    found: dict[str, dict[str, int]] = {}
    for refusal in refused:
        counts = found.setdefault(refusal.reason, {"groups": 0, "channels": 0, "params": 0})
        counts["groups"] += 1
        counts["channels"] += refusal.channels
        if refusal.group in named:
            counts["params"] += _touched(named[refusal.group], sizes)
    return dict(sorted(found.items(), key=lambda item: -item[1]["params"]))


def _touched(group: Group, sizes: Mapping[str, Tensor]) -> int:
    """Return how many entries of weights the group's channels write, or read with."""
    total = 0
    for member in group.members:
        tensor = sizes.get(member.parameter or f"{member.module}.weight")
        whole = 0 if tensor is None else max(1, int(member.local.max()) + 1, len(member.local))
        total += tensor.numel() * len(member.local) // _axis(tensor, whole) if tensor is not None else 0
    return total


def _axis(tensor: Tensor, least: int) -> int:
    """Return the size of the shortest axis that has ``least`` entries, which is the one a member stands for."""
    return min((size for size in tensor.shape if size >= least), default=least)


def _unreached(model: nn.Module, groups: Sequence[Group]) -> dict[str, int]:
    """Return the size of every weight of two axes or more that no open group touches."""
    reached = {member.parameter or f"{member.module}.weight" for g in groups if not g.refused for member in g.members}
    return {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1 and name not in reached}


def _finite(value: float) -> float | str:
    return value if value < float("inf") else "infinity"
