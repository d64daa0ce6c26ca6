"""Colours, textures and light: drawn so that colour alone does not tell the class.

All surfaces of a scene share one palette and every class draws from the same colours; only walls and ceilings tend to
be paler. What tells the classes apart is shape, size and place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes.classes import LAMP, PLACES
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.layout import Layout

DECORATIONS = 5
MATERIALS = 3 + DECORATIONS + 2 * PLACES
PLAIN, CHECKER, STRIPES, WOOD, PANELS, BLOTCHES, PICTURE_FRAME, PANES = range(8)
# Columns of a material: first colour, second colour (linear RGB), then these.
TEXTURE, PERIOD, AXIS, PHASE, GLOSS, SHARP, EMIT, COLUMNS = 6, 7, 8, 9, 10, 11, 12, 13
_ANY = (PLAIN, PLAIN, PLAIN, CHECKER, STRIPES, STRIPES, WOOD, WOOD, PANELS, BLOTCHES, BLOTCHES, PLAIN)
_FLOORS = (WOOD, WOOD, CHECKER, PANELS, PLAIN, BLOTCHES, STRIPES, WOOD)
_WALLS = (PLAIN, PLAIN, PLAIN, PLAIN, STRIPES, BLOTCHES, PANELS, PLAIN)


class Light(NamedTuple):
    """The light of a batch of rooms, float32: a lamp that casts shadows, one that only fills, and some all around."""

    position: Tensor  # [b, 3]
    size: Tensor  # [b] half size of the square lamp in metres: small gives hard shadows
    colour: Tensor  # [b, 3]
    fill_position: Tensor  # [b, 3]
    fill_colour: Tensor  # [b, 3]
    ambient: Tensor  # [b, 3]


def draw_materials(draw: Draw, layout: Layout) -> Tensor:
    """Return float64 [batch, MATERIALS, COLUMNS]: floor, wall, ceiling, decorations, two per piece of furniture."""
    first, second = _colours(draw)
    shape = first.shape[:2]
    texture = torch.tensor(_ANY, device=draw.device)[draw.integer("texture", MATERIALS, count=len(_ANY))]
    texture[:, 0] = torch.tensor(_FLOORS, device=draw.device)[draw.integer("texture.floor", count=len(_FLOORS))]
    texture[:, 1] = torch.tensor(_WALLS, device=draw.device)[draw.integer("texture.wall", count=len(_WALLS))]
    texture[:, 2] = PLAIN
    texture[:, 3:7] = torch.tensor([PANES, PICTURE_FRAME, PICTURE_FRAME, PANES], device=draw.device)
    period = draw.uniform("period", MATERIALS, low=0.05, high=0.25)
    period[:, :2] *= 2.0
    axis = draw.integer("axis", MATERIALS, count=3)
    gloss = draw.uniform("gloss", MATERIALS) * draw.uniform("gloss.much", MATERIALS)
    emit = torch.zeros_like(gloss)
    emit[:, 3:7:3] = draw.uniform("daylight", 2, low=0.3, high=2.5)
    lit = (layout.kind == LAMP) & (draw.uniform("lamp.lit", PLACES) < 0.5)
    emit[:, 3 + DECORATIONS :: 2] = torch.where(lit, 1.5, 0.0)
    phase, sharp = draw.uniform("phase", MATERIALS), draw.integer("sharp", MATERIALS, count=3)
    columns = (texture, period, axis, phase, gloss, sharp, emit)
    return torch.cat([first, second, *(column.reshape(*shape, 1).double() for column in columns)], -1)


def _colours(draw: Draw) -> tuple[Tensor, Tensor]:
    """Return the first and second colour of every material, linear RGB [batch, MATERIALS, 3]."""
    theme = draw.uniform("palette", 4)
    own = draw.uniform("hue", MATERIALS)
    near = theme.gather(1, draw.integer("hue.theme", MATERIALS, count=4)) + 0.08 * (own - 0.5)
    hue = torch.where(draw.uniform("hue.free", MATERIALS) < 0.3, own, near)
    grey, pale = draw.uniform("saturation", MATERIALS), draw.uniform("value", MATERIALS, low=0.12, high=0.95)
    saturation = grey * draw.uniform("saturation.much", 1, low=0.3, high=1.0)
    saturation[:, 1:3] *= 0.5
    pale[:, 1:3] = 0.35 + 0.65 * pale[:, 1:3]
    pale[:, 3:7:3] = 0.6 + 0.4 * pale[:, 3:7:3]
    first = _rgb(hue, saturation, pale)
    other = draw.uniform("second", MATERIALS)
    contrast = torch.where(other < 0.5, 0.35 + 0.9 * other, 0.7 + other)
    second = _rgb(hue + 0.15 * (other - 0.5), saturation, (pale * contrast).clamp(max=1.0))
    return first * first, second * second  # squared: about the step from display to linear values


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    channels = []
    for offset in (0.0, 2.0 / 3.0, 1.0 / 3.0):
        turned = hue + offset
        wave = ((turned - turned.floor()) * 6.0 - 3.0).abs() - 1.0
        channels.append(value * (1.0 - saturation * (1.0 - wave.clamp(0.0, 1.0))))
    return torch.stack(channels, -1)


def draw_light(draw: Draw, layout: Layout) -> Light:
    """Return the lights: the lamp below the ceiling, a weak one anywhere at head height, and some from all around."""
    x, height, z = layout.extent.unbind(-1)
    where = draw.uniform("light", 2, low=-0.75, high=0.75)
    drop = draw.uniform("light.drop", low=0.05, high=0.5)
    position = torch.stack([where[:, 0] * x, height - drop, where[:, 1] * z], -1)
    side = draw.uniform("fill", 2, low=-0.9, high=0.9)
    fill_height = draw.uniform("fill.height", low=1.0, high=2.0)
    fill_position = torch.stack([side[:, 0] * x, fill_height, side[:, 1] * z], -1)
    warm = draw.uniform("light.warm", low=0.0, high=1.0)
    colour = torch.stack([0.85 + 0.3 * warm, torch.ones_like(warm), 1.15 - 0.5 * warm], -1)
    cold = draw.uniform("fill.warm", low=0.0, high=1.0)
    fill = torch.stack([0.8 + 0.3 * cold, torch.ones_like(cold), 1.2 - 0.4 * cold], -1)
    strength = draw.uniform("light.strength", 1, low=2.0, high=5.0)
    weak = draw.uniform("fill.strength", 1, low=0.0, high=1.0)
    ambient = draw.uniform("ambient", 1, low=0.08, high=0.45)
    # Many small lamps, few large ones.
    size = draw.uniform("light.size")
    size = 0.03 + 0.3 * size * size
    values = (position, size, colour * strength, fill_position, fill * weak, ambient * (0.5 + 0.5 * fill))
    return Light(*(value.float() for value in values))
