"""Tasks that read equally many rows of their own streams, together: one launch where each would need its own.

A few rows are little work; on a GPU it is the number of launches that decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slimtask.export.shared.core import Core, linear, normalise
from slimtask.export.shared.plan import Step
from slimtask.export.shared.rows import freshest
from slimtask.export.shared.source import Part
from slimtask.export.shared.tensors import Tensors

Stack = Float[Tensor, "tasks batch tokens width"]


def grouped(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the tasks that can be computed together: of one row budget, units changed or nothing; () for one alone."""
    able = [step for step in steps if step.reads == "rows" and step.form in ("units", "shared")]
    same = [step.task for step in able if step.rows == able[0].rows]
    return tuple(same) if len(same) > 1 else ()


class RowGroup(nn.Module):
    """The ``tasks`` of a branch that are computed together; their weights are stacked.

    ``order``, of an attention, has for every task and head its place among the heads that the base's first layer
    computes, those behind the base's own included.
    """

    def __init__(
        self, part: Part, tasks: Sequence[str], core: Core, order: Int64[Tensor, "tasks heads"] | None
    ) -> None:
        super().__init__()
        self.tasks, self.core, self.eps = tuple(tasks), core, part.eps
        merged = [part.merged(task) for task in tasks]
        names = ("first.weight", "first.bias", "second.weight", "second.bias")
        stored = {name: torch.stack([each[name] for each in merged]) for name in names}
        stored |= {name: part.base[name] for name in ("norm.weight", "norm.bias")}
        self.stored = Tensors(stored if order is None else {**stored, "order": order.flatten()})

    def attention(self, own: Stack, base: Tensor, wide: Tensor, count: int) -> Stack:
        """Return ``own`` behind the branch; ``base`` is the base's stream, ``wide`` its first layer's output.

        Every task's heads are heads of one attention: queries, keys and values are the base's but in ``count`` rows.
        """
        tasks, batch, tokens = own.shape[:3]
        rows, fresh = self._fresh(own, base, count)
        packed = self.core.pick(wide, self.stored["order"])
        apart = packed.view(batch * tokens, 3, tasks, -1).permute(2, 0, 1, 3)  # [tasks, rows, qkv, channels]
        task, row = rows // (batch * tokens), rows % (batch * tokens)
        apart.index_put_((task, row), linear(fresh, self.stored.layer("first")).view(len(rows), 3, -1))
        mixed = self.core.middle(packed).view(batch * tokens, tasks, -1).transpose(0, 1)
        second = self.stored.layer("second")
        out = torch.baddbmm(second.bias.unsqueeze(1), mixed, second.weight.transpose(1, 2))
        return own + out.view(own.shape)

    def mlp(self, own: Stack, base: Tensor, elsewhere: Stack | Tensor, count: int) -> Stack:
        """Return ``own`` behind the branch, whose output is ``elsewhere`` but in ``count`` rows."""
        rows, fresh = self._fresh(own, base, count)
        new = linear(self.core.middle(linear(fresh, self.stored.layer("first"))), self.stored.layer("second"))
        out = (own + elsewhere).flatten(0, 2)
        kept = own.flatten(0, 2).index_select(0, rows)
        return out.index_put_((rows,), kept + new.flatten(0, 2)).view(own.shape)

    def _fresh(self, own: Stack, base: Tensor, count: int) -> tuple[Int64[Tensor, " rows"], Tensor]:
        """Return the rows of the flattened streams that differ most from the base's, and those, normalised.

        Those are [tasks, 1, batch * count, width].
        """
        rows = freshest(own, base, count)
        taken = own.flatten(0, 2).index_select(0, rows).view(len(own), 1, -1, own.shape[-1])
        return rows, normalise(taken, self.stored.layer("norm"), self.eps)
