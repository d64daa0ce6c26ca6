from __future__ import annotations

import torch

from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, SPHERE
from slimtask.train.data.scenes.shading import albedo, radiance, surfaces
from slimtask.train.data.scenes.trace import Tiling, trace_camera
from slimtask.train.data.scenes.world import build_world


def _view(world, height=48, width=64):
    tiling = Tiling(height, width)
    hits = trace_camera(world, tiling)
    surface = surfaces(world, hits)
    slopes = [tiling.join(slope)[0].double() for slope in hits.slope]
    normal = torch.stack([tiling.join(n)[0] for n in surface.normal])
    return tiling.join(hits.depth)[0], normal, tiling.join(surface.label)[0], slopes


def test_a_sphere_has_the_depth_and_normals_of_the_closed_form(bare_world):
    centre, radius = torch.tensor([0.2, 1.4, -1.0], dtype=torch.float64), 0.6
    depth, normal, label, (x, y) = _view(bare_world((SPHERE, centre.tolist(), [radius] * 3, [0.8, 0.6])))
    ray = torch.stack([x, y, -torch.ones_like(x)])
    offset = (centre - torch.tensor([0.0, 1.5, 2.0], dtype=torch.float64))[:, None, None]
    a, b, c = (ray * ray).sum(0), (ray * offset).sum(0), (offset * offset).sum() - radius**2
    root = b * b - a * c
    t = (b - root.sqrt()) / a
    on = root > 1e-2
    assert on.sum() > 100
    assert (label[on] == 6).all()
    torch.testing.assert_close(depth[on].double(), t[on], rtol=1e-5, atol=1e-5)
    expected = (t * ray - offset) / radius
    torch.testing.assert_close(normal[:, on].double(), expected[:, on], rtol=0, atol=1e-4)
    assert (label[root < -1e-2] != 6).all()


def test_walls_floor_and_ceiling_have_the_depth_of_planes(bare_world):
    depth, normal, label, (x, y) = _view(bare_world((SPHERE, [0.0, -9.0, 0.0], [0.1] * 3, [1.0, 0.0])))
    planes = torch.stack([5.0 + 0.0 * x, 2.0 / x.abs(), 1.5 / y.abs()])
    torch.testing.assert_close(depth.double(), planes.amin(0), rtol=1e-5, atol=1e-5)
    face = planes.argmin(0)
    expected = torch.zeros(3, *x.shape)
    expected[2][face == 0] = 1.0
    expected[0][face == 1] = -x.sign().float()[face == 1]
    expected[1][face == 2] = -y.sign().float()[face == 2]
    assert torch.equal(normal, expected)
    assert torch.equal(label == 0, (face == 2) & (y < 0))
    assert torch.equal(label == 2, (face == 2) & (y > 0))


def test_a_turned_box_shows_its_two_sides(bare_world):
    # cosine 0.8, sine 0.6: the front (+z) looks along (0.6, 0, 0.8), the side (-x) along (-0.8, 0, 0.6).
    _, normal, label, _ = _view(bare_world((BOX, [0.0, 1.5, -1.0], [0.4, 0.9, 0.4], [0.8, 0.6])))
    seen = normal[:, label == 6].T.unique(dim=0)
    torch.testing.assert_close(seen, torch.tensor([[-0.8, 0.0, 0.6], [0.6, 0.0, 0.8]]))


def test_a_cylinder_shows_tube_and_cap(bare_world):
    depth, normal, label, (x, y) = _view(bare_world((CYLINDER, [0.0, 0.5, -1.0], [0.4, 0.4, 0.4], [1.0, 0.0])))
    on = label == 6
    cap = on & (normal[1] == 1.0)
    tube = on & (normal[1] == 0.0)
    assert torch.equal(cap | tube, on)
    torch.testing.assert_close(depth[cap].double(), (0.6 / -y)[cap], rtol=1e-5, atol=1e-5)
    px, pz = (x * depth)[tube], (2.0 - depth.double() + 1.0)[tube]
    torch.testing.assert_close((px**2 + pz**2).sqrt(), torch.full_like(px, 0.4), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal[0, tube].double(), px / 0.4, rtol=0, atol=1e-4)


def test_colours_and_light_are_finite_and_not_negative():
    draw = Draw(0, "train", range(8))
    world = build_world(draw)
    hits = trace_camera(world, Tiling(48, 64))
    surface = surfaces(world, hits)
    colour, emit = albedo(surface)
    for channel in colour:
        assert ((channel >= 0.0) & (channel <= 1.0)).all()
    assert (emit >= 0.0).all()
    light = radiance(world, hits, surface, draw)
    assert light.isfinite().all()
    assert (light >= 0.0).all()


def test_every_surface_faces_the_camera():
    world = build_world(Draw(0, "train", range(12)))
    hits = trace_camera(world, Tiling(48, 64))
    normal = surfaces(world, hits).normal
    facing = sum(n * d for n, d in zip(normal, hits.ray, strict=True))
    assert facing.max() < 1e-3
