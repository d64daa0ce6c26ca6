"""Which primitive each ray meets first, and which points the lamp cannot see.

Pixels are grouped in square tiles; a primitive is tried only in the tiles it may touch. The candidates of all images
are one flat list of (image, primitive, tile), so the cost is that of the pairs that matter, without a loop over
anything but the three kinds of solids.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimtask.train.data.scenes.camera import pixel_grid
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, NOTHING, SPHERE
from slimtask.train.data.scenes.primitives import Vector, enter_leave
from slimtask.train.data.scenes.world import World

TILE = 8
_NEAR = 1e-3  # metres; nothing nearer to the camera is seen, nothing nearer to a point shades it
_ID_BITS = 10


class Tiling(NamedTuple):
    """How an image is cut into tiles of TILE x TILE pixels (the last ones may stick out)."""

    height: int
    width: int

    @property
    def rows(self) -> int:
        """The number of rows of tiles."""
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        """The number of columns of tiles."""
        return -(-self.width // TILE)

    def cut(self, image: Tensor) -> Tensor:
        """Return an image over the full tiles [..., rows * TILE, columns * TILE] as tiles [..., tiles, pixels]."""
        blocks = image.reshape(*image.shape[:-2], self.rows, TILE, self.columns, TILE)
        return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)

    def join(self, tiles: Tensor) -> Tensor:
        """Return tiles [..., tiles, pixels] as the image [..., height, width]."""
        blocks = tiles.reshape(*tiles.shape[:-2], self.rows, self.columns, TILE, TILE)
        image: Tensor = blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)
        return image[..., : self.height, : self.width]


class Hits(NamedTuple):
    """What the camera's rays meet, in tiles [b, tiles, pixels]."""

    depth: Tensor  # z-depth in metres
    primitive: Tensor  # int64 row of the world's primitives, faces of the room last
    slope: tuple[Tensor, Tensor]  # the ray is (slope x, slope y, -1) in the camera frame
    ray: Vector  # the same, world frame


def trace_camera(world: World, tiling: Tiling) -> Hits:
    """Return the nearest hit of every pixel; because rays have unit z in the camera frame, t is the z-depth."""
    camera = world.camera
    y, x = pixel_grid(tiling.height, tiling.width, camera.eye.device)
    y, x = _extend(y, tiling.rows * TILE, 0, tiling.width), _extend(x, tiling.columns * TILE, 1, tiling.width)
    lens = camera.lens[:, None, None]
    slope_x = tiling.cut(lens * x.expand(len(y), -1))
    slope_y = tiling.cut(lens * y.expand(-1, x.shape[1]))
    right, up, back = (camera.axes[:, i, :, None, None] for i in range(3))
    ray: Vector = tuple(right[:, i] * slope_x + up[:, i] * slope_y - back[:, i] for i in range(3))  # type: ignore[assignment]
    depth, face = _room(world, ray)
    best = _pack(depth, face + world.shape.shape[1])
    touched = _screen_tiles(world, tiling)
    rows = tiling.rows * tiling.columns
    flat = best.flatten(0, 1)
    for shape in (BOX, SPHERE, CYLINDER):
        image, solid, tile = (touched & (world.shape == shape)[..., None]).nonzero(as_tuple=True)
        row = image * rows + tile
        turned = _turn(world, image, solid, tuple(axis.flatten(0, 1)[row] for axis in ray))
        origin = _local(world, image, solid, tuple(camera.eye[image, i, None] for i in range(3)))
        near, far = enter_leave(shape, origin, turned, _half(world, image, solid))
        near = near.masked_fill((near > far) | (near < _NEAR), float("inf"))
        flat = flat.scatter_reduce(0, row[:, None].expand_as(near), _pack(near, solid[:, None]), "amin")
    best = flat.view_as(best)
    return Hits((best >> _ID_BITS).int().view(torch.float32), best & ((1 << _ID_BITS) - 1), (slope_x, slope_y), ray)


def lamp_seen(world: World, point: Vector, samples: Tensor) -> Tensor:
    """Return the share of lamp points each surface point sees, [b, tiles, pixels], in 0 .. 1.

    ``samples`` [b, k, 3] are points on the lamp; ``point`` are surface points lifted a little off their surface.
    """
    touched = _shadow_tiles(world, point, samples)
    count = samples.shape[1]
    rows = point[0].shape[1]
    flat = torch.zeros_like(point[0]).flatten(0, 1).repeat(count, 1).bool()
    for shape in (BOX, SPHERE, CYLINDER):
        image, solid, tile = (touched & (world.shape == shape)[..., None]).nonzero(as_tuple=True)
        row = image * rows + tile
        origin = _local(world, image, solid, tuple(axis.flatten(0, 1)[row] for axis in point))
        half = _half(world, image, solid)
        for k in range(count):
            lamp = _local(world, image, solid, tuple(samples[image, k, i, None] for i in range(3)))
            direction: Vector = tuple(a - b for a, b in zip(lamp, origin, strict=True))  # type: ignore[assignment]
            near, far = enter_leave(shape, origin, direction, half)
            dark = (near < far) & (far > _NEAR) & (near < 1.0)
            flat.index_put_((row + k * len(point[0]) * rows,), dark, accumulate=True)
    return 1.0 - flat.view(count, *point[0].shape).sum(0) / count


def _pack(depth: Tensor, solid: Tensor) -> Tensor:
    """Return depth and primitive in one integer whose order is that of the depth (positive floats sort as integers)."""
    return (depth.contiguous().view(torch.int32).long() << _ID_BITS) | solid


def _extend(axis: Tensor, size: int, dim: int, width: int) -> Tensor:
    """Continue evenly spaced coordinates up to ``size`` entries."""
    sign = 1.0 if dim else -1.0
    have = axis.shape[dim]
    steps = torch.arange(1, size - have + 1, device=axis.device, dtype=axis.dtype) * (sign * 2.0 / width)
    return torch.cat([axis, axis.narrow(dim, have - 1, 1) + (steps[None] if dim else steps[:, None])], dim)


def _room(world: World, ray: Vector) -> tuple[Tensor, Tensor]:
    """Return the distance to the room's own faces from inside, and which of the FACES it is."""
    exits = []
    x, height, z = (world.extent[:, i, None, None] for i in range(3))
    for low, high, axis, i in ((-x, x, ray[0], 0), (0.0 * x, height, ray[1], 1), (-z, z, ray[2], 2)):
        direction = axis.where(axis.abs() > 1e-9, 1e-9)
        exits.append((torch.where(direction > 0, high, low) - world.camera.eye[:, i, None, None]) / direction)
    depth = exits[0].minimum(exits[1]).minimum(exits[2])
    axis = torch.where(depth == exits[0], 0, torch.where(depth == exits[1], 1, 2))
    positive = torch.where(axis == 0, ray[0], torch.where(axis == 1, ray[1], ray[2])) > 0
    return depth, axis * 2 + positive


def _rotate(world: World, image: Tensor, solid: Tensor, vector: Vector) -> Vector:
    c, s = world.yaw[image, solid, 0, None], world.yaw[image, solid, 1, None]
    x, y, z = vector
    return x * c - z * s, y, x * s + z * c


def _turn(world: World, image: Tensor, solid: Tensor, direction: tuple[Tensor, ...]) -> Vector:
    x, y, z = direction
    return _rotate(world, image, solid, (x, y, z))


def _local(world: World, image: Tensor, solid: Tensor, point: tuple[Tensor, ...]) -> Vector:
    x, y, z = (axis - world.centre[image, solid, i, None] for i, axis in enumerate(point))
    return _rotate(world, image, solid, (x, y, z))


def _half(world: World, image: Tensor, solid: Tensor) -> Vector:
    x, y, z = (world.half[image, solid, i, None] for i in range(3))
    return x, y, z


def _screen_tiles(world: World, tiling: Tiling) -> Tensor:
    """Return which tiles the picture of each primitive's box may touch, bool [b, p, tiles]."""
    signs = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], device=world.half.device)
    x, y, z = (world.half[:, :, None] * signs).unbind(-1)
    c, s = world.yaw[..., None, 0], world.yaw[..., None, 1]
    corner = (c * x + s * z, y, c * z - s * x)
    offset = world.centre - world.camera.eye[:, None]
    relative = [offset[..., i, None] + corner[i] for i in range(3)]
    axes = world.camera.axes[:, :, :, None, None]
    right, up, back = (sum(axes[:, j, i] * relative[i] for i in range(3)) for j in range(3))
    front = -torch.as_tensor(back)
    behind = (front < 0.05).any(-1)  # a box that reaches behind the camera may be anywhere
    scale = tiling.width / 2 / (front.clamp(min=0.05) * world.camera.lens[:, None, None])
    column = (torch.as_tensor(right) * scale + tiling.width / 2) / TILE
    line = (tiling.height / 2 - torch.as_tensor(up) * scale) / TILE
    masks = []
    for place, count in ((line, tiling.rows), (column, tiling.columns)):
        low, high = place.amin(-1, keepdim=True) - 0.01, place.amax(-1, keepdim=True) + 0.01
        tile = torch.arange(count, device=place.device)
        masks.append(((tile <= high) & (tile + 1 >= low)) | behind[..., None])
    touched = masks[0][..., :, None] & masks[1][..., None, :]
    return touched.flatten(-2) & (world.shape != NOTHING)[..., None]


def _shadow_tiles(world: World, point: Vector, samples: Tensor) -> Tensor:
    """Return which primitives may stand between each tile's points and the lamp, bool [b, p, tiles].

    All points lie in a ball around the tile's middle, all lamp points in a ball around the lamp's: the line between the
    middles is tested against the primitive's box, inflated by the larger radius.
    """
    middle, spread = [], []
    for axis in point:
        low, high = axis.amin(-1), axis.amax(-1)
        middle.append((low + high) / 2)
        spread.append((high - low) / 2)
    lamp = (samples.amin(1) + samples.amax(1)) / 2
    size = (samples.amax(1) - samples.amin(1)) / 2
    radius = [torch.maximum(spread[i], size[:, i, None])[:, None] for i in range(3)]
    flat = torch.maximum(radius[0], radius[2])
    c, s = world.yaw[..., 0, None], world.yaw[..., 1, None]

    def local(vector: list[Tensor]) -> Vector:
        x, y, z = (vector[i] - world.centre[..., i, None] for i in range(3))
        return x * c - z * s, y, x * s + z * c

    start = local([axis[:, None] for axis in middle])
    end = local([lamp[:, i, None, None] for i in range(3)])
    direction = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    # A square of half size r, turned, fits in one of half size 1.415 r.
    half = tuple(world.half[..., i, None] + grow for i, grow in enumerate((1.415 * flat, radius[1], 1.415 * flat)))
    near, far = enter_leave(BOX, start, direction, (half[0], half[1], half[2]))
    return (near < far) & (far > 0.0) & (near < 1.0) & (world.shape != NOTHING)[..., None]
