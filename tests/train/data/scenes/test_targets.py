from __future__ import annotations

import torch

from slimtask.train.data.scenes.camera import pixel_grid
from slimtask.train.data.scenes.classes import CLASSES, OBJECTS
from slimtask.train.data.scenes.targets import object_presence, occlusion_edges


def _slopes(height=40, width=60, lens=0.8):
    y, x = pixel_grid(height, width, torch.device("cpu"))
    return (lens * x).expand(height, -1), (lens * y).expand(-1, width)


def _plane(normal, distance, x, y):
    """Depth of the plane {p: n.p = -distance} along the rays (x, y, -1)."""
    n = torch.tensor(normal) / torch.tensor(normal).norm()
    return -distance / (n[0] * x + n[1] * y - n[2]), n


def _edges(depth, normal, x, y):
    return occlusion_edges(depth[None], normal[None], x[None], y[None])[0, 0].bool()


def test_a_steep_plane_has_no_edge():
    x, y = _slopes()
    depth, n = _plane([0.3, 0.8, 1.0], 1.0, x, y)
    keep = depth > 0
    assert keep.all()
    assert not _edges(depth, n[:, None, None].expand(3, *x.shape), x, y).any()


def test_creases_are_no_edges():
    x, y = _slopes()
    first, n = _plane([1.0, 0.0, 1.0], 2.0, x, y)
    second, m = _plane([-1.0, 0.0, 1.0], 2.0, x, y)
    for nearest in (torch.minimum(first, second), torch.maximum(first, second)):  # a corner of a room, and of a box
        normal = torch.where(nearest == first, n[:, None, None], m[:, None, None])
        assert not _edges(nearest, normal, x, y).any()


def test_a_square_before_a_wall_has_an_edge_on_both_sides_of_its_outline():
    x, y = _slopes()
    square = torch.zeros(40, 60, dtype=torch.bool)
    square[10:30, 20:45] = True
    depth = torch.where(square, 2.0, 3.0)
    normal = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 40, 60)
    expected = torch.zeros_like(square)
    expected[9:31, 20:45] = expected[10:30, 19:46] = True
    expected[11:29, 21:44] = False
    assert torch.equal(_edges(depth, normal, x, y), expected)


def test_a_small_jump_is_no_edge():
    x, y = _slopes()
    depth = torch.where(x > 0, 3.0, 3.05)
    normal = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, *x.shape)
    assert not _edges(depth, normal, x, y).any()


def test_presence_is_more_than_one_percent():
    labels = torch.zeros(2, 10, 100, dtype=torch.uint8)
    labels[0, 0, :10] = CLASSES.index("bed")  # exactly one percent: not more
    labels[1, 0, :11] = CLASSES.index("bed")
    labels[1, 1, :50] = CLASSES.index("wall")
    expected = torch.zeros(2, len(OBJECTS))
    expected[1, OBJECTS.index("bed")] = 1.0
    assert torch.equal(object_presence(labels), expected)
