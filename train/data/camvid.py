"""CamVid: road scenes from a driving car, with three tasks read off one label map.

Folders ``{train,val}/images/NAME.jpg`` (or .png) and ``{train,val}/labels/NAME.png``: classes 0 .. 10, 11 void. Names
begin with the drive (``0016E5_00390``), and neighbouring frames look alike. So selection must not draw single frames:

* ``train``: the folder ``train`` less one contiguous stretch of every drive,
* ``val``: these stretches (by default 15 % of each drive; their place comes from the seed),
* ``test``: the folder ``val``, one stretch that neither training nor selection sees. In the official split it lies in a
  gap of the drive 0016E5, about a second from training frames at both ends, so it tells little about other streets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torchvision import tv_tensors

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec, select_tasks
from slimtask.train.data.boundaries import VOID, label_edges
from slimtask.train.data.protocol import Sample
from slimtask.train.data.reading import read_labels, read_rgb, require_files, same_size
from slimtask.train.data.transforms import LabelMap

CLASSES = (*("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),)
PRESENCE = 0.01  # a class is present when it covers more than this share of all pixels
TASKS = tuple(
    TaskSpec.model_validate({"name": name, "kind": kind, "channels": channels, "classes": classes})
    for name, kind, channels, classes in (
        ("segmentation", "segmentation", len(CLASSES), CLASSES),
        ("edges", "edges", 1, ()),
        ("presence", "multilabel", len(CLASSES), CLASSES),
    )
)
HOLDOUT = 0.15
_VOID = len(CLASSES)


class CamVidSource:
    """The frames of one split of CamVid. Every task is read off the one label map."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        self.tasks = select_tasks(TASKS, tasks)
        folder = root / ("val" if split == "test" else "train")
        images = folder / "images"
        if not images.is_dir():
            raise InputError(f"the CamVid folder '{images}' does not exist; set data.root to the folder above 'train'.")
        frames = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not frames:
            raise InputError(f"the CamVid folder '{images}' holds no .jpg or .png image; check data.root.")
        if split != "test":
            held_out = held_out_stretches([path.name for path in frames], holdout, seed)
            frames = [path for path, held in zip(frames, held_out, strict=True) if held == (split == "val")]
        self.frames = frames
        self.labels = [folder / "labels" / f"{path.stem}.png" for path in frames]
        require_files(self.labels, "camvid")

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw frames ``indices``: picture and label map."""
        return [self._load(self.frames[index], self.labels[index]) for index in indices]

    def finish(self, sample: Sample) -> Sample:
        """Return the sample with ``edges`` and ``presence``, derived from the label map at its final size."""
        labels = sample["segmentation"].as_subclass(Tensor)
        return sample | {"edges": LabelMap(label_edges(labels)), "presence": presence(labels)}

    def _load(self, frame: Path, path: Path) -> Sample:
        image, labels = read_rgb(frame), read_labels(path)
        same_size(image, {path: labels}, frame)
        if (labels > _VOID).any():
            raise InputError(
                f"the label map '{path}' has the value {int(labels.max())}; CamVid labels are 0 .. {_VOID}."
            )
        labels = labels.masked_fill(labels == _VOID, VOID)
        return {"image": tv_tensors.Image(image), "segmentation": LabelMap(labels)}


def held_out_stretches(names: list[str], share: float, seed: int) -> list[bool]:
    """Return which of the sorted frame ``names`` belong to the held-out stretch of their drive (at least one frame)."""
    held = []
    for drive, frames in groupby(names, key=lambda name: name.split("_")[0]):
        count = len(list(frames))
        length = max(1, round(share * count))
        start = Random(f"{seed} {drive}").randrange(max(1, count - length + 1))
        held += [start <= i < start + length for i in range(count)]
    return held


def presence(labels: Tensor) -> Tensor:
    """Return which classes cover more than PRESENCE of the map [h, w], float32 [11] of {0, 1}."""
    counts = torch.bincount(labels.flatten().long(), minlength=VOID + 1)[: len(CLASSES)]
    return (counts > PRESENCE * labels.numel()).float()
