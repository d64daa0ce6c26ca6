"""The generated scenes as a source of raw samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision import tv_tensors

from slimtask.train.data.protocol import Sample
from slimtask.train.data.scenes.classes import TASKS
from slimtask.train.data.scenes.rendering import render
from slimtask.train.data.scenes.targets import object_presence
from slimtask.train.data.transforms import Depth, LabelMap, Normals


class ScenesSource:
    """The first ``count`` scenes of a split, rendered when they are read. The lens varies from scene to scene."""

    tasks = TASKS

    def __init__(self, *, height: int, width: int, split: str, count: int, seed: int = 0) -> None:
        self.height, self.width, self.split, self.count, self.seed = height, width, split, count, seed

    def __len__(self) -> int:
        return self.count

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw samples ``indices``, rendered together."""
        batch = render(indices, height=self.height, width=self.width, seed=self.seed, split=self.split)
        wrap = {
            "image": tv_tensors.Image,
            "segmentation": LabelMap,
            "edges": LabelMap,
            "depth": Depth,
            "normals": Normals,
        }
        names = ("image", *(task.name for task in TASKS))
        # Copies, so that a kept sample does not keep its whole batch in memory.
        return [
            {name: wrap[name](batch[name][i].clone()) if name in wrap else batch[name][i].clone() for name in names}
            for i in range(len(indices))
        ]

    def finish(self, sample: Sample) -> Sample:
        """Return the sample with ``objects`` as they are after cropping."""
        return sample | {"objects": object_presence(sample["segmentation"].as_subclass(Tensor))}
