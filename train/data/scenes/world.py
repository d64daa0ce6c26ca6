"""A batch of furnished rooms as flat tables of primitives, materials, light and camera."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes.camera import Camera, place_camera
from slimtask.train.data.scenes.classes import CEILING, FLOOR, PICTURE, RUG, WALL, WINDOW
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, NOTHING, parts
from slimtask.train.data.scenes.layout import Layout, lay_out, quarter, rotation, turn
from slimtask.train.data.scenes.materials import DECORATIONS, Light, draw_light, draw_materials

FACES = 6


class World(NamedTuple):
    """A batch of rooms to render; float32. The last FACES primitives are the room's own faces -x +x -y +y -z +z."""

    room: Tensor  # [b] int64 room type
    extent: Tensor  # [b, 3] half width, full height, half length in metres
    shape: Tensor  # [b, p] int64 (furniture.BOX ...), without the faces
    centre: Tensor  # [b, p, 3]
    half: Tensor  # [b, p, 3]
    yaw: Tensor  # [b, p, 2]
    label: Tensor  # [b, p + FACES] int64 class
    material: Tensor  # [b, p + FACES] int64 row of materials
    materials: Tensor  # [b, m, materials.COLUMNS]
    light: Light
    camera: Camera


def build_world(draw: Draw) -> World:
    """Return the rooms of ``draw``, ready to be rendered."""
    layout = lay_out(draw)
    furniture, decoration = _furniture(draw, layout), _decoration(draw, layout)
    shape, centre, half, yaw, label, material = (torch.cat(pair, 1) for pair in zip(furniture, decoration, strict=True))
    batch = len(label)
    faces = torch.tensor([WALL, WALL, FLOOR, CEILING, WALL, WALL], device=draw.device).expand(batch, -1)
    return World(
        room=layout.room,
        extent=layout.extent.float(),
        shape=shape,
        centre=centre.float(),
        half=half.float(),
        yaw=yaw.float(),
        label=torch.cat([label, faces], 1),
        material=torch.cat([material, faces], 1),  # rows 0, 1, 2 of the materials are floor, wall and ceiling
        materials=draw_materials(draw, layout).float(),
        light=draw_light(draw, layout),
        camera=place_camera(draw, layout),
    )


Table = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _furniture(draw: Draw, layout: Layout) -> Table:
    made = parts(layout.kind, layout.size, draw)
    shape = torch.where(layout.there[..., None], made[..., 0].long(), NOTHING)
    c, s = (layout.yaw[..., None, i] for i in (0, 1))
    x, y, z = made[..., 1:4].unbind(-1)
    centre = torch.stack(
        [layout.position[..., None, 0] + c * x + s * z, y, layout.position[..., None, 1] - s * x + c * z], -1
    )
    yaw = layout.yaw[..., None, :].expand(*shape.shape, 2)
    label = layout.kind[..., None].expand_as(shape)
    first = 3 + DECORATIONS + 2 * torch.arange(shape.shape[1], device=shape.device)
    material = first[None, :, None] + made[..., 7].long()
    return (
        shape.flatten(1),
        centre.flatten(1, 2),
        made[..., 4:7].flatten(1, 2),
        yaw.flatten(1, 2),
        label.flatten(1),
        material.flatten(1),
    )


def _decoration(draw: Draw, layout: Layout) -> Table:
    """Return four flat things on the four walls (windows and pictures) and one rug."""
    batch, device = len(layout.room), draw.device
    wall = draw.integer("decoration.wall", 1, count=4) + torch.arange(4, device=device)
    yaw = quarter(wall)
    window = torch.tensor([True, False, False, True], device=device)
    low = torch.where(window[:, None], yaw.new_tensor([0.4, 0.4]), yaw.new_tensor([0.2, 0.2]))
    high = torch.where(window[:, None], yaw.new_tensor([0.9, 0.65]), yaw.new_tensor([0.6, 0.45]))
    size = low + draw.uniform("decoration.size", 4, 2) * (high - low)
    half = torch.stack([size[..., 0], size[..., 1], torch.full_like(size[..., 0], 0.025)], -1)
    x, z = layout.extent[:, :1], layout.extent[:, 2:]
    c, s = yaw.unbind(-1)
    back, side = s.abs() * x + c.abs() * z, c.abs() * x + s.abs() * z
    along = draw.uniform("decoration.along", 4, low=-1.0, high=1.0) * (side - size[..., 0] - 0.1).clamp(min=0.0)
    height = draw.uniform("decoration.height", 4, low=1.4, high=1.75)
    centre = torch.stack([c * along - s * (back - 0.02), height, -s * along - c * (back - 0.02)], -1)
    there = draw.uniform("decoration.there", 4) < yaw.new_tensor([0.75, 0.6, 0.5, 0.3])
    shape = torch.where(there, BOX, NOTHING)
    label = torch.where(window, WINDOW, PICTURE).expand(batch, -1)
    rug = _rug(draw, layout)
    material = 3 + torch.arange(DECORATIONS, device=device).expand(batch, -1)
    walls = (shape, centre, half, yaw, label)
    return (*(torch.cat(pair, 1) for pair in zip(walls, rug, strict=True)), material)  # type: ignore[return-value]


def _rug(draw: Draw, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size = draw.uniform("rug.size", 1, 2, low=0.6, high=1.3)
    disc = draw.uniform("rug.round", 1) < 0.3
    depth = torch.where(disc, size[..., 0], size[..., 1])
    half = torch.stack([size[..., 0], torch.full_like(depth, 0.006), depth], -1)
    middle = layout.position[:, :1] * 0.5 + draw.uniform("rug.place", 1, 2, low=-0.5, high=0.5)
    limit = (layout.extent[:, None, 0::2] - 1.45 * size.amax(-1, keepdim=True)).clamp(min=0.0)
    middle = torch.maximum(torch.minimum(middle, limit), -limit)
    centre = torch.stack([middle[..., 0], torch.full_like(depth, 0.006), middle[..., 1]], -1)
    yaw = turn(quarter(draw.integer("rug.side", 1, count=4)), rotation(draw.uniform("rug.yaw", 1, low=-0.1, high=0.1)))
    there = draw.uniform("rug.there", 1) < 0.5
    shape = torch.where(there, torch.where(disc, CYLINDER, BOX), NOTHING)
    return shape, centre, half, yaw, torch.full_like(shape, RUG)
