"""The relative multi-task score delta_m."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from slimtask.tasks import TaskSpec

Scores = Mapping[str, Mapping[str, float | None]]


SMALLEST = 1e-6
"""What a metric counts as at least, where its logarithm is taken."""


def relative_score(metrics: Scores, tasks: Sequence[TaskSpec]) -> float:
    """Return a score whose differences are relative changes: the mean over tasks of the signed log of each metric.

    0.01 more is one per cent better in the geometric mean over the tasks' primary metrics, whatever their units and
    sizes, as ``delta_m`` has it for small changes, and there is no baseline to choose. A task whose metric is not
    finite does not count; NaN if none does.

    Example::

        relative_score({"depth": {"mae": 0.5}}, [depth]) - relative_score({"depth": {"mae": 0.51}}, [depth])  # 0.0198
    """
    terms = []
    for task in tasks:
        value = metrics[task.name][task.metric]
        if value is not None and math.isfinite(value):
            terms.append((1 if task.higher_is_better else -1) * math.log(max(value, SMALLEST)))
    return sum(terms) / len(terms) if terms else math.nan


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
