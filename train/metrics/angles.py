"""Angles between predicted and true surface normals, decoded or as the raw RGB vectors of AdaShare and DiSparse."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

LIMITS = ("11.25", "22.5", "30", "45")
NAMES = ("mean_angle", "median_angle", "rmse_angle", *(f"within_{limit}" for limit in LIMITS), "cosine")
RAW = "raw_"
BINS_PER_DEGREE = 100
_BINS = 180 * BINS_PER_DEGREE


class AngleMeter(Metric):
    """Mean, median, root mean square [degrees], shares within 11.25, 22.5, 30, 45 degrees and cosine, over a whole set.

    The median comes from a histogram of 0.01 degrees a bin, so it is off by at most 0.005 degrees and its memory does
    not grow with the set. ``raw`` measures between ``raw_rgb`` vectors and puts ``raw_`` before every name.
    """

    full_state_update = False
    total: Tensor
    histogram: Tensor

    def __init__(self, ignore: float, *, raw: bool = False) -> None:
        super().__init__()
        self.ignore, self.raw = ignore, raw
        self.add_state("total", torch.zeros(3 + len(LIMITS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("histogram", torch.zeros(_BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add vectors [batch, 3, height, width]; pixels whose true vector is all ``ignore`` do not count."""
        valid = (target != self.ignore).any(dim=1)
        p, t = prediction.movedim(1, -1)[valid], target.movedim(1, -1)[valid]
        if self.raw:
            p, t = raw_rgb(p), raw_rgb(t)
        angle = angles(p, t)
        values = [angle, angle.square(), torch.nn.functional.cosine_similarity(p, t, dim=-1)]
        values += [angle < float(limit) for limit in LIMITS]
        self.total += torch.stack([value.sum(dtype=torch.float64) for value in values])
        bins = (angle.nan_to_num(180.0) * BINS_PER_DEGREE).long().clamp_max(_BINS - 1)
        self.histogram += torch.bincount(bins, minlength=_BINS)

    def compute(self) -> dict[str, float]:
        """Return every score by name, NaN where nothing counted."""
        count = int(self.histogram.sum())
        mean, square, cosine, *within = (self.total / count).tolist() if count else [math.nan] * len(self.total)
        median = self._median(count) if math.isfinite(mean) else math.nan
        scores = (mean, median, math.sqrt(square), *within, cosine)
        return {RAW * self.raw + name: score for name, score in zip(NAMES, scores, strict=True)}

    def _median(self, count: int) -> float:
        """Return the mean of the middles of the bins that hold the two middle angles."""
        ranks = self.histogram.new_tensor([(count - 1) // 2 + 1, count // 2 + 1])
        bins = torch.searchsorted(self.histogram.cumsum(0), ranks)
        return float((bins + 0.5).mean()) / BINS_PER_DEGREE


def angles(p: Float[Tensor, "count 3"], t: Float[Tensor, "count 3"]) -> Float[Tensor, " count"]:
    """Return the angle between the vectors [degrees], exact also near 0 and 180 where the arc cosine is not.

    It is atan2(|p x t|, p . t), which needs no unit vectors.
    """
    return torch.rad2deg(torch.atan2(torch.linalg.cross(p, t).norm(dim=-1), (p * t).sum(dim=-1)))


def raw_rgb(v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Return the unit vector along the RGB values (component + 1) / 2 that AdaShare's NYU-v2 files hold.

    AdaShare and DiSparse train and score on these without decoding them. All lie in the positive octant, where angles
    are smaller. The files' axes are (right, away from the camera, up); ours are x right, y up, z towards the camera.
    """
    return torch.nn.functional.normalize((v * v.new_tensor([1.0, 1.0, -1.0]) + 1) / 2, dim=-1)
