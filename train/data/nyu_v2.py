"""NYU-v2 in AdaShare's format: indoor photographs with 40 classes, surface normals and depth.

``nyu_v2_3task.json`` in the root lists, per split, [image, seg, normal_mask, depth] paths relative to the root. Its
``train1`` and ``train2`` (a partition of ``train``) become ``train`` and ``val``; if they are missing, a seeded 20 % of
``train`` is ``val``. A folder without the list (a few sample frames) is indexed from ``img/`` and has no test split.

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
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from slimtask.errors import InputError
from slimtask.files import read_json
from slimtask.tasks import TaskSpec
from slimtask.train.data.protocol import Sample
from slimtask.train.data.reading import read_depth, read_labels, read_rgb, require_files, same_size
from slimtask.train.data.transforms import Depth, LabelMap, Normals

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
TASKS = tuple(
    TaskSpec.model_validate({"name": name, "kind": name, "channels": channels, "classes": classes})
    for name, channels, classes in (("segmentation", 40, CLASSES), ("depth", 1, ()), ("normals", 3, ()))
)
LIST = "nyu_v2_3task.json"
HOLDOUT = 0.2
_FOLDERS = (("img", ".png"), ("seg", ".png"), ("normal_mask", ".png"), ("depth", ".npy"))
Frame = tuple[Path, Path, Path, Path]


class NyuV2Source:
    """The frames of one split of NYU-v2."""

    tasks = TASKS

    def __init__(self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0) -> None:
        frames = _listed(root, split, holdout, seed) if (root / LIST).is_file() else _found(root, split, holdout, seed)
        require_files([path for frame in frames for path in frame], "nyu_v2")
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw frames ``indices``."""
        return [self._load(self.frames[index]) for index in indices]

    def finish(self, sample: Sample) -> Sample:
        """Return the sample: nothing is derived."""
        return sample

    def _load(self, frame: Frame) -> Sample:
        image_path, seg_path, normals_path, depth_path = frame
        image, seg = read_rgb(image_path), read_labels(seg_path)
        normals, depth = decode_normals(read_rgb(normals_path)), read_depth(depth_path)
        same_size(image, {seg_path: seg, normals_path: normals, depth_path: depth}, image_path)
        if ((seg >= len(CLASSES)) & (seg != 255)).any():
            raise InputError(
                f"the label map '{seg_path}' has classes beyond {len(CLASSES) - 1} that are not 255 (void)."
            )
        return {
            "image": tv_tensors.Image(image),
            "segmentation": LabelMap(seg),
            "depth": Depth(depth),
            "normals": Normals(normals),
        }


def decode_normals(pixels: Tensor) -> Tensor:
    """Return unit normals float32 [3, h, w] (x right, y up, z towards the camera; 0 unknown) from uint8 [3, h, w]."""
    right, away, up = (pixels.float() / 255.0 * 2.0 - 1.0).unbind(0)
    normals = torch.stack([right, up, -away])
    unknown = (pixels == 255).all(0) | (normals.square().sum(0) < 0.25)
    return F.normalize(normals, dim=0).masked_fill(unknown, 0.0)


def _listed(root: Path, split: str, holdout: float, seed: int) -> list[Frame]:
    lists = read_json(root / LIST, "the list of NYU-v2")
    if not isinstance(lists, dict):
        raise InputError(f"the list '{root / LIST}' is not a table of splits; it is damaged, copy it again.")
    if split == "test":
        return _entries(root, lists, "test")
    if "train1" in lists and "train2" in lists:
        return _entries(root, lists, "train1" if split == "train" else "train2")
    if "val" in lists:
        return _entries(root, lists, split)
    return _hold_out(_entries(root, lists, "train"), split, holdout, seed)


def _entries(root: Path, lists: dict[str, Any], name: str) -> list[Frame]:
    entries = lists.get(name)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"the list '{root / LIST}' has no frames under '{name}'; copy it again.")
    inside = root.resolve()
    frames: list[Frame] = []
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 4 and all(isinstance(path, str) for path in entry)):
            raise InputError(f"'{name}' in '{root / LIST}' has an entry that is not [img, seg, normal_mask, depth].")
        image, seg, normals, depth = (root / path for path in entry)
        for path in (image, seg, normals, depth):
            if not path.resolve().is_relative_to(inside):
                raise InputError(f"'{name}' in '{root / LIST}' names '{path}' outside the data folder; mend the list.")
        frames.append((image, seg, normals, depth))
    return frames


def _found(root: Path, split: str, holdout: float, seed: int) -> list[Frame]:
    if split == "test":
        raise InputError(f"'{root}' has no {LIST}, so nothing says which frames are for testing; use 'train' or 'val'.")
    stems = sorted(path.stem for path in (root / "img").glob("*.png"))
    if not stems:
        raise InputError(f"'{root}' has neither {LIST} nor images in img/; set data.root to the NYU-v2 folder.")
    frames: list[Frame] = []
    for stem in stems:
        image, seg, normals, depth = (root / folder / f"{stem}{suffix}" for folder, suffix in _FOLDERS)
        frames.append((image, seg, normals, depth))
    return _hold_out(frames, split, holdout, seed)


def _hold_out(frames: list[Frame], split: str, share: float, seed: int) -> list[Frame]:
    """Return the seeded hold-out for ``val`` (at least one frame), the rest for ``train``, each in the list's order."""
    held = set(Random(seed).sample(range(len(frames)), max(1, round(share * len(frames)))))
    return [frame for i, frame in enumerate(frames) if (i in held) == (split == "val")]
