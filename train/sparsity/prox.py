"""The weighted group l1/l2 proximal operator, solved exactly by Newton's method on a concave secular equation.

For one group, argmin_x 1/2 sum_j d_j (x_j - p_j)^2 + t ||x|| has x = 0 iff ||d p|| <= t; otherwise
x = p d / (d + s) with the *ridge* s = t / ||x||. Source: Deleu & Bengio, "Structured Sparsity Inducing Adaptive
Optimizers for Deep Learning" (arXiv 2102.03869).

Let N(theta) be the norm of p d / (d + t / theta). The norm of x is the root of h(theta) = theta / N(theta) = 1, and h
is concave and increasing (a power mean of the linear functions theta + t / d_j). Newton on h therefore never
overshoots from below and lands below the root from anywhere, so it converges monotonically without a bracket, in one
step if d is constant. Near the root the step also follows the curvature. With x = p d / (d + s) and the weighted mean
E[f] = sum x^2 f / sum x^2, all of it comes from three sums over the group: N^2 = sum x^2, the mean of w = d / (d + s),
which is h' N, and the variance of w, which is -h'' N theta / 3.
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
        moments = torch.stack([square.sum(1), (square / r).sum(1), (square / r.square()).sum(1)])
        updated, error = newton_step(norm, threshold, moments)
        norm = torch.where(active, updated, norm)
        active = active & (error > TOLERANCE[p.dtype])
    shrunk = p * (d / (d + (threshold / norm)[:, None]))
    dead = (norm_dp <= threshold) & (threshold > 0)
    return torch.where(dead[:, None], 0.0, torch.where((threshold > 0)[:, None], shrunk, p))


def newton_step(
    norm: Float[Tensor, " groups"],
    threshold: Float[Tensor, " groups"],
    moments: Float[Tensor, "3 groups"],
) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Return the next estimate of ||x|| after ``norm`` and a bound of its relative error, for every group.

    ``moments`` are the sums of x^2, x^2 / (d + s) and x^2 / (d + s)^2 at the ridge s = threshold / norm. A long step is
    Newton's, without a bound; one that would leave the positive axis (only possible from far above the root) divides
    the estimate by eight instead. A short step solves the second-order model of h. What that leaves out is bounded by
    the third derivative, theta^3 / h times which is 12 k + 9 v m for the mean m, variance v and third central moment k
    of w; since w lies in [0, 1], |k| is at most v max(m, 1 - m).
    """
    root, ridge = moments[0].sqrt(), threshold / norm
    mean = 1 - ridge * moments[1] / moments[0]
    variance = (ridge.square() * (moments[2] / moments[0] - (moments[1] / moments[0]).square())).clamp(min=0)
    gap = root / norm - 1
    newton = gap / mean
    discriminant = mean.square() - 6 * variance * gap
    near = (newton.abs() < 0.5) & (discriminant > 0)
    step = torch.where(near, 2 * gap / (mean + discriminant.clamp(min=0).sqrt()), newton)
    third = variance * (2 * torch.maximum(mean, 1 - mean) + 1.5 * mean)
    error = third * step.abs() ** 3 / (mean * (1 + step))
    return torch.where(step > -1, norm * (1 + step), norm / 8), torch.where(near, error, torch.inf)
