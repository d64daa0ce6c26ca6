"""The forms in which a task runs a branch: what it computes besides the base, one class for each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from slimtask.export.shared.base import Base
from slimtask.export.shared.core import At, Core, Layers, Tensors, linear, normalise, run
from slimtask.export.shared.plan import Step
from slimtask.export.shared.streams import Stream, put, take
from slimtask.kernels.units import Correction, correct


class Shared(nn.Module):
    """Nothing changed: the base's output is the task's, but for the rows that it reads from its own stream.

    ``tensors`` are its own of the form, ``count`` the base's units. The task's layers come with every call.
    """

    def __init__(self, step: Step, core: Core, eps: float, count: int, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.task, self.core, self.eps, self.count = step.task, core, eps, count
        self.limits = dict(step.thresholds)
        self.stored = Tensors(tensors)

    def difference(self, base: Base, layers: Layers) -> Tensor | None:
        """Return what the output has more than the base's if both read the base's stream; None for nothing."""
        return None

    def on_rows(self, own: Stream, rows: Int64[Tensor, " rows"], base: Base, layers: Layers) -> Tensor:
        """Return the output of a task that reads ``rows`` from its ``own`` stream and the base's elsewhere."""
        fresh = take(own, rows)
        if self.core.name == "mlp":
            difference = self.difference(base, layers)
            elsewhere = base.out if difference is None else base.out + difference
            return put(elsewhere, rows, run(fresh, layers, self.core, self.eps))
        first = put(self._first(base), rows, linear(normalise(fresh, layers.norm, self.eps), layers.first))
        return linear(self.core.middle(first), layers.second)

    def _first(self, base: Base) -> Tensor:
        """Return the first layer's output where the task reads the base's stream."""
        return self.core.pick(base.wide, self.stored["order"] if "order" in self.stored else slice(0, self.count))


class Units(Shared):
    """Some hidden units or heads changed, which the base computes with its own: a correction of the second layer."""

    def difference(self, base: Base, layers: Layers) -> Tensor | None:
        """Return the correction, which may have been computed with those of other tasks."""
        if self.task in base.differences:
            return base.differences[self.task]
        own = base.units.get(self.task, base.active[..., :0])
        return correct(base.active, own, Correction(*(self.stored[name] for name in Correction._fields)))


class Second(Shared):
    """Some units of the first layer changed, and more of the second: all of that is computed."""

    def difference(self, base: Base, layers: Layers) -> Tensor | None:
        """Return the second layer's output less the base's."""
        out = F.linear(base.active, self.stored["rest"], self.stored["bias"])
        if self.task in base.units:
            out = out + F.linear(base.units[self.task], self.stored["weight"])
        return out - base.out


class FirstAsDelta(Shared):
    """The first layer is the base's output and a delta on its input, the second the task's own."""

    def difference(self, base: Base, layers: Layers) -> Tensor | None:
        """Return the second layer's output less the base's."""
        return linear(self.core.middle(base.first[self.task]), layers.second) - base.out

    def on_rows(self, own: Stream, rows: Int64[Tensor, " rows"], base: Base, layers: Layers) -> Tensor:
        """Return the output with the first layer's ``rows`` computed anew, of an MLP as of an attention."""
        fresh = linear(normalise(take(own, rows), layers.norm, self.eps), layers.first)
        return linear(self.core.middle(put(base.first[self.task], rows, fresh)), layers.second)


class Merged(Shared):
    """Both layers are computed densely with the task's own weights."""

    def difference(self, base: Base, layers: Layers) -> Tensor | None:
        """Return the output less the base's."""
        return run(base.x, layers, self.core, self.eps) - base.out


class Thresholds(Merged):
    """So too, with the base's values where they differ little."""

    def settle(self, base: Base) -> At:
        """Return what puts the base's values in place of those of a site that differ less than its threshold."""
        first = self.core.pick(base.wide, slice(0, self.count))
        sites = {"norm1": base.norm, "qkv": first, "proj": base.out}
        if self.core.name == "mlp":
            sites = {"norm2": base.norm, "fc1": first, "act": base.active, "fc2": base.out}

        def settled(site: str, value: Tensor) -> Tensor:
            if site not in self.limits:
                return value
            return torch.where((value - sites[site]).abs() >= self.limits[site], value, sites[site])

        return settled


FORMS: dict[str, type[Shared]] = {"shared": Shared, "units": Units, "second": Second}
FORMS |= {"layer": FirstAsDelta, "merged": Merged, "thresholds": Thresholds}
