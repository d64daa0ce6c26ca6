from __future__ import annotations

import torch

from slimtask.train.data.scenes.camera import pixel_grid, place_camera
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.layout import lay_out


def test_cameras_are_upright_right_handed_and_inside_the_room():
    draw = Draw(0, "train", range(200))
    layout = lay_out(draw)
    camera = place_camera(draw, layout)
    identity = camera.axes @ camera.axes.transpose(1, 2)
    torch.testing.assert_close(identity, torch.eye(3).expand(200, -1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(camera.axes), torch.ones(200), atol=1e-5, rtol=0)
    assert (camera.axes[:, 1, 1] > 0.5).all()
    assert (camera.eye[:, 0::2].abs() < layout.extent[:, 0::2] - 0.2).all()
    assert ((camera.eye[:, 1] > 0.9) & (camera.eye[:, 1] < 2.0)).all()


def test_nearly_all_cameras_stand_clear_of_the_furniture():
    draw = Draw(0, "train", range(400))
    layout = lay_out(draw)
    eye = place_camera(draw, layout).eye[:, None, 0::2].double()
    inside = ((eye - layout.position).abs() < layout.reach).all(-1) & layout.there
    assert inside.any(1).float().mean() < 0.01


def test_pixel_grid_is_centred_with_square_pixels():
    y, x = pixel_grid(3, 4, torch.device("cpu"))
    torch.testing.assert_close(x[0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(y[:, 0], torch.tensor([0.5, 0.0, -0.5]))
