"""Rays against convex solids: where a ray enters and leaves, in the solid's own frame.

Everything is per component (no sums over an axis, no matrix product): elementwise float32 operations that IEEE rounds
alike everywhere, so that a pixel does not depend on the batch it is rendered in.
"""

from __future__ import annotations

from torch import Tensor

from slimtask.train.data.scenes.furniture import BOX, CYLINDER, SPHERE

Vector = tuple[Tensor, Tensor, Tensor]
_TINY = 1e-9


def enter_leave(shape: int, origin: Vector, direction: Vector, half: Vector) -> tuple[Tensor, Tensor]:
    """Return the parameters (t_in, t_out) where ``origin + t * direction`` crosses the solid; a miss has in > out.

    ``half`` are the half sizes of the box around the solid: a box itself, a sphere of radius ``half[0]``, or an upright
    cylinder of radius ``half[0]`` and half height ``half[1]``. All arguments broadcast.
    """
    return {BOX: _box, SPHERE: _sphere, CYLINDER: _cylinder}[shape](origin, direction, half)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / direction.where(direction.abs() > _TINY, _TINY)
    middle, width = -origin * inverse, half * inverse.abs()
    return middle - width, middle + width


def _box(origin: Vector, direction: Vector, half: Vector) -> tuple[Tensor, Tensor]:
    (ax, bx), (ay, by), (az, bz) = (_slab(o, d, h) for o, d, h in zip(origin, direction, half, strict=True))
    return ax.maximum(ay).maximum(az), bx.minimum(by).minimum(bz)


def _sphere(origin: Vector, direction: Vector, half: Vector) -> tuple[Tensor, Tensor]:
    x, y, z = direction
    return _roots(x * x + y * y + z * z, origin, direction, half[0], upright=False)


def _cylinder(origin: Vector, direction: Vector, half: Vector) -> tuple[Tensor, Tensor]:
    x, _, z = direction
    side_in, side_out = _roots((x * x + z * z).clamp(min=_TINY), origin, direction, half[0], upright=True)
    cap_in, cap_out = _slab(origin[1], direction[1], half[1])
    return side_in.maximum(cap_in), side_out.minimum(cap_out)


def _roots(a: Tensor, origin: Vector, direction: Vector, radius: Tensor, *, upright: bool) -> tuple[Tensor, Tensor]:
    """Return both roots of |origin + t direction| = radius; ``upright`` leaves out the vertical component."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    nearest = -(ox * dx + oz * dz + (0.0 if upright else oy * dy)) / a
    # The distance at the nearest point, not b^2 - 4ac: in float32 the latter cancels for small far solids.
    x, z = ox + nearest * dx, oz + nearest * dz
    gap = radius * radius - (x * x + z * z)
    if not upright:
        y = oy + nearest * dy
        gap = gap - y * y
    half_chord = (gap.clamp(min=0.0) / a).sqrt()
    miss = gap < 0.0
    return (nearest - half_chord).masked_fill(miss, float("inf")), (nearest + half_chord).masked_fill(
        miss, -float("inf")
    )
