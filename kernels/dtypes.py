"""The dtypes that deltas are stored in, told by numpy alone: float64 (to check with), float32, float16, bfloat16.

numpy has no bfloat16 of its own. Where ml_dtypes is installed its type is used; elsewhere a uint16 array is the bits of
bfloat16 numbers, and nothing else: no layout holds integers of that width.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

NAMES = ("float64", "float32", "float16", "bfloat16")


def name_of(values: Shaped[np.ndarray, "..."]) -> str:
    """Return the name of the float dtype that ``values`` hold, or ValueError."""
    name = "bfloat16" if values.dtype == np.uint16 else values.dtype.name
    if name not in NAMES:
        raise ValueError(f"values of dtype {name} cannot be packed; give one of {', '.join(NAMES)}.")
    return name


def bfloat16() -> np.dtype[Any]:
    """Return the dtype of bfloat16 arrays here: that of ml_dtypes, or uint16 for the bits."""
    if importlib.util.find_spec("ml_dtypes") is None:
        return np.dtype(np.uint16)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def widened(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Return ``values`` in the float dtype that sums are made in, exactly: float64 stays, all others become float32."""
    if values.dtype == np.uint16:
        return np.asarray((values.astype(np.uint32) << 16).view(np.float32))
    return np.asarray(values, dtype=np.float64 if values.dtype == np.float64 else np.float32)


def nonzero(values: Shaped[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Return where ``values`` are not zero; minus zero is zero."""
    if values.dtype == np.uint16:
        return np.asarray((values & 0x7FFF) != 0)
    return np.asarray(values != 0)


def finite(values: Shaped[np.ndarray, "..."]) -> bool:
    """Return whether no entry is NaN or infinite."""
    if values.dtype == np.uint16:
        return bool(((values & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())
