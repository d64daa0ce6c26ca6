"""The targets of a scene from its exact geometry."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtask.train.data.scenes.classes import CLASSES, PRESENCE, RUG

JUMP = 0.03


def occlusion_edges(depth: Tensor, normal: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return 1 on both sides of every occlusion boundary, else 0; float32 [b, 1, h, w].

    ``depth`` [b, h, w] is z-depth, ``normal`` [b, 3, h, w] in the camera frame, ``x`` and ``y`` [b, h, w] the slopes of
    the pixels' rays. Two neighbouring pixels p and q (left-right or above-below) are cut by an occlusion boundary if
    the tangent planes of their surfaces do not meet between the two rays (so it is neither one surface nor a crease),
    and each surface, continued as a plane to the other's pixel, misses the other's depth by more than JUMP of it.
    """
    edges = torch.zeros_like(depth, dtype=torch.bool)
    for dim in (-1, -2):
        size = depth.shape[dim] - 1
        p, q = ([v.narrow(dim, i, size) for v in (depth, x, y, *normal.unbind(1))] for i in (0, 1))
        first, second = _gap(p, q), _gap(q, p)
        # Inverse depth is linear along a plane's pixels, so the planes meet between p and q if the gap changes sign.
        cut = (first * second < 0.0) & (first.abs() > JUMP) & (second.abs() > JUMP)
        edges.narrow(dim, 0, size).logical_or_(cut)
        edges.narrow(dim, 1, size).logical_or_(cut)
    return edges[:, None].float()


def _gap(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """Return depth(q) / (depth at q of the tangent plane at p) - 1: positive where q lies behind the plane."""
    depth_p, x_p, y_p, nx, ny, nz = p
    depth_q, x_q, y_q = q[:3]
    at_p, at_q = nx * x_p + ny * y_p - nz, nx * x_q + ny * y_q - nz
    # The normal faces the camera: at_p < 0. A plane that q's ray never meets is infinitely far away there.
    return depth_q / depth_p * (at_q / at_p.clamp(max=-1e-6)) - 1.0


def object_presence(segmentation: Tensor) -> Tensor:
    """Return which object classes cover more than PRESENCE of the labelled pixels, float32 [..., objects].

    ``segmentation`` is [..., h, w] with classes 0 .. len(CLASSES) - 1 (floor, wall and ceiling are not objects).
    """
    flat = segmentation.flatten(-2)
    counts = [(flat == label).sum(-1) for label in range(RUG, len(CLASSES))]
    return (torch.stack(counts, -1) > PRESENCE * flat.shape[-1]).float()
