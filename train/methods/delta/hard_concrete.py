"""Hard-concrete gates (Louizos et al., ICLR 2018): random numbers in [0, 1] that are often exactly 0 or 1."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Stretch = tuple[float, float]
_CLAMP = 1e-4


def sample(
    alpha: Float[Tensor, "..."], noise: Float[Tensor, "..."], *, stretch: Stretch, temperature: float = 1.0
) -> Float[Tensor, "..."]:
    """Return clamp(t, 0, 1), t = s (r - l) + l, s = sigmoid((logit(u) + alpha) / temperature), u uniform ``noise``.

    The gradient in ``alpha`` is (r - l) s (1 - s) / temperature where t is inside (0, 1), and zero elsewhere.
    """
    u = noise.clamp(_CLAMP, 1 - _CLAMP)
    return _stretched(torch.sigmoid((u.log() - (1 - u).log() + alpha) / temperature), stretch)


def deterministic(alpha: Float[Tensor, "..."], *, stretch: Stretch, temperature: float = 1.0) -> Float[Tensor, "..."]:
    """Return the gate at the median of its noise, u = 1/2; it is open where this is above zero."""
    return _stretched(torch.sigmoid(alpha / temperature), stretch)


def open_probability(
    alpha: Float[Tensor, "..."], *, stretch: Stretch, temperature: float = 1.0
) -> Float[Tensor, "..."]:
    """Return P(gate > 0) = sigmoid(alpha - temperature log(-l / r)), the closed form of the penalty."""
    lower, upper = stretch
    return torch.sigmoid(alpha - temperature * math.log(-lower / upper))


def log_open_probability(
    alpha: Float[Tensor, "..."], *, stretch: Stretch, temperature: float = 1.0
) -> Float64[Tensor, "..."]:
    """Return log P(gate > 0) in float64, which tells apart gates whose probabilities all round to 1."""
    lower, upper = stretch
    return torch.nn.functional.logsigmoid(alpha.double() - temperature * math.log(-lower / upper))


def _stretched(s: Tensor, stretch: Stretch) -> Tensor:
    lower, upper = stretch
    return (s * (upper - lower) + lower).clamp(0, 1)
