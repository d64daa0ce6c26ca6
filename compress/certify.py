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
        return max(difference.max_rel for difference in self.tasks.values())

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
    """Return the Certificate that ``after`` computes what ``before`` does, in eval mode, on every input [batch, 3, height, width]."""
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


def certificate_inputs(model: nn.Module, example: Tensor, *, count: int = 4, seed: int = 0) -> list[Tensor]:
    """Return seeded random inputs like ``example`` (normal, mean 0, deviation 1): some at its size, some at another.

    The second size is three quarters of the first, in multiples of 8; a network that takes only one size gets only it.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = example.shape[-2:]
    other = (max(8, height * 3 // 4 // 8 * 8), max(8, width * 3 // 4 // 8 * 8))
    sizes = [(height, width)]
    if other != (height, width) and _accepts(model, example, other):
        sizes.append(other)
    return [
        torch.randn(count, *example.shape[1:-2], *size, generator=generator).to(example.device, example.dtype)
        for size in sizes
    ]


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
    if reference.shape != got.shape or not bool(got.isfinite().all()):
        return TaskDifference(max_abs=float("inf"), max_rel=float("inf"))
    largest = float((reference.double() - got.double()).abs().max())
    scale = float(reference.abs().max())
    return TaskDifference(
        max_abs=largest, max_rel=largest / scale if scale else (0.0 if largest == 0 else float("inf"))
    )


def _worse(one: TaskDifference | None, other: TaskDifference) -> TaskDifference:
    return other if one is None or other.max_rel > one.max_rel else one


def _accepts(model: nn.Module, example: Tensor, size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            model(example.new_zeros(*example.shape[:-2], *size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
