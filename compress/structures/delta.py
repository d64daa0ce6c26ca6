"""Delta: what turns a base task's weights into those of a sub-task, W_task = W_base + delta, delta in a Pattern.

EfficientMTL (Shoouri et al., ICCV 2023): the base weights are stored once, and of every sub-task only what differs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int32, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.structures.delta_file import Stored, read_delta, write_delta
from slimtask.compress.structures.patterns import Pattern, Shape
from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen

Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Execution(Frozen):
    """How a sub-task's pass uses the base task's.

    Every residual branch (attention, MLP) of every block reads a stream of features and adds to the sub-task's own.
    ``feed`` "own": it reads the sub-task's; "base": the base task's, so that the layers of all tasks have the same
    input. Of "own" alone: ``rows`` is the share of the tokens that it reads from the sub-task's stream, those that
    differ most from the base's, which it reads for the others; ``thresholds`` by site ("block.layer"): where a layer's
    output differs less from the base task's, the latter is taken.
    """

    feed: Literal["own", "base"] = "own"
    rows: float | None = Field(default=None, gt=0, le=1)
    thresholds: dict[str, Threshold] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Execution:
        if self.feed == "base" and (self.rows is not None or self.thresholds):
            raise ValueError("rows and thresholds go with feed own; leave them out with feed base")
        return self

    @property
    def merged(self) -> bool:
        """Return whether the pass is that of a plain network with the sub-task's weights."""
        return self.feed == "own" and self.rows is None and not self.thresholds


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """The delta of one parameter of ``shape``: the numbers of the units of ``pattern`` it has, and its values.

    ``kept`` is sorted; ``values`` are those of the entries of the kept units in row-major order of the parameter.
    """

    pattern: Pattern
    shape: Shape
    kept: Int32[Tensor, " units"]
    values: Float[Tensor, " entries"]

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InputError(f"a delta of shape {list(self.shape)} in pattern '{self.pattern.kind}' {problem}.")

    def _problem(self) -> str | None:
        kept, count = self.kept, self.pattern.units(self.shape)
        if len(kept) and not (int(kept.min()) >= 0 and int(kept.max()) < count and bool((kept.diff() > 0).all())):
            return f"names units that are not rising numbers below {count}"
        if len(self.values) != int(self.mask().sum()):
            return f"has {len(self.values)} values, its {len(kept)} units need {int(self.mask().sum())}"
        return None if bool(self.values.isfinite().all()) else "holds NaN or infinity"

    @classmethod
    def of(cls, pattern: Pattern, delta: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Change:
        """Return ``delta`` where ``mask`` is True; InputError if the mask does not have the pattern."""
        if delta.shape != mask.shape or not pattern.fits(mask):
            raise InputError(
                f"the mask {list(mask.shape)} of a delta {list(delta.shape)} does not have the pattern "
                f"'{pattern.kind}'; project it first."
            )
        kept = pattern.kept(mask).nonzero().flatten().int()
        return cls(pattern=pattern, shape=tuple(mask.shape), kept=kept.cpu(), values=delta[mask].detach().cpu())

    def mask(self) -> Bool[Tensor, "..."]:
        """Return which entries of the parameter change."""
        units = torch.zeros(self.pattern.units(self.shape), dtype=torch.bool)
        units[self.kept.long()] = True
        return self.pattern.expand(units, self.shape)

    def positions(self) -> Int64[Tensor, " entries"]:
        """Return the places of ``values`` in the flattened parameter."""
        return self.mask().flatten().nonzero().flatten()

    def dense(self) -> Float[Tensor, "..."]:
        """Return the delta as a tensor of ``shape``, zero elsewhere."""
        delta = self.values.new_zeros(self.shape)
        delta[self.mask()] = self.values
        return delta


@dataclass(frozen=True, kw_only=True)
class DeltaSize:
    """Bytes of a delta's values and indices, and of the whole parameters that it is about."""

    values_bytes: int
    index_bytes: int
    dense_bytes: int

    @property
    def ratio(self) -> float:
        """Return delta over dense."""
        return (self.values_bytes + self.index_bytes) / max(1, self.dense_bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """The weights of ``task`` as changes of a base network's parameters by name, and how they are executed.

    ``base`` is the ``digest`` of the parameters it was learned on: it fits no others. A parameter that could change but
    does not is there with an empty Change, and counts in the density.
    """

    task: str
    base: str
    changes: Mapping[str, Change]
    execution: Execution = field(default_factory=Execution)

    @property
    def density(self) -> float:
        """Return the share of the entries of all its parameters that change, in [0, 1]."""
        total = sum(math.prod(change.shape) for change in self.changes.values())
        return sum(len(change.values) for change in self.changes.values()) / max(1, total)

    def densities(self) -> dict[str, float]:
        """Return the share of the entries that change by parameter name."""
        return {name: len(change.values) / max(1, math.prod(change.shape)) for name, change in self.changes.items()}

    def size(self) -> DeltaSize:
        """Return the bytes it takes, against those of the parameters it is about; indices are 4 bytes each.

        Units that several parameters share (hidden units, heads) are counted once.
        """
        shared = {_owner(change.pattern) or name: len(change.kept) for name, change in self.changes.items()}
        itemsize = {name: change.values.element_size() for name, change in self.changes.items()}
        return DeltaSize(
            values_bytes=sum(len(change.values) * itemsize[name] for name, change in self.changes.items()),
            index_bytes=4 * sum(shared.values()),
            dense_bytes=sum(math.prod(change.shape) * itemsize[name] for name, change in self.changes.items()),
        )

    def check(self, model: nn.Module) -> None:
        """Raise InputError if ``model`` is not the base it was learned on: names, shapes, values."""
        parameters = dict(model.named_parameters())
        for name, change in self.changes.items():
            if name not in parameters:
                near = nearest(name, parameters)
                raise InputError(
                    f"the delta of '{self.task}' does not fit: the network has no parameter '{name}'{near}"
                )
            if tuple(parameters[name].shape) != change.shape:
                raise InputError(
                    f"the delta of '{self.task}' does not fit: '{name}' is {list(parameters[name].shape)}, the delta "
                    f"{list(change.shape)}."
                )
        if digest(model, self.changes) != self.base:
            raise InputError(
                f"the delta of '{self.task}' was learned on other base weights than this network's; give the base "
                "that it came with."
            )

    def merged(self, model: nn.Module) -> nn.Module:
        """Return a copy of the base network ``model`` with the sub-task's weights, a plain dense network.

        Raises InputError if the delta does not fit, or is executed in another way than a merged network would be.
        """
        if not self.execution.merged:
            raise InputError(
                f"the delta of '{self.task}' reuses the base task's activations, which merged weights do not; rebuild "
                "the network from its checkpoint."
            )
        self.check(model)
        copied = independent_copy(model)
        parameters = dict(copied.named_parameters())
        with torch.no_grad():
            for name, change in self.changes.items():
                parameters[name].add_(change.dense().to(parameters[name]))
        return copied

    def save(self, path: Path | str) -> None:
        """Write the delta to ``path`` atomically: one safetensors file with JSON metadata."""
        stored = {
            name: Stored(pattern=change.pattern, shape=change.shape, kept=change.kept, values=change.values)
            for name, change in self.changes.items()
        }
        write_delta(path, self.task, self.base, self.execution.model_dump(mode="json"), stored)

    @classmethod
    def load(cls, path: Path | str) -> Delta:
        """Return the delta in ``path``; InputError names a missing, damaged or foreign file."""
        task, base, execution, stored = read_delta(path)
        try:
            return cls(
                task=task,
                base=base,
                execution=Execution.model_validate(execution),
                changes={name: Change(**entry._asdict()) for name, entry in stored.items()},
            )
        except ValueError as error:  # InputError and pydantic's own are such
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"delta file '{path}' is damaged: {reason}; write or copy it again.") from None


def digest(model: nn.Module, names: Iterable[str]) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of the named parameters: names, shapes, bytes."""
    parameters, total = dict(model.named_parameters()), hashlib.sha256()
    for name in sorted(names):
        values = parameters[name].detach().cpu().contiguous()
        total.update(f"{name} {list(values.shape)} {values.dtype}".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _owner(pattern: Pattern) -> str:
    """Return the module whose units the pattern's are, which several parameters share; "" if none."""
    return f"{pattern.kind} {of}" if (of := getattr(pattern, "of", "")) else ""
