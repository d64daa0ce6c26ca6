"""How sure a mean over a few seeds is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from slimtask.errors import InputError


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of Student's t interval of the mean of ``values``, independent draws of one normal variable.

    For paired comparisons give the differences. Raises InputError for fewer than two values.

    >>> [round(bound, 3) for bound in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    from scipy.stats import t

    if len(values) < 2:
        raise InputError(f"an interval needs at least two values, there are {len(values)}; take more seeds.")
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
