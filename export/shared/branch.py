"""One residual branch of all tasks: the base once, every other task by what differs from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimtask.export.shared.core import AttentionCore, Core, Layers, MlpCore, linear, normalise, run
from slimtask.export.shared.layer import FirstLayers
from slimtask.export.shared.plan import Step
from slimtask.export.shared.row_group import RowGroup, grouped
from slimtask.export.shared.rows import Stream, freshest, put, take
from slimtask.export.shared.source import Part
from slimtask.export.shared.streams import Streams, advance, advance_all, stacked
from slimtask.export.shared.tensors import Tensors, layers_of, second_of, tensors_of
from slimtask.export.shared.together import Together
from slimtask.kernels.units.correction import Correction, Layer, correct

Value = TypeVar("Value")


class Base(NamedTuple):
    """The base's values in a branch: the wide first layer's output, what the second reads, every task's own units.

    ``joined`` are the units of the tasks whose corrections are computed together, ``first`` first layers' outputs of
    tasks that have theirs as a delta.
    """

    norm: Tensor
    wide: Tensor
    active: Tensor
    joined: Tensor
    units: dict[str, Tensor]
    out: Tensor
    first: dict[str, Tensor]


class Branch(nn.Module):
    """A residual branch. ``base_runs`` says whether any task still needs the base's own values here.

    With ``batched`` the corrections of all tasks, the tasks on streams of their own and those on equally many rows of
    them are each computed together, by batched products.
    """

    def __init__(self, part: Part, steps: Sequence[Step], *, base_runs: bool, batched: bool) -> None:
        super().__init__()
        self.name, self.eps, self.steps, self.base_runs = part.name, part.eps, tuple(steps), base_runs
        self.core: Core = AttentionCore(part.width) if part.width else MlpCore()
        own = [step.task for step in steps if step.reads == "own" and step.form == "merged"]
        self.group = tuple(own) if batched and len(own) > 1 else ()
        on_rows = grouped(self.steps) if batched else []
        with torch.no_grad():
            self._store_units(part, batched)
            made = (RowGroup(part, tasks, self.core, self._orders(tasks)) for tasks in on_rows)
            self._row_groups = nn.ModuleList(made)
            self._store_layers(part)

    def _store_units(self, part: Part, batched: bool) -> None:
        """Put the changed units of all tasks behind the base's first layer, and make the corrections of the second."""
        base, core, runs = layers_of(part.base), self.core, self.base_runs
        self.count, self.width = core.count(base.first), base.first.weight.shape[1]
        self.rows_per_unit = len(base.first.weight) // self.count
        self.columns_per_unit = base.second.weight.shape[1] // self.count
        inside = [step for step in self.steps if step.form in ("units", "second") and runs]
        # those of tasks that read rows of their own come last: attention needs no attention of them
        inside.sort(key=lambda step: (core.name == "attention" and step.reads == "rows", step.form != "units"))
        filled = [step for step in inside if step.units]
        self.sizes = {step.task: len(step.units) for step in filled}
        self.mixing = {s.task: len(s.units) for s in filled if core.name == "mlp" or s.reads == "base"}
        corrected = [step.task for step in filled if step.form == "units" and step.task in self.mixing]
        joined = corrected if batched and len(corrected) > 1 else []
        size = max((self.sizes[task] for task in joined), default=0)
        rows, self.corrections, together = [], nn.ModuleDict(), {}
        for step in inside:
            units, mine = torch.tensor(step.units, dtype=torch.long), layers_of(part.merged(step.task))
            which = core.rows(units, self.count)
            new = Layer(mine.first.weight[which], mine.first.bias[which])
            made = second_of(base.second, mine.second, core.columns(units), step)
            if step.task in joined:
                rows.append(core.padded(new, size))
                self.sizes[step.task] = self.mixing[step.task] = size
                together[step.task] = Correction(made["column"], made["weight"], made["bias"])
                continue
            if step.units:
                rows.append(new)
                places = self._offset(step.task) + torch.arange(len(units))
                made["order"] = torch.arange(self.count).index_copy(0, units, places)
            self.corrections[step.task] = Tensors(made)
        self.together = Together(together, size * (part.width or 1)) if together else None
        wide = core.widen(base.first, rows) if rows else base.first
        packings = {step.task: step.packing for step in self.steps if step.packing}
        own = {task: layers_of(part.merged(task)).first for task in packings}
        self.deltas = FirstLayers(base.first, own, packings)
        wide = self.deltas.extend(wide, own)
        self.wide = Tensors({"weight": wide.weight, "bias": wide.bias} if runs else {})

    def _orders(self, tasks: Sequence[str]) -> Tensor | None:
        """Return, of an attention, the places of every task's heads [tasks, heads]."""
        if self.core.name == "mlp":
            return None
        stored = {task: tensors_of(self.corrections[task]) for task in tasks if task in self.corrections}
        base = torch.arange(self.count)
        return torch.stack([stored[task]["order"] if task in self.sizes else base for task in tasks])

    def _offset(self, task: str) -> int:
        names = list(self.sizes)
        return self.count + sum(self.sizes[name] for name in names[: names.index(task)])

    def _store_layers(self, part: Part) -> None:
        """Keep the tensors of the tasks that run merged weights, those of a batched group stacked."""
        apart = [step for step in self.steps if step.task not in self.on_rows]
        merged = [step for step in apart if step.form in ("merged", "thresholds") or step.reads != "base"]
        single = [step.task for step in merged if step.task not in self.group]
        own = {task: part.own.get(task, {}) for task in single}
        beside = [step.task for step in self.steps if step.form == "layer" and step.reads == "base"]
        own |= {task: {n: t for n, t in part.own[task].items() if n.startswith("second.")} for task in beside}
        self.own = nn.ModuleDict({task: Tensors(tensors) for task, tensors in own.items()})
        layers = {name.split(".")[0] for task in self.group for name in part.own.get(task, {})}
        names = [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]  # stacked together
        self.stack = Tensors({n: torch.stack([part.merged(t)[n] for t in self.group]) for n in names})
        plain = [task for task in (*single, *self.group) if "first.weight" not in part.own.get(task, {})]
        plain += [task for task in single if "first.bias" not in part.own.get(task, {})]
        plain += [group.tasks[0] for group in self.row_groups if "first.weight" not in group.stored]
        wide = self.base_runs and len(self.wide["weight"]) == len(part.base["first.weight"])
        held = {n: t for n, t in part.base.items() if not n.startswith("first.") or (plain and not wide)}
        self.base = Tensors(held)

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

    def forward(self, x: Stream | None, streams: Streams) -> tuple[Stream | None, Streams]:
        """Return the base's stream behind the branch, None if nothing needs it, and the streams of the other tasks."""
        base = self._base(x) if self.base_runs and x is not None else None
        together, out = self._together(base), dict(streams)
        done = self._all_beside(x, base, together, out)
        done |= {*self.group, *self.on_rows}
        for step in self.steps:
            if step.task in done:
                continue
            beside = step.form in ("shared", "units", "second", "layer") or step.base_fed
            if beside and step.reads == "base":
                self._beside(step, _present(x), _present(base), together, out)
            else:
                own = _own_stream(step.task, out, x)
                advance(out, step.task, own + self._own(step, own, x, base, together))
        if self.group:
            own = stacked(out, self.group)
            advance_all(out, self.group, own + run(own, self._layers_of(self.stack), self.core, self.eps))
        for group in self.row_groups:
            self._on_rows(group, _present(x), _present(base), together, out)
        return (None if base is None else _present(x) + base.out), out

    def _base(self, x: Stream) -> Base:
        norm = normalise(x, self.base.layer("norm"), self.eps)
        wide, changed = self.deltas.apart(norm, self.wide)
        reading = self.count + sum(self.mixing.values())
        whole = self.count + sum(self.sizes.values())
        mixed = self.core.middle(wide if reading == whole else self.core.pick(wide, slice(0, reading)))
        channels = mixed.shape[-1] // reading
        joined = () if self.together is None else self.together.tasks
        apart = {task: size for task, size in self.mixing.items() if task not in joined}
        sizes = (self.count, sum(self.mixing[task] for task in joined), *apart.values())
        active, behind, *own = torch.split(mixed, [size * channels for size in sizes], dim=-1)
        units = dict(zip(apart, own, strict=True))
        first: dict[str, Tensor] = {}
        if self.deltas.groups:
            first = self.deltas(norm, self.core.pick(wide, slice(0, self.count)), changed)
        return Base(norm, wide, active, behind, units, F.linear(active, *self.base.layer("second")), first)

    def _together(self, base: Base | None) -> Tensor | None:
        """Return the differences of the tasks ``together`` [tasks, batch, tokens, width]."""
        if base is None or self.together is None:
            return None
        return self.together(base.active, base.joined)  # type: ignore[no-any-return]

    def _correction(self, task: str) -> Correction:
        stored = tensors_of(self.corrections[task])
        return Correction(stored["column"], stored["weight"], stored["bias"])

    def _difference(self, step: Step, x: Stream, base: Base, together: Tensor | None) -> Tensor | None:
        """Return what the task's output has more than the base's if both read the base's stream; None for nothing."""
        if step.form == "shared":
            return None
        if together is not None and self.together is not None and step.task in self.together.tasks:
            return together[self.together.tasks.index(step.task)]
        if step.form == "units":
            own = base.units.get(step.task, base.active[..., :0])
            return correct(base.active, own, self._correction(step.task))
        if step.form == "second":
            stored = tensors_of(self.corrections[step.task])
            out = F.linear(base.active, stored["rest"], stored["bias"])
            if step.units:
                out = out + F.linear(base.units[step.task], stored["weight"])
            return out - base.out
        if step.form == "layer":
            second = Layer(*(self._tensor(self._own_of(step.task), f"second.{n}") for n in ("weight", "bias")))
            return linear(self.core.middle(base.first[step.task]), second) - base.out
        return self._merged(step, x, base) - base.out

    def _beside(self, step: Step, x: Stream, base: Base, together: Tensor | None, streams: Streams) -> None:
        """Advance a task that reads the base's stream, in place; one that is still equal to the base has no stream."""
        difference = self._difference(step, x, base, together)
        if difference is None:
            return
        if step.base_fed:
            own = streams[step.task] + difference if step.task in streams else difference
            advance(streams, step.task, own)
        else:
            advance(streams, step.task, x + base.out + difference)

    def _all_beside(self, x: Stream | None, base: Base | None, together: Tensor | None, streams: Streams) -> set[str]:
        """Advance the tasks corrected together at once, in place, if all read the base's stream; return which."""
        if x is None or base is None or together is None or self.together is None:
            return set()
        tasks = self.together.tasks
        steps = [step for step in self.steps if step.task in tasks]
        if any(step.reads != "base" or step.base_fed != steps[0].base_fed for step in steps):
            return set()
        if not steps[0].base_fed:
            advance_all(streams, tasks, together + (x + base.out))
        elif all(task in streams for task in tasks):
            advance_all(streams, tasks, stacked(streams, tasks) + together)
        elif not any(task in streams for task in tasks):
            advance_all(streams, tasks, together)
        else:
            return set()
        return set(tasks)

    def _on_rows(self, group: RowGroup, x: Stream, base: Base, together: Tensor | None, streams: Streams) -> None:
        """Advance the tasks that read equally many rows of their own streams, in place."""
        steps = [step for step in self.steps if step.task in group.tasks]
        own, layers = stacked(streams, group.tasks), self._layers_of(group.stored)
        count = steps[0].row_count(x.shape[1])
        if self.core.name == "attention":
            out = group.attention(own, x, base.wide, count, layers)
        elif together is not None and self.together is not None and self.together.tasks == group.tasks:
            out = group.mlp(own, x, base.out + together, count, layers)
        else:
            apart = [self._difference(step, x, base, together) for step in steps]
            elsewhere = torch.stack([base.out if d is None else base.out + d for d in apart])
            out = group.mlp(own, x, elsewhere, count, layers)
        advance_all(streams, group.tasks, out)

    def _own(self, step: Step, own: Stream, x: Stream | None, base: Base | None, together: Tensor | None) -> Tensor:
        """Return the branch's output for a task that reads its own stream, or rows of it."""
        count = step.row_count(own.shape[1])
        if step.reads != "rows" or count >= own.shape[1]:
            return self._merged(step, own, base)
        x = _present(x)
        rows = freshest(own, x, count)
        fresh = take(own, rows)
        if step.form in ("merged", "thresholds"):
            return self._merged(step, put(x, rows, fresh), base)
        base = _present(base)
        layers = self._layers_of(self._own_of(step.task))
        if step.form == "layer":
            first = put(base.first[step.task], rows, linear(normalise(fresh, layers.norm, self.eps), layers.first))
            return linear(self.core.middle(first), layers.second)
        if self.core.name == "mlp":
            difference = self._difference(step, x, base, together)
            elsewhere = base.out if difference is None else base.out + difference
            return put(elsewhere, rows, run(fresh, layers, self.core, self.eps))
        packed = self.core.pick(base.wide, slice(0, self.count))
        if step.units:
            packed = self.core.pick(base.wide, tensors_of(self.corrections[step.task])["order"])
        packed = put(packed, rows, linear(normalise(fresh, layers.norm, self.eps), layers.first))
        return linear(self.core.middle(packed), layers.second)

    def _merged(self, step: Step, read: Stream, base: Base | None) -> Tensor:
        """Return the dense output of the task's merged weights for the stream ``read``, thresholds applied."""
        layers = self._layers_of(self._own_of(step.task))
        if step.form != "thresholds":
            return run(read, layers, self.core, self.eps)
        base = _present(base)
        first = self.core.pick(base.wide, slice(0, self.count))
        sites = {"norm1": base.norm, "qkv": first, "proj": base.out}
        if self.core.name == "mlp":
            sites = {"norm2": base.norm, "fc1": first, "act": base.active, "fc2": base.out}
        limits = dict(step.thresholds)

        def settle(site: str, value: Tensor) -> Tensor:
            if site not in limits:
                return value
            return torch.where((value - sites[site]).abs() >= limits[site], value, sites[site])

        return run(read, layers, self.core, self.eps, settle)

    def _own_of(self, task: str) -> Tensors | None:
        return tensors_of(self.own[task]) if task in self.own else None

    def _layers_of(self, own: Tensors | None) -> Layers:
        """Return the task's layers: its own tensors where it has any, the base's elsewhere."""
        names = ("norm", "first", "second")
        return Layers(*(Layer(self._tensor(own, f"{n}.weight"), self._tensor(own, f"{n}.bias")) for n in names))

    def _tensor(self, own: Tensors | None, name: str) -> Tensor:
        if own is not None and name in own:
            return own[name]
        return self.base[name] if name in self.base else self.wide[name.removeprefix("first.")]


def _own_stream(task: str, streams: Streams, x: Stream | None) -> Stream:
    """Return the task's stream, the base's ``x`` if it has none yet."""
    return streams[task] if task in streams else _present(x)


def _present(value: Value | None) -> Value:
    """Return what the plan promises to be there: the base's stream or values in this branch."""
    if value is None:
        raise RuntimeError("a task needs the base's values in a branch where they are not computed")
    return value
