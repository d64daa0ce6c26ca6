"""PASCAL-Context in the layout of ATRC and InvPT: five dense tasks on everyday photographs.

* ``JPEGImages/ID.jpg``; ``ImageSets/Context/{train,val}.txt``: ``val``, the test images of all papers, is ``test``
  here, and ``val`` a seeded hold-out of train.
* segmentation: ``semseg/VOC12/ID.png``, where missing ``semseg/pascal-context/ID.png``: 21 classes, 255 void.
* human_parts: ``human_parts/ID.mat`` (PASCAL-Part): six parts and background; a picture that shows none is ignored, and
  left out if no other task is wanted.
* saliency: ``sal_distill/ID.png``, above half.
* edges: where two of the 459 labels of ``pascal-context/trainval/ID.mat`` meet, thinned to one pixel, at the
  final size.
* normals: ``normals_distill/ID.png``, v / 255 * 2 - 1, in the file's axes; only on classes that NYU-v2 has too (and
  tvmonitor), which the tables ``nyu_classes.json`` and ``context_classes.json`` in ``data/db_info`` or ``db_info`` say.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.files import read_json
from slimtask.tasks import TaskSpec, select_tasks
from slimtask.train.data import readers
from slimtask.train.data.boundaries import boundaries, thin
from slimtask.train.data.frames import FrameSource, Reader, by_pattern
from slimtask.train.data.lists import hold_out, read_ids
from slimtask.train.data.pascal_parts import PARTS, read_parts, with_people
from slimtask.train.data.protocol import Sample
from slimtask.train.data.reading import read_mat, require_files, same_size
from slimtask.train.data.transforms import LabelMap, Normals

HOLDOUT = 0.1
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Losses and weights of InvPT: a weight belongs to its loss.
TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=21, classes=CLASSES),
    TaskSpec(name="human_parts", kind="segmentation", channels=7, classes=PARTS, weight=2.0),
    TaskSpec(name="saliency", kind="saliency", channels=1, weight=5.0),
    TaskSpec(name="edges", kind="edges", channels=1, weight=50.0, loss="weighted_bce"),
    TaskSpec(name="normals", kind="normals", channels=3, weight=10.0, loss="l1"),
)
_VOC, _OWN = "semseg/VOC12/*.png", "semseg/pascal-context/*.png"
_PARTS = "human_parts/*.mat"
_CONTEXT = "pascal-context/trainval/*.mat"
_MIXED = "_context"  # the label map that edges are read off, when the sample has its final size


class PascalContextSource(FrameSource):
    """The images of one split of PASCAL-Context."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        names = {task.name for task in select_tasks(TASKS, tasks)}
        self.ids = _ids(root, split, holdout, seed)
        if names == {"human_parts"}:
            self.ids = with_people(root, "val" if split == "test" else "train", self.ids, _PARTS)
        columns = {
            "image": "JPEGImages/*.jpg",
            "segmentation": _VOC,
            "saliency": "sal_distill/*.png",
            "normals": "normals_distill/*.png",
        }
        reading: dict[str, Reader] = {
            "segmentation": partial(readers.classes, count=len(CLASSES)),
            "saliency": readers.mask,
            "normals": readers.normals,
        }
        frames = by_pattern(self.ids, columns)
        if "segmentation" in names:
            own = by_pattern(self.ids, columns | {"segmentation": _OWN})
            frames = [one if (root / one[1]).is_file() else other for one, other in zip(frames, own, strict=True)]
        super().__init__("pascal_context", root, TASKS, tasks, frames, tuple(columns), reading)
        self.names = names
        annotations = [_PARTS] * ("human_parts" in names) + [_CONTEXT] * bool({"edges", "normals"} & names)
        require_files((root / one.replace("*", image) for one in annotations for image in self.ids), "pascal_context")
        self.valid = valid_classes(root) if "normals" in names else torch.zeros(0)

    def read(self, index: int) -> Sample:
        """Return one raw image, with the map of all 459 labels if edges are to be read off it."""
        sample = super().read(index)
        if "human_parts" in self.names:
            sample["human_parts"] = LabelMap(read_parts(self._path(_PARTS, index), sample["image"].shape[-2:]))
        if {"edges", "normals"} & self.names:
            path = self._path(_CONTEXT, index)
            labels = read_context(path)
            same_size(sample["image"], {path: labels}, self._path("JPEGImages/*.jpg", index))
            if "normals" in self.names:
                known = torch.isin(labels, self.valid)
                sample["normals"] = Normals(sample["normals"].as_subclass(Tensor).masked_fill(~known, 0.0))
            if "edges" in self.names:
                sample[_MIXED] = LabelMap(labels.float())  # torch resizes no wide integers
        return sample

    def finish(self, sample: Sample) -> Sample:
        """Return the sample with ``edges``, and with parts ignored where the picture shows none."""
        sample = dict(sample)
        if _MIXED in sample:
            labels = sample.pop(_MIXED).as_subclass(Tensor)
            sample["edges"] = LabelMap(thin(boundaries(labels)).float()[None])
        if "human_parts" in sample and not (sample["human_parts"] > 0).any():
            sample["human_parts"] = LabelMap(torch.full_like(sample["human_parts"].as_subclass(Tensor), 255))
        return sample

    def _path(self, pattern: str, index: int) -> Path:
        return self.root / pattern.replace("*", self.ids[index])


def read_context(path: Path) -> Tensor:
    """Return the labels of PASCAL-Context, int32 [h, w]; InputError if the file is damaged or something else."""
    labels = read_mat(path, "LabelMap")
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise InputError(f"'LabelMap' in '{path}' is not a map of whole numbers; copy it again.")
    return torch.from_numpy(labels.astype(np.int32))


def valid_classes(root: Path) -> Tensor:
    """Return the labels on which normals count, int32: those whose names NYU-v2 knows too, and tvmonitor."""
    folder = next((one for one in (root / "data" / "db_info", root / "db_info") if one.is_dir()), None)
    if folder is None:
        raise InputError(
            f"'{root}' has no folder data/db_info with nyu_classes.json and context_classes.json, which say where "
            "normals count; copy it from ATRC or InvPT, or leave out the task 'normals'."
        )
    tables = []
    for name in ("nyu_classes.json", "context_classes.json"):
        table = read_json(folder / name, "the table of classes")
        if not isinstance(table, dict) or not all(isinstance(value, int) for value in table.values()):
            raise InputError(f"the table of classes '{folder / name}' is not {{name: number}}; copy it again.")
        tables.append(table)
    nyu, context = tables
    shared = ({*nyu, "tvmonitor"} & context.keys()) - {"unknown"}
    return torch.tensor(sorted(context[name] for name in shared), dtype=torch.int32)


def _ids(root: Path, split: str, holdout: float, seed: int) -> list[str]:
    path = root / "ImageSets" / "Context" / ("val.txt" if split == "test" else "train.txt")
    if not path.is_file():
        raise InputError(f"the list '{path}' does not exist; set data.root to the folder above 'ImageSets'.")
    ids = read_ids(path, "PASCAL-Context")
    return ids if split == "test" else hold_out(ids, split, holdout, seed)
