"""The group MCP, a penalty that lets go of large groups, by local linear approximation.

MCP (Zhang, Annals of Statistics 2010; for groups Huang, Breheny & Ma, Statistical Science 2012) of a group of norm
theta is l theta - theta^2 / (2 gamma) up to theta = gamma l and constant beyond, with l = strength * weight. Its slope
max(0, l - theta / gamma) starts as that of the l1 penalty and ends at 0, so large groups are not biased to zero.

The proximal operator of MCP in the metric D of Adam is not a function where an entry of D lies below lr / gamma: the
subproblem is no longer convex, and its minimum jumps between candidates. MCP is concave in theta, however, so that its
tangent at the norm before the step bounds it from above: the step that takes the exact l1 operator with the tangent's
slope minimises a majoriser and has the same stationary points (local linear approximation: Zou & Li, Annals of
Statistics 2008). The operator stays exact and continuous, and a group's critical strength stays a closed form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def relief(
    norm: Float[Tensor, " groups"],
    weights: Float[Tensor, " groups"],
    units: Float[Tensor, " groups"],
    gamma: float,
) -> Float[Tensor, " groups"]:
    """Return what MCP takes off the l1 threshold ``units * strength`` of each group, whatever the strength.

    ``norm`` is that before the step, ``units`` is lr * weight: lr * slope = units * strength - lr * norm / gamma.
    """
    return torch.where(weights > 0, units / weights, 0.0) * norm / gamma
