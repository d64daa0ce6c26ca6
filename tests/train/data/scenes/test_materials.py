from __future__ import annotations

import torch

from slimtask.train.data.scenes import materials as m
from slimtask.train.data.scenes.classes import LAMP
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.layout import lay_out


def _drawn():
    draw = Draw(0, "train", range(200))
    layout = lay_out(draw)
    return layout, m.draw_materials(draw, layout), m.draw_light(draw, layout)


def test_materials_are_in_range():
    _, materials, _ = _drawn()
    assert materials.shape == (200, m.MATERIALS, m.COLUMNS)
    assert ((materials[..., :6] >= 0.0) & (materials[..., :6] <= 1.0)).all()
    assert materials[..., m.TEXTURE].unique().tolist() == list(range(8))
    assert (materials[..., m.PERIOD] > 0.0).all()


def test_only_windows_and_lamps_shine():
    layout, materials, _ = _drawn()
    emit = materials[..., m.EMIT]
    window = materials[..., m.TEXTURE] == m.PANES
    assert (emit[window] > 0.0).all()
    lamp = torch.zeros_like(window)
    lamp[:, 3 + m.DECORATIONS :: 2] = layout.kind == LAMP
    assert not emit[~window & ~lamp].any()
    assert 0.3 < (emit[lamp] > 0.0).double().mean() < 0.7


def test_lamps_hang_inside_the_room():
    layout, _, light = _drawn()
    for position in (light.position, light.fill_position):
        assert (position[:, 0::2].abs() < layout.extent[:, 0::2]).all()
        assert ((position[:, 1] > 0.9) & (position[:, 1] < layout.extent[:, 1])).all()
    assert (light.size > 0.0).all()
