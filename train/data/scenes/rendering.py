"""Rendering a batch of scenes: picture and targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.sensor import expose
from slimtask.train.data.scenes.shading import radiance, surfaces
from slimtask.train.data.scenes.targets import object_presence, occlusion_edges
from slimtask.train.data.scenes.trace import Tiling, trace_camera
from slimtask.train.data.scenes.world import build_world

# Pixels rendered at once: on a CPU few enough for its caches.
_PIXELS = {"cpu": 100_000}
_MANY_PIXELS = 8_000_000


@torch.no_grad()
def render(
    indices: Sequence[int],
    *,
    height: int,
    width: int,
    seed: int = 0,
    split: str = "train",
    device: str = "cpu",
    pixels: int | None = None,
) -> dict[str, Tensor]:
    """Return the scenes ``indices`` of a split: the picture and every target, first dimension the scene.

    ``image`` uint8 [b, 3, h, w] RGB; ``segmentation`` uint8 [b, h, w]; ``depth`` float32 [b, 1, h, w], z-depth (along
    the optical axis) in metres; ``normals`` float32 [b, 3, h, w], camera frame; ``edges`` float32 [b, 1, h, w];
    ``room`` int64 [b]; ``objects`` float32 [b, 10]; ``slopes`` float32 [b, 2, h, w], so that a pixel's point is
    depth * (slope x, slope y, -1) in the camera frame. A scene depends on seed, split, its index and the size alone,
    not on how many ``pixels`` are rendered at once (default: what the device has room for).
    """
    pixels = pixels or _PIXELS.get(torch.device(device).type, _MANY_PIXELS)
    chunk = max(1, pixels // (height * width))
    parts = [
        _render(Draw(seed, split, indices[i : i + chunk], device), Tiling(height, width))
        for i in range(0, len(indices), chunk)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _render(draw: Draw, tiling: Tiling) -> dict[str, Tensor]:
    world = build_world(draw)
    hits = trace_camera(world, tiling)
    surface = surfaces(world, hits)
    light = tiling.join(radiance(world, hits, surface, draw))
    axes = world.camera.axes[..., None, None]
    n = surface.normal
    normals = torch.stack([axes[:, i, 0] * n[0] + axes[:, i, 1] * n[1] + axes[:, i, 2] * n[2] for i in range(3)], 1)
    depth, normals = tiling.join(hits.depth), tiling.join(normals)
    slopes = tiling.join(torch.stack(hits.slope, 1))
    segmentation = tiling.join(surface.label).to(torch.uint8)
    return {
        "image": expose(light, draw),
        "segmentation": segmentation,
        "depth": depth[:, None],
        "normals": normals,
        "edges": occlusion_edges(depth, normals, slopes[:, 0], slopes[:, 1]),
        "room": world.room,
        "objects": object_presence(segmentation),
        "slopes": slopes,
    }
