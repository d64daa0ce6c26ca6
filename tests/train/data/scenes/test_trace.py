from __future__ import annotations

import pytest
import torch

from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, SPHERE
from slimtask.train.data.scenes.shading import surfaces
from slimtask.train.data.scenes.trace import Tiling, lamp_seen, trace_camera
from slimtask.train.data.scenes.world import build_world


def _nearest_in_float64(world, b, origin, ray):
    """First entry of rays [n, 3] into any solid of image b, one solid after the other; no tiles, no packing."""
    best = torch.full(ray.shape[:1], float("inf"), dtype=torch.float64)
    for kind, centre, half, yaw in zip(world.shape[b], world.centre[b], world.half[b], world.yaw[b], strict=True):
        if kind == 0:
            continue
        c, s = yaw.double()
        turn = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]], dtype=torch.float64)
        o, d, h = (origin - centre.double()) @ turn.T, ray @ turn.T, half.double()
        if kind == SPHERE:
            near, far = _quadratic(o, d, h[0])
        else:
            low, high = (-h - o) / d, (h - o) / d
            near, far = torch.minimum(low, high), torch.maximum(low, high)
            if kind == CYLINDER:
                side = _quadratic(o[:, [0, 2]], d[:, [0, 2]], h[0])
                near, far = torch.stack([near[:, 1], side[0]], 1), torch.stack([far[:, 1], side[1]], 1)
            near, far = near.amax(1), far.amin(1)
        best = torch.where((near < far) & (far > 1e-3) & (near < best), near, best)
    return best


def _quadratic(o, d, r):
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - r * r
    root = (b * b - a * c).sqrt()  # nan for a miss, and nan compares false
    return (-b - root) / a, (-b + root) / a


@pytest.mark.parametrize("size", [(5, 7), (16, 24), (33, 50)])
def test_tiles_cut_and_join_are_inverse(size):
    tiling = Tiling(*size)
    full = torch.arange(tiling.rows * 8 * tiling.columns * 8).view(1, tiling.rows * 8, tiling.columns * 8)
    tiles = tiling.cut(full)
    assert tiles.shape == (1, tiling.rows * tiling.columns, 64)
    assert torch.equal(tiles[0, 0].view(8, 8), full[0, :8, :8])
    assert torch.equal(tiling.join(tiles), full[:, : size[0], : size[1]])


def test_the_nearest_hit_equals_brute_force_in_float64():
    world = build_world(Draw(3, "test", range(6)))
    tiling = Tiling(30, 44)
    hits = trace_camera(world, tiling)
    count = world.shape.shape[1]
    for b in range(6):
        ray = torch.stack([axis[b].flatten() for axis in hits.ray], 1).double()
        eye = world.camera.eye[b].double()
        solid = _nearest_in_float64(world, b, eye.expand_as(ray), ray)
        x, height, z = world.extent[b].double()
        low, high = torch.stack([-x, 0 * x, -z]), torch.stack([x, height, z])
        wall = torch.maximum((low - eye) / ray, (high - eye) / ray).amin(1)
        torch.testing.assert_close(hits.depth[b].flatten().double(), torch.minimum(solid, wall), rtol=2e-4, atol=1e-5)
        on_wall = hits.primitive[b].flatten() >= count
        assert (on_wall == (wall < solid)).float().mean() > 0.999


def test_shadows_equal_brute_force_in_float64():
    world = build_world(Draw(4, "test", range(4)))
    hits = trace_camera(world, Tiling(24, 32))
    surface = surfaces(world, hits)
    point = tuple(p + 2e-3 * n for p, n in zip(surface.point, surface.normal, strict=True))
    lamps = world.light.position[:, None] + torch.tensor([[-0.2, 0.0, 0.1], [0.15, 0.0, 0.2]])
    seen = lamp_seen(world, point, lamps)
    for b in range(4):
        start = torch.stack([axis[b].flatten() for axis in point], 1).double()
        free = sum((_nearest_in_float64(world, b, start, lamp.double() - start) >= 1.0).double() for lamp in lamps[b])
        assert ((seen[b].flatten().double() - free / 2).abs() < 1e-6).double().mean() > 0.998


def test_a_box_before_the_lamp_throws_a_shadow(bare_world):
    world = bare_world((BOX, [0.0, 2.0, 0.0], [0.5, 0.05, 0.5], [1.0, 0.0]))
    one = torch.ones(1, 1, 1)
    lamp = torch.tensor([[[0.0, 2.9, 0.0]]])
    assert lamp_seen(world, (0.0 * one, 1.0 * one, 0.0 * one), lamp).item() == 0.0
    assert lamp_seen(world, (1.9 * one, 1.0 * one, 0.0 * one), lamp).item() == 1.0
    assert lamp_seen(world, (0.0 * one, 2.5 * one, 0.0 * one), lamp).item() == 1.0
