"""Element-wise operators on the constants of channels, in float64; NaN stands for what is not constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

Array = Float64[np.ndarray, "_"]
Function = Callable[..., Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def evaluate(operator: str, given: dict[str, Any], operands: Sequence[Array | None], entries: int) -> Array:
    """Return the constant of each channel behind an element-wise ``operator`` with the attributes ``given``.

    An operand is None where an optional input is left out. A product with an exact zero is zero even if the other
    factor varies.
    """
    present = [operand for operand in operands if operand is not None]
    unknown = np.zeros(entries, dtype=bool)
    for operand in present:
        unknown |= np.isnan(operand)
    zero = np.zeros(entries, dtype=bool)
    if operator == "Mul":
        for operand in present:
            zero |= operand == 0
    function = FUNCTIONS.get(operator)
    with np.errstate(all="ignore"):
        result = np.full(entries, np.nan) if function is None else function(given, *operands) + np.zeros(entries)
    result = np.where(zero, 0.0, np.where(unknown, np.nan, result))
    return np.where(np.isfinite(result), result, np.nan).astype(np.float64)


def _clip(given: dict[str, Any], x: Array, low: Array | None = None, high: Array | None = None) -> Any:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _gelu(given: dict[str, Any], x: Array) -> Any:
    if given.get("approximate", b"none") == b"tanh":
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        inner = _erf(x / math.sqrt(2))
    return 0.5 * x * (1 + inner)


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Any:
    return np.clip(alpha * x + beta, 0, 1)


def _cast(given: dict[str, Any], x: Array) -> Array:
    return x if given["to"] in (1, 11) else np.full_like(x, np.nan)  # float32, float64: the only exact ones


def _mean(given: dict[str, Any], *operands: Array) -> Any:
    return sum(operands) / len(operands)


def _extreme(function: Function) -> Function:
    return lambda given, *operands: function.reduce(np.broadcast_arrays(*operands))  # type: ignore[attr-defined]


def _plain(function: Function) -> Function:
    return lambda given, *operands: function(*operands)


# The formulas and defaults are those of the ONNX operator specification (onnx.ai/onnx/operators).
FUNCTIONS: dict[str, Function] = {
    "Identity": _plain(lambda x: x),
    "Cast": _cast,
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _plain(np.divide),
    "Pow": _plain(np.power),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Sum": lambda given, *operands: sum(operands),
    "Mean": _mean,
    "PRelu": _plain(lambda x, slope: np.where(x < 0, slope * x, x)),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "LeakyRelu": lambda given, x: np.where(x < 0, given.get("alpha", 0.01) * x, x),
    "Elu": lambda given, x: np.where(x < 0, given.get("alpha", 1.0) * np.expm1(x), x),
    "Clip": _clip,
    "Sigmoid": _plain(_sigmoid),
    "HardSigmoid": lambda given, x: _hard_sigmoid(x, given.get("alpha", 0.2), given.get("beta", 0.5)),
    "HardSwish": _plain(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
    "Mish": _plain(lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "Gelu": _gelu,
    "Erf": _plain(_erf),
    "Tanh": _plain(np.tanh),
    "Softplus": _plain(lambda x: np.log1p(np.exp(x))),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Sqrt": _plain(np.sqrt),
    "Neg": _plain(np.negative),
    "Abs": _plain(np.abs),
    "Reciprocal": _plain(np.reciprocal),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
}
# Element-wise as well, but what they make of a constant is not followed.
ELEMENTWISE = frozenset(FUNCTIONS) | frozenset(
    (
        "Where",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "And",
        "Or",
        "Xor",
        "Not",
        "Selu",
        "Celu",
        "ThresholdedRelu",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Atan",
        "Tan",
        "Mod",
    )
)
