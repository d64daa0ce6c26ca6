"""Reading images, label maps and arrays of a data set; a file that is missing or damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from slimtask.errors import InputError


def data_root(root: str | None, name: str) -> Path:
    """Return the folder of the data set ``name``; InputError if none was given or it does not exist."""
    if root is None:
        raise InputError(f"the data set '{name}' needs the folder it lies in; set data.root to it.")
    path = Path(root)
    if not path.is_dir():
        raise InputError(f"the data folder '{root}' of '{name}' does not exist; set data.root to where the data lies.")
    return path


def require_files(paths: list[Path], name: str) -> None:
    """Raise InputError naming the first of ``paths`` that is not a file of the data set ``name``."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"the data set '{name}' lacks {len(missing)} file(s), first '{missing[0]}'; complete its folder or list."
        )


def read_rgb(path: Path) -> Tensor:
    """Return a picture as uint8 [3, h, w], RGB; InputError names a damaged file."""
    return torch.from_numpy(_pixels(path, "RGB")).permute(2, 0, 1).contiguous()


def read_labels(path: Path) -> Tensor:
    """Return a single-channel 8-bit label map as uint8 [h, w]; InputError if it is something else or damaged."""
    return torch.from_numpy(_pixels(path, None))


def read_depth(path: Path) -> Tensor:
    """Return a depth map saved by NumPy as float32 [1, h, w] in metres, 0 where it is not a positive finite number."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"the depth map '{path}' does not exist; complete the folder or its list.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the depth map '{path}' is damaged ({error}); copy it again.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.squeeze().ndim != 2:
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


def _pixels(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as file:
            file.load()
            if mode is None and file.mode not in ("L", "P"):
                raise InputError(f"the label map '{path}' is not an 8-bit single-channel image but '{file.mode}'.")
            return np.array(file.convert(mode) if mode else file)
    except FileNotFoundError:
        raise InputError(f"the image '{path}' does not exist; complete the folder or its list.") from None
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the image '{path}' is damaged ({error}); copy it again.") from None


def _size(value: Tensor) -> str:
    return f"{value.shape[-2]} x {value.shape[-1]}"
