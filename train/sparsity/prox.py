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
MAX_ITERATIONS = 100


def weighted_group_prox(
    p: Float[Tensor, "groups elements"],
    d: Float[Tensor, "groups elements"],
    threshold: Float[Tensor, "groups"],
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
        ridge = threshold / norm
        x = p * (d / (d + ridge[:, None]))
        square = x.square()
        updated, error = newton_step(threshold, ridge, square.sum(1), (square / (d + ridge[:, None])).sum(1))
        norm = torch.where(active, updated, norm)
        active = active & (error > TOLERANCE[p.dtype])
    shrink = d / (d + (threshold / norm)[:, None])
    dead = (norm_dp <= threshold)[:, None]
    return torch.where(dead, 0.0, torch.where((threshold > 0)[:, None], p * shrink, p))


def newton_step(
    threshold: Float[Tensor, "groups"],
    ridge: Float[Tensor, "groups"],
    square: Float[Tensor, "groups"],
    slope: Float[Tensor, "groups"],
) -> tuple[Float[Tensor, "groups"], Float[Tensor, "groups"]]:
    """Return the next estimate of ||x|| after threshold / ridge and a bound of its relative error, for every group.

    ``square`` and ``slope`` are the sums A and T of the module text at ``ridge``. The bound is Newton's error term
    with the variance of 1 / (theta + threshold / d) replaced by its largest possible value for the known mean. A step
    that would leave the positive axis (only possible from far above the root) divides the estimate by eight instead.
    """
    norm = threshold / ridge
    mean_shrink = 1 - ridge * slope / square
    step = (square.sqrt() - norm) / mean_shrink
    updated = norm + step
    error = 1.5 * (1 - mean_shrink) * step.square() / (norm * updated)
    inside = updated > 0
    return torch.where(inside, updated, norm / 8), torch.where(inside, error, torch.inf)
