"""The `compress` verb as functions: a network or a checkpoint in, a smaller one that computes the same out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.cost import count_flops, count_parameters
from slimtask.compress.rebuild import rebuild
from slimtask.compress.remove import Compressed, remove_zeros
from slimtask.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of the network and of its trunk, and FLOPs of one image (one multiply-add counts as two)."""

    params: int
    trunk_params: int
    flops: int


def compress(model: nn.Module, example: Float[Tensor, "batch 3 height width"], *, align: int = 8) -> Compressed:
    """Return ``model`` without the channels that its weights have made dead, with plan and certificate.

    ``example`` is a valid input; ``model`` is left as it is. Each group keeps a multiple
    of ``align`` channels. Raises InputError, with the coverage, if there is nothing
    to remove, and CheckFailed if the removal is not exact.
    """
    if align < 1:
        raise InputError(f"channels cannot be aligned to {align}; give 1 (not at all) or more, 8 for most backends.")
    compressed = remove_zeros(model, example, align=align)
    if not compressed.plan:
        raise InputError(_nothing(model, example, align, compressed))
    return compressed


def compress_checkpoint(
    checkpoint: Checkpoint, *, align: int = 8, dense_is_fine: bool = False
) -> tuple[Checkpoint, Compressed]:
    """Return the compressed checkpoint (its plan appended to the edits) and what was done. Errors as ``compress``.

    With ``dense_is_fine`` a network from which nothing can be removed comes back whole instead of as an error.
    """
    shrink = remove_zeros if dense_is_fine else compress
    compressed = shrink(rebuild(checkpoint), example_input(checkpoint), align=align)
    smaller = checkpoint.with_changes(
        weights=compressed.model.state_dict(),
        edits=(*checkpoint.edits, json_safe(compressed.plan.model_dump())),
        provenance={**checkpoint.provenance, "certificate": json_safe(compressed.certificate.model_dump())},
    )
    return smaller, compressed


def example_input(checkpoint: Checkpoint) -> Float[Tensor, "1 3 height width"]:
    """Return a zero image of the size the checkpoint's network was trained for."""
    return torch.zeros(1, 3, checkpoint.preprocessing.height, checkpoint.preprocessing.width)


def cost(model: nn.Module, example: Float[Tensor, "1 3 height width"]) -> Cost:
    """Return the Cost of ``model``; a network without a ``trunk`` counts whole."""
    trunk = getattr(model, "trunk", model)
    return Cost(params=count_parameters(model), trunk_params=count_parameters(trunk), flops=count_flops(model, example))


def _nothing(model: nn.Module, example: Tensor, align: int, tried: Compressed) -> str:
    """Return why nothing could be removed: the alignment, or that nothing is dead."""
    groups, refused = tried.plan.groups, tried.certificate.refused
    total = sum(group.before for group in groups)
    dead = sum(group.before - group.after for group in remove_zeros(model, example).plan.groups) if align > 1 else 0
    if dead:
        return (
            f"nothing can be removed in blocks of {align} channels: {dead} of {total} channels are dead, but no group "
            f"has a whole block of them; align to 1 to remove them all the same."
        )
    return (
        f"nothing can be removed: none of the {total} channels in {len(groups)} removable groups is dead "
        f"({len(refused)} groups are fixed); train with a sparsity section first."
    )
