"""The weighted group l1/l2 proximal operator, solved exactly by Newton's method on a concave secular equation.

For one group, argmin_x 1/2 sum_j d_j (x_j - p_j)^2 + t ||x|| has x = 0 iff ||d p|| <= t; otherwise
x = p d / (d + s) with the *ridge* s = t / ||x||. Source: Deleu & Bengio, "Structured Sparsity Inducing Adaptive
Optimizers for Deep Learning" (arXiv 2102.03869).

Let N(theta) be the norm of p d / (d + t / theta). The norm of x is the root of h(theta) = theta / N(theta) = 1, and h
is concave and increasing (a power mean of the linear functions theta + t / d_j). Newton on h therefore never
overshoots from below and lands below the root from anywhere, so it converges monotonically without a bracket, in one
step if d is constant. With x = p d / (d + s), A = sum x^2 and T = sum x^2 / (d + s) the mean shrinkage of the group is
m = 1 - s T / A, and the step reads theta + (sqrt(A) - theta) / m: two sums over the group are all it needs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Relative error of ||x|| at which a root counts as found, i.e. the result is the exact prox of a threshold that is off
# by less than this fraction.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
MAX_ITERATIONS = 30


def weighted_group_prox(
    p: Float[Tensor, "groups elements"],
    d: Float[Tensor, "groups elements"],
    threshold: Float[Tensor, " groups"],
) -> Float[Tensor, "groups elements"]:
    """Return, for every row, argmin_x 1/2 sum_j d_j (x_j - p_j)^2 + threshold ||x||_2, exactly 0 where it is zero.

    ``d`` must be positive and ``threshold`` not negative. This is the plain reference of the blocked solver in
    ``proximal_adamw``: same mathematics, all groups in one dense matrix, no warm start.
    """
    norm_dp = torch.linalg.vector_norm(d * p, dim=1)
    alive = (norm_dp > threshold) & (threshold > 0)
    # A positive lower bound of the root: from there on Newton climbs monotonically.
    norm = torch.where(alive, (norm_dp - threshold) / d.amax(dim=1), 1.0)
    active = alive
    for _ in range(MAX_ITERATIONS):
        if not bool(active.any()):
            break
        r = d + (threshold / norm)[:, None]
        square = (p * (d / r)).square()
        updated, error = newton_step(norm, threshold, norm_dp, square.sum(1), (square / r).sum(1))
        norm = torch.where(active, updated, norm)
        active = active & (error > TOLERANCE[p.dtype])
    shrunk = p * (d / (d + (threshold / norm)[:, None]))
    dead = (norm_dp <= threshold) & (threshold > 0)
    return torch.where(dead[:, None], 0.0, torch.where((threshold > 0)[:, None], shrunk, p))


def newton_step(
    norm: Float[Tensor, " groups"],
    threshold: Float[Tensor, " groups"],
    norm_dp: Float[Tensor, " groups"],
    square: Float[Tensor, " groups"],
    slope: Float[Tensor, " groups"],
) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Return the next estimate of ||x|| after ``norm`` and a bound of its relative error, for every group.

    ``norm_dp`` is ||d p||; ``square`` and ``slope`` are the sums A and T of the module text at ridge threshold / norm.
    The error of Newton's step is |h''| step^2 / (2 h'), where |h''| = 3 h Var(q) for q_j = 1 / (theta + t / d_j) falls
    with theta. Two bounds of it cost nothing: the largest variance that the mean of q allows, and the mean curvature
    between 0, where h is t / ||d p||, and the present estimate. A step that would leave the positive axis (only
    possible from far above the root) divides the estimate by eight instead.
    """
    root = square.sqrt()
    mean_shrink = 1 - threshold / norm * slope / square
    step = (root - norm) / mean_shrink
    updated = norm + step
    by_mean = 1.5 * (1 - mean_shrink)
    by_chord = 1 - (norm - threshold * root / norm_dp) / (norm * mean_shrink)
    error = torch.minimum(by_mean, by_chord.abs()) * step.square() / (norm * updated)
    inside = updated > 0
    return torch.where(inside, updated, norm / 8), torch.where(inside, error, torch.inf)
