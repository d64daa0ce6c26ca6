"""The base's pass through a branch, with what every task computes beside it put behind its first layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimtask.export.shared.core import Core, Layers, Tensors, normalise
from slimtask.export.shared.layer import FirstLayers
from slimtask.export.shared.plan import Step
from slimtask.export.shared.source import Part
from slimtask.export.shared.streams import Stream
from slimtask.export.shared.together import Corrections
from slimtask.kernels.units import Correction, Layer, correction


class Base(NamedTuple):
    """The base's values in a branch: its stream ``x`` in front of it, the first layer's output, what the second reads.

    By task: ``units``, its own units, and ``first``, its first layer's output, of those that have it as a delta.
    ``joined`` is what the outputs of the tasks corrected together have more than ``out`` [tasks, batch, tokens, width],
    ``differences`` the same by task.
    """

    x: Tensor
    norm: Tensor
    wide: Tensor
    active: Tensor
    out: Tensor
    units: dict[str, Tensor]
    first: dict[str, Tensor]
    joined: Tensor | None
    differences: dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class Units:
    """The changed units of all tasks, which lie behind the base's own in its first layer.

    By task in their order: ``sizes``, how many, those that fill up included, and ``mixing``, of those that go through
    what is between the layers; ``tensors`` of its correction, ``joined`` those of one product, padded to ``size``.
    """

    sizes: dict[str, int]
    mixing: dict[str, int]
    size: int
    rows: list[Layer] = field(default_factory=list)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    joined: dict[str, Correction] = field(default_factory=dict)

    @classmethod
    def of(cls, part: Part, steps: Sequence[Step], core: Core, *, batched: bool) -> Units:
        """Return the units that the steps of a branch correct; those of one product with ``batched``."""
        base = Layers.of(part.base)
        count = core.count(base.first)
        inside = [step for step in steps if step.form in ("units", "second")]
        # those of tasks that read rows of their own come last: attention needs no attention of them
        inside.sort(key=lambda step: (core.name == "attention" and step.reads == "rows", step.form != "units"))
        filled = [step for step in inside if step.units]
        sizes = {step.task: len(step.units) for step in filled}
        mixing = {s.task: len(s.units) for s in filled if core.name == "mlp" or s.reads == "base"}
        corrected = [step.task for step in filled if step.form == "units" and step.task in mixing]
        together = corrected if batched and len(corrected) > 1 else []
        size = max((sizes[task] for task in together), default=0)
        alike = dict.fromkeys(together, size)
        behind, place = cls(sizes=sizes | alike, mixing=mixing | alike, size=size), count
        for step in inside:
            units, own = torch.tensor(step.units, dtype=torch.long), Layers.of(part.merged(step.task))
            rows, columns = core.rows(units, count), core.columns(units)
            new = Layer(own.first.weight[rows], own.first.bias[rows])
            if step.task in together:
                behind.joined[step.task] = correction(base.second, own.second, columns)
            else:
                behind.tensors[step.task] = _second(base.second, own.second, columns, step)
                order = torch.arange(count).index_copy(0, units, place + torch.arange(len(units)))
                behind.tensors[step.task] |= {"order": order} if step.units else {}
            if step.units:
                behind.rows.append(core.padded(new, behind.sizes[step.task]))
                place += behind.sizes[step.task]
        return behind


def _second(base: Layer, own: Layer, columns: Tensor, step: Step) -> dict[str, Tensor]:
    """Return the tensors by which a task's second layer is computed from the base's input and its own units."""
    if step.form == "units":
        return correction(base, own, columns)._asdict()
    rest = own.weight.index_fill(1, columns, 0.0)
    return {"rest": rest, "weight": own.weight[:, columns], "bias": own.bias}


class BasePass(nn.Module):
    """The base's layers of a branch; the first is wider by the ``units`` of tasks and by changed output channels.

    If it does not ``run`` it only keeps the layers that tasks have not changed; ``plain`` says whether one of them
    runs the first layer as it is.
    """

    def __init__(self, part: Part, steps: Sequence[Step], core: Core, units: Units, *, runs: bool, plain: bool) -> None:
        super().__init__()
        self.core, self.eps, self.runs = core, part.eps, runs
        first, second = part.base["first.weight"], part.base["second.weight"]
        self.count, self.width = core.count(Layers.of(part.base).first), first.shape[1]
        self.rows_per_unit, self.columns_per_unit = len(first) // self.count, second.shape[1] // self.count
        self.sizes, self.mixing = units.sizes, units.mixing
        columns = units.size * self.columns_per_unit
        self.together = Corrections(units.joined, columns) if units.joined else None
        wide = Layers.of(part.base).first
        wide = core.widen(wide, units.rows) if units.rows else wide
        packings = {step.task: step.packing for step in steps if step.packing}
        own = {task: Layers.of(part.merged(task)).first for task in packings}
        self.deltas = FirstLayers(Layers.of(part.base).first, own, packings)
        wide = self.deltas.extend(wide, own)
        self.wide = Tensors(wide._asdict() if runs else {})
        apart = plain and not (runs and len(wide.weight) == len(first))
        self.stored = Tensors({n: t for n, t in part.base.items() if apart or not n.startswith("first.")})

    @property
    def joined(self) -> tuple[str, ...]:
        """Return the tasks whose corrections are one product."""
        return () if self.together is None else self.together.tasks

    def layers(self, own: Mapping[str, Tensor] | Tensors) -> Layers:
        """Return a task's layers: its ``own`` tensors where it has any, the base's elsewhere."""
        return Layers(*(Layer(*(self._tensor(own, f"{n}.{leaf}") for leaf in Layer._fields)) for n in Layers._fields))

    def _tensor(self, own: Mapping[str, Tensor] | Tensors, name: str) -> Tensor:
        if name in own:
            return own[name]
        return self.stored[name] if name in self.stored else self.wide[name.removeprefix("first.")]

    def forward(self, x: Stream) -> Base:
        """Return the base's values for its stream ``x``."""
        norm = normalise(x, self.stored.layer("norm"), self.eps)
        wide, changed = self.deltas.apart(norm, self.wide)
        reading, whole = self.count + sum(self.mixing.values()), self.count + sum(self.sizes.values())
        mixed = self.core.middle(wide if reading == whole else self.core.pick(wide, slice(0, reading)))
        channels = mixed.shape[-1] // reading
        apart = {task: size for task, size in self.mixing.items() if task not in self.joined}
        sizes = (self.count, sum(self.mixing[task] for task in self.joined), *apart.values())
        active, behind, *own = torch.split(mixed, [size * channels for size in sizes], dim=-1)
        joined = None if self.together is None else self.together(active, behind)
        first: dict[str, Tensor] = {}
        if self.deltas.groups:
            first = self.deltas(norm, self.core.pick(wide, slice(0, self.count)), changed)
        out, units = F.linear(active, *self.stored.layer("second")), dict(zip(apart, own, strict=True))
        differences = {} if joined is None else dict(zip(self.joined, joined.unbind(0), strict=True))
        return Base(x, norm, wide, active, out, units, first, joined, differences)
