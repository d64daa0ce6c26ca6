"""The camera: where it stands, what it looks at, and the rays of its pixels.

Camera frame: x right, y up, z towards the camera (so the camera looks along -z); pixel centres lie at half integers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.layout import Layout, rotation

_TRIES = 12


class Camera(NamedTuple):
    """A batch of cameras, float32."""

    eye: Tensor  # [b, 3] position in the room
    axes: Tensor  # [b, 3, 3] rows: right, up, towards the camera; unit, world frame
    lens: Tensor  # [b] half width of the picture at distance 1 (tangent of half the horizontal field of view)


def place_camera(draw: Draw, layout: Layout) -> Camera:
    """Return one camera per room: at eye height, outside the furniture, with the best sight of the anchor it tried."""
    half = layout.extent[:, None, 0::2]
    spread = draw.uniform("eye", _TRIES, 2, low=-1.0, high=1.0)
    ground = spread * (1.4 - 0.4 * spread.abs()) * (half - 0.3)
    height = draw.uniform("eye.height", _TRIES, 1, low=1.0, high=1.9)
    eye = torch.stack([ground[..., 0], height[..., 0], ground[..., 1]], -1)
    anchor = layout.position[:, :1] * 0.85 + draw.uniform("aim", _TRIES, 2, low=-0.35, high=0.35)
    target = torch.stack([anchor[..., 0], draw.uniform("aim.height", _TRIES, low=0.3, high=1.4), anchor[..., 1]], -1)
    best = _score(eye, layout).argmax(1)[:, None, None].expand(-1, 1, 3)
    eye, target = eye.gather(1, best)[:, 0], target.gather(1, best)[:, 0]
    axes = _look(eye, target, rotation(draw.uniform("roll", low=-0.03, high=0.03)))
    lens = draw.uniform("lens", low=0.6, high=1.1)
    return Camera(eye.float(), axes.float(), lens.float())


def _score(eye: Tensor, layout: Layout) -> Tensor:
    """Return how good each place for the camera is, [batch, tries]: free standing, unblocked, not too near."""
    x, z = eye[..., 0], eye[..., 2]
    offset = (torch.stack([x, z], -1)[:, :, None] - layout.position[:, None]).abs() - layout.reach[:, None]
    inside = (offset.amax(-1) < 0.3) & layout.there[:, None]
    c, s = layout.yaw[:, 0].unbind(-1)
    blocked = torch.zeros_like(x)
    for share in (-0.35, 0.0, 0.35):
        lateral = share * layout.size[:, 0, 0]
        point = torch.stack(
            [
                layout.position[:, 0, 0] + lateral * c,
                0.8 * layout.size[:, 0, 1],
                layout.position[:, 0, 1] - lateral * s,
            ],
            -1,
        )
        blocked = blocked + _hidden(eye, point, layout)
    delta = torch.stack([x, z], -1) - layout.position[:, None, 0]
    distance = (delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]).sqrt()
    return -10.0 * inside.any(-1) - blocked + distance.clamp(max=2.3)


def _hidden(eye: Tensor, point: Tensor, layout: Layout) -> Tensor:
    """Return 1 where other furniture (as axis-parallel boxes) stands between ``eye`` and ``point``, [b, tries]."""
    height = layout.size[..., 1] / 2
    centre = torch.stack([layout.position[..., 0], height, layout.position[..., 1]], -1)[:, None, 1:]
    half = torch.stack([layout.reach[..., 0], height, layout.reach[..., 1]], -1)[:, None, 1:]
    direction = (point[:, None] - eye)[:, :, None]
    direction = torch.where(direction.abs() < 1e-9, 1e-9, direction)
    middle, width = (centre - eye[:, :, None]) / direction, (half / direction).abs()
    near, far = (middle - width).amax(-1).clamp(min=0.0), (middle + width).amin(-1).clamp(max=1.0)
    return ((near < far) & layout.there[:, None, 1:]).any(-1).double()


def _look(eye: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    x, y, z = (eye - target).unbind(-1)
    level = (x * x + z * z).sqrt().clamp(min=1e-6)
    length = (level * level + y * y).sqrt()
    back = torch.stack([x, y, z], -1) / length[:, None]
    right = torch.stack([z, torch.zeros_like(z), -x], -1) / level[:, None]
    up = torch.stack(
        [
            back[:, 1] * right[:, 2] - back[:, 2] * right[:, 1],
            back[:, 2] * right[:, 0] - back[:, 0] * right[:, 2],
            back[:, 0] * right[:, 1] - back[:, 1] * right[:, 0],
        ],
        -1,
    )
    c, s = roll[:, :1], roll[:, 1:]
    return torch.stack([c * right + s * up, c * up - s * right, back], 1)


def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the image-plane coordinates of the pixel centres in half image widths, float32 [h, 1] and [1, w].

    The first is y (up), the second x (right); multiplied by the lens they are the ray's slope in the camera frame.
    """
    y = (height / 2 - 0.5 - torch.arange(height, device=device, dtype=torch.float32)) * (2.0 / width)
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2) * (2.0 / width)
    return y[:, None], x[None]
