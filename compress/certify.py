"""The proof of a removal: the network before against the network after, on several inputs, sizes and every task."""

from __future__ import annotations

from collections.abc import Sequence
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


def certify(
    before: nn.Module,
    after: nn.Module,
    inputs: Sequence[Tensor],
    *,
    refused: Sequence[Refusal] = (),
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Return the Certificate that ``after`` computes what ``before`` does, in eval mode, on inputs [n, 3, h, w]."""
    worst: dict[str, TaskDifference] = {}
    with torch.no_grad():
        for x in inputs:
            expected, got = named_outputs(before.eval()(x)), named_outputs(after.eval()(x))
            for name, reference in expected.items():
                worst[name] = _worse(worst.get(name), _difference(reference, got[name]))
    return Certificate(
        tasks=worst,
        tolerance=tolerance,
        inputs=sum(len(x) for x in inputs),
        sizes=tuple(dict.fromkeys(tuple(x.shape[2:]) for x in inputs)),
        refused=tuple(refused),
    )


def certificate_inputs(model: nn.Module, example: Tensor, *, seed: int = 0) -> list[Tensor]:
    """Return seeded batches of six inputs like ``example``, one at its size, one at another.

    Each has white noise, the same ten times as strong, smooth noise, and two flat images, so that regimes which white
    noise never visits (saturation, low frequencies) are tried too.
    The second size is three quarters of the first, in multiples of 8; a network that takes only one size gets only it.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = example.shape[-2:]
    other = (max(8, height * 3 // 4 // 8 * 8), max(8, width * 3 // 4 // 8 * 8))
    sizes = [(height, width)]
    if other != (height, width) and _accepts(model, example, other):
        sizes.append(other)
    return [_probes(example, size, generator) for size in sizes]


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


def _probes(example: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return six inputs [6, channels, *size], normalised as training inputs are."""
    channels = example.shape[1]
    noise = torch.randn(2, channels, *size, generator=generator)
    coarse = torch.randn(1, channels, 4, 4, generator=generator)
    smooth = 2 * nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    flat = torch.tensor([-2.0, 2.4]).view(2, 1, 1, 1).expand(2, channels, *size)
    return torch.cat([noise, 10 * noise[:1], smooth, flat]).to(example.device, example.dtype)


def _accepts(model: nn.Module, example: Tensor, size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            model(example.new_zeros(*example.shape[:-2], *size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
