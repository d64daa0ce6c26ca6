"""Scores of a segmentation: intersection over union, in three averages, and pixel accuracy."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from slimtask.errors import InputError

NAMES = ("miou", "pixel_accuracy", "miou_tp", "iou_imagewise")


class SegmentationMeter(Metric):
    """Areas of every class over a whole set: right, true and predicted pixels; and the sum over images of their IoUs.

    ``miou``: mean IoU over the classes that occur, be it in truth or prediction. ``miou_tp``: over those with a right
    pixel (AdaShare, DiSparse). ``iou_imagewise``: per image right / (2 valid - right), then the mean over images with a
    valid pixel (micro-imagewise, Less is More). ``pixel_accuracy``: right pixels / valid pixels. No confusion matrix is
    kept: none of these needs one, and it grows with the square of the classes.
    """

    full_state_update = False
    areas: Tensor
    image_ious: Tensor

    def __init__(self, classes: int, ignore: float) -> None:
        super().__init__()
        self.classes, self.ignore = classes, int(ignore)
        self.add_state("areas", torch.zeros(3, classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("image_ious", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add logits [batch, classes, height, width] with labels [batch, height, width]; InputError names a bad one."""
        guess, known = prediction.argmax(dim=1), target != self.ignore
        true, hit = target[known], ((guess == target) & known)
        if len(true) and not 0 <= int(true.min()) <= int(true.max()) < self.classes:
            bad = sorted(set(true[(true < 0) | (true >= self.classes)].tolist()))
            raise InputError(
                f"the labels {bad} are none of the {self.classes} classes 0 to {self.classes - 1} nor the ignored "
                f"{self.ignore}; mend the label maps or the task's channels."
            )
        of_class = (guess[hit], true, guess[known])
        self.areas += torch.stack([torch.bincount(classes, minlength=self.classes) for classes in of_class])
        right, valid = (mask.flatten(1).sum(dim=1) for mask in (hit, known))
        ious = (right.double() / (2 * valid - right))[valid > 0]
        self.image_ious += torch.stack([ious.sum(), ious.new_tensor(float(len(ious)))])

    def compute(self) -> dict[str, float]:
        """Return every score by name, NaN where nothing counted."""
        right, true, predicted = self.areas
        union = true + predicted - right
        occurs = union > 0
        if 0 <= self.ignore < self.classes:  # an ignored class can only be predicted, which is an error of another
            occurs[self.ignore] = False
        iou = right.double() / union.clamp_min(1)
        total, images = self.image_ious.tolist()
        return {
            "miou": _mean(iou[occurs]),
            "pixel_accuracy": float(right.sum() / true.sum()),
            "miou_tp": _mean(iou[right > 0]),
            "iou_imagewise": total / images if images else math.nan,
        }


def _mean(values: Float[Tensor, " some"]) -> float:
    return float(values.mean()) if values.numel() else math.nan
