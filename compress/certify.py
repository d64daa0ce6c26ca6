"""The proof of a removal: the network before against the network after, on several inputs, sizes and every task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from slimtask.tasks import Frozen

TOLERANCE = 1e-5


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
    """Per task the largest difference between masked and removed network; truthy only if all are within tolerance."""

    kind: Literal["certificate"] = "certificate"
    tasks: dict[str, TaskDifference]
    tolerance: float = TOLERANCE
    inputs: int
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

    ordinary: tuple[Tensor, ...]
    extreme: tuple[Tensor, ...] = ()

    @property
    def all(self) -> tuple[Tensor, ...]:
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
    if probes.extreme:
        wide = [copy.deepcopy(model).double() for model in (before, after)]
        _compare_(worst, wide[0], wide[1], [x.double() for x in probes.extreme])
    return Certificate(
        tasks=worst,
        tolerance=tolerance,
        inputs=sum(len(x) for x in probes.all),
        sizes=tuple(dict.fromkeys(tuple(x.shape[2:]) for x in probes.all)),
        refused=tuple(refused),
    )


def certificate_inputs(model: nn.Module, example: Tensor, *, seed: int = 0) -> Probes:
    """Return seeded inputs like ``example``, at its size and at another one.

    Ordinary are white noise and smooth noise, of the deviation that normalised images have; extreme are noise ten times
    as strong and two flat images. The second size is three quarters of the first, in multiples of 8; a network that
    takes only one size gets only it.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = example.shape[-2:]
    other = (max(8, height * 3 // 4 // 8 * 8), max(8, width * 3 // 4 // 8 * 8))
    sizes = [(height, width)]
    if other != (height, width) and _accepts(model, example, other):
        sizes.append(other)
    made = [_probes(example, size, generator) for size in sizes]
    return Probes(ordinary=tuple(one for one, _ in made), extreme=tuple(two for _, two in made))


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors of a network's output (tensor, dict, list, tuple) by name."""
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    return {
        (str(key) if leaf == "output" else f"{key}.{leaf}"): tensor
        for key, value in items
        for leaf, tensor in named_outputs(value).items()
    }


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


def _compare_(worst: dict[str, TaskDifference], before: nn.Module, after: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Raise the differences in ``worst`` to those on ``inputs``."""
    with torch.no_grad():
        for x in inputs:
            expected, got = named_outputs(before(x)), named_outputs(after(x))
            for name, reference in expected.items():
                worst[name] = _worse(worst.get(name), _difference(reference, got[name]))


def _probes(example: Tensor, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the ordinary and the extreme inputs [3, channels, *size], on the scale of normalised images."""
    channels = example.shape[1]
    noise = torch.randn(3, channels, *size, generator=generator)
    coarse = torch.randn(1, channels, 4, 4, generator=generator)
    smooth = 2 * nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    flat = torch.tensor([-2.0, 2.4]).view(2, 1, 1, 1).expand(2, channels, *size)
    ordinary, extreme = torch.cat([noise[:2], smooth]), torch.cat([10 * noise[2:], flat])
    return ordinary.to(example.device, example.dtype), extreme.to(example.device, example.dtype)


def _accepts(model: nn.Module, example: Tensor, size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            model(example.new_zeros(*example.shape[:-2], *size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
