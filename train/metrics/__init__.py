"""Metrics per task kind, accumulated over whole sets, and the relative multi-task score delta_m."""

from slimtask.train.metrics.registry import Extra, better, check_metrics, metric_names, of_kind
from slimtask.train.metrics.relative import Scores, delta_m, relative_score
from slimtask.train.metrics.task_metrics import TaskMetrics

__all__ = [
    "Extra",
    "Scores",
    "TaskMetrics",
    "better",
    "check_metrics",
    "delta_m",
    "metric_names",
    "of_kind",
    "relative_score",
]
