"""Cityscapes in AdaShare's format (the small arrays of MTAN): street scenes, semantic classes and inverse depth.

``cityscape.json`` in the root lists, per split, [image, depth, label of 2, of 7, of 19 classes] paths of ``.npy``
files; for which are train and val see ``lists.adashare_split``.

* image: float [h, w, 3], RGB, 0 .. 1; read as 8 bits, which is what it was made from.
* depth: float [h, w, 1], inverse depth in the data set's own scale; not metres. Unknown where not above 3e-5.
* labels: integers (of any type) [h, w], -1 void. ``classes`` chooses among the three maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data.frames import FrameSource, Reader
from slimtask.train.data.lists import adashare_split
from slimtask.train.data.reading import check_classes, read_array
from slimtask.train.data.transforms import InverseDepth, LabelMap

LIST = "cityscape.json"
HOLDOUT = 0.2
CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic_light", "traffic_sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
SMALLEST = 3e-5  # AdaShare: inverse depths up to this are holes
_FIELDS = ("image", "depth", "label2", "label7", "label19")
_MAPS = {2: "label2", 7: "label7", 19: "label19"}


class CityscapesSource(FrameSource):
    """The frames of one split of Cityscapes, with 2, 7 or 19 ``classes``."""

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        holdout: float = HOLDOUT,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
        classes: int = 19,
    ) -> None:
        if classes not in _MAPS:
            raise InputError(f"Cityscapes has labels of 2, 7 or 19 classes, not {classes}; set data.classes to one.")
        frames = adashare_split(root / LIST, split, _FIELDS, what="Cityscapes", holdout=holdout, seed=seed)
        columns = ["segmentation" if field == _MAPS[classes] else field for field in _FIELDS]
        readers: dict[str, Reader] = {
            "image": read_image,
            "depth": read_inverse_depth,
            "segmentation": partial(read_classes, count=classes),
        }
        super().__init__("cityscapes", root, tasks_of(classes), tasks, frames, columns, readers)


def tasks_of(classes: int) -> tuple[TaskSpec, ...]:
    """Return the tasks with so many classes, weighed as AdaShare and DiSparse do."""
    names = CLASSES if classes == len(CLASSES) else ()
    return (
        TaskSpec(name="segmentation", kind="segmentation", channels=classes, classes=names),
        TaskSpec(name="depth", kind="depth", channels=1, weight=20.0, unit="inverse depth"),
    )


def read_image(path: Path) -> Tensor:
    """Return the picture of a float array [h, w, 3] in 0 .. 1 as uint8 [3, h, w]; InputError if it is not one."""
    array = read_array(path, "image")
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"the image '{path}' is not a float array [height, width, 3]; copy it again.")
    if not (array.size and array.min() >= -1e-3 and array.max() <= 1.001):
        raise InputError(f"the image '{path}' has values outside 0 .. 1, or none; copy it again.")
    pixels = (array.clip(0, 1) * 255).round().astype(np.uint8)
    image: Tensor = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    return image


def read_inverse_depth(path: Path) -> Tensor:
    """Return inverse depth float32 [1, h, w], 0 where unknown, from a float array [h, w] or [h, w, 1]."""
    array = read_array(path, "depth map")
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 1):
        raise InputError(f"the depth map '{path}' is not a float array [height, width]; copy it again.")
    depth = torch.from_numpy(array.astype(np.float32)).reshape(1, *array.shape[:2])
    return InverseDepth(depth.where(depth.isfinite() & (depth > SMALLEST), 0.0))


def read_classes(path: Path, count: int) -> Tensor:
    """Return the classes 0 .. count - 1 and 255 (void) of an array [h, w] of whole numbers with -1 for void."""
    array = read_array(path, "label map").squeeze()
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not (array == np.round(array)).all():
        raise InputError(f"the label map '{path}' is not an array [height, width] of whole numbers; copy it again.")
    if not (array.size and array.min() >= -1):
        raise InputError(f"the label map '{path}' has values below -1 (void), or none; copy it again.")
    labels = torch.from_numpy(array.astype(np.int64))
    return LabelMap(check_classes(labels.masked_fill(labels == -1, 255), count, path).to(torch.uint8))
