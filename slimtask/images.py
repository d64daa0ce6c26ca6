"""Image files in: the one place that opens them. Other people's files are read, so nothing in one is trusted. No torch.

Opened are regular files of ``FORMATS``, of at most ``MAX_PIXELS`` pixels: known before any is decoded. PostScript, PDF
and the like, which run other programs, are not among them, whatever the file is called. How pixels become 8-bit RGB:

* 1-bit, grey, palette, RGB, YCbCr as they are meant; CMYK as (1 - c) (1 - k), without colour profiles.
* 16-bit grey: whole range to whole range, ``round(value / 257)``; 12-bit alike. 16-bit colour loses its low byte.
* 32-bit float grey in 0 .. 1: ``round(255 value)``; whole numbers in 0 .. 255 beyond 1: as they are; else refused.
* Alpha and transparent colours: dropped if every pixel is opaque, else refused, as what lies behind is not known.
* EXIF orientation: turned upright. Of a camera's several pictures in one JPEG the first; animations, pages refused.
* 32-bit integers, CIELab and whatever else there may be: refused, as white is not known.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from slimtask.errors import InputError, Unsupported
from slimtask.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 8192 * 8192  # 61 megapixel cameras pass; decoding takes about 1 GB
MAX_SCANNED = 64 * MAX_PIXELS  # pixels times scans of a progressive JPEG: 4 s of decoding
_LONGEST = 240  # characters of a path that a sentence quotes
MAX_BYTES = 2**30  # above what MAX_PIXELS of four uncompressed 16-bit channels take

_KINDS = "PNG, JPEG, BMP, TIFF or WebP"
_WIDE = ("I;16", "I;16B", "I;16L", "I;16N")
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION, _PHOTOMETRIC, _BITS, _SUBFILE, _TILE = 0x0112, 262, 258, 254, (322, 323)

_TOO_LARGE = f"more pixels than the {MAX_PIXELS:,} (8192 x 8192) that are read; make it smaller first."

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to stderr where nobody set up logging
_LIBTIFF = re.compile(rb"(tempfile\.tif|\w+): .*\.\r?\n?$")  # "MODULE: What is wrong." of its default handler
_quiet = threading.Lock()  # filters of warnings belong to the process: one thread at a time changes them


def _renew_lock() -> None:
    """Give a forked process a lock of its own: another thread of its parent may have held the old one."""
    global _quiet  # noqa: PLW0603
    _quiet = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def read_rgb(path: Path | str) -> np.ndarray:
    """Return an image file as uint8 RGB [height, width, 3], upright; how it is converted tells the module.

    Raises:
        InputError: one sentence on a file that is missing, no regular file, no image, of a kind that is not read, too
            large, damaged, or whose pixels have no one meaning in 8-bit RGB.
        Unsupported: if Pillow is missing.
    """
    given: Any = path
    if not isinstance(given, str | os.PathLike):
        return check_rgb(given)
    with _opened(path) as (image, name):
        return _upright(to_rgb(image, name), image)


def read_values(path: Path | str, modes: tuple[str, ...]) -> tuple[np.ndarray, str]:
    """Return the values of an image file as they are stored [height, width], and its mode: labels, depth, no colours.

    Raises InputError as ``read_rgb`` does. An image of none of Pillow's ``modes`` comes empty: the caller says what
    it should have been.
    """
    with _opened(path) as (image, _):
        if image.mode not in modes:
            return np.empty((0, 0), np.uint8), image.mode
        return _upright(np.array(image), image), image.mode


def to_rgb(image: np.ndarray | Image.Image, name: str = "the image") -> np.ndarray:
    """Return an array or Pillow's image as uint8 RGB [height, width, 3]; ``name`` begins the InputError if it is none.

    An array must be that already. Pillow's image is converted as the module tells; it is not turned.
    """
    if isinstance(image, np.ndarray):
        return check_rgb(image)
    if image.mode in _WIDE or (image.mode == "I" and image.format == "PNG"):
        return _grey(_from_wide(image, name))
    if image.mode == "F":
        return _grey(_from_float(np.array(image), name))
    if image.mode not in _PLAIN + _ALPHA:
        raise InputError(
            f"{name} holds '{image.mode}' pixels, of which it is not known what is white; save it as 8-bit RGB first."
        )
    if image.has_transparency_data:
        with_alpha = image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")
        if with_alpha.getchannel("A").getextrema() != (255, 255):
            raise _transparent(name)
        return np.array(with_alpha.convert("RGB"))
    return np.array(image.convert("RGB"))


def check_rgb(array: Any) -> np.ndarray:
    """Return ``array`` if it is uint8 RGB [height, width, 3] with pixels; else InputError says what it is."""
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"an image is an array of uint8 [height, width, 3] or the path of a file, not {type(array).__name__}; "
            "give numpy.asarray of its RGB pixels."
        )
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise InputError(
            f"an image of shape {array.shape} and type {array.dtype} is not RGB; give uint8 [height, width, 3]."
        )
    return array


def shown(path: Path | str | bytes) -> str:
    """Return a path as a sentence quotes it: on one line, a long one without its middle, escaped if unprintable."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fsdecode(path))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 3]}...{line[-_LONGEST // 2 :]}"


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[Image.Image, str]]:
    """Yield the decoded image and its name in sentences; whatever the file does to Pillow is an InputError."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise Unsupported(
            "reading an image file", "this installation", "Pillow is missing", "pip install pillow"
        ) from None
    name = f"the image '{shown(path)}'"
    with open_regular(path, "the image", MAX_BYTES) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise InputError(f"{name} is damaged: it is empty; copy it again.")
        try:
            with _without_warnings():
                image = Image.open(file, formats=FORMATS)
            with image:
                _refuse_frames(image, name)
                _refuse_size(image, name)
                _refuse_scans(image, file, name)
                _load(image)
                yield image, name
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise InputError(f"{name} has {_TOO_LARGE}") from None
        except UnidentifiedImageError:
            raise InputError(f"{name} is damaged or of a kind that is not read; give a {_KINDS} file.") from None
        except MemoryError:
            raise InputError(f"{name} does not fit into the memory; make it smaller first.") from None
        except Exception:  # Pillow's decoders raise many kinds on damaged files
            raise InputError(f"{name} is damaged or cut off; copy it again, or save it anew.") from None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Pillow's warnings (metadata, sizes) from the user, and a user's ``-W error`` from what is read."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_native_lines() -> Iterator[None]:
    """Keep libtiff from standard error, where its C code writes what it thinks of a file; other lines come after."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as lines:
        os.dup2(lines.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            lines.seek(0)
            for line in lines:
                if not _LIBTIFF.match(line):
                    os.write(2, line)


def _load(image: Image.Image) -> None:
    """Decode; a TIFF without its warnings and lines. Others have none then, need no lock and run side by side."""
    if image.format == "TIFF":
        with _without_warnings(), _without_native_lines():
            image.load()
    else:
        image.load()


def _refuse_frames(image: Image.Image, name: str) -> None:
    """Refuse an animation, several pages, or a thumbnail whose picture lies elsewhere (camera raw files)."""
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(
            f"{name} holds several pictures (an animation or pages); save the one that is meant by itself."
        )
    if _tag(image, _SUBFILE, 0) & 1:
        raise InputError(f"{name} holds a thumbnail first, as camera raw files do; save it as a plain TIFF or PNG.")


def _refuse_size(image: Image.Image, name: str) -> None:
    """Refuse too many pixels before any is decoded, those of a TIFF's single tile too."""
    width, height = image.size
    if not width or not height:
        raise InputError(f"{name} is damaged: it has no pixels; copy it again.")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} has {width} x {height} pixels (width x height), {_TOO_LARGE}")
    if _tag(image, _TILE[0], 1) * _tag(image, _TILE[1], 1) > MAX_PIXELS:
        raise InputError(f"{name} has tiles of {_TOO_LARGE}")


def _refuse_scans(image: Image.Image, file: BinaryIO, name: str) -> None:
    """Refuse a JPEG that goes over all of its pixels again and again: 20 kB of scans keep a decoder busy for 10 s.

    Between the pixels' bits 0xff is followed by a zero, so 0xff 0xda starts a scan; cameras write up to 10.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    place, scans = file.tell(), 0
    file.seek(0)
    while part := file.read(2**20):
        scans += part.count(b"\xff\xda")
    file.seek(place)
    if scans * image.width * image.height > MAX_SCANNED:
        raise InputError(f"{name} goes over its pixels {scans} times, more often than is read; save it anew.")


def _tag(image: Image.Image, number: int, otherwise: int) -> int:
    """Return a whole number out of a TIFF's tags; ``otherwise`` if there is none."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return otherwise
    with _without_warnings():  # a tag is parsed when it is asked for
        value = tags.get(number, otherwise)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else otherwise


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Return the pixels [height, width, ...] turned as EXIF says; damaged EXIF says nothing."""
    with _without_warnings():
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # a parser of other people's bytes
            orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _from_wide(image: Image.Image, name: str) -> np.ndarray:
    """Return 16-bit grey [height, width] as 0 .. 255; a TIFF may have 12 bits of it, and may mean 0 as white."""
    values = np.array(image).astype(np.int32)
    white = (1 << min(max(_tag(image, _BITS, 16), 1), 16)) - 1
    if "transparency" in image.info and (values == image.info["transparency"]).any():
        raise _transparent(name)
    if values.min() < 0 or values.max() > white:
        raise InputError(f"{name} has values outside 0 .. {white}; save it as 8-bit RGB first.")
    if _tag(image, _PHOTOMETRIC, 1) == 0:
        values = white - values
    return (values * 255 + white // 2) // white


def _from_float(values: np.ndarray, name: str) -> np.ndarray:
    """Return float grey [height, width] as 0 .. 255, if its range says what is white."""
    low, high = float(values.min()), float(values.max())  # not-a-number if any value is
    if low >= 0 and high <= 1:
        return (values * 255).round()
    if low >= 0 and high <= 255 and (values == values.round()).all():
        return values
    raise InputError(
        f"{name} holds floating-point values from {low:g} to {high:g}, of which it is not known what is white; "
        "scale them to 0 .. 1, or save it as 8-bit RGB."
    )


def _transparent(name: str) -> InputError:
    return InputError(f"{name} has transparent pixels, and what lies behind them is not known; flatten it first.")
