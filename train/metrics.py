"""Metrics per task kind (torchmetrics where it has them) and the relative multi-task score delta_m."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import (
    BinaryPrecisionRecallCurve,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
    MultilabelPrecisionRecallCurve,
)
from torchmetrics.functional.classification import binary_average_precision

from slimtask.tasks import TaskSpec

Scores = Mapping[str, Mapping[str, float | None]]


class TaskMetrics:
    """Accumulates one task's metrics over batches; ``compute`` returns them by name, the primary one among them."""

    def __init__(self, task: TaskSpec, device: torch.device | str = "cpu") -> None:
        self.task = task
        self._meters = {name: meter.to(device) for name, meter in _meters(task).items()}

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch: a network's output and its target, both in the task's layout (see TaskSpec)."""
        prediction = prediction.detach().float()
        if self.task.kind in _ERRORS:
            for name, values in _ERRORS[self.task.kind](prediction, target, self.task.ignore).items():
                if values.numel():
                    self._meters[name].update(values)
            return
        if self.task.kind in ("edges", "saliency"):
            prediction, target = prediction.sigmoid().flatten(), target.flatten().long()
        elif self.task.kind == "multilabel":
            prediction, target = prediction.sigmoid(), target.long()
        for meter in self._meters.values():
            meter.update(prediction, target)

    def compute(self) -> dict[str, float]:
        """Return every metric over the batches so far; NaN where nothing counted."""
        results: dict[str, float] = {}
        for name, meter in self._meters.items():
            if isinstance(meter, BinaryPrecisionRecallCurve):
                results |= _best_f1(meter)
            elif isinstance(meter, MultilabelPrecisionRecallCurve):
                results[name] = _varying_map(meter)
            else:
                value = float(meter.compute())
                results[name] = math.sqrt(value) if name.startswith("rmse") else value
        return results


def delta_m(metrics: Scores, baseline: Scores, tasks: Sequence[TaskSpec]) -> float:
    """Return the relative multi-task score against ``baseline`` in per cent; positive is better.

    The mean over tasks of the relative change of each primary metric, signed so that better is positive
    (Maninis et al., CVPR 2019). A task whose baseline is zero or not finite does not count; NaN if none counts.
    """
    changes = []
    for task in tasks:
        base, now = baseline[task.name][task.metric], metrics[task.name][task.metric]
        if base and now is not None and math.isfinite(base) and math.isfinite(now):
            changes.append((1 if task.higher_is_better else -1) * (now - base) / abs(base))
    return 100 * sum(changes) / len(changes) if changes else math.nan


def _meters(task: TaskSpec) -> dict[str, Metric]:
    ignore = int(task.ignore)
    if task.kind == "segmentation":
        return {
            "miou": MulticlassJaccardIndex(task.channels, ignore_index=ignore),
            "pixel_accuracy": MulticlassAccuracy(task.channels, ignore_index=ignore, average="micro"),
        }
    if task.kind == "classification":
        return {"accuracy": MulticlassAccuracy(task.channels, ignore_index=ignore, average="micro")}
    if task.kind == "multilabel":
        return {"map": MultilabelPrecisionRecallCurve(task.channels, ignore_index=ignore)}
    if task.kind in ("edges", "saliency"):
        return {"f1": BinaryPrecisionRecallCurve(thresholds=33, ignore_index=ignore)}
    names = {
        "depth": ("abs_rel", "mae", "rmse", "delta1", "delta2", "delta3"),
        "normals": ("mean_angle", "rmse_angle", "within_11.25", "within_22.5", "within_30"),
        "keypoints": ("mae",),
    }[task.kind]
    return {name: MeanMetric() for name in names}


def depth_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " valid"]]:
    """Return per valid pixel: relative, absolute and squared error [m], and whether max(p/t, t/p) < 1.25^k."""
    valid = target != ignore
    p, t = prediction[valid].clamp_min(1e-6), target[valid]
    ratio = torch.maximum(p / t, t / p)
    errors = {"abs_rel": (p - t).abs() / t, "mae": (p - t).abs(), "rmse": (p - t) ** 2}
    return errors | {f"delta{k}": (ratio < 1.25**k).float() for k in (1, 2, 3)}


def normal_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " valid"]]:
    """Return per valid pixel: angle and squared angle [degrees], and whether it is within 11.25, 22.5, 30 degrees.

    The angle is atan2(|p x t|, p . t), exact also near 0 and 180 degrees where the arc cosine is not.
    """
    valid = (target != ignore).any(dim=1)
    p, t = prediction.movedim(1, -1)[valid], target.movedim(1, -1)[valid]
    angle = torch.rad2deg(torch.atan2(torch.linalg.cross(p, t).norm(dim=-1), (p * t).sum(dim=-1)))
    errors = {"mean_angle": angle, "rmse_angle": angle**2}
    return errors | {f"within_{limit}": (angle < float(limit)).float() for limit in ("11.25", "22.5", "30")}


def keypoint_errors(prediction: Tensor, target: Tensor, ignore: float) -> dict[str, Float[Tensor, " valid"]]:
    """Return the absolute error of every valid entry."""
    valid = target != ignore
    return {"mae": (prediction - target).abs()[valid]}


_ERRORS: dict[str, Callable[[Tensor, Tensor, float], dict[str, Tensor]]] = {
    "depth": depth_errors,
    "normals": normal_errors,
    "keypoints": keypoint_errors,
}


def _best_f1(curve: BinaryPrecisionRecallCurve) -> dict[str, float]:
    """Return the best pixel-wise F-measure over one threshold for the whole set (ODS, no tolerance), and where."""
    precision, recall, thresholds = curve.compute()
    precision = precision.nan_to_num()  # a threshold above every score predicts nothing
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    best = int(f1[:-1].argmax())
    return {
        "f1": float(f1[best]),
        "precision": float(precision[best]),
        "recall": float(recall[best]),
        "threshold": float(thresholds[best]),
    }


def _varying_map(curve: MultilabelPrecisionRecallCurve) -> float:
    """Return the average precision, averaged over the labels that vary in the set; NaN if none does."""
    scores, labels = torch.cat(list(curve.preds)), torch.cat(list(curve.target))
    values = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = label >= 0
        if label[known].unique().numel() == 2:
            values.append(float(binary_average_precision(score[known], label[known])))
    return sum(values) / len(values) if values else math.nan
