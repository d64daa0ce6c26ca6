"""What furniture is made of: boxes, spheres and upright cylinders in the furniture's own frame.

A part is (shape, centre x y z, half sizes x y z, material): shape 0 is "no part", material 0 or 1 is the first or
second colour of the piece. Local frame: x to the right, y up from the floor, z to the front; metres.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimtask.train.data.scenes.classes import BED, CABINET, CHAIR, LAMP, PLANT, SOFA, TABLE
from slimtask.train.data.scenes.counter import Draw

NOTHING, BOX, SPHERE, CYLINDER = range(4)
PARTS = 6
Number = Tensor | float | int
Part = tuple[Number, Number, Number, Number, Number, Number, Number, Number]
_EMPTY: Part = (NOTHING, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.0)


def parts(kind: Tensor, size: Tensor, draw: Draw) -> Tensor:
    """Return the parts of every piece of furniture, float64 [batch, places, PARTS, 8], from classes and sizes."""
    style = draw.uniform("style", kind.shape[1])
    detail = draw.uniform("detail", kind.shape[1], 8)
    result = torch.zeros(*kind.shape, PARTS, 8, dtype=torch.float64, device=kind.device)
    width, height, depth = size.unbind(-1)
    for label, build in _BUILDERS.items():
        made = build(width, height, depth, style, detail)
        table = torch.stack([_row(part, style) for part in made], -2)
        result = torch.where((kind == label)[..., None, None], table, result)
    return result


def _row(part: Part, like: Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(value, device=like.device).to(like).expand_as(like) for value in part], -1)


def _or(condition: Tensor, first: Part, second: Part) -> Part:
    """Return ``first`` where the condition holds, else ``second``, number by number."""
    a, b, c, d, e, f, g, h = (torch.where(condition, x, y) for x, y in zip(_t(first), _t(second), strict=True))
    return a, b, c, d, e, f, g, h


def _t(part: Part) -> list[Tensor]:
    return [torch.as_tensor(value, dtype=torch.float64) for value in part]


def _table(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    round_ = style < 0.3
    leg, top = 0.02 + 0.025 * detail[..., 0], 0.015 + 0.02 * detail[..., 1]
    x, z, under = w / 2 - leg - 0.02, d / 2 - leg - 0.02, h / 2 - top
    legs: list[Part] = [(BOX, i * x, under, j * z, leg, under, leg, 1) for i in (-1, 1) for j in (-1, 1)]
    r = torch.minimum(w, d) / 2
    return [
        _or(round_, (CYLINDER, 0, h - top, 0, r, top, r, 0), (BOX, 0, h - top, 0, w / 2, top, d / 2, 0)),
        _or(round_, (CYLINDER, 0, under, 0, 1.5 * leg, under, 1.5 * leg, 1), legs[0]),
        _or(round_, (CYLINDER, 0, 0.015, 0, 0.6 * r, 0.015, 0.6 * r, 1), legs[1]),
        _or(round_, _EMPTY, legs[2]),
        _or(round_, _EMPTY, legs[3]),
        _or(round_, _EMPTY, (BOX, 0, 2 * under - 0.04, -z, x, 0.04, 0.012, 1)),
    ]


def _chair(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    pole = style < 0.3
    seat, leg, thick = 0.40 + 0.08 * detail[..., 0], 0.015 + 0.012 * detail[..., 1], 0.02 + 0.03 * detail[..., 2]
    x, z, under = w / 2 - leg, d / 2 - leg, seat / 2 - thick / 2
    back = (h - seat) / 2
    legs: list[Part] = [(BOX, i * x, under, j * z, leg, under, leg, 1) for i in (-1, 1) for j in (-1, 1)]
    return [
        (BOX, 0, seat - thick / 2, 0, w / 2, thick / 2 + 0.005, d / 2, 0),
        (BOX, 0, seat + back, -d / 2 + 0.025, w / 2 - 0.01, back, 0.02 + 0.01 * detail[..., 3], 0),
        _or(pole, (CYLINDER, 0, under, 0, 0.03, under, 0.03, 1), legs[0]),
        _or(pole, (CYLINDER, 0, 0.02, 0, 0.45 * w, 0.02, 0.45 * w, 1), legs[1]),
        _or(pole, _EMPTY, legs[2]),
        _or(pole, _EMPTY, legs[3]),
    ]


def _sofa(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    seat, arm, back = 0.16 + 0.05 * detail[..., 0], 0.07 + 0.07 * detail[..., 1], 0.1 + 0.05 * detail[..., 2]
    rest = 0.26 + 0.07 * detail[..., 3]
    inner, cushion = w / 2 - 2 * arm, 0.05 + 0.03 * detail[..., 4]
    front = d / 2 - 2 * back
    return [
        (BOX, 0, seat - 0.02, 0, w / 2 - 0.01, seat - 0.02, d / 2 - 0.01, 0),
        (BOX, 0, h / 2, -d / 2 + back, w / 2 - 0.005, h / 2, back, 0),
        (BOX, -w / 2 + arm, rest, 0, arm, rest, d / 2, 0),
        (BOX, w / 2 - arm, rest, 0, arm, rest, d / 2, 0),
        (BOX, -inner / 2, 2 * seat - 0.04 + cushion, back, inner / 2 - 0.012, cushion, d / 2 - back, 1),
        (BOX, inner / 2, 2 * seat - 0.04 + cushion, back, inner / 2 - 0.012, cushion, front + back, 1),
    ]


def _bed(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    frame, mattress = 0.14 + 0.05 * detail[..., 0], 0.08 + 0.04 * detail[..., 1]
    lying = 2 * frame + 2 * mattress
    pillow = 0.06 + 0.03 * detail[..., 2]
    blanket = (0.3 + 0.15 * detail[..., 3]) * d
    single = w < 1.3
    at = torch.where(single, 0.0, w / 4)
    return [
        (BOX, 0, frame, 0, w / 2, frame, d / 2, 0),
        (BOX, 0, 2 * frame + mattress, 0.02, w / 2 - 0.04, mattress + 0.02, d / 2 - 0.05, 1),
        (BOX, 0, h / 2, -d / 2 + 0.03, w / 2 + 0.02, h / 2, 0.03, 0),
        (BOX, -at, lying + pillow, -d / 2 + 0.3, 0.18 + 0.08 * w, pillow, 0.17, 1),
        _or(single, _EMPTY, (BOX, at, lying + pillow, -d / 2 + 0.3, 0.18 + 0.03 * w, pillow, 0.17, 1)),
        (BOX, 0, lying - 0.05, d / 2 - blanket - 0.01, w / 2 - 0.01, 0.08, blanket, 0),
    ]


def _cabinet(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    shelf = style < 0.45
    board = 0.015 + 0.01 * detail[..., 0]
    lip = 0.01 + 0.02 * detail[..., 1]
    knob = 0.02 + 0.01 * detail[..., 2]
    x, y = w * 0.12, h * (0.5 + 0.2 * detail[..., 3])
    return [
        _or(shelf, (BOX, 0, h / 2, -d / 2 + board, w / 2, h / 2, board, 0), (BOX, 0, h / 2, 0, w / 2, h / 2, d / 2, 0)),
        _or(
            shelf,
            (BOX, -w / 2 + board, h / 2, 0, board, h / 2, d / 2, 0),
            (BOX, 0, h, 0, w / 2 + lip, 0.02, d / 2 + lip, 1),
        ),
        _or(
            shelf,
            (BOX, w / 2 - board, h / 2, 0, board, h / 2, d / 2, 0),
            (SPHERE, -x, y, d / 2 + knob, knob, knob, knob, 1),
        ),
        _or(shelf, (BOX, 0, h - board, 0, w / 2, board, d / 2, 0), (SPHERE, x, y, d / 2 + knob, knob, knob, knob, 1)),
        _or(shelf, (BOX, 0, 0.66 * h, 0, w / 2 - board, board, d / 2 - 0.01, 1), _EMPTY),
        _or(shelf, (BOX, 0, 0.3 * h, 0, w / 2 - board, board, d / 2 - 0.01, 1), _EMPTY),
    ]


def _lamp(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    ball = style < 0.4
    r, base = w / 2, 0.1 + 0.05 * detail[..., 0]
    tall = 0.1 + 0.09 * detail[..., 1]
    return [
        (CYLINDER, 0, 0.015, 0, base, 0.015, base, 1),
        (CYLINDER, 0, h / 2 - 0.1, 0, 0.015, h / 2 - 0.1, 0.015, 1),
        _or(ball, (SPHERE, 0, h - r, 0, r, r, r, 0), (CYLINDER, 0, h - tall, 0, r, tall, r, 0)),
        _EMPTY,
        _EMPTY,
        _EMPTY,
    ]


def _plant(w: Tensor, h: Tensor, d: Tensor, style: Tensor, detail: Tensor) -> list[Part]:
    pot = 0.10 + 0.05 * w
    tall = 0.12 + 0.1 * detail[..., 0]
    leaf = [w * (0.2 + 0.12 * detail[..., i]) for i in (1, 2, 3)]
    x, z = w * (detail[..., 4] - 0.5) * 0.4, w * (detail[..., 5] - 0.5) * 0.4
    return [
        (CYLINDER, 0, tall, 0, pot, tall, pot, 1),
        (CYLINDER, 0, h / 2, 0, 0.012, h / 2 - 0.05, 0.012, 1),
        (SPHERE, x, h - leaf[0], z, leaf[0], leaf[0], leaf[0], 0),
        (SPHERE, -z, 0.82 * h - leaf[1], x, leaf[1], leaf[1], leaf[1], 0),
        (SPHERE, z, 0.66 * h - leaf[2] * 0.5, -x, leaf[2], leaf[2], leaf[2], 0),
        (SPHERE, -x, 0.9 * h - leaf[1], -z, leaf[2], leaf[2], leaf[2], 0),
    ]


_BUILDERS: dict[int, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], list[Part]]] = {
    TABLE: _table,
    CHAIR: _chair,
    SOFA: _sofa,
    BED: _bed,
    CABINET: _cabinet,
    LAMP: _lamp,
    PLANT: _plant,
}
