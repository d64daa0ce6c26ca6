"""One move of a dynamic mask: drop the weakest of a layer, grow where the tasks' gradients ask for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimtask.train.saliency import top_mask


def drop_fraction(step: int, end: int, first: float = 0.5) -> float:
    """Return the share of a layer's active weights to drop at ``step``: ``first`` at 0, by a cosine to 0 at ``end``."""
    return first / 2 * (1 + math.cos(math.pi * min(step, end) / end))


def keep_largest(weight: Float[Tensor, "..."], mask: Bool[Tensor, "..."], count: int) -> Bool[Tensor, "..."]:
    """Return the mask of the ``count`` entries of largest magnitude among those that ``mask`` keeps."""
    scores = weight.detach().abs().masked_fill(~mask, -1.0)
    return top_mask(scores, min(count, int(mask.sum())))


def grown(
    gradients: Sequence[Float[Tensor, "..."]], mask: Bool[Tensor, "..."], count: int, *, held: bool = True
) -> Bool[Tensor, "..."]:
    """Return the entries outside ``mask`` to grow, given each task's |dL/dw| of this layer.

    Each task ranks the candidates by its own gradient. With ``held`` exactly ``count`` grow: every task names its q
    first ones, q being so small that their union has no more than ``count``; the entries of the next rank that the
    tasks together rank higher fill up. Otherwise every task gets its ``count`` first ones, and where the tasks
    disagree more than ``count`` grow (DiSparse, CVPR 2022, as released).
    """
    chosen = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    candidates = (~mask).flatten().nonzero().flatten()
    count = min(count, len(candidates))
    if count == 0 or not gradients:
        return chosen.view(mask.shape)
    ranks = torch.stack([_ranks(gradient.flatten()[candidates]) for gradient in gradients])
    best = ranks.amin(dim=0)
    if held:
        order = (best * (ranks.shape[0] * len(candidates) + 1) + ranks.sum(dim=0)).argsort(stable=True)
        picked = order[:count]
    else:
        picked = (best <= count).nonzero().flatten()
    chosen[candidates[picked]] = True
    return chosen.view(mask.shape)


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score, 1 for the highest, the first of equals first."""
    ranks = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    ranks[scores.argsort(descending=True, stable=True)] = torch.arange(1, len(scores) + 1, device=scores.device)
    return ranks
