"""The `compress` verb as functions: a network or a checkpoint in, a smaller one with its proof out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.pruning import nothing_prunable, prune
from slimtask.compress.rebuilding import Edit, rebuild
from slimtask.compress.removal.nothing import dead_that_stay, folding_hint
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.score.counts import Align
from slimtask.compress.score.gradients import Loss
from slimtask.errors import InputError

ZEROS = "zeros"
_TOLD = ("criterion", "budget", "scope", "vote", "seed")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of the network and of its trunk, and FLOPs of one image (one multiply-add counts as two)."""

    params: int
    trunk_params: int
    flops: int


def compress(
    model: nn.Module,
    example: Inputs,
    *,
    criterion: str = ZEROS,
    budget: Budget | None = None,
    scope: str = "global",
    align: Align = 8,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    vote: str | None = None,
    seed: int = 0,
    also: Sequence[Inputs] = (),
) -> Compressed:
    """Return a smaller copy of ``model`` with plan and certificate; ``model`` is left as it is.

    ``example`` is a valid input: one tensor, a tuple of positional or a dictionary of keyword arguments; ``also`` are
    further ones, that reach parts which it does not. ``criterion``
    "zeros" removes what the weights have made dead, and the network computes the same; any other one (see
    ``score_channels``) removes the channels of lowest score until ``budget`` is met, see ``prune`` for the further
    arguments. Each group keeps a multiple of ``align`` channels, or one of the counts that
    ``align`` gives it by name, e.g. those worth having on a machine (a group it does not name: a multiple of 8).

    Raises InputError, with the coverage, if there is nothing to remove, and CheckFailed if the removal is not exact.
    """
    if criterion != ZEROS:
        if budget is None:
            raise InputError(f"the criterion '{criterion}' needs a budget of channels, parameters or FLOPs; give one.")
        return prune(
            model,
            example,
            budget=budget,
            criterion=criterion,
            scope=scope,
            align=align,
            calibration=calibration,
            loss=loss,
            vote=vote,
            seed=seed,
            also=also,
        )
    if budget is not None or vote is not None:
        raise InputError("zeros are removed without budget or vote; take another criterion, 'l2' say, to meet one.")
    compressed = remove_zeros(model, example, align=align, also=also)
    if not compressed.plan:
        raise InputError(_nothing(model, example, align, compressed))
    return compressed


def compress_checkpoint(
    checkpoint: Checkpoint,
    *,
    align: Align = 8,
    dense_is_fine: bool = False,
    factory: Callable[[], nn.Module] | None = None,
    **choices: Any,
) -> tuple[Checkpoint, Compressed]:
    """Return the compressed checkpoint (its plan appended to the edits) and what was done. Errors as ``compress``.

    ``factory()`` makes the dense network of a checkpoint whose architecture is not registered; ``choices`` are further
    arguments of ``compress``. With ``dense_is_fine`` a network from which nothing can be removed comes back whole
    instead of as an error.
    """
    model, example = rebuild(checkpoint, factory), example_input(checkpoint)
    if dense_is_fine:
        compressed = remove_zeros(model, example, align=align, also=checkpoint.further())
    else:
        compressed = compress(model, example, align=align, **choices)
    aligned = align if isinstance(align, int) else "auto"
    told = {"criterion": ZEROS, "align": aligned, **{name: choices[name] for name in _TOLD if choices.get(name)}}
    return with_compressed(checkpoint, compressed, told), compressed


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


def cost(model: nn.Module, example: Inputs) -> Cost:
    """Return the Cost of ``model``; a network without a ``trunk`` counts whole."""
    trunk = getattr(model, "trunk", model)
    trunk = trunk if isinstance(trunk, nn.Module) else model
    return Cost(params=count_parameters(model), trunk_params=count_parameters(trunk), flops=count_flops(model, example))


def _nothing(model: nn.Module, example: Inputs, align: Align, tried: Compressed) -> str:
    """Return why nothing could be removed: the alignment, that every group is fixed, or that nothing is dead."""
    groups, refused = tried.plan.groups, tried.certificate.refused
    hint = folding_hint(model)
    found = find_groups(model, example)
    if all(group.refused is not None for group in found):
        stay, _ = dead_that_stay(model, found, refused)
        told = f" {stay} of their channels are dead." if stay else ""
        return f"{nothing_prunable(model, found)}{told}"
    total = sum(group.before for group in groups)
    dead = sum(group.before - group.after for group in remove_zeros(model, example).plan.groups) if align != 1 else 0
    if dead and not isinstance(align, int):
        return (
            f"nothing can be removed down to the counts given: {dead} of {total} channels are dead, but no group comes "
            "down to its next count without them; align to 1 (--align 1) to remove them all the same."
        )
    if dead:
        return (
            f"nothing can be removed in blocks of {align} channels: {dead} of {total} channels are dead, but no group "
            f"has a whole block of them; align to 1 (--align 1) to remove them all the same."
        )
    stay, reasons = dead_that_stay(model, found, refused)
    if stay:
        total = sum(group.channels for group in found)
        return f"nothing can be removed: {stay} of {total} channels are dead, but they stay: {reasons}.{hint}"
    return (
        f"nothing can be removed: none of the {total} channels in {len(groups)} removable groups is dead "
        f"({len(refused)} groups are fixed); train with a sparsity section first, or remove channels that still count "
        f"under a budget (--keep, --params, --flops).{hint}"
    )
