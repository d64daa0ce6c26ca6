"""Where things stand: the size of the room, its type, and furniture that does not overlap.

Frame of the world: y up, floor at y = 0, the room's centre at x = z = 0; metres. A yaw is a pair (cosine, sine): the
local axes +x (width) and +z (front of the furniture) are (c, -s) and (s, c) in (x, z). Angles come from rational
parametrisations, never from sin and cos, whose last bit may depend on the position in a vector register.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes.classes import (
    AROUND_ANCHOR,
    AT_WALL,
    BEFORE_ANCHOR,
    CENTRE,
    CORNER,
    FREE,
    FURNITURE,
    LAMP,
    PLACES,
    PLANT,
    ROOMS,
    SIZES,
    TABLE,
)
from slimtask.train.data.scenes.counter import Draw

_TRIES = 6


class Layout(NamedTuple):
    """A batch of rooms; float64, shapes [batch, ...] with ``o`` places for furniture."""

    room: Tensor  # [b] int64, index into ROOMS
    extent: Tensor  # [b, 3]: half width, full height, half length of the room
    kind: Tensor  # [b, o] int64 class of the furniture
    there: Tensor  # [b, o] bool
    position: Tensor  # [b, o, 2]: x, z of the centre
    yaw: Tensor  # [b, o, 2]: cosine, sine
    size: Tensor  # [b, o, 3]: width, height, depth
    reach: Tensor  # [b, o, 2]: half sizes of the axis-parallel box around the footprint


def rotation(t: Tensor) -> Tensor:
    """Return (cosine, sine) of the angle 2 atan(t), [..., 2]; t = 1 is a right angle."""
    scale = 1.0 / (1.0 + t * t)
    return torch.stack([(1.0 - t * t) * scale, 2.0 * t * scale], -1)


def turn(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of two yaws, [..., 2]."""
    (c, s), (k, z) = first.unbind(-1), second.unbind(-1)
    return torch.stack([c * k - s * z, s * k + c * z], -1)


def quarter(index: Tensor) -> Tensor:
    """Return the yaw of ``index`` quarter turns, float64 [..., 2]."""
    return torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64, device=index.device)[index % 4]


def footprint(size: Tensor, yaw: Tensor) -> Tensor:
    """Return the half sizes in (x, z) of the axis-parallel box around turned furniture, [..., 2]."""
    c, s = yaw.abs().unbind(-1)
    half_width, half_depth = size[..., 0] / 2, size[..., 2] / 2
    return torch.stack([c * half_width + s * half_depth, s * half_width + c * half_depth], -1)


def lay_out(draw: Draw) -> Layout:
    """Return furnished rooms, one per scene of ``draw``; furniture that finds no free place is left out."""
    room = draw.integer("room", count=len(ROOMS))
    low = torch.tensor([1.6, 2.3, 1.6], dtype=torch.float64, device=draw.device)
    high = torch.tensor([2.8, 3.1, 2.8], dtype=torch.float64, device=draw.device)
    extent = low + draw.uniform("extent", 3) * (high - low)
    plan = torch.tensor(FURNITURE, dtype=torch.float64, device=draw.device)[room]
    kind, placement = plan[..., 0].long(), plan[..., 1].long()
    wanted = draw.uniform("there", PLACES) < plan[..., 2]
    size = _sizes(draw, kind, placement, room)
    tries = _candidates(draw, extent, size, placement)
    there, position, yaw = wanted.clone(), tries.position[:, 0], tries.yaw[:, 0]
    position, yaw = position.clone(), yaw.clone()
    reach = footprint(size, yaw)
    for place in range(PLACES):
        spots, turns = _place(place, tries, placement, anchor=position[:, 0], facing=yaw[:, 0], size=size)
        reaches = footprint(size[:, None, place], turns)
        limit = (extent[:, None, 0::2] - reaches - 0.02).clamp(min=0.0)
        spots = torch.maximum(torch.minimum(spots, limit), -limit)
        taken = _Taken(position[:, :place], reach[:, :place], there[:, :place])
        free = _free(spots, reaches, taken, under_anchor=placement[:, place] == AROUND_ANCHOR)
        # The first free try; the anchor takes its first try in any case.
        best = (free * torch.arange(_TRIES, 0, -1, device=free.device)).argmax(1)[:, None, None].expand(-1, 1, 2)
        position[:, place] = spots.gather(1, best)[:, 0]
        yaw[:, place] = turns.gather(1, best)[:, 0]
        reach[:, place] = reaches.gather(1, best)[:, 0]
        there[:, place] &= free.any(1)
    return Layout(room, extent, kind, there, position, yaw, size, reach)


class _Tries(NamedTuple):
    position: Tensor  # [b, tries, o, 2]
    yaw: Tensor  # [b, tries, o, 2]
    jitter: Tensor  # [b, tries, o]


class _Taken(NamedTuple):
    position: Tensor  # [b, placed, 2]
    reach: Tensor  # [b, placed, 2]
    there: Tensor  # [b, placed]


def _sizes(draw: Draw, kind: Tensor, placement: Tensor, room: Tensor) -> Tensor:
    bounds = torch.zeros(max(SIZES) + 1, 2, 3, dtype=torch.float64)
    for label, pair in SIZES.items():
        bounds[label] = torch.tensor(pair, dtype=torch.float64)
    low, high = bounds.to(draw.device)[kind].unbind(-2)
    size = low + draw.uniform("size", PLACES, 3) * (high - low)
    # Lamps and plants are round.
    round_ = (kind == LAMP) | (kind == PLANT)
    size = torch.where(round_[..., None], size[..., [0, 1, 0]], size)
    # Coffee and bedside tables are low and small.
    small = (kind == TABLE) & ((placement == BEFORE_ANCHOR) | (room[:, None] == ROOMS.index("bedroom")))
    return torch.where(small[..., None], size * size.new_tensor([0.65, 0.58, 0.7]), size)


def _candidates(draw: Draw, extent: Tensor, size: Tensor, placement: Tensor) -> _Tries:
    """Places that do not depend on the anchor: at a wall, in a corner, free, near the centre."""
    shape = (_TRIES, PLACES)
    half = extent[:, None, None, 0::2]
    side = draw.integer("side", *shape, count=4)
    slight = turn(quarter(side), rotation(draw.uniform("slight", *shape, low=-0.03, high=0.03)))
    yaw = turn(quarter(side), rotation(draw.uniform("yaw", *shape, low=-1.0, high=1.0)))
    where = draw.uniform("where", *shape, 2, low=-1.0, high=1.0)
    front = torch.stack([slight[..., 1], slight[..., 0]], -1)
    along = torch.stack([slight[..., 0], -slight[..., 1]], -1)
    gap = draw.uniform("gap", *shape, 1, low=0.0, high=0.06)
    depth = size[:, None, :, 2:] / 2
    at_wall = (
        -front * (front.abs() * half).amax(-1, keepdim=True) + front * (depth + gap) + along * where[..., :1] * half
    )
    mode = placement[:, None, :, None]
    position = torch.where(mode == AT_WALL, at_wall, where * half)
    position = torch.where(mode == CORNER, torch.where(where < 0, -half, half), position)
    position = torch.where(mode == CENTRE, where * half * 0.25, position)
    turned = torch.where((mode == FREE) | (mode == CENTRE) | (mode == CORNER), yaw, slight)
    return _Tries(position, turned, draw.uniform("jitter", *shape, low=-1.0, high=1.0))


def _place(
    place: int, tries: _Tries, placement: Tensor, *, anchor: Tensor, facing: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the tries of one place, [b, tries, 2] twice: chairs and coffee tables follow the anchor."""
    anchor, facing = anchor[:, None], facing[:, None]
    jitter = tries.jitter[:, :, place]
    # Chairs at a table: one side after the other, beginning at the front; a chair looks at the table, nearly.
    side = quarter(torch.full_like(placement[:, :1], (0, 2, 1, 3)[(place - 1) % 4])).expand(-1, _TRIES, -1)
    outward = turn(facing, side)
    lateral = side[..., 1].abs()
    table = lateral * size[:, :1, 0] / 2 + (1 - lateral) * size[:, :1, 2] / 2
    before = placement[:, place, None] == BEFORE_ANCHOR
    gap = torch.where(before, size[:, place, 2, None] / 2 + 0.4 + 0.15 * jitter, 0.08 + 0.14 * jitter)
    direction = torch.stack([outward[..., 1], outward[..., 0]], -1)
    spot = anchor + direction * (table + gap)[..., None]
    turned = turn(turn(outward, quarter(torch.full_like(side[..., 0], 2).long())), rotation(0.25 * jitter))
    follows = ((placement[:, place] == AROUND_ANCHOR) | (placement[:, place] == BEFORE_ANCHOR))[:, None, None]
    spots = torch.where(follows, spot, tries.position[:, :, place])
    return spots, torch.where(follows, turned, tries.yaw[:, :, place])


def _free(spots: Tensor, reaches: Tensor, taken: _Taken, *, under_anchor: Tensor) -> Tensor:
    """Return which tries touch nothing that is there, bool [b, tries]; ``under_anchor`` [b] may slide under it."""
    if taken.there.shape[1] == 0:
        return torch.ones(spots.shape[:2], dtype=torch.bool, device=spots.device)
    apart = (spots[:, :, None] - taken.position[:, None]).abs() - reaches[:, :, None] - taken.reach[:, None]
    clash = (apart < 0.04).all(-1) & taken.there[:, None]
    clash[..., 0] &= ~under_anchor[:, None]
    return ~clash.any(-1)
