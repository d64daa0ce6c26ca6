"""Tasks that read equally many rows of their own streams, together: one launch where each would need its own.

A few rows are little work; on a GPU it is the number of launches that decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slimtask.export.shared.core import Core, Layers, linear, normalise
from slimtask.export.shared.plan import Step
from slimtask.export.shared.rows import freshest
from slimtask.export.shared.source import Part
from slimtask.export.shared.tensors import Tensors

Stack = Float[Tensor, "tasks batch tokens width"]


def grouped(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """Return the tasks that can be computed together, by row budget: units changed, or nothing; none are alone."""
    budgets: dict[int | float | None, list[str]] = {}
    for step in steps:
        if step.reads == "rows" and step.form in ("units", "shared"):
            budgets.setdefault(step.rows, []).append(step.task)
    return [tuple(tasks) for tasks in budgets.values() if len(tasks) > 1]


class RowGroup(nn.Module):
    """The ``tasks`` of a branch that are computed together; layers that any of them changed are stacked.

    ``order``, of an attention, has for every task and head its place among the heads that the base's first layer
    computes, those behind the base's own included.
    """

    def __init__(
        self, part: Part, tasks: Sequence[str], core: Core, order: Int64[Tensor, "tasks heads"] | None
    ) -> None:
        super().__init__()
        self.tasks, self.core, self.eps = tuple(tasks), core, part.eps
        changed = {name.split(".")[0] for task in tasks for name in part.own.get(task, {})}
        names = [f"{layer}.{leaf}" for layer in ("first", "second") for leaf in ("weight", "bias") if layer in changed]
        stored = {name: torch.stack([part.merged(task)[name] for task in tasks]) for name in names}
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
