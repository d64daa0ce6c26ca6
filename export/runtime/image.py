"""Images in, network input out: loading, resizing and normalising exactly as in training. No torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from slimtask.errors import InputError, Unsupported
from slimtask.tasks import Preprocessing


def load_image(path: Path | str) -> np.ndarray:
    """Return the image file (PNG, JPEG, ...) as uint8 RGB [height, width, 3], turned upright; needs Pillow.

    Raises InputError if the file is missing, is not an image, or is cut off.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise Unsupported(
            "reading an image file", "this installation", "Pillow is missing", "pip install pillow"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"the image '{path}' does not exist; check the path.") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"'{path}' is not an image that can be read ({reason}); give a PNG or JPEG file.") from None


def preprocess(image: np.ndarray, preprocessing: Preprocessing, *, resize: bool = False) -> np.ndarray:
    """Return float32 [1, 3, height, width]: ``(pixel / 255 - mean) / std`` of a uint8 RGB image [height, width, 3].

    Another size is an InputError unless ``resize`` is set; then it is resampled bilinearly.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"an image of shape {image.shape} and type {image.dtype} is not RGB; give uint8 [height, width, 3]."
        )
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
