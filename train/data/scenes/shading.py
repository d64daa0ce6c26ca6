"""From hits to light: exact normals, procedural textures, and the radiance that reaches the camera."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes import materials as m
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, SPHERE
from slimtask.train.data.scenes.primitives import Vector
from slimtask.train.data.scenes.trace import Hits, lamp_seen
from slimtask.train.data.scenes.world import FACES, World

SHADOW_SAMPLES = 3


class Surface(NamedTuple):
    """What is known of the surface under each pixel, in tiles [b, tiles, pixels]."""

    point: Vector  # world frame, metres
    normal: Vector  # world frame, unit, on the camera's side
    local: Vector  # the point in the frame of its primitive (of the room for the faces)
    half: Vector  # half sizes of the primitive
    material: tuple[Tensor, ...]  # materials.COLUMNS columns
    label: Tensor  # int64 class


def surfaces(world: World, hits: Hits) -> Surface:
    """Return point, exact normal, class and material of every pixel."""
    table = _table(world)
    batch, count = table.shape[:2]
    row = hits.primitive + count * torch.arange(batch, device=table.device)[:, None, None]
    # One gather of whole rows, then columns that lie together in memory.
    columns = table.flatten(0, 1)[row.flatten()].t().contiguous().view(-1, *row.shape)
    cx, cy, cz, hx, hy, hz, c, s, shape, label = columns[:10].unbind(0)
    x, y, z = (world.camera.eye[:, i, None, None] + hits.depth * hits.ray[i] for i in range(3))
    dx, dz = x - cx, z - cz
    local: Vector = (dx * c - dz * s, y - cy, dx * s + dz * c)
    nx, ny, nz = _normal(local, (hx, hy, hz), shape)
    face = hits.primitive - (count - FACES)
    inside = [((face == 2 * i).float() - (face == 2 * i + 1).float()) for i in range(3)]
    is_face = face >= 0
    normal: Vector = (
        torch.where(is_face, inside[0], nx * c + nz * s),
        torch.where(is_face, inside[1], ny),
        torch.where(is_face, inside[2], nz * c - nx * s),
    )
    return Surface((x, y, z), normal, local, (hx, hy, hz), columns[10:].unbind(0), label.long())


def _table(world: World) -> Tensor:
    """Return a row per primitive: centre, half sizes, yaw, shape, class, material; float32 [b, p + FACES, 23]."""
    batch = len(world.room)
    geometry = torch.cat([world.centre, world.half, world.yaw, world.shape[..., None].float()], -1)
    faces = geometry.new_tensor([0, 0, 0, 1, 1, 1, 1, 0, 0]).expand(batch, FACES, -1)
    rows = world.material[..., None].expand(-1, -1, world.materials.shape[-1])
    return torch.cat(
        [torch.cat([geometry, faces], 1), world.label[..., None].float(), world.materials.gather(1, rows)], -1
    )


def _normal(local: Vector, half: Vector, shape: Tensor) -> Vector:
    x, y, z = local
    gap = [axis.abs() - size for axis, size in zip(local, half, strict=True)]
    on_x = (gap[0] >= gap[1]) & (gap[0] >= gap[2])
    on_y = (gap[1] >= gap[2]) & ~on_x
    side = [on_x, on_y, ~(on_x | on_y)]
    box = [axis.sign() * hit for axis, hit in zip(local, side, strict=True)]
    flat = (x * x + z * z).sqrt().clamp(min=1e-9)
    cap = gap[1] > flat - half[0]
    tube = [torch.where(cap, 0.0, x / flat), torch.where(cap, y.sign(), 0.0), torch.where(cap, 0.0, z / flat)]
    length = (flat * flat + y * y).sqrt()
    ball = [x / length, y / length, z / length]
    out = [
        torch.where(shape == BOX, b, torch.where(shape == SPHERE, s, torch.where(shape == CYLINDER, t, 0.0)))
        for b, s, t in zip(box, ball, tube, strict=True)
    ]
    return out[0], out[1], out[2]


def radiance(world: World, hits: Hits, surface: Surface, draw: Draw) -> Tensor:
    """Return the linear RGB light towards the camera, float32 [b, 3, tiles, pixels]."""
    red, emit = albedo(surface)
    light, gloss, sharp = world.light, surface.material[m.GLOSS], surface.material[m.SHARP]
    jitter = draw.uniform("lamp", SHADOW_SAMPLES, 2, low=-1.0, high=1.0).float() * light.size[:, None, None]
    samples = light.position[:, None].repeat(1, SHADOW_SAMPLES, 1)
    samples[..., 0] += jitter[..., 0]
    samples[..., 2] += jitter[..., 1]
    lifted: Vector = tuple(p + 2e-3 * n for p, n in zip(surface.point, surface.normal, strict=True))  # type: ignore[assignment]
    seen = lamp_seen(world, lifted, samples)
    main, shine = _reflect(world, hits, surface, light.position, sharp)
    fill, _ = _reflect(world, hits, surface, light.fill_position, None)
    closed = _openness(world, surface)
    colours = []
    for i in range(3):
        bright, weak, around = (value[:, i, None, None] for value in (light.colour, light.fill_colour, light.ambient))
        diffuse = bright * main * seen + weak * fill + around * closed
        colours.append(red[i] * diffuse + gloss * bright * shine * seen + emit * red[i])
    return torch.stack(colours, 1)


def _reflect(world: World, hits: Hits, surface: Surface, lamp: Tensor, sharp: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the diffuse light with falloff, and the highlight (Blinn), without colour and shadow."""
    to_lamp = [lamp[:, i, None, None] - surface.point[i] for i in range(3)]
    square = to_lamp[0] * to_lamp[0] + to_lamp[1] * to_lamp[1] + to_lamp[2] * to_lamp[2]
    far = square.sqrt().clamp(min=1e-6)
    n = surface.normal
    falling = (n[0] * to_lamp[0] + n[1] * to_lamp[1] + n[2] * to_lamp[2]) / far
    diffuse = falling.clamp(min=0.0) / (0.4 + square)
    if sharp is None:
        return diffuse, diffuse
    x, y = hits.slope
    view = (x * x + y * y + 1.0).sqrt()
    middle = [to_lamp[i] / far - hits.ray[i] / view for i in range(3)]
    length = (middle[0] * middle[0] + middle[1] * middle[1] + middle[2] * middle[2]).sqrt().clamp(min=1e-6)
    cosine = ((n[0] * middle[0] + n[1] * middle[1] + n[2] * middle[2]) / length).clamp(min=0.0)
    power = cosine
    for _ in range(4):
        power = power * power
    sharper = power * power
    shine = torch.where(sharp < 0.5, power, torch.where(sharp < 1.5, sharper, sharper * sharper))
    return diffuse, shine * 2.0 / (0.4 + square)


def _openness(world: World, surface: Surface) -> Tensor:
    """Return how open the surroundings are, 0 .. 1: darker near the room's edges and under a ceiling of furniture."""
    x, height, z = (world.extent[:, i, None, None] for i in range(3))
    px, py, pz = surface.point
    n = surface.normal
    open_ = 0.75 + 0.25 * n[1]
    for distance, facing in ((x - px.abs(), n[0]), (py.minimum(height - py), n[1]), (z - pz.abs(), n[2])):
        # A face does not darken itself, only what stands across it.
        open_ = open_ * (1.0 - 0.45 * (1.0 - facing * facing) / (1.0 + 25.0 * distance * distance))
    return open_


def albedo(surface: Surface) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the textured colour (three channels, linear) and the emission factor of every pixel."""
    material = surface.material
    kind, period, axis = material[m.TEXTURE], material[m.PERIOD], material[m.AXIS]
    x, y, z = (p / period + material[m.PHASE] for p in surface.local)
    along = torch.where(axis < 0.5, x, torch.where(axis < 1.5, z, y))
    across = torch.where(axis < 0.5, z, x)
    cells = x.floor() + y.floor() + z.floor()
    checker = (cells * 0.5 - (cells * 0.5).floor() > 0.25).float()
    stripes = (_wave(along) > 0.5).float()
    wood = _wave(0.9 * along + 0.35 * _wave(0.23 * across + 0.1 * y) + 0.25 * _wave(1.7 * along + 0.05 * across))
    blotches = _blotches(x, y, z)
    u, v = (surface.local[i] / surface.half[i] for i in (0, 1))
    frame = (u.abs().maximum(v.abs()) > 0.88).float()
    picture = torch.where(frame > 0, 1.0, blotches * 0.8)
    panes = frame.maximum((u.abs().minimum(v.abs()) < 0.05).float())
    share = torch.zeros_like(x)
    for code, pattern in (
        (m.CHECKER, checker),
        (m.STRIPES, stripes),
        (m.WOOD, wood),
        (m.PANELS, _seams(surface, x, y, z)),
        (m.BLOTCHES, blotches),
        (m.PICTURE_FRAME, picture),
        (m.PANES, panes),
    ):
        share = torch.where(kind == code, pattern, share)
    colour = tuple(material[i] + share * (material[i + 3] - material[i]) for i in range(3))
    emit = torch.where(kind == m.PANES, (1.0 - panes) * (0.7 + 0.3 * v), 1.0) * material[m.EMIT]
    return (colour[0], colour[1], colour[2]), emit


def _wave(x: Tensor) -> Tensor:
    """Return a triangle wave of period 1 between 0 and 1."""
    return 2.0 * (x - x.floor() - 0.5).abs()


def _seams(surface: Surface, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Return dark lines between tiles or boards, drawn in the two directions along the surface."""
    seam = torch.zeros_like(x)
    for axis, normal in zip((x, y, z), surface.normal, strict=True):
        seam = seam.maximum(((_wave(0.4 * axis) > 0.93) & (normal.abs() < 0.7)).float())
    return seam


def _blotches(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Return smooth irregular spots in 0 .. 1: waves in skew directions that push each other around."""
    a = _wave(0.31 * x + 0.17 * y + 0.05 * z)
    b = _wave(0.11 * z - 0.29 * y + 0.3 * a)
    c = _wave(0.23 * x - 0.37 * z + 0.6 * b)
    d = _wave(0.71 * x + 0.53 * z - 0.61 * y + 0.8 * c)
    return (0.4 * a * b + 0.6 * c * c + 0.25 * d - 0.1).clamp(0.0, 1.0)
