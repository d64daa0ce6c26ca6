"""A network of a base task and sub-tasks: one trunk, one set of base weights, and per sub-task what differs.

EfficientMTL (Shoouri et al., ICCV 2023) stores sub-tasks as sparse weight deltas and reuses the base task's activations
for them. Here the reuse is exact semantics, not yet speed: each sub-task's pass is computed densely.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from slimtask.compress.edits.branches import PathHead, mix_in_
from slimtask.compress.edits.reuse import Record, Reuse, Watch
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import Pattern
from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen

Features = Float[Tensor, "batch c h w"]
_TRUNK = "trunk."


class ChangedParameter(Frozen):
    """A parameter of the trunk (name from the network) and how many of its entries a task changes, in which pattern."""

    parameter: str
    pattern: Pattern
    entries: int = Field(ge=0)


class DeltaPath(Frozen):
    """What one sub-task changes, and how its pass reuses the base task's."""

    task: str
    execution: Execution = Execution()
    changes: tuple[ChangedParameter, ...]

    @classmethod
    def of(cls, delta: Delta) -> DeltaPath:
        """Return the path of ``delta``."""
        changes = tuple(
            ChangedParameter(parameter=name, pattern=change.pattern, entries=len(change.values))
            for name, change in delta.changes.items()
        )
        return cls(task=delta.task, execution=delta.execution, changes=changes)


class DeltaPaths(Frozen):
    """The edit that gives sub-tasks weights of their own; replays on a fresh dense network.

    Tasks without a path are base tasks: they read the trunk's features as it is.
    """

    kind: Literal["deltas"] = "deltas"
    paths: tuple[DeltaPath, ...]

    def apply_(self, model: nn.Module) -> None:
        """Add the deltas, all zero, to the trunk in place. Raises InputError before anything is touched.

        Afterwards ``trunk`` returns the features of each task and each head reads those of its task. All names stay;
        the deltas are ``trunk.deltas.<task>.values_<n>`` and ``.places_<n>``.
        """
        _check(model, self.paths)
        network: Any = model
        trunk = network.trunk
        parameters = dict(model.named_parameters())
        mix_in_(trunk, DeltaTrunk)
        trunk.executions = {path.task: path.execution for path in self.paths}
        trunk.watch = None
        trunk.deltas = nn.ModuleDict({path.task: TaskDelta(path, parameters) for path in self.paths})
        for task, head in network.heads.items():
            mix_in_(head, PathHead)
            head.path = task


class TaskDelta(nn.Module):
    """The deltas of one task: per changed parameter its values, and their places in the flattened parameter."""

    def __init__(self, path: DeltaPath, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.changes = path.changes
        self.shapes = {change.parameter: tuple(parameters[change.parameter].shape) for change in path.changes}
        for number, change in enumerate(path.changes):
            like = parameters[change.parameter]
            values = torch.zeros(change.entries, dtype=like.dtype, device=like.device)
            self.register_parameter(f"values_{number}", nn.Parameter(values))
            places = torch.zeros(change.entries, dtype=torch.int32, device=like.device)
            self.register_buffer(f"places_{number}", places)

    def load_(self, delta: Delta) -> None:
        """Take over the values and places of ``delta``, whose path this is, in place."""
        with torch.no_grad():
            for number, change in enumerate(self.changes):
                self.get_parameter(f"values_{number}").copy_(delta.changes[change.parameter].values)
                self.get_buffer(f"places_{number}").copy_(delta.changes[change.parameter].positions())

    def weights(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the task's weights of the parameters that it changes, by name; those in ``parameters`` stay."""
        made = {}
        for number, change in enumerate(self.changes):
            if change.entries:
                base = parameters[change.parameter]
                places = self.get_buffer(f"places_{number}").long()
                values = self.get_parameter(f"values_{number}")
                made[change.parameter] = base.reshape(-1).index_put((places,), values, accumulate=True).view_as(base)
        return made

    def change(self, number: int) -> Change:
        """Return the delta of the ``number``-th parameter."""
        listed = self.changes[number]
        shape = self.shapes[listed.parameter]
        flat = torch.zeros(math.prod(shape), dtype=torch.bool)
        places = self.get_buffer(f"places_{number}").long().cpu()
        flat[places] = True
        values = self.get_parameter(f"values_{number}").detach().cpu()
        dense = values.new_zeros(math.prod(shape))
        dense[places] = values
        return Change.of(listed.pattern, dense.view(shape), flat.view(shape))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Refuse places that are none of the parameter's: a damaged file is named, not half-loaded."""
        for number, change in enumerate(self.changes):
            places = state_dict.get(f"{prefix}places_{number}")
            limit = math.prod(self.shapes[change.parameter])
            rising = places is None or places.is_meta or bool((places.long().diff() > 0).all())
            if not rising or (len(places) and not places.is_meta and not (places[0] >= 0 and places[-1] < limit)):
                raise InputError(
                    f"the checkpoint is damaged: the delta of '{change.parameter}' names places that are not rising "
                    f"numbers below {limit}."
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class DeltaTrunk(nn.Module):
    """Mixed into the class of a trunk with sites: forward returns the features of the tasks."""

    executions: dict[str, Execution]
    deltas: nn.ModuleDict
    watch: Watch | None

    def forward(self, x: Float[Tensor, "batch channels height width"], at: Any = None) -> Any:
        """Return the features by task; with ``at`` those of one pass of the trunk itself, as its own class does."""
        return TaskFeatures(self, x) if at is None else super().forward(x, at=at)

    def weights_of(self, task: str) -> dict[str, Tensor]:
        """Return the weights in which ``task`` differs from the base, by name in the trunk."""
        parameters = {f"{_TRUNK}{name}": parameter for name, parameter in self.named_parameters()}
        own: Any = self.deltas[task]
        return {name.removeprefix(_TRUNK): weight for name, weight in own.weights(parameters).items()}


class TaskFeatures:
    """What a trunk with deltas makes of one batch of images: ``features[task]``, [batch, c, h, w].

    Only what a head reads is computed; the base task's pass once for all that need it.
    """

    def __init__(self, trunk: DeltaTrunk, x: Tensor) -> None:
        self._trunk, self._x = trunk, x
        self._base: tuple[Features, Record] | None = None

    def __getitem__(self, task: str) -> Features:
        """Return the task's features, the base's for a task without a delta."""
        trunk = self._trunk
        if task not in trunk.executions:
            return self._base_pass()[0]
        execution, record = trunk.executions[task], Record()
        if not execution.merged or trunk.watch is not None:
            record = self._base_pass()[1]
        reuse = Reuse(record, execution, watch=trunk.watch, thresholds=not trunk.training)
        out: Tensor = functional_call(trunk, trunk.weights_of(task), (self._x,), {"at": reuse})
        return out

    def _base_pass(self) -> tuple[Features, Record]:
        if self._base is None:
            reused = any(not one.merged for one in self._trunk.executions.values())
            record = Record(reused or self._trunk.watch is not None)
            self._base = self._trunk(self._x, at=record), record
        return self._base


def install_deltas_(model: nn.Module, deltas: Sequence[Delta]) -> DeltaPaths:
    """Give ``model``, the base network with the heads of all tasks, the ``deltas`` in place and return the edit.

    Raises InputError, before anything is touched, if one does not fit. Tasks without a delta are base tasks.
    """
    edit = DeltaPaths(paths=tuple(DeltaPath.of(delta) for delta in deltas))
    for delta in deltas:
        delta.check(model)
    edit.apply_(model)
    network: Any = model
    for delta in deltas:
        network.trunk.deltas[delta.task].load_(delta)
    return edit


def deltas_of(model: nn.Module) -> dict[str, Delta]:
    """Return the deltas of a network that ``DeltaPaths`` edited by task, as they stand; none if it was not."""
    trunk: Any = getattr(model, "trunk", None)
    if not isinstance(trunk, DeltaTrunk):
        return {}
    made = {}
    own: Any
    for task, own in trunk.deltas.items():
        changes = {change.parameter: own.change(number) for number, change in enumerate(own.changes)}
        execution = trunk.executions[task]
        made[task] = Delta(task=task, base=digest(model, changes), changes=changes, execution=execution)
    return made


def _check(model: nn.Module, paths: Sequence[DeltaPath]) -> None:
    trunk, heads = getattr(model, "trunk", None), getattr(model, "heads", None)
    if isinstance(trunk, DeltaTrunk):
        raise InputError("the network has deltas already; give the base network.")
    if not isinstance(trunk, nn.Module) or "at" not in inspect.signature(trunk.forward).parameters:
        raise InputError("deltas need a trunk whose layers are sites, a transformer such as vit_b_16 or vit_tiny.")
    if not isinstance(heads, nn.ModuleDict):
        raise InputError("deltas need a network with a ModuleDict 'heads', one head per task.")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.startswith(_TRUNK)}
    if twice := _repeated([path.task for path in paths]):
        raise InputError(f"there are two deltas of task '{twice}'; give one per task.")
    for path in paths:
        if path.task not in heads:
            raise InputError(f"there is a delta of task '{path.task}', but no head{nearest(path.task, heads)}")
        if twice := _repeated([change.parameter for change in path.changes]):
            raise InputError(f"the delta of '{path.task}' changes '{twice}' twice; give every parameter one change.")
        for change in path.changes:
            if change.parameter not in shapes:
                near = nearest(change.parameter, shapes)
                raise InputError(f"the delta of '{path.task}' does not fit: no '{change.parameter}'{near}")
            if change.entries > math.prod(shapes[change.parameter]):
                raise InputError(
                    f"the delta of '{path.task}' changes {change.entries} entries of '{change.parameter}', which has "
                    f"{math.prod(shapes[change.parameter])}."
                )


def _repeated(names: Sequence[str]) -> str | None:
    """Return a name that is there more than once, None if there is none."""
    return next((name for name in names if names.count(name) > 1), None)
