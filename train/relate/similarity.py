"""Similarity of two tasks' subnetworks: four measures per layer, seven ways to weigh the layers.

From the meta-sparse study (Ravi, Varshney, Deshpande, 2023, on DiSparse's masks). Every measure is symmetric, 1 for a
task and itself, and in [0, 1]. Where neither task keeps a connection of a layer they agree on it: the value is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.relate.config import Metric, Weighting

_STEP = 5
"""Layers that the "step" weighting leaves out at the input: every task uses those."""


def epi(kept_p: int, kept_q: int) -> float:
    """Return 1 - |n_p - n_q| / (n_p + n_q): whether two tasks keep equally many connections of a layer."""
    return 1 - abs(kept_p - kept_q) / (kept_p + kept_q) if kept_p + kept_q else 1.0


def iou(mask_p: Bool[Tensor, "..."], mask_q: Bool[Tensor, "..."]) -> float:
    """Return what both tasks keep over what at least one keeps."""
    union = int((mask_p | mask_q).sum())
    return int((mask_p & mask_q).sum()) / union if union else 1.0


def cosine(scores_p: Float[Tensor, "..."], scores_q: Float[Tensor, "..."]) -> float:
    """Return the cosine of two non-negative vectors in [0, 1], in float64: 1 if both are zero, 0 if one is."""
    p, q = scores_p.flatten().double(), scores_q.flatten().double()
    norms = float(p.norm()) * float(q.norm())
    if norms == 0:
        return float(bool(p.any()) == bool(q.any()))
    return min(1.0, float(p @ q) / norms)


def layer_similarity(
    metric: Metric,
    scores: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
    masks: tuple[Bool[Tensor, "..."], Bool[Tensor, "..."]],
) -> float:
    """Return one layer's similarity of two tasks, given the saliencies and the masks of both.

    "epi" and "iou" look at the masks, "css" is the cosine of the saliencies, "mcss" that of what
    the masks leave of them.
    """
    (score_p, score_q), (mask_p, mask_q) = scores, masks
    if metric == "epi":
        return epi(int(mask_p.sum()), int(mask_q.sum()))
    if metric == "iou":
        return iou(mask_p, mask_q)
    if metric == "css":
        return cosine(score_p, score_q)
    return cosine(score_p * mask_p, score_q * mask_q)


def layer_weights(
    weighting: Weighting,
    kept_p: Int[np.ndarray, " layers"],
    kept_q: Int[np.ndarray, " layers"],
    sizes: Int[np.ndarray, " layers"],
) -> Float64[np.ndarray, " layers"]:
    """Return the layers' weights, not normalised, from what each task keeps of each layer.

    With l = 0, 1, ... in module order and s_p, s_q the two tasks' sparsities of layer l: "equal" 1, "linear" l,
    "linear_plus_one" l + 1, "step" 0 for the first five layers and 1 for the others, "mean_sparsity" (s_p + s_q) / 2,
    "min_sparsity" min(s_p, s_q), "epi" the layer's EPI.
    """
    places = np.arange(len(sizes), dtype=np.float64)
    sparsities = np.stack([1 - kept_p / sizes, 1 - kept_q / sizes])
    rules: dict[Weighting, Callable[[], Float64[np.ndarray, " layers"]]] = {
        "equal": lambda: np.ones(len(sizes)),
        "linear": lambda: places,
        "linear_plus_one": lambda: places + 1,
        "step": lambda: (places >= _STEP).astype(np.float64),
        "mean_sparsity": lambda: sparsities.mean(axis=0),
        "min_sparsity": lambda: sparsities.min(axis=0),
        "epi": lambda: np.array([epi(int(p), int(q)) for p, q in zip(kept_p, kept_q, strict=True)]),
    }
    return rules[weighting]()


def weighted_mean(values: Float64[np.ndarray, " layers"], weights: Float64[np.ndarray, " layers"]) -> float:
    """Return sum(w * value) / sum(w), normalised once; NaN if no layer has weight."""
    total = float(weights.sum())
    return float((weights * values).sum()) / total if total > 0 else float("nan")


def shared_layers(saliencies: Mapping[str, Mapping[str, Float[Tensor, "..."]]]) -> tuple[str, ...]:
    """Return the names of the weights that every task uses, the trunk's, in module order.

    InputError if there are none, or if to some task none of them matters.
    """
    first, *others = saliencies.values()
    names = tuple(name for name in first if all(name in other for other in others))
    if not names:
        raise InputError(
            f"the tasks {', '.join(saliencies)} share no convolution or linear layer, so they cannot be compared; "
            "give a network with a trunk that all of them use."
        )
    for task, scores in saliencies.items():
        if not any(bool(torch.count_nonzero(scores[name])) for name in names):
            raise InputError(
                f"no trunk weight matters to task '{task}' in these batches: are all its targets to be ignored? "
                "Give relate more batches, or leave the task out."
            )
    return names
