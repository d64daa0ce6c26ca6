"""Readers of one file of a frame, each a plain function of the path, so that a source can go to another process."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torchvision import tv_tensors

from slimtask.train.data.reading import read_depth, read_labels, read_rgb
from slimtask.train.data.transforms import Depth, LabelMap, Normals
from slimtask.train.data.vectors import AS_THEY_ARE, Axes, decode_normals


def image(path: Path) -> Tensor:
    """Return a picture as tv_tensors.Image, uint8 [3, h, w], RGB."""
    picture: Tensor = tv_tensors.Image(read_rgb(path))
    return picture


def classes(path: Path, count: int) -> Tensor:
    """Return an 8-bit label map, uint8 [h, w], of the classes 0 .. count - 1 and 255 (void)."""
    return LabelMap(read_labels(path, count))


def metres(path: Path) -> Tensor:
    """Return a depth map saved by NumPy, float32 [1, h, w] in metres, 0 unknown."""
    return Depth(read_depth(path))


def normals(path: Path, axes: Axes = AS_THEY_ARE) -> Tensor:
    """Return normals float32 [3, h, w] from an 8-bit picture, see ``vectors.decode_normals``."""
    return Normals(decode_normals(read_rgb(path), axes))


def mask(path: Path) -> Tensor:
    """Return a yes or no per pixel, float32 [1, h, w] of {0, 1}: an 8-bit map above half."""
    return LabelMap((read_labels(path) > 127).float()[None])
