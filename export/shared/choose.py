"""Which first layers run as the base's output and deltas on its input, by what dispatch expects on a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from slimtask.compress.structures.patterns import (
    Block,
    Heads,
    HiddenUnits,
    InChannels,
    OutChannels,
    Pattern,
    Unstructured,
)
from slimtask.errors import InputError
from slimtask.export.shared.plan import Packing, Step, base_needed
from slimtask.export.shared.source import Part, Source
from slimtask.kernels.costs import Costs
from slimtask.kernels.device import Device
from slimtask.kernels.dispatch import Choice, choose
from slimtask.kernels.layouts.base import ceil_to
from slimtask.kernels.layouts.sparse import STEP
from slimtask.kernels.problem import Problem

Prefer = Literal["expected", "kernels"]
Plan = list[list[Step]]
_LOG = logging.getLogger(__name__)
_SIDE = 64  # of the blocks that kernels are written for


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a SharedViT is to run: ``costs`` of its device, and whether only ``measured`` ones can decide for deltas.

    ``prefer`` "kernels" takes the kernel that a delta's pattern is meant for, whatever it costs. ``dtype`` is what it
    is to run in ("float16", ...), None for that of its weights.
    """

    costs: Costs
    measured: bool = False
    prefer: Prefer = "expected"
    dtype: str | None = None

    @classmethod
    def of(
        cls, device: Device | None, costs: Costs | Path | str | None, prefer: Prefer, dtype: str | None = None
    ) -> Target:
        """Return the target; InputError for a damaged file of costs and for costs of another device.

        Without a ``device`` it is this machine's CPU with ONNX Runtime, which has no sparse product: floors say nothing
        about it, and the costs of PyTorch's operators in the cache are not its own, so only ``costs`` given here count.
        """
        at = device or Device.current("cpu")
        try:
            if costs is None:
                costs = Costs(device=at) if device is None else Costs.load(at)
            elif not isinstance(costs, Costs):
                costs = Costs.load(at, costs)
        except ValueError as error:
            raise InputError(str(error)) from None
        if costs.device != at:
            raise InputError(f"the costs are those of {costs.device}, the network is to run on {at}; measure there.")
        return cls(costs=costs, measured=device is None, prefer=prefer, dtype=dtype)


def choose_layers(source: Source, plan: Plan, target: Target, *, base_task: bool, tokens: int) -> Plan:
    """Return ``plan`` with the form "layer" in place of "merged" where it is expected to take less time.

    A merged branch qualifies if its first layer reads what the base's reads, on all rows or all but a row budget, and
    has changed weights. Tasks with one pattern are one problem, of ``tokens`` rows. ``base_task`` says whether a task
    without a delta needs the base in every branch.
    """
    return [
        _chosen(part, steps, target, tokens=tokens, base_runs=base_task or base_needed(plan[index:]))
        for index, (part, steps) in enumerate(zip(source.branches, plan, strict=True))
    ]


def briefly(choice: Choice) -> str:
    """Return what dispatch expects of a first layer, fastest first, in one line."""
    expected = [(each.candidate, each.ms, each.source) for each in choice.alternatives if each.ms is not None]
    times = ", ".join(f"{name} {ms:.3g} ms ({source})" for name, ms, source in expected)
    left = len(choice.alternatives) - len(expected)
    return f"first layers on {choice.problem.device}: {times}; {left} excluded"


def match(pattern: Pattern) -> tuple[str, Packing] | None:
    """Return the pattern as dispatch names it and the packing meant for it; None where no kernel is.

    Blocks are what their sides allow: squares of 64, columns of 32 outputs, or single entries. In a first layer hidden
    units and heads are output channels.
    """
    if isinstance(pattern, Block):
        if pattern.height % _SIDE == 0 and pattern.width % _SIDE == 0:
            return "block", Packing("block", _SIDE)
        if pattern.height % 32 == 0:
            return "vector", Packing("vector", _SIDE if pattern.height % _SIDE == 0 else 32)
        return "unstructured", Packing("csr")
    if isinstance(pattern, OutChannels | HiddenUnits | Heads):
        return "out-channels", Packing("out-channels")
    if isinstance(pattern, InChannels):
        return "in-channels", Packing("vector", _SIDE)
    return ("unstructured", Packing("csr")) if isinstance(pattern, Unstructured) else None


def _chosen(part: Part, steps: Sequence[Step], target: Target, *, tokens: int, base_runs: bool) -> list[Step]:
    groups: dict[tuple[str, Packing], list[Step]] = {}
    for step in steps:
        matched = match(part.patterns[step.task]) if _qualifies(part, step) else None
        if matched:
            groups.setdefault(matched, []).append(step)
    changed: dict[str, Step] = {}
    for (pattern, native), group in groups.items():
        choice = _choice(part, group, pattern, native, target, tokens=tokens, base_runs=base_runs)
        packing, why = _packing(choice, native, target)
        for step in group:
            kept = replace(step, choice=choice, why=f"{step.why}; {why}")
            changed[step.task] = replace(kept, form="layer", packing=packing) if packing else kept
    return [changed.get(step.task, step) for step in steps]


def _qualifies(part: Part, step: Step) -> bool:
    own = part.own.get(step.task, {})
    shared_input = step.reads != "own" and not any(name.startswith("norm.") for name in own)
    return step.form == "merged" and shared_input and "first.weight" in own and step.task in part.patterns


def _choice(
    part: Part, group: Sequence[Step], pattern: str, native: Packing, target: Target, *, tokens: int, base_runs: bool
) -> Choice | None:
    """Return what dispatch expects of the first layers of a group; None in float64, which nobody deploys."""
    weight = part.base["first.weight"]
    if weight.dtype == torch.float64:
        return None
    changed = [part.own[step.task]["first.weight"] != weight for step in group]
    problem = Problem(
        tasks=len(group) + base_runs,
        tokens=tokens,
        inputs=weight.shape[1],
        outputs=weight.shape[0],
        pattern=pattern,
        density=_stored_share(changed, native),
        rows=sum(_rows(step, tokens) for step in group) / len(group),
        dtype=target.dtype or str(weight.dtype).removeprefix("torch."),
        device=target.costs.device,
        base_included=base_runs,
    )
    return choose(problem, target.costs)


def _stored_share(changed: Sequence[Bool[Tensor, "outputs inputs"]], native: Packing) -> float:
    """Return the share of the weights that the layout multiplies, by task: lists are filled up to the longest of all.

    Channels are as many as those of the task that changed most.
    """
    outputs, inputs = changed[0].shape
    if native.kind == "vector":
        tiles = [F.pad(each, (0, 0, 0, -outputs % native.height)).view(-1, native.height, inputs) for each in changed]
        longest = max(int(each.any(dim=1).sum(dim=1).max()) for each in tiles)
        return min(1.0, ceil_to(longest, STEP) / inputs)
    if native.kind == "out-channels":
        return max(int(each.any(dim=1).sum()) for each in changed) / outputs
    return sum(int(each.sum()) for each in changed) / (len(changed) * outputs * inputs)


def _rows(step: Step, tokens: int) -> float:
    """Return the share of rows that the task reads from its own stream."""
    if step.reads != "rows" or step.rows is None:
        return 0.0
    return step.rows if isinstance(step.rows, float) else min(1.0, step.rows / tokens)


def _packing(choice: Choice | None, native: Packing, target: Target) -> tuple[Packing | None, str]:
    """Return the packing to take, None for merged weights, and why."""
    if target.prefer == "kernels":
        return native, f"first layer as a delta ({native.kind}), as asked for"
    if choice is None:
        return None, "no costs in float64"
    packings = {"csr": Packing("csr"), "vectors": native if native.kind == "vector" else Packing("vector", _SIDE)}
    chosen = packings.get(choice.candidate, native)
    if choice.dense or choice.candidate == "rows":
        faster = "dense first layers" if choice.dense else "merged weights on the changed rows alone"
        return None, f"{faster} are expected to be faster"
    if target.measured and choice.source != "measured":
        _LOG.info("%s: merged weights, since nothing measured says that %s is faster", choice.problem, choice.candidate)
        return None, "dense, since no delta was measured to be faster on this CPU"
    return chosen, f"first layer as a delta ({chosen.kind}), expected to be faster"
