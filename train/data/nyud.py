"""NYU-v2 in the two layouts of NYUD_MT: arrays (Less is More) and pictures (ATRC, InvPT). Four tasks each.

Both: ``images/ID``, ``segmentation/ID.png`` (0 void, 1 .. 40), ``depth/ID.npy`` (metres), ``normals/ID``, ``edge/ID``,
and lists of ids in ``gt_sets``.

* ``nyud_mt``: images ``.jpg``; normals float ``.npy`` [h, w, 3], 0 unknown; edges float ``.npy``; lists train, val,
  test.
* ``nyud``: images ``.png``; normals ``.png``, v / 255 * 2 - 1; edges ``.png``; lists train and val. ``val`` are the 654
  official test frames, so they are ``test`` here and ``val`` is a seeded hold-out of train.

Normals are taken in the file's axes as (x right, y up, z towards the camera): nothing published says which they are.
Mirroring negates the first channel, as the original loaders do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data import readers
from slimtask.train.data.frames import FrameSource, Reader, by_pattern
from slimtask.train.data.lists import hold_out, read_ids
from slimtask.train.data.nyu_v2 import CLASSES
from slimtask.train.data.reading import check_classes, read_array, read_labels
from slimtask.train.data.transforms import LabelMap
from slimtask.train.data.vectors import read_normals_array

HOLDOUT = 0.2
_ARRAYS = {
    "image": "images/*.jpg",
    "segmentation": "segmentation/*.png",
    "depth": "depth/*.npy",
    "normals": "normals/*.npy",
    "edges": "edge/*.npy",
}
_PICTURES = _ARRAYS | {"image": "images/*.png", "normals": "normals/*.png", "edges": "edge/*.png"}


MT_TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=40, classes=CLASSES),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
    TaskSpec(name="edges", kind="edges", channels=1),
)
# Losses and weights of InvPT: a weight belongs to its loss.
TASKS = (
    *MT_TASKS[:2],
    TaskSpec(name="normals", kind="normals", channels=3, weight=10.0, loss="l1"),
    TaskSpec(name="edges", kind="edges", channels=1, weight=50.0, loss="weighted_bce"),
)


class NyudMtSource(FrameSource):
    """The frames of one split of NYUD_MT as Less is More keeps them: arrays."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        own_val = (root / "gt_sets" / "val.txt").is_file()
        ids = _ids(root, split if own_val or split == "test" else "train")
        if not own_val and split != "test":
            ids = hold_out(ids, split, holdout, seed)
        reading: dict[str, Reader] = {
            "segmentation": read_segmentation,
            "depth": readers.metres,
            "normals": read_normals_array,
            "edges": read_edge_array,
        }
        super().__init__("nyud_mt", root, MT_TASKS, tasks, by_pattern(ids, _ARRAYS), tuple(_ARRAYS), reading)


class NyudSource(FrameSource):
    """The frames of one split of NYUD-v2 as ATRC and InvPT keep them: pictures."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        ids = _ids(root, "val") if split == "test" else hold_out(_ids(root, "train"), split, holdout, seed)
        reading: dict[str, Reader] = {
            "segmentation": read_segmentation,
            "depth": readers.metres,
            "normals": readers.normals,
            "edges": readers.mask,
        }
        super().__init__("nyud", root, TASKS, tasks, by_pattern(ids, _PICTURES), tuple(_PICTURES), reading)


def read_segmentation(path: Path) -> Tensor:
    """Return the classes 0 .. 39 and 255 (void) of a label map with 1 .. 40 and 0 (void)."""
    labels = read_labels(path).to(torch.int16) - 1
    return LabelMap(check_classes(labels.masked_fill(labels < 0, 255), len(CLASSES), path).to(torch.uint8))


def read_edge_array(path: Path) -> Tensor:
    """Return edges float32 [1, h, w] of {0, 1} from an array [h, w] of 0 .. 1 or 0 .. 255: above half is an edge."""
    array = read_array(path, "edge map").squeeze()
    if array.ndim != 2 or array.dtype.kind not in "fiub" or not array.size:
        raise InputError(f"the edge map '{path}' is not an array [height, width] of numbers; copy it again.")
    values = torch.from_numpy(array.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 255.0):
        raise InputError(f"the edge map '{path}' has values outside 0 .. 1 and 0 .. 255; copy it again.")
    return LabelMap((values > (0.5 if high <= 1.0 else 127.5)).float()[None])


def _ids(root: Path, name: str) -> list[str]:
    path = root / "gt_sets" / f"{name}.txt"
    if not path.is_file():
        raise InputError(f"the list '{path}' does not exist; set data.root to the folder above 'gt_sets'.")
    return read_ids(path, "NYUD-v2")
