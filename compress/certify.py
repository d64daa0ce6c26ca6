"""The proof of a removal: the network before against the network after, on several inputs, sizes and every task."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from slimtask.compress.inputs import Inputs, batch_size, call, map_tensors, named_outputs, tensors_of
from slimtask.compress.trace import record
from slimtask.errors import InputError
from slimtask.tasks import Frozen

TOLERANCE = 1e-5
_ROUNDING = 100  # a difference up to so many tolerances may be rounding; float64 tells


class TaskDifference(Frozen):
    """Largest difference of one output: absolute, and relative to the largest absolute value of the reference."""

    max_abs: float
    max_rel: float


class Refusal(Frozen):
    """A group, or part of one, that was not removed, and why."""

    group: str
    channels: int
    reason: str


class Certificate(Frozen):
    """Per task the largest difference between masked and removed network; truthy only if all are within tolerance.

    ``decided_in`` float64 says that float32 rounding alone passed the tolerance, e.g. behind a norm of a near-constant
    map, and that the differences are those of the same inputs in float64.
    """

    kind: Literal["certificate"] = "certificate"
    tasks: dict[str, TaskDifference]
    tolerance: float = TOLERANCE
    inputs: int
    decided_in: Literal["float32", "float64"] = "float32"
    sizes: tuple[tuple[int, ...], ...]
    refused: tuple[Refusal, ...] = Field(default=())

    @property
    def max_rel_error(self) -> float:
        """Return the largest relative difference over all tasks; infinity if an output is not finite."""
        return max((difference.max_rel for difference in self.tasks.values()), default=float("inf"))

    @property
    def holds(self) -> bool:
        """Return whether every task agrees within the tolerance."""
        return self.max_rel_error <= self.tolerance

    def __bool__(self) -> bool:
        """Return ``holds``."""
        return self.holds


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Inputs to compare on: ``ordinary`` ones in float32, ``extreme`` ones in float64 (lists of batches).

    Extreme inputs reach regimes that noise never visits (saturation, flat images); there the float32 rounding of an
    ill-conditioned output, e.g. the unit vector of a near-zero normal, would drown what is looked for.
    """

    ordinary: tuple[Inputs, ...]
    extreme: tuple[Inputs, ...] = ()

    @property
    def all(self) -> tuple[Inputs, ...]:
        """Return every batch."""
        return (*self.ordinary, *self.extreme)


def certify(
    before: nn.Module,
    after: nn.Module,
    probes: Probes,
    *,
    refused: Sequence[Refusal] = (),
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Return the Certificate that ``after`` computes what ``before`` does, in eval mode, on every probe."""
    worst: dict[str, TaskDifference] = {}
    _compare_(worst, before.eval(), after.eval(), probes.ordinary)
    rounded = any(tolerance < difference.max_rel <= _ROUNDING * tolerance for difference in worst.values())
    extreme = [map_tensors(_wide, x) for x in (*(probes.ordinary if rounded else ()), *probes.extreme)]
    wide = [copy.deepcopy(model).double() for model in (before, after)] if extreme else []
    if extreme and not _runs(wide[0], extreme[0]):
        probes, extreme, rounded = Probes(ordinary=probes.ordinary), [], False  # its code insists on float32
    if extreme:
        worst = {} if rounded else worst
        _compare_(worst, wide[0], wide[1], extreme)
    return Certificate(
        tasks=worst,
        tolerance=tolerance,
        inputs=sum(batch_size(x) for x in probes.all),
        decided_in="float64" if rounded else "float32",
        sizes=tuple(dict.fromkeys(tuple(tensors_of(x)[0].shape[2:]) for x in probes.all)),
        refused=tuple(refused),
    )


def certificate_inputs(model: nn.Module, example: Inputs, *, seed: int = 0, thorough: bool = True) -> Probes:
    """Return seeded inputs like ``example``, at its size and at another one.

    Ordinary are white noise and smooth noise, of the deviation that normalised images have; extreme are noise ten times
    as strong and two flat images. The second size is three quarters of the first, in multiples of 8; a network that
    takes only one size gets only it. One that takes no other batch, or no maps at all, gets white noise of its own
    shape, and so does every network if the proof need not be ``thorough``.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds, maps = [example], [x for x in tensors_of(example) if _is_map(x)]
    if maps:
        height, width = maps[0].shape[-2:]
        other = (max(8, height * 3 // 4 // 8 * 8), max(8, width * 3 // 4 // 8 * 8))
        smaller = map_tensors(lambda x: _resized(x, other) if _is_map(x) else x, example)
        if other != (height, width) and _accepts(model, smaller):
            kinds.append(smaller)
    if not (thorough and maps and _accepts(model, map_tensors(lambda x: _ordinary(x, generator), example))):
        return Probes(ordinary=tuple(map_tensors(lambda x: _like(x, generator), kind) for kind in kinds))
    return Probes(
        ordinary=tuple(map_tensors(lambda x: _ordinary(x, generator), kind) for kind in kinds),
        extreme=tuple(map_tensors(lambda x: _extreme(x, generator), kind) for kind in kinds),
    )


def _difference(reference: Tensor, got: Tensor) -> TaskDifference:
    if reference.shape != got.shape or not bool(got.isfinite().all() & reference.isfinite().all()):
        return TaskDifference(max_abs=float("inf"), max_rel=float("inf"))
    largest = float((reference.double() - got.double()).abs().max())
    scale = float(reference.abs().max())
    return TaskDifference(
        max_abs=largest, max_rel=largest / scale if scale else (0.0 if largest == 0 else float("inf"))
    )


def _worse(one: TaskDifference | None, other: TaskDifference) -> TaskDifference:
    if one is None:
        return other
    return TaskDifference(max_abs=max(one.max_abs, other.max_abs), max_rel=max(one.max_rel, other.max_rel))


def _compare_(worst: dict[str, TaskDifference], before: nn.Module, after: nn.Module, inputs: Sequence[Inputs]) -> None:
    """Raise the differences in ``worst`` to those on ``inputs``."""
    with torch.no_grad():
        for x in inputs:
            expected, got = named_outputs(call(before, x)), named_outputs(call(after, x))
            for name, reference in expected.items():
                worst[name] = _worse(worst.get(name), _difference(reference, got[name]))


def _accepts(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether the network takes inputs of these sizes."""
    try:
        record(model, inputs)
    except InputError:
        return False
    return True


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        record(model, inputs, compute=True)
    except InputError:
        return False
    return True


def _is_map(x: Tensor) -> bool:
    return x.is_floating_point() and x.ndim >= 4


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x.new_zeros(*x.shape[:-2], *size)


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of the shape of a floating-point input; any other stays as it is."""
    return torch.randn(x.shape, generator=generator).to(x.device, x.dtype) if x.is_floating_point() else x


def _ordinary(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return two batches of white and one of smooth noise, [3, ...], on the scale of normalised images."""
    if not _is_map(x):
        return x
    inner = x.shape[1:]
    noise = torch.randn(2, *inner, generator=generator)
    coarse = torch.randn(math.prod(inner[:-2]), 1, 4, 4, generator=generator)
    smooth = 2 * nn.functional.interpolate(coarse, size=inner[-2:], mode="bicubic", align_corners=False)
    return torch.cat([noise, smooth.view(1, *inner)]).to(x.device, x.dtype)


def _extreme(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch of strong noise and two flat ones, [3, ...]."""
    if not _is_map(x):
        return x
    inner = x.shape[1:]
    levels = torch.tensor([-2.0, 2.4]).view(2, *[1] * len(inner)).expand(2, *inner)
    return torch.cat([10 * torch.randn(1, *inner, generator=generator), levels]).to(x.device, x.dtype)
