"""Scores of a segmentation: intersection over union, in three averages, and pixel accuracy."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from slimtask.errors import InputError

NAMES = ("miou", "pixel_accuracy", "miou_tp", "iou_imagewise")


class ConfusionMeter(Metric):
    """Confusion matrix of a whole set [true, predicted], and the sum over images of the IoU of each.

    ``miou``: mean IoU over the classes that occur, be it in truth or prediction. ``miou_tp``: over those with a right
    pixel (AdaShare, DiSparse). ``iou_imagewise``: per image right / (2 valid - right), then the mean over images with a
    valid pixel (micro-imagewise, Less is More). ``pixel_accuracy``: right pixels / valid pixels.
    """

    full_state_update = False
    confusion: Tensor
    image_ious: Tensor

    def __init__(self, classes: int, ignore: float) -> None:
        super().__init__()
        self.classes, self.ignore = classes, int(ignore)
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("image_ious", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add logits [batch, classes, height, width] with labels [batch, height, width]; InputError names a bad one."""
        guess, known = prediction.argmax(dim=1), target != self.ignore
        cells = (target * self.classes + guess)[known]
        counts = torch.bincount(cells.clamp_min(0), minlength=self.classes**2)
        if len(counts) > self.classes**2 or bool((cells < 0).any()):
            bad = sorted(set(target[known & ((target < 0) | (target >= self.classes))].tolist()))
            raise InputError(
                f"the labels {bad} are none of the {self.classes} classes 0 to {self.classes - 1} nor the ignored "
                f"{self.ignore}; mend the label maps or the task's channels."
            )
        self.confusion += counts.view(self.classes, self.classes)
        right = ((guess == target) & known).flatten(1).sum(dim=1)
        valid = known.flatten(1).sum(dim=1)
        ious = (right.double() / (2 * valid - right))[valid > 0]
        self.image_ious += torch.stack([ious.sum(), ious.new_tensor(float(len(ious)))])

    def compute(self) -> dict[str, float]:
        """Return every score by name, NaN where nothing counted."""
        right, union = _areas(self.confusion)
        occurs = union > 0
        if 0 <= self.ignore < self.classes:  # an ignored class can only be predicted, which is an error of another
            occurs[self.ignore] = False
        iou = right.double() / union.clamp_min(1)
        total, images = self.image_ious.tolist()
        return {
            "miou": _mean(iou[occurs]),
            "pixel_accuracy": float(right.sum() / self.confusion.sum()),
            "miou_tp": _mean(iou[right > 0]),
            "iou_imagewise": total / images if images else math.nan,
        }


def _areas(confusion: Int[Tensor, "true predicted"]) -> tuple[Int[Tensor, " classes"], Int[Tensor, " classes"]]:
    """Return the intersections and unions of the classes, in pixels."""
    right = confusion.diagonal()
    return right, confusion.sum(dim=0) + confusion.sum(dim=1) - right


def _mean(values: Float[Tensor, " some"]) -> float:
    return float(values.mean()) if values.numel() else math.nan
