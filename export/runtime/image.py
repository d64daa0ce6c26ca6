"""Images in, network input out: loading, resizing and normalising exactly as in training. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slimtask.errors import InputError, Unsupported
from slimtask.images import check_rgb, read_rgb
from slimtask.tasks import Preprocessing


def load_image(path: Path | str) -> np.ndarray:
    """Return the image file as uint8 RGB [height, width, 3], turned upright; needs Pillow.

    Raises InputError if the file is missing, no image, damaged, or has no one meaning in RGB; see ``slimtask.images``.
    """
    return read_rgb(path)


def preprocess(image: np.ndarray, preprocessing: Preprocessing, *, resize: bool = False) -> np.ndarray:
    """Return float32 [1, 3, height, width]: ``(pixel / 255 - mean) / std`` of a uint8 RGB image [height, width, 3].

    Another size is an InputError unless ``resize`` is set; then it is resampled bilinearly. So is what is not uint8
    RGB: nothing says whether floats end at 1 or 255, nor what a fourth channel is.
    """
    check_rgb(image)
    size = (preprocessing.height, preprocessing.width)
    if image.shape[:2] != size:
        if not resize:
            raise InputError(
                f"the image is {image.shape[0]}x{image.shape[1]} (height x width), the bundle was exported for "
                f"{size[0]}x{size[1]}; resize it, or pass --resize."
            )
        image = _resized(image, size)
    image = image[..., ::-1] if preprocessing.order == "bgr" else image
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    scaled = (image.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise Unsupported("resizing an image", "this installation", "Pillow is missing", "pip install pillow") from None
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
