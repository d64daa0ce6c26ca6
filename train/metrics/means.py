"""Metrics that are means over every entry that counts: depth, keypoints, probabilities, classes, cross entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

Errors = Callable[[Tensor, Tensor, float], dict[str, Float[Tensor, " entries"]]]
HUBER_DELTA = 0.2
_SMALLEST_DEPTH = 1e-6


class MeanMeter(Metric):
    """Means over the whole set of the errors per entry; the square root of the mean where the name begins with rmse.

    Sums are float64 and shared by all processes, so neither batch size nor number of processes matters.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, errors: Errors, names: Sequence[str], ignore: float) -> None:
        super().__init__()
        self.errors, self.names, self.ignore = errors, tuple(names), ignore
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch."""
        errors = self.errors(prediction, target, self.ignore)
        self.total += torch.stack([errors[name].sum(dtype=torch.float64) for name in self.names])
        self.count += self.count.new_tensor([errors[name].numel() for name in self.names])

    def compute(self) -> dict[str, float]:
        """Return the means by name, NaN where nothing counted."""
        means = dict(zip(self.names, (self.total / self.count).tolist(), strict=True))
        return {name: value**0.5 if name.startswith("rmse") else value for name, value in means.items()}


def depth_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " entries"]]:
    """Return per valid pixel: absolute, squared and relative errors, and whether max(p/t, t/p) < 1.25^k.

    In the unit of the depth, the relative ones without unit (Eigen et al., NIPS 2014). Relative errors exist only where
    the true depth is positive; a prediction counts as at least 1e-6 in the ratio.
    """
    valid = target != ignore
    p, t = prediction[valid], target[valid]
    error = (p - t).abs()
    squared, positive = error.square(), t > 0
    if bool(positive.all()):
        relative, ratio_p, ratio_t, relative_square = error / t, p, t, squared / t
    else:
        ratio_p, ratio_t = p[positive], t[positive]
        relative, relative_square = error[positive] / ratio_t, squared[positive] / ratio_t
    ratio_p = ratio_p.clamp_min(_SMALLEST_DEPTH)
    ratio = torch.maximum(ratio_p / ratio_t, ratio_t / ratio_p)
    errors = {"abs_rel": relative, "mae": error, "rmse": squared, "mse": squared, "sq_rel": relative_square}
    return errors | {f"delta{k}": (ratio < 1.25**k).float() for k in (1, 2, 3)}


def keypoint_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " entries"]]:
    """Return the absolute error of every valid entry."""
    valid = target != ignore
    return {"mae": (prediction - target).abs()[valid]}


def probability_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " entries"]]:
    """Return per valid pixel of a logit: absolute and Huber error (delta 0.2) of its probability (Less is More)."""
    valid = target != ignore
    p, t = prediction[valid].sigmoid(), target[valid]
    return {"mae": (p - t).abs(), "huber": F.huber_loss(p, t, reduction="none", delta=HUBER_DELTA)}


def class_hits(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " entries"]]:
    """Return for every labelled entry whether the class with the largest logit is the right one."""
    valid = target != int(ignore)
    return {"accuracy": (prediction.argmax(dim=1) == target)[valid].float()}


def negative_log_probabilities(
    prediction: Tensor, target: Tensor, ignore: float
) -> dict[str, Float[Tensor, " entries"]]:
    """Return -log softmax of the right class for every labelled entry; the "err" of DiSparse and AdaShare."""
    losses = F.cross_entropy(prediction, target, ignore_index=int(ignore), reduction="none")
    return {"cross_entropy": losses[target != int(ignore)]}
