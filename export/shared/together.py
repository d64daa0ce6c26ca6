"""Tasks computed together: one launch where each would need its own, by products over stacked tensors.

Little work a task is many launches for all of them, and on a GPU it is their number that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slimtask.export.shared.core import Core, Layers, Tensors, linear, normalise
from slimtask.export.shared.plan import Step
from slimtask.export.shared.source import Part
from slimtask.export.shared.streams import Stack, freshest
from slimtask.kernels.units import Correction, Joined, correct_joined, joined, padded


class Corrections(nn.Module):
    """The second layers' corrections of tasks whose units are as many, or filled up to as many.

    ``corrections`` are by task, ``size`` the columns of each.
    """

    def __init__(self, corrections: Mapping[str, Correction], size: int) -> None:
        super().__init__()
        self.tasks = tuple(corrections)
        self.stored = Tensors(joined([padded(one, size) for one in corrections.values()])._asdict())

    def forward(
        self, active: Float[Tensor, "batch n k"], changed: Float[Tensor, "batch n p"]
    ) -> Float[Tensor, "tasks batch n m"]:
        """Return what the tasks' outputs have more than the base's; ``changed`` are their units, task by task."""
        return correct_joined(active, changed, Joined(*(self.stored[name] for name in Joined._fields)))


def stacked_layers(part: Part, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of the layers that any of the tasks changed, stacked."""
    changed = {name.split(".")[0] for task in tasks for name in part.own.get(task, {})}
    names = [f"{layer}.{leaf}" for layer in Layers._fields if layer in changed for leaf in ("weight", "bias")]
    return {name: torch.stack([part.merged(task)[name] for task in tasks]) for name in names}


def row_groups(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """Return the tasks that can be computed together, by row budget: units changed, or nothing; none are alone."""
    budgets: dict[int | float | None, list[str]] = {}
    for step in steps:
        if step.reads == "rows" and step.form in ("units", "shared"):
            budgets.setdefault(step.rows, []).append(step.task)
    return [tuple(tasks) for tasks in budgets.values() if len(tasks) > 1]


class RowGroup(nn.Module):
    """The ``tasks`` of a branch that read equally many rows of their own streams; layers that any changed are stacked.

    ``order``, of an attention, has for every task and head its place among the heads that the base's first layer
    computes, those behind the base's own included.
    """

    def __init__(
        self, part: Part, tasks: Sequence[str], core: Core, order: Int64[Tensor, "tasks heads"] | None
    ) -> None:
        super().__init__()
        self.tasks, self.core, self.eps = tuple(tasks), core, part.eps
        stored = stacked_layers(part, tasks)
        self.stored = Tensors(stored if order is None else {**stored, "order": order.flatten()})

    def attention(self, own: Stack, base: Tensor, wide: Tensor, count: int, layers: Layers) -> Stack:
        """Return ``own`` behind the branch; ``base`` is the base's stream, ``wide`` its first layer's output.

        Every task's heads are heads of one attention: queries, keys and values are the base's but in ``count`` rows.
        ``layers`` are the base's or, where they are ``stored``, the tasks' stacked.
        """
        tasks, batch, tokens = own.shape[:3]
        rows, fresh = self._fresh(own, base, count, layers)
        packed = self.core.pick(wide, self.stored["order"])
        apart = packed.view(batch * tokens, 3, tasks, -1).permute(2, 0, 1, 3)  # [tasks, rows, qkv, channels]
        task, row = rows // (batch * tokens), rows % (batch * tokens)
        apart.index_put_((task, row), linear(fresh, layers.first).view(len(rows), 3, -1))
        mixed = self.core.middle(packed).view(1, batch * tokens, tasks, -1).permute(2, 0, 1, 3)
        return own + linear(mixed, layers.second).view(own.shape)

    def mlp(self, own: Stack, base: Tensor, elsewhere: Stack | Tensor, count: int, layers: Layers) -> Stack:
        """Return ``own`` behind the branch, whose output is ``elsewhere`` but in ``count`` rows."""
        rows, fresh = self._fresh(own, base, count, layers)
        new = linear(self.core.middle(linear(fresh, layers.first)), layers.second)
        out = (own + elsewhere).flatten(0, 2)
        kept = own.flatten(0, 2).index_select(0, rows)
        return out.index_put_((rows,), kept + new.flatten(0, 2)).view(own.shape)

    def _fresh(self, own: Stack, base: Tensor, count: int, layers: Layers) -> tuple[Int64[Tensor, " rows"], Tensor]:
        """Return the rows of the flattened streams that differ most from the base's, and those, normalised.

        Those are [tasks, 1, batch * count, width].
        """
        rows = freshest(own, base, count)
        taken = own.flatten(0, 2).index_select(0, rows).view(len(own), 1, -1, own.shape[-1])
        return rows, normalise(taken, layers.norm, self.eps)
