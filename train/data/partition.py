"""Two disjoint parts of a data set, for methods that learn weights on one and structure on the other (AdaShare)."""

from __future__ import annotations

from collections.abc import Sequence

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.lists import hold_out
from slimtask.train.data.protocol import Sample, Source


class PartSource:
    """Some of the samples of a source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.tasks: tuple[TaskSpec, ...] = source.tasks

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw samples ``indices`` of the part."""
        return self.source.load([self.indices[index] for index in indices])

    def finish(self, sample: Sample) -> Sample:
        """Return the sample as the whole source would finish it."""
        return self.source.finish(sample)


def partition(
    dataset: TransformedDataset, share: float = 0.8, seed: int = 0
) -> tuple[TransformedDataset, TransformedDataset]:
    """Return a seeded random partition: ``share`` of the images, and the rest; each has at least one.

    Both parts keep the transforms, tasks, seed and cache setting, each with an epoch of its own; the images of a part
    are in the order of the whole. AdaShare learns weights on the first (``train1``), the policy on the second.

    Raises InputError for a share that is not between 0 and 1, or fewer than two images.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"the share {share} of a partition is not between 0 and 1; give a fraction such as 0.8.")
    if len(dataset) < 2:
        raise InputError(f"a data set of {len(dataset)} image(s) cannot be divided in two; give it more images.")
    count = min(len(dataset) - 1, max(1, round(share * len(dataset))))
    everything = range(len(dataset))
    first, second = (hold_out(everything, part, count / len(dataset), seed) for part in ("val", "train"))
    return _part(dataset, first), _part(dataset, second)


def _part(dataset: TransformedDataset, indices: Sequence[int]) -> TransformedDataset:
    part = TransformedDataset(
        PartSource(dataset.source, indices), dataset.transform, dataset.tasks, seed=dataset.seed, cache=dataset.cached
    )
    part.set_epoch(dataset.epoch)
    return part
