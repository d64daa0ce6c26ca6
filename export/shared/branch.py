"""One residual branch of all tasks: the base once, every other task by what differs from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.export.shared.base import Base, BasePass, Units
from slimtask.export.shared.core import At, AttentionCore, Core, Layers, MlpCore, Tensors, run
from slimtask.export.shared.forms import FORMS, Shared, Thresholds
from slimtask.export.shared.plan import Step
from slimtask.export.shared.source import Part
from slimtask.export.shared.streams import Stream, Streams, advance, advance_all, freshest, put, stacked, take
from slimtask.export.shared.together import RowGroup, row_groups, stacked_layers


class Branch(nn.Module):
    """A residual branch. ``base_runs`` says whether any task still needs the base's own values here.

    With ``batched`` the corrections of all tasks, the tasks on streams of their own and those on equally many rows of
    them are each computed together, by batched products. Raises InputError for steps that need values of the base
    where it does not run.
    """

    def __init__(self, part: Part, steps: Sequence[Step], *, base_runs: bool, batched: bool) -> None:
        super().__init__()
        if not base_runs and (stuck := [step.task for step in steps if step.builds_on_base]):
            raise InputError(
                f"the plan of '{part.name}' lets '{stuck[0]}' build on values of the base, which does not run there; "
                "let it run there."
            )
        self.name, self.eps, self.steps, self.base_runs = part.name, part.eps, tuple(steps), base_runs
        self.core: Core = AttentionCore(part.width) if part.width else MlpCore()
        own = [step.task for step in steps if step.reads == "own" and step.form == "merged"]
        self.group = tuple(own) if batched and len(own) > 1 else ()
        with torch.no_grad():
            units = Units.of(part, steps, self.core, batched=batched)
            groups = row_groups(steps) if batched else []
            self._row_groups = nn.ModuleList(
                RowGroup(part, tasks, self.core, self._orders(part, units, tasks)) for tasks in groups
            )
            self.own: Any = nn.ModuleDict(self._stored(part))
            self.stack = Tensors(stacked_layers(part, self.group))
            self.base = BasePass(part, steps, self.core, units, runs=base_runs, plain=self._plain())
            count, eps = self.base.count, part.eps
            self.forms: Any = nn.ModuleDict(
                {s.task: FORMS[s.form](s, self.core, eps, count, units.tensors.get(s.task, {})) for s in steps}
            )

    def _orders(self, part: Part, units: Units, tasks: Sequence[str]) -> Tensor | None:
        """Return, of an attention, the places of every task's heads [tasks, heads]."""
        if self.core.name == "mlp":
            return None
        base = torch.arange(self.core.count(Layers.of(part.base).first))
        return torch.stack([units.tensors.get(task, {}).get("order", base) for task in tasks])

    def _stored(self, part: Part) -> dict[str, Tensors]:
        """Return the tensors of the tasks that run layers of their own, but for those of groups, which are stacked."""
        apart = [step for step in self.steps if step.task not in (*self.group, *self.on_rows)]
        whole = [s.task for s in apart if s.reads != "base" or s.form in ("merged", "thresholds")]
        own = {task: Tensors(part.own.get(task, {})) for task in whole}
        # A first layer that is a delta everywhere needs nothing else of its own.
        beside = [step.task for step in apart if step.form == "layer" and step.task not in whole]
        return own | {t: Tensors({n: w for n, w in part.own[t].items() if n.startswith("second.")}) for t in beside}

    def _plain(self) -> bool:
        """Return whether any task runs the base's first layer, or part of it, as its own."""
        beside = [step.task for step in self.steps if step.form == "layer" and step.reads == "base"]
        users = [own for task, own in self.own.items() if task not in beside]
        users += [self.stack] if self.group else []
        users += [group.stored for group in self.row_groups]
        return any(f"first.{leaf}" not in user for user in users for leaf in ("weight", "bias"))

    @property
    def row_groups(self) -> list[RowGroup]:
        """Return the groups of tasks that are computed together on rows of their own streams."""
        return [group for group in self._row_groups if isinstance(group, RowGroup)]

    @property
    def on_rows(self) -> tuple[str, ...]:
        """Return the tasks on rows of their own streams that are computed together with others."""
        return tuple(task for group in self.row_groups for task in group.tasks)

    def limit_rows_(self, task: str, rows: int) -> None:
        """Change how many rows ``task`` reads from its own stream, in place; it must read rows already."""
        if task in self.on_rows:
            raise RuntimeError(f"'{task}' is computed together with tasks of its number of rows")
        self.steps = tuple(replace(s, rows=rows) if s.task == task and s.reads == "rows" else s for s in self.steps)

    def forward(self, x: Stream, streams: Streams) -> tuple[Stream, Streams]:
        """Return the base's stream behind the branch and the streams of the other tasks.

        Where the base does not run its stream stays ``x``, which nothing behind reads.
        """
        out, behind = dict(streams), x
        if self.base_runs:
            base = self.base(x)
            self._on_base(base, out)
            behind = x + base.out
        for step in self.steps:
            if not step.builds_on_base and step.task not in self.group:
                self._dense(step, x, out)
        if self.group:
            own = stacked(out, self.group)
            advance_all(out, self.group, own + run(own, self.base.layers(self.stack), self.core, self.eps))
        return behind, out

    def _on_base(self, base: Base, streams: Streams) -> None:
        """Advance the tasks that build on values of the base, in place."""
        done = {*self._all_joined(base, streams), *self.on_rows}
        for step in self.steps:
            form: Shared = self.forms[step.task]
            if step.task in done or not step.builds_on_base:
                continue
            if isinstance(form, Thresholds):
                self._dense(step, base.x, streams, form.settle(base))
            elif step.reads == "base":
                self._beside(step, base, streams)
            else:
                own, layers = streams[step.task], self._layers(step.task)
                if (count := step.row_count(own.shape[1])) < own.shape[1]:
                    output = form.on_rows(own, freshest(own, base.x, count), base, layers)
                else:
                    output = run(own, layers, self.core, self.eps)
                advance(streams, step.task, own + output)
        for group in self.row_groups:
            self._on_rows(group, base, streams)

    def _dense(self, step: Step, x: Stream, streams: Streams, at: At | None = None) -> None:
        """Advance a task that runs both layers densely on its own stream, or on rows of it and the base's ``x``."""
        own = streams.get(step.task, x)
        count, read = step.row_count(own.shape[1]), own
        if step.reads == "rows" and count < own.shape[1]:
            rows = freshest(own, x, count)
            read = put(x, rows, take(own, rows))
        advance(streams, step.task, own + run(read, self._layers(step.task), self.core, self.eps, at))

    def _beside(self, step: Step, base: Base, streams: Streams) -> None:
        """Advance a task that reads the base's stream, in place; one that is still equal to the base has no stream."""
        form: Shared = self.forms[step.task]
        difference = form.difference(base, self._layers(step.task))
        if difference is None:
            return
        if step.base_fed:
            advance(streams, step.task, streams[step.task] + difference if step.task in streams else difference)
        else:
            advance(streams, step.task, base.x + base.out + difference)

    def _all_joined(self, base: Base, streams: Streams) -> tuple[str, ...]:
        """Advance the tasks corrected by one product at once, in place, if all read the base's stream; return which."""
        tasks, joined = self.base.joined, base.joined
        steps = [step for step in self.steps if step.task in tasks]
        if joined is None or any(s.reads != "base" or s.base_fed != steps[0].base_fed for s in steps):
            return ()
        there = [task in streams for task in tasks]
        if not steps[0].base_fed:
            advance_all(streams, tasks, joined + (base.x + base.out))
        elif all(there):
            advance_all(streams, tasks, stacked(streams, tasks) + joined)
        elif not any(there):
            advance_all(streams, tasks, joined)
        else:
            return ()
        return tasks

    def _on_rows(self, group: RowGroup, base: Base, streams: Streams) -> None:
        """Advance the tasks that read equally many rows of their own streams, in place."""
        own, layers = stacked(streams, group.tasks), self.base.layers(group.stored)
        count = next(step.row_count(base.x.shape[1]) for step in self.steps if step.task in group.tasks)
        if self.core.name == "attention":
            out = group.attention(own, base.x, base.wide, count, layers)
        elif base.joined is not None and self.base.joined == group.tasks:
            out = group.mlp(own, base.x, base.out + base.joined, count, layers)
        else:
            apart = [self.forms[task].difference(base, layers) for task in group.tasks]
            elsewhere = torch.stack([base.out if d is None else base.out + d for d in apart])
            out = group.mlp(own, base.x, elsewhere, count, layers)
        advance_all(streams, group.tasks, out)

    def _layers(self, task: str) -> Layers:
        return self.base.layers(self.own[task] if task in self.own else {})  # noqa: SIM401 a ModuleDict has no get
