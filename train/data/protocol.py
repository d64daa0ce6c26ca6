"""The one protocol of all data sets, and how samples become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec

Sample = dict[str, Tensor]
"""``image``: float32 [3, H, W] RGB in 0 .. 1, not normalised; and one target per task, by the task's name."""


@runtime_checkable
class MultiTaskDataset(Protocol):
    """Images with one target per task; any object with these members can be trained on."""

    tasks: tuple[TaskSpec, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return one image with its targets."""
        ...


@runtime_checkable
class Source(Protocol):
    """What a data set brings: raw samples (8-bit images, maps as tv_tensors) and targets derived from others."""

    tasks: tuple[TaskSpec, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw samples ``indices``, before any transform."""
        ...

    def finish(self, sample: Sample) -> Sample:
        """Return a transformed sample with the targets added that are derived from other targets."""
        ...


def collate(
    samples: list[Sample], preprocessing: Preprocessing
) -> tuple[Float[Tensor, "batch 3 height width"], dict[str, Tensor]]:
    """Return the normalised images float32 [B, 3, H, W] and the targets, stacked, in the layouts of TaskSpec.

    Segmentation maps and class numbers become int64, all other targets float32; all are plain tensors. Raises
    InputError if there is no sample, or an image has not the size that ``preprocessing`` announces.
    """
    if not samples:
        raise InputError("no samples to put into a batch; give at least one.")
    size = (preprocessing.height, preprocessing.width)
    for sample in samples:
        if tuple(sample["image"].shape[-2:]) != size:
            raise InputError(
                f"an image of {_size(sample['image'].shape[-2:])} pixels does not fit the preprocessing, which says "
                f"{_size(size)}; open the data set with that height and width."
            )
    batch = {name: torch.stack([_plain(sample[name]) for sample in samples]) for name in samples[0]}
    image = batch.pop("image").float()
    image = image.flip(1) if preprocessing.order == "bgr" else image
    mean = image.new_tensor(preprocessing.mean)[:, None, None]
    std = image.new_tensor(preprocessing.std)[:, None, None]
    return (image - mean) / std, {name: _typed(target) for name, target in batch.items()}


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)


def _typed(target: Tensor) -> Tensor:
    return target.float() if target.is_floating_point() else target.long()


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
