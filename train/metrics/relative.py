"""The relative multi-task score delta_m."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from slimtask.tasks import TaskSpec

Scores = Mapping[str, Mapping[str, float | None]]


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
