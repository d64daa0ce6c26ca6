"""The proof of a removal: the user's own network against the smaller one, on several inputs, sizes and every output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from slimtask.compress.network.apart import FORKS
from slimtask.compress.network.contents import independent_copy, tensors_in
from slimtask.compress.network.inputs import map_tensors
from slimtask.compress.network.probes import Probes
from slimtask.compress.proof.compare import TaskDifference
from slimtask.compress.proof.kept import KeptPlace
from slimtask.compress.proof.selfcontained import check_self_contained
from slimtask.compress.proof.sidebyside import Measured, Pair, measure
from slimtask.errors import CheckFailed, InputError
from slimtask.tasks import Frozen

TOLERANCE = 1e-5


class Refusal(Frozen):
    """A group, or part of one, that was not removed, and why."""

    group: str
    channels: int
    reason: str


class Certificate(Frozen):
    """Per task the largest difference between masked and removed network; truthy only if all are within tolerance.

    ``inputs`` were compared; ``skipped`` batches were not, since the code takes another way there and what is masked on
    the example's way is not known. ``decided_in`` float64 says that float32 rounding alone passed the tolerance, e.g.
    behind a norm of a near-constant map, or that the network is of half precision, and that the differences are those
    of the same inputs in float64.
    ``reference`` says whether the user's own network was run or a copy of it (where a process cannot be forked, or on
    CUDA), ``probes`` whether the inputs were noise or, for a network that is undefined there, lay within [0, 1].
    ``random`` names the operations that draw, whose draws were held still; ``differs`` says in words what no number
    does (a shape, a type, a missing output); ``unreached`` names modules that no input reached, which were not cut.

    Examples:
        >>> from slimtask.compress import Budget, prune
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> certificate = prune(net, zeros(1, 3, 8, 8), budget=Budget(keep=0.5)).certificate
        >>> certificate.holds, certificate.max_rel_error < certificate.tolerance
        (True, True)
    """

    kind: Literal["certificate"] = "certificate"
    tasks: dict[str, TaskDifference]
    tolerance: float = TOLERANCE
    inputs: int
    skipped: int = 0
    decided_in: Literal["float32", "float64"] = "float32"
    sizes: tuple[tuple[int, ...], ...]
    refused: tuple[Refusal, ...] = Field(default=())
    reference: Literal["own", "copy"] = "own"
    probes: Literal["normal", "unit"] = "normal"
    random: tuple[str, ...] = ()
    differs: dict[str, str] = Field(default_factory=dict)
    unreached: tuple[str, ...] = ()

    @property
    def max_rel_error(self) -> float:
        """Return the largest relative difference over all tasks; infinity if an output is not finite."""
        return max((difference.max_rel for difference in self.tasks.values()), default=float("inf"))

    @property
    def holds(self) -> bool:
        """Return whether every task agrees within the tolerance."""
        return self.max_rel_error <= self.tolerance

    @property
    def complaint(self) -> str:
        """Return as a phrase what does not hold, "" if all does."""
        if self.holds:
            return ""
        if not self.tasks:
            return "there is no output to compare"
        name, worst = max(self.tasks.items(), key=lambda item: item[1].max_rel)
        if name in self.differs:
            return f"it changes output '{name}': {self.differs[name]}"
        return f"it changes an output by {worst.max_rel:.1e} ('{name}')"

    def __bool__(self) -> bool:
        """Return ``holds``."""
        return self.holds


def certify(
    own: nn.Module,
    smaller: nn.Module,
    probes: Probes,
    *,
    mask: Callable[[nn.Module], None] | None = None,
    places: Iterable[KeptPlace] = (),
    refused: Sequence[Refusal] = (),
    tolerance: float = TOLERANCE,
    unreached: Sequence[str] = (),
) -> Certificate:
    """Return the Certificate that ``smaller`` computes what the user's ``own`` network does, in eval mode.

    Both run in a process apart, so neither is touched. ``mask`` zeroes there, in place, what a cut by score removes
    from the user's network, and ``places`` are the operations that are taken over what stays. The user's tensors are
    overwritten last: a ``smaller`` that then computes something else still reaches them.

    Raises InputError if the user's network does not run on the probes, and CheckFailed if the smaller one does not, or
    is not self-contained.

    Examples:
        >>> from slimtask.compress import certify
        >>> from slimtask.compress.network.probes import certificate_inputs
        >>> from torch import nn, zeros
        >>> own, other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        >>> certify(own, other, certificate_inputs(own, zeros(1, 3, 8, 8))).holds
        False
    """
    forks = FORKS and not _elsewhere(own)
    if not forks:
        own, probes = independent_copy(own).cpu(), _on_cpu(probes)
    if not FORKS or _elsewhere(smaller):
        smaller = independent_copy(smaller).cpu()
    pair = Pair(own=own, smaller=smaller, mask=mask, places=tuple(places))
    found, used = measure(pair, probes, tolerance), probes
    if found.undefined and probes.unit:
        used = probes.within_unit
        found = measure(pair, used, tolerance)
    _raise(found, own, mask is not None)
    if forks:
        check_self_contained(pair, used.ordinary[0], found)
    return Certificate(
        tasks=found.worst,
        tolerance=tolerance,
        inputs=sum(count for count, _ in found.compared),
        skipped=found.skipped,
        decided_in="float64" if found.widened else "float32",
        sizes=tuple(dict.fromkeys(size for _, size in found.compared)),
        refused=tuple(refused),
        reference="own" if forks else "copy",
        probes="normal" if used is probes else "unit",
        random=found.random,
        differs=found.words,
        unreached=tuple(unreached),
    )


def _raise(found: Measured, own: nn.Module, masked: bool) -> None:
    """Raise what ended the comparison, if anything did."""
    if found.failure is None:
        return
    if found.failed == "smaller":
        raise CheckFailed(f"the smaller network does not run ({found.failure}); nothing was written.")
    if masked:
        raise CheckFailed(f"{type(own).__name__} does not run with those channels masked ({found.failure}).")
    raise InputError(
        f"{type(own).__name__} does not run on noise of the example's shape ({found.failure}), so nothing can be "
        "proven of a smaller one."
    )


def _elsewhere(model: nn.Module) -> bool:
    return any(tensor.device.type not in ("cpu", "meta") for tensor in tensors_in(model))


def _on_cpu(probes: Probes) -> Probes:
    parts = (probes.ordinary, probes.extreme, probes.unit)
    ordinary, extreme, unit = (tuple(map_tensors(torch.Tensor.cpu, x) for x in part) for part in parts)
    return Probes(ordinary=ordinary, extreme=extreme, unit=unit)
