"""How a task executes one residual branch: what it reads, and how much of the base's work it reuses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError, nearest
from slimtask.export.shared.source import Part, Source
from slimtask.kernels.dispatch import Choice

Reads = Literal["base", "rows", "own"]
Form = Literal["shared", "units", "second", "layer", "merged", "thresholds"]
Budgets = Mapping[str, Mapping[str, int]]
"""Rows (tokens) that a task reads from its own stream, by task and branch ("encoder_layer_3.mlp")."""

SITES = {"attention": ("norm1", "qkv", "proj"), "mlp": ("norm2", "fc1", "act", "fc2")}


class Packing(NamedTuple):
    """A layout of deltas (`slimtask.kernels.layouts`): its kind, and how many outputs share a block or a list."""

    kind: str
    height: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One task in one branch.

    ``reads`` "base": the base's stream, be it fed so or still equal; "rows": its own on ``rows`` tokens (a number or a
    share) and the base's elsewhere; "own": its own. ``form``, of the rows it does not read from its own stream:
    "shared": the base's output is the task's; "units": a correction for the hidden units or heads ``units``; "second":
    the units of the first layer, all of the second layer; "layer": the first layer as the base's output and a delta, in
    ``packing``, on the base's input, all of the second layer; "merged": dense with the task's weights; "thresholds":
    so too, with the base's values where they differ little. ``choice`` is what dispatch expects of the first layer.
    """

    task: str
    reads: Reads
    form: Form
    base_fed: bool
    why: str
    units: tuple[int, ...] = ()
    rows: int | float | None = None
    thresholds: tuple[tuple[str, float], ...] = ()
    packing: Packing | None = None
    choice: Choice | None = None

    @property
    def builds_on_base(self) -> bool:
        """Whether the step needs the base's own values in the branch."""
        return self.base_fed or self.form != "merged"

    def row_count(self, tokens: int) -> int:
        """Return how many of ``tokens`` rows are read from the task's own stream; InputError if there are fewer."""
        if self.reads != "rows" or self.rows is None:
            return tokens if self.reads == "own" else 0
        if isinstance(self.rows, float):
            return min(tokens, math.ceil(self.rows * tokens))
        if self.rows > tokens:
            raise InputError(
                f"the row budget {self.rows} of '{self.task}' exceeds the {tokens} tokens of the image; give at most "
                f"{tokens}, or larger images."
            )
        return self.rows


def plan_steps(source: Source, tasks: Sequence[str], budgets: Budgets) -> list[list[Step]]:
    """Return the steps of every branch, of ``tasks`` with a delta; InputError for budgets of no such branch."""
    check_budgets(source, budgets)
    by_task = {t: _task_steps(source, t, budgets.get(t, {})) for t in source.executions if t in tasks}
    return [[steps[i] for steps in by_task.values()] for i in range(len(source.branches))]


def base_needed(steps: Sequence[Sequence[Step]]) -> bool:
    """Return whether a task needs the base's values in the first of these branches, or its stream behind it."""
    here = any(step.builds_on_base for step in steps[0])
    return here or any(step.reads != "own" or step.form == "thresholds" for after in steps[1:] for step in after)


def check_budgets(source: Source, budgets: Budgets) -> None:
    """Raise InputError for row budgets of an unknown task or branch, of one fed otherwise, or no number from 1 on."""
    branches = [part.name for part in source.branches]
    for task, rows in budgets.items():
        if task not in source.executions or source.executions[task].feed != "own":
            raise InputError(f"row budgets are of tasks with a delta fed its own stream, and '{task}' is none.")
        for branch, count in rows.items():
            if branch not in branches:
                raise InputError(f"there is a row budget of '{task}' for '{branch}'{nearest(branch, branches)}")
            if isinstance(count, bool) or not isinstance(count, SupportsIndex) or count < 1:
                raise InputError(
                    f"the row budget {count} of '{task}' for '{branch}' is no whole number from 1 on; give a number "
                    "of rows."
                )


def with_thresholds(source: Source, thresholds: Mapping[str, Mapping[str, float]]) -> Source:
    """Return the source with other thresholds of some tasks; InputError for an unknown task or site, and below 0."""
    blocks = dict.fromkeys(part.name.rpartition(".")[0] for part in source.branches)
    known = [f"{block}.{site}" for block in blocks for sites in SITES.values() for site in sites]
    executions = dict(source.executions)
    for task, values in thresholds.items():
        if task not in executions or executions[task].feed != "own":
            raise InputError(f"thresholds are of tasks with a delta fed its own stream, and '{task}' is none.")
        for site, value in values.items():
            if site not in known:
                raise InputError(f"there is a threshold of '{task}' for '{site}'{nearest(site, known)}")
            if not value >= 0:
                raise InputError(f"the threshold {value} of '{task}' for '{site}' is no size; give 0 or more.")
        executions[task] = executions[task].model_copy(update={"thresholds": dict(values)})
    return replace(source, executions=executions)


def _task_steps(source: Source, task: str, rows: Mapping[str, int]) -> list[Step]:
    execution = source.executions[task]
    differs, steps = task in source.embedding.own, []
    for part in source.branches:
        steps.append(_step(part, task, execution, rows.get(part.name, execution.rows), differs))
        differs = differs or task in part.own
    return steps


def _step(part: Part, task: str, execution: Execution, rows: int | float | None, differs: bool) -> Step:
    base_fed = execution.feed == "base"
    every = rows is None or (isinstance(rows, float) and rows == 1.0)  # the number 1 is one row, the share 1.0 all
    reads: Reads = "base" if base_fed or not differs else "own" if every else "rows"
    thresholds = _thresholds(part, execution)
    if reads == "base":
        stream = "fed the base's stream" if base_fed else "no change so far"
    else:
        stream = "its own stream differs" if reads == "own" else f"its own stream on {rows} of the rows"
    form: Form
    units: tuple[int, ...]
    if thresholds and (differs or task in part.own):
        form, units, reason = "thresholds", (), "thresholds are applied to dense values"
    elif reads == "own":
        form, units, reason = "merged", (), "every row is its own"
    else:
        form, units, reason = _form(part, task)
    return Step(
        task=task,
        reads=reads,
        form=form,
        base_fed=base_fed,
        why=f"{stream}; {reason}",
        units=units,
        rows=(float(rows) if isinstance(rows, float) else rows) if reads == "rows" else None,
        thresholds=thresholds if form == "thresholds" else (),
    )


def _thresholds(part: Part, execution: Execution) -> tuple[tuple[str, float], ...]:
    """Return the thresholds above 0 of the branch by site; a threshold of 0 changes nothing."""
    block, _, kind = part.name.rpartition(".")
    named = ((site, execution.thresholds.get(f"{block}.{site}", 0.0)) for site in SITES[kind])
    return tuple((site, threshold) for site, threshold in named if threshold > 0)


def _form(part: Part, task: str) -> tuple[Form, tuple[int, ...], str]:
    """Return the cheapest exact form of a branch that reads what the base reads, its units, and why."""
    if task not in part.own:
        return "shared", (), "nothing changed"
    own, base = part.merged(task), part.base
    if any(name.startswith("norm.") for name in part.own[task]):
        return "merged", (), "the norm changed, so the linear layers read another input"
    run, times = (part.width, 3) if part.width else (1, 1)
    first = _units((own["first.weight"] != base["first.weight"]).any(dim=1), run, times)
    first |= _units(own["first.bias"] != base["first.bias"], run, times)
    either = first | _units((own["second.weight"] != base["second.weight"]).any(dim=0), run, 1)
    rows, columns = base["first.weight"].shape[1] * run * times, base["second.weight"].shape[0] * run
    every, some, both = len(first), int(first.sum()), int(either.sum())
    macs: dict[Form, int] = {
        "merged": every * (rows + columns),
        "second": some * (rows + columns) + every * columns,
        "units": both * (rows + 2 * columns),
    }
    form = min(macs, key=lambda name: macs[name])
    what = "heads" if part.width else "hidden units"
    if form == "units":
        return "units", tuple(either.nonzero().flatten().tolist()), f"{both} of {every} {what} changed"
    if form == "second":
        chosen = tuple(first.nonzero().flatten().tolist())
        return "second", chosen, f"{some} of {every} {what} changed in the first layer, {both} in the second"
    return "merged", (), f"{both} of {every} {what} changed, too many to correct"


def _units(changed: Tensor, run: int, times: int) -> Tensor:
    """Return which units have a changed channel: ``run`` neighbours make a unit, the units are there ``times`` over."""
    return changed.view(times, -1, run).any(dim=2).any(dim=0).to(torch.bool)
