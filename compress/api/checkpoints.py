"""The `compress` verb on a checkpoint: what was done joins its edits, and its provenance tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

from torch import nn

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.api.how import Prune, ToFlops, ToLatency, Zeros
from slimtask.compress.api.models import compress
from slimtask.compress.latency.budgets import ALL, LatencyCut
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.rebuilding import Edit, rebuild
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.compress.score.budget import Budget

ZEROS = "zeros"
_SAID = ("scope", "vote", "seed")


@overload
def compress_checkpoint(
    checkpoint: Checkpoint,
    how: Zeros | Prune = ...,
    *,
    dense_is_fine: bool = ...,
    factory: Callable[[], nn.Module] | None = ...,
) -> tuple[Checkpoint, Compressed]: ...
@overload
def compress_checkpoint(
    checkpoint: Checkpoint, how: ToLatency | ToFlops, *, factory: Callable[[], nn.Module] | None = ...
) -> tuple[Checkpoint, LatencyCut]: ...
def compress_checkpoint(
    checkpoint: Checkpoint,
    how: Zeros | Prune | ToLatency | ToFlops = Zeros(),
    *,
    dense_is_fine: bool = False,
    factory: Callable[[], nn.Module] | None = None,
) -> tuple[Checkpoint, Compressed] | tuple[Checkpoint, LatencyCut]:
    """Return the compressed checkpoint (its plan appended to the edits) and what was done. Errors as ``compress``.

    ``factory()`` makes the dense network of a checkpoint whose architecture is not registered. With ``dense_is_fine``
    a network in which nothing is dead comes back whole instead of as an error.

    Examples:
        >>> from slimtask import Architecture, Checkpoint
        >>> from slimtask.compress import Budget, Prune, compress_checkpoint
        >>> from torch import nn
        >>> def make():
        ...     return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> own, weights = Architecture(name="mynet:make", arguments={}), make().state_dict()
        >>> dense = Checkpoint(weights=weights, architecture=own, tasks=(), preprocessing=None, inputs=((1, 3, 8, 8),))
        >>> smaller, done = compress_checkpoint(dense, Prune(Budget(keep=0.5)), factory=make)
        >>> smaller.weights["0.weight"].shape
        torch.Size([8, 3, 3, 3])
    """
    model, example, also = rebuild(checkpoint, factory), example_input(checkpoint), checkpoint.further()
    if isinstance(how, Zeros) and dense_is_fine:
        compressed = remove_zeros(model, example, align=how.align, also=also)
        return with_compressed(checkpoint, compressed, _said(how)), compressed
    if isinstance(how, Zeros | Prune):
        compressed = compress(model, example, how, also=also)
        return with_compressed(checkpoint, compressed, _said(how)), compressed
    done = compress(model, example, how, also=also)
    edited = checkpoint if done.skip is None else with_edit(checkpoint, done.skip)
    return with_compressed(edited, done.compressed, {**_said(how), **done.weighed}), done


def _said(how: Zeros | Prune | ToLatency | ToFlops) -> dict[str, Any]:
    """Return what provenance keeps of ``how``: what was asked for, not the data nor the meter."""
    align = how.align if not isinstance(how, ToFlops) and isinstance(how.align, int) else "auto"
    if isinstance(how, Zeros):
        return {"criterion": ZEROS, "align": align}
    if isinstance(how, ToLatency):
        budgets = how.ms if isinstance(how.ms, Mapping) else {ALL: float(how.ms)}
        return {"criterion": how.by, "budgets_ms": dict(budgets), "on": how.on.backend, "align": align}
    if isinstance(how, ToFlops):
        return {"criterion": how.by, "budget": Budget(flops=how.flops), "align": align}
    said = {name: getattr(how, name) for name in _SAID if getattr(how, name)}
    return {"criterion": how.by, "align": align, "budget": how.budget, **said}


def with_edit(checkpoint: Checkpoint, edit: Edit) -> Checkpoint:
    """Return ``checkpoint`` with ``edit`` after its edits; the weights are those from before it."""
    return checkpoint.with_changes(edits=(*checkpoint.edits, json_safe(edit.model_dump())))


def with_compressed(checkpoint: Checkpoint, compressed: Compressed, told: dict[str, Any]) -> Checkpoint:
    """Return ``checkpoint`` as the compressed network's: weights, the plan among the edits, and what was ``told``.

    A plan that cuts nothing is no edit.
    """
    edited = with_edit(checkpoint, compressed.plan) if compressed.plan else checkpoint
    return edited.with_changes(
        weights=compressed.model.state_dict(),
        provenance=_provenance(checkpoint, compressed, told),
    )


def _provenance(checkpoint: Checkpoint, compressed: Compressed, told: dict[str, Any]) -> dict[str, Any]:
    """Return where the smaller network comes from: what was known, what was done, and the certificate.

    What was measured on the network before holds after an exact removal; after one by score it is told as the dense
    network's, not as this one's.
    """
    known = dict(checkpoint.provenance)
    steps = known.pop("compressed", [])
    if told["criterion"] != ZEROS:
        known = {"dense": known, **{name: known[name] for name in ("recipe",) if name in known}}
        if isinstance(known["dense"].get("dense"), dict):  # it was pruned before: the first one's figures stay
            known["dense"] = known["dense"]["dense"]
    if isinstance(told.get("budget"), Budget):
        told = {**told, "budget": told["budget"].model_dump(exclude_none=True)}
    certificate = json_safe(compressed.certificate.model_dump())
    return {**known, "compressed": [*steps, told], "certificate": certificate}


def example_input(checkpoint: Checkpoint) -> Inputs:
    """Return zeros of the shape that the checkpoint's network takes: a [1, 3, H, W] image, or its own ``inputs``."""
    return checkpoint.example()
