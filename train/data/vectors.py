"""Surface normals as files keep them, decoded to unit vectors: x right, y up, z towards the camera; zero unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from slimtask.errors import InputError
from slimtask.train.data.reading import read_array
from slimtask.train.data.transforms import Normals

Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
AS_THEY_ARE: Axes = ((0, 1), (1, 1), (2, 1))


def decode_normals(
    pixels: UInt8[Tensor, "3 height width"], axes: Axes = AS_THEY_ARE
) -> Float[Tensor, "3 height width"]:
    """Return unit normals from a picture whose value v stands for v / 255 * 2 - 1.

    ``axes`` says for x, y and z which channel of the file it is, and with which sign. White pixels are unknown, and so
    are vectors shorter than a half: (127, 127, 127) decodes to nearly zero.
    """
    decoded = unit_normals(pixels.float() / 255.0 * 2.0 - 1.0, axes)
    return decoded.masked_fill((pixels == 255).all(0), 0.0)


def unit_normals(vectors: Float[Tensor, "3 height width"], axes: Axes = AS_THEY_ARE) -> Float[Tensor, "3 height width"]:
    """Return the vectors in our axes, of length one; zero where they are shorter than a half or not finite."""
    normals = torch.stack([sign * vectors[channel] for channel, sign in axes])
    length = normals.square().sum(0)
    unknown = (length < 0.25) | ~length.isfinite()
    return F.normalize(normals.masked_fill(unknown, 0.0), dim=0)


def read_normals_array(path: Path) -> Normals:
    """Return the normals of a float array [height, width, 3] saved by NumPy; InputError if it is something else."""
    array = read_array(path, "normal map")
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"the normal map '{path}' is not a float array [height, width, 3]; copy it again.")
    return Normals(unit_normals(torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1).contiguous()))
