from __future__ import annotations

import torch

from slimtask.train.data.scenes.classes import CEILING, FLOOR, PICTURE, RUG, WALL, WINDOW
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import NOTHING
from slimtask.train.data.scenes.materials import MATERIALS
from slimtask.train.data.scenes.world import FACES, build_world


def _world():
    return build_world(Draw(0, "train", range(100)))


def test_the_faces_of_the_room_come_last():
    world = _world()
    assert world.label.shape[1] == world.shape.shape[1] + FACES
    assert world.label[:, -FACES:].unique(dim=0).tolist() == [[WALL, WALL, FLOOR, CEILING, WALL, WALL]]
    assert torch.equal(world.material[:, -FACES:], world.label[:, -FACES:])
    assert world.material.max() < MATERIALS


def test_solids_lie_in_the_room():
    world = _world()
    there = world.shape != NOTHING
    c, s = world.yaw.abs().unbind(-1)
    reach_x = c * world.half[..., 0] + s * world.half[..., 2]
    reach_z = s * world.half[..., 0] + c * world.half[..., 2]
    for axis, reach in ((0, reach_x), (2, reach_z)):
        outside = world.centre[..., axis].abs() + reach - world.extent[:, None, axis]
        assert outside[there].max() < 0.15  # frames sink into the wall, leaves and table tops may touch it
    assert (world.centre[..., 1] - world.half[..., 1])[there].min() > -0.01
    assert ((c * c + s * s - 1.0).abs() < 1e-6).all()


def test_windows_and_pictures_hang_on_walls_and_rugs_lie_on_the_floor():
    world = _world()
    label = world.label[:, :-FACES]
    there = world.shape != NOTHING
    for kind in (WINDOW, PICTURE):
        on = there & (label == kind)
        x, z = (world.extent[:, None, i] - world.centre[..., i].abs() for i in (0, 2))
        assert on.sum() > 50
        torch.testing.assert_close(torch.minimum(x, z)[on], torch.full((int(on.sum()),), 0.02), atol=1e-4, rtol=0)
    rug = there & (label == RUG)
    assert 0.3 < rug.any(1).float().mean() < 0.7
    assert (world.centre[..., 1] + world.half[..., 1])[rug].max() < 0.02
