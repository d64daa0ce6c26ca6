"""Which metrics each task kind has, by name, and what computes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torchmetrics import Metric

from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec
from slimtask.train.metrics import angles, binary, segmentation
from slimtask.train.metrics.means import (
    Errors,
    MeanMeter,
    class_hits,
    depth_errors,
    keypoint_errors,
    negative_log_probabilities,
    probability_errors,
)

Extra = Collection[str] | Literal["all"]
EVERY = "all"
SALIENCY_BETA_SQUARED = 0.3
_DELTAS = ("delta1", "delta2", "delta3")
_LOWER_IS_BETTER = frozenset({"mae", "huber", "abs_rel", "sq_rel", "mse", "rmse", "cross_entropy"})
_LOWER_IS_BETTER |= {prefix + name for prefix in ("", angles.RAW) for name in angles.NAMES if name.endswith("_angle")}


@dataclass(frozen=True)
class Family:
    """Metrics that one meter computes together: ``usual`` are always reported, ``others`` if asked for by name."""

    usual: tuple[str, ...]
    others: tuple[str, ...]
    build: Callable[[TaskSpec], Metric]

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names."""
        return self.usual + self.others


def _means(errors: Errors, usual: tuple[str, ...], others: tuple[str, ...] = ()) -> Family:
    return Family(usual, others, lambda task: MeanMeter(errors, usual + others, task.ignore))


def _areas(task: TaskSpec) -> Metric:
    return segmentation.SegmentationMeter(task.channels, task.ignore)


def _f1(task: TaskSpec) -> Metric:
    return binary.ThresholdMeter("f1", torch.linspace(0, 1, 33), task.ignore)


def _max_f(task: TaskSpec) -> Metric:
    return binary.ThresholdMeter("max_f", torch.arange(1, 20) / 20, task.ignore, beta_squared=SALIENCY_BETA_SQUARED)


def _labels(task: TaskSpec) -> Metric:
    return binary.LabelMeter(task.channels, task.ignore)


def _angles(task: TaskSpec) -> Metric:
    return angles.AngleMeter(task.ignore)


def _raw_angles(task: TaskSpec) -> Metric:
    return angles.AngleMeter(task.ignore, raw=True)


_F1 = Family(("f1", "precision", "recall", "threshold"), (), _f1)
_MAX_F = Family((), ("max_f",), _max_f)
_PROBABILITY = _means(probability_errors, (), ("mae", "huber"))
_CROSS_ENTROPY = _means(negative_log_probabilities, (), ("cross_entropy",))
FAMILIES: dict[str, tuple[Family, ...]] = {
    "segmentation": (Family(segmentation.NAMES[:2], segmentation.NAMES[2:], _areas), _CROSS_ENTROPY),
    "depth": (_means(depth_errors, ("abs_rel", "mae", "rmse", *_DELTAS), ("sq_rel", "mse")),),
    "normals": (
        Family(angles.NAMES[:6], angles.NAMES[6:], _angles),
        Family((), tuple(angles.RAW + name for name in angles.NAMES), _raw_angles),
    ),
    "edges": (_F1, _MAX_F, _PROBABILITY),
    "saliency": (_F1, _MAX_F, _PROBABILITY),
    "keypoints": (_means(keypoint_errors, ("mae",)),),
    "classification": (_means(class_hits, ("accuracy",)), _CROSS_ENTROPY),
    "multilabel": (Family(binary.LABEL_NAMES[:1], binary.LABEL_NAMES[1:], _labels),),
}


def metric_names(kind: str) -> tuple[str, ...]:
    """Return the names of all metrics of a task kind, those that are always reported first."""
    families = FAMILIES[kind]
    return tuple(name for family in families for name in family.usual) + tuple(
        name for family in families for name in family.others
    )


def of_kind(extra: Extra, task: TaskSpec) -> Extra:
    """Return those of the metrics ``extra`` that the kind of ``task`` has."""
    return extra if isinstance(extra, str) else [name for name in extra if name in metric_names(task.kind)]


def better(metric: str) -> str:
    """Return "higher" or "lower", whichever is better of a metric, "" of a threshold, of which neither is."""
    return "" if metric == "threshold" else "lower" if metric in _LOWER_IS_BETTER else "higher"


def reported(task: TaskSpec, extra: Extra) -> tuple[str, ...]:
    """Return the metrics to report for ``task``: the usual ones, its primary one and ``extra`` (names, or "all").

    Raises InputError for a name that the kind has not, and for a primary metric whose direction the task gets wrong.
    """
    known = metric_names(task.kind)
    asked = known if extra == EVERY else (task.metric, *extra)
    for name in (task.metric, *asked):
        if name not in known:
            raise InputError(f"task '{task.name}': a {task.kind} task has no metric '{name}'{nearest(name, known)}")
    if task.higher_is_better == (task.metric in _LOWER_IS_BETTER):
        better = "lower" if task.metric in _LOWER_IS_BETTER else "higher"
        raise InputError(
            f"task '{task.name}': {better} {task.metric} is better; set higher_is_better to {better == 'higher'}."
        )
    usual = {name for family in FAMILIES[task.kind] for name in family.usual}
    return tuple(name for name in known if name in usual or name in asked)


def check_metrics(tasks: Sequence[TaskSpec], extra: Extra) -> None:
    """Raise InputError if a name in ``extra`` is a metric of none of the tasks."""
    if extra == EVERY:
        return
    known = sorted({name for task in tasks for name in metric_names(task.kind)})
    for name in extra:
        if name not in known:
            raise InputError(f"none of the tasks has a metric '{name}'{nearest(name, known)}")
