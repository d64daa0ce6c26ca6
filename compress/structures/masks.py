"""Masks: which entries of which parameter a sparse structure keeps, for all tasks alike or task by task.

The union over tasks is DiSparse's rule (CVPR 2022, section 3): an entry goes only where every task gives it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.structures.mask_file import read_masks, write_masks
from slimtask.errors import InputError, nearest

Named = Mapping[str, Bool[Tensor, "..."]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """Boolean tensors by parameter name, True where the entry stays: ``shared`` by all tasks, or one set per task.

    A parameter is masked in ``shared`` or in ``per_task``, never in both. A task that does not name a parameter has no
    say in it: the union is over the tasks that do, so a head is masked by its own task alone. A task that uses all of
    a parameter that others mask must say so with a mask of True. Parameters nobody names stay whole.

    Examples:
        >>> from slimtask.compress import Masks
        >>> from torch import tensor
        >>> depth, edges = {"weight": tensor([True, False])}, {"weight": tensor([True, True])}
        >>> masks = Masks(per_task={"depth": depth, "edges": edges})
        >>> masks.density(["depth"]), masks.union()["weight"], masks.total_iou()
        ({'weight': 0.5}, tensor([True, True]), 0.5)
    """

    shared: Named = field(default_factory=dict)
    per_task: Mapping[str, Named] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes: dict[str, torch.Size] = {}
        for where, masks in (("shared", self.shared), *self.per_task.items()):
            for name, mask in masks.items():
                if mask.dtype != torch.bool:
                    raise InputError(f"the mask of '{name}' ({where}) is {mask.dtype}; give boolean tensors.")
                if where != "shared" and name in self.shared:
                    raise InputError(f"'{name}' is masked both for all tasks and for '{where}'; keep one of the two.")
                if shapes.setdefault(name, mask.shape) != mask.shape:
                    raise InputError(
                        f"the masks of '{name}' have two shapes, {list(shapes[name])} and {list(mask.shape)} "
                        f"({where}); make them for one network."
                    )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have masks of their own."""
        return tuple(self.per_task)

    def of_task(self, task: str) -> dict[str, Bool[Tensor, "..."]]:
        """Return the masks that hold for one task by parameter name: the shared ones and its own."""
        return self.union([task])

    def union(self, tasks: Sequence[str] | None = None) -> dict[str, Bool[Tensor, "..."]]:
        """Return by parameter name what at least one of ``tasks`` (all for None) keeps."""
        own = [self.per_task[task] for task in self._select(tasks)]
        names = dict.fromkeys(name for masks in own for name in masks)
        return dict(self.shared) | {
            name: reduce(torch.logical_or, [masks[name] for masks in own if name in masks]) for name in names
        }

    def merged(self, tasks: Sequence[str] | None = None) -> Masks:
        """Return Masks without tasks: the union over ``tasks`` (all for None)."""
        return Masks(shared=self.union(tasks))

    def density(self, tasks: Sequence[str] | None = None) -> dict[str, float]:
        """Return by parameter name the share of entries in [0, 1] that the union over ``tasks`` keeps."""
        return {name: _ratio(int(mask.sum()), mask.numel()) for name, mask in self.union(tasks).items()}

    def total_density(self, tasks: Sequence[str] | None = None) -> float:
        """Return the share of all masked entries that the union over ``tasks`` keeps; unmasked parameters don't count.

        1.0 if nothing is masked.
        """
        masks = self.union(tasks).values()
        return _ratio(sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks))

    def iou(self, tasks: Sequence[str] | None = None) -> dict[str, float]:
        """Return, for every parameter that each of ``tasks`` masks, what all of them keep over what any keeps.

        For two tasks this is the IoU of DiSparse's figures; 1.0 where nobody keeps anything.
        """
        return {name: _ratio(both, any_) for name, (both, any_) in self._overlap(tasks).items()}

    def total_iou(self, tasks: Sequence[str] | None = None) -> float:
        """Return the IoU over the entries of all parameters that each of ``tasks`` masks."""
        overlap = self._overlap(tasks).values()
        return _ratio(sum(both for both, _ in overlap), sum(any_ for _, any_ in overlap))

    def apply_(self, model: nn.Module, tasks: Sequence[str] | None = None) -> None:
        """Zero, in place, what no task of ``tasks`` keeps. InputError, before anything changes, if they do not fit."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        masks = self.union(tasks)
        for name, mask in masks.items():
            if name not in parameters:
                raise InputError(f"the masks do not fit this network: no parameter '{name}'{nearest(name, parameters)}")
            if parameters[name].shape != mask.shape:
                raise InputError(
                    f"the masks do not fit this network: '{name}' is {list(parameters[name].shape)}, "
                    f"its mask {list(mask.shape)}; make the masks from this network."
                )
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

    def applied(self, model: nn.Module, tasks: Sequence[str] | None = None) -> nn.Module:
        """Return a masked copy of ``model``, which is left as it is. InputError if the masks do not fit it."""
        masked = independent_copy(model)
        self.apply_(masked, tasks)
        return masked

    def save(self, path: Path | str) -> None:
        """Write the masks to ``path`` atomically: one safetensors file, one bit an entry."""
        write_masks(path, self.shared, self.per_task)

    @classmethod
    def load(cls, path: Path | str) -> Masks:
        """Return the masks in ``path``; InputError names a missing, damaged or foreign file."""
        shared, per_task = read_masks(path)
        return cls(shared=shared, per_task=per_task)

    def _select(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        if tasks is None or not self.per_task:  # masks that all tasks share hold for any task
            return self.tasks
        for task in tasks:
            if task not in self.per_task:
                raise InputError(f"no masks of task '{task}'{nearest(task, self.per_task)}")
        if not tasks:
            raise InputError("the union of no tasks is not a mask; name at least one task.")
        return tuple(tasks)

    def _overlap(self, tasks: Sequence[str] | None) -> dict[str, tuple[int, int]]:
        """Return (entries all keep, entries any keeps) of each parameter that every one of the tasks masks."""
        own = [self.per_task[task] for task in self._select(tasks)]
        if len(own) < 2:
            raise InputError(f"an IoU compares at least two tasks with masks of their own; there are {len(own)}.")
        common = [name for name in own[0] if all(name in masks for masks in own)]
        if not common:
            raise InputError("the tasks have no masked parameter in common, so their masks cannot be compared.")
        both = {name: reduce(torch.logical_and, [masks[name] for masks in own]) for name in common}
        union = self.union(tasks)
        return {name: (int(both[name].sum()), int(union[name].sum())) for name in common}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
