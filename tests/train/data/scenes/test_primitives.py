from __future__ import annotations

import pytest
import torch

from slimtask.train.data.scenes.furniture import BOX, CYLINDER, SPHERE
from slimtask.train.data.scenes.primitives import enter_leave


def _inside(shape, p, half):
    """How far inside the solid a point is (negative: outside), from the definition of the solid."""
    if shape == SPHERE:
        return half[..., 0] - p.norm(dim=-1)
    if shape == CYLINDER:
        return torch.minimum(half[..., 0] - p[..., [0, 2]].norm(dim=-1), half[..., 1] - p[..., 1].abs())
    return (half - p.abs()).amin(-1)


def _rays(count=4000):
    generator = torch.Generator().manual_seed(0)
    origin = torch.randn(count, 3, generator=generator)
    origin = origin / origin.norm(dim=-1, keepdim=True) * 4.0
    target = torch.rand(count, 3, generator=generator) * 2.4 - 1.2
    half = torch.rand(count, 3, generator=generator) * 0.9 + 0.05
    return origin, target - origin, half


def _columns(value):
    return tuple(value.unbind(-1))


@pytest.mark.parametrize("shape", [BOX, SPHERE, CYLINDER])
def test_entry_and_exit_lie_on_the_surface_and_a_miss_never_comes_inside(shape):
    origin, direction, half = _rays()
    near, far = enter_leave(shape, _columns(origin), _columns(direction), _columns(half))
    hit = near < far
    assert 0.1 < hit.float().mean() < 0.95
    for t in (near, far):
        point = origin.double() + t[:, None].double() * direction.double()
        assert _inside(shape, point, half.double())[hit].abs().max() < 1e-5
    steps = torch.linspace(0.0, 2.0, 400, dtype=torch.float64)
    points = origin.double()[:, None] + steps[:, None] * direction.double()[:, None]
    depth = _inside(shape, points, half.double()[:, None])
    assert (depth[~hit].amax(1) < 1e-5).all()
    between = (steps > near.double()[:, None]) & (steps < far.double()[:, None]) & hit[:, None]
    assert (depth[between] > -1e-5).all()


def test_sphere_equals_the_quadratic_formula():
    origin, direction, half = _rays()
    near, far = enter_leave(SPHERE, _columns(origin), _columns(direction), _columns(half))
    o, d, r = origin.double(), direction.double(), half[:, 0].double()
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - r * r
    root = b * b - a * c
    clear = root > 1e-3 * a  # grazing rays are ill conditioned in any arithmetic
    torch.testing.assert_close(near.double()[clear], ((-b - root.sqrt()) / a)[clear], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(far.double()[clear], ((-b + root.sqrt()) / a)[clear], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [BOX, SPHERE, CYLINDER])
def test_rays_along_an_axis_are_exact(shape):
    zero, one, half = torch.zeros(1), torch.ones(1), torch.full((1,), 0.5)
    for axis in range(3):
        origin, direction = [zero] * 3, [zero] * 3
        origin[axis], direction[axis] = -3.0 * one, one
        near, far = enter_leave(shape, tuple(origin), tuple(direction), (half, half, half))
        assert near.item() == pytest.approx(2.5, abs=1e-6)
        assert far.item() == pytest.approx(3.5, abs=1e-6)
