"""How far outputs lie from what they should be, as one number. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np


def over_scale(got: Any, truth: Any) -> float:
    """Return max|got - truth| / max|truth|, in float64, of two arrays (or tensors on the CPU, without gradients).

    The scale is the whole output's, so that a difference of 1e-7 next to a zero does not count as an infinite one.
    What cannot be compared is infinitely far: other shapes, anything not finite, a truth of zeros alone that is missed.
    """
    one, exact = np.asarray(got, np.float64), np.asarray(truth, np.float64)
    if one.shape != exact.shape or not (np.isfinite(one).all() and np.isfinite(exact).all()):
        return float("inf")
    largest = float(np.abs(one - exact).max(initial=0.0))
    scale = float(np.abs(exact).max(initial=0.0))
    return largest / scale if scale else (0.0 if largest == 0 else float("inf"))
