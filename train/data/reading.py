"""Reading images, label maps and arrays of a data set; a file that is missing or damaged is named."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.files import open_regular
from slimtask.images import read_rgb as read_picture
from slimtask.images import read_values


def data_root(root: str | None, name: str) -> Path:
    """Return the folder of the data set ``name``; InputError if none was given or it does not exist."""
    if root is None:
        raise InputError(f"the data set '{name}' needs the folder it lies in; set data.root to it.")
    path = Path(root)
    if not path.is_dir():
        raise InputError(f"the data folder '{root}' of '{name}' does not exist; set data.root to where the data lies.")
    return path


def require_files(paths: Iterable[Path], name: str) -> None:
    """Raise InputError naming the first of ``paths`` that is not a file of the data set ``name``."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"the data set '{name}' lacks {len(missing)} file(s), first '{missing[0]}'; complete its folder or list."
        )


def read_rgb(path: Path) -> Tensor:
    """Return a picture as uint8 [3, h, w], RGB, upright, as ``run`` sees it; InputError names a damaged file."""
    return torch.from_numpy(read_picture(path)).permute(2, 0, 1).contiguous()


def read_labels(path: Path, classes: int | None = None) -> Tensor:
    """Return a single-channel 8-bit label map as uint8 [h, w]; InputError if it is something else or damaged.

    With ``classes`` the values must be 0 .. classes - 1, or 255 (void).
    """
    labels = torch.from_numpy(_values(path, ("L", "P"), "an 8-bit"))
    return labels if classes is None else check_classes(labels, classes, path)


def check_classes(labels: Tensor, classes: int, path: Path) -> Tensor:
    """Return ``labels``; InputError names the file ``path`` if one is neither 0 .. classes - 1 nor 255 (void)."""
    if ((labels >= classes) & (labels != 255)).any():
        raise InputError(f"the label map '{path}' has classes beyond {classes - 1} that are not 255 (void).")
    return labels


def read_wide(path: Path) -> Tensor:
    """Return a single-channel 16-bit PNG as int32 [h, w]; InputError if it is something else or damaged."""
    return torch.from_numpy(_values(path, ("I;16", "I;16B", "I"), "a 16-bit").astype(np.int32))


def read_array(path: Path, what: str) -> np.ndarray:
    """Return an array saved by NumPy, never unpickled; ``what`` names it in the InputError if it is damaged."""
    with open_regular(path, f"the {what}") as file:
        try:
            _check_header(file)
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise InputError(f"the {what} '{path}' is damaged ({error}); copy it again.") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"the {what} '{path}' is an archive of arrays, not one array; copy it again.")
    return array


def _check_header(file: BinaryIO) -> None:
    """Raise ValueError if the shape that an array's header states is none, or beyond what the file holds: no memory."""
    magic = file.read(6)
    file.seek(0)
    if magic == b"\x93NUMPY":
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if (
            min(shape, default=0) < 0
            or math.prod(shape) * dtype.itemsize > os.fstat(file.fileno()).st_size - file.tell()
        ):
            raise ValueError(f"its header states the shape {shape}, which it does not hold")
        file.seek(0)


def read_mat(path: Path, key: str) -> Any:
    """Return the value ``key`` of a MATLAB file (up to version 7), structs as dictionaries; InputError if damaged."""
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"the annotation '{path}' does not exist; complete the folder or its list.")
    try:
        content = loadmat(path, simplify_cells=True, variable_names=[key], appendmat=False)
    except Exception as error:  # SciPy raises whatever its parser stumbles over
        raise InputError(f"the annotation '{path}' is damaged ({error}); copy it again.") from None
    if key not in content:
        raise InputError(f"the annotation '{path}' has no '{key}'; copy it again.")
    return content[key]


def read_depth(path: Path) -> Tensor:
    """Return a depth map saved by NumPy as float32 [1, h, w] in metres, 0 where it is not a positive finite number."""
    array = read_array(path, "depth map")
    if array.dtype.kind != "f" or array.squeeze().ndim != 2:
        raise InputError(f"the depth map '{path}' is not a float array [height, width]; copy it again.")
    depth = torch.from_numpy(array.squeeze().astype(np.float32))[None]
    return depth.where(depth.isfinite() & (depth > 0), 0.0)


def same_size(image: Tensor, maps: dict[Path, Tensor], path: Path) -> None:
    """Raise InputError if one of ``maps`` has another height or width than the picture ``path``."""
    for other, value in maps.items():
        if value.shape[-2:] != image.shape[-2:]:
            raise InputError(
                f"'{other}' has {_size(value)} pixels but its picture '{path}' has {_size(image)}; they belong "
                "together, copy both again."
            )


def _values(path: Path, modes: tuple[str, ...], bits: str) -> np.ndarray:
    """Return the values [h, w] as they are stored; the file must have one of Pillow's ``modes``."""
    values, mode = read_values(path, modes)
    if mode not in modes:
        raise InputError(f"the map '{path}' is not {bits} single-channel image but '{mode}'.")
    return values


def _size(value: Tensor) -> str:
    return f"{value.shape[-2]} x {value.shape[-1]}"
