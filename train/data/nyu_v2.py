"""NYU-v2 in AdaShare's format: indoor photographs with 40 classes, surface normals and depth.

``nyu_v2_3task.json`` in the root lists, per split, [image, seg, normal_mask, depth] paths relative to the root; for
which are train and val see ``lists.adashare_split`` (a seeded 20 % of ``train`` is held out if need be). A folder
without the list (a few sample frames) is indexed from ``img/`` and has no test split.

* image: 8-bit RGB PNG.  * seg: 8-bit PNG, classes 0 .. 39, 255 void.  * depth: float32 .npy, metres, 0 unknown.
* normal_mask: RGB PNG, vector = value / 255 * 2 - 1. Unknown are (255, 255, 255) and, around the frame,
  (127, 127, 127), which decodes to nearly zero.

Axes: the file's channels are (right, away from the camera, up) with the sign that makes the second negative for visible
surfaces, so our (x right, y up, z towards the camera) is (first, third, -second). Evidence: against normals computed by
finite differences from the depth maps of frames 0061 and 0295 the median angle is 7.6 and 13.1 degrees in this reading,
and at least 24.7 degrees in each of the 47 other permutations and signs; the median of the class floor in 0295 is
(0.05, 0.97, 0.22), up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data import readers, vectors
from slimtask.train.data.frames import FrameSource, Reader, by_pattern
from slimtask.train.data.lists import adashare_split, hold_out

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor_mat"),
    *(
        "clothes",
        "ceiling",
        "books",
        "refrigerator",
        "television",
        "paper",
        "towel",
        "shower_curtain",
        "box",
        "whiteboard",
    ),
    *("person", "night_stand", "toilet", "sink", "lamp", "bathtub", "bag", "other_structure", "other_furniture"),
    "other_prop",
)
# Weights of AdaShare and DiSparse.
TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=40, classes=CLASSES),
    TaskSpec(name="depth", kind="depth", channels=1, weight=3.0),
    TaskSpec(name="normals", kind="normals", channels=3, weight=20.0),
)
LIST = "nyu_v2_3task.json"
HOLDOUT = 0.2
AXES: vectors.Axes = ((0, 1), (2, 1), (1, -1))
_FIELDS = ("img", "seg", "normal_mask", "depth")
_COLUMNS = ("image", "segmentation", "normals", "depth")
_PATTERNS = {"image": "img/*.png", "segmentation": "seg/*.png", "normals": "normal_mask/*.png", "depth": "depth/*.npy"}


class NyuV2Source(FrameSource):
    """The frames of one split of NYU-v2."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        frames = (
            adashare_split(root / LIST, split, _FIELDS, what="NYU-v2", holdout=holdout, seed=seed)
            if (root / LIST).is_file()
            else _found(root, split, holdout, seed)
        )
        reading: dict[str, Reader] = {
            "segmentation": partial(readers.classes, count=len(CLASSES)),
            "depth": readers.metres,
            "normals": partial(readers.normals, axes=AXES),
        }
        super().__init__("nyu_v2", root, TASKS, tasks, frames, _COLUMNS, reading)


def decode_normals(pixels: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """Return unit normals (x right, y up, z towards the camera; 0 unknown) from the file's pixels."""
    return vectors.decode_normals(pixels, AXES)


def _found(root: Path, split: str, holdout: float, seed: int) -> list[tuple[str, ...]]:
    if split == "test":
        raise InputError(f"'{root}' has no {LIST}, so nothing says which frames are for testing; use 'train' or 'val'.")
    stems = sorted(path.stem for path in (root / "img").glob("*.png"))
    if not stems:
        raise InputError(f"'{root}' has neither {LIST} nor images in img/; set data.root to the NYU-v2 folder.")
    return hold_out(by_pattern(stems, _PATTERNS), split, holdout, seed)
