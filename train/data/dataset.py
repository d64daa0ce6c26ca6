"""A source with its transforms applied: what training and evaluation read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import torch

from slimtask.tasks import TaskSpec
from slimtask.train.data.protocol import Sample, Source


class TransformedDataset:
    """Images and targets after the transforms, a MultiTaskDataset.

    The augmentation of image ``i`` is a function of (seed, epoch, i): call ``set_epoch`` before every epoch. So it does
    not depend on the order of reading, on the number of workers, or on an interruption, and torch's global random state
    is left as it was. With ``cache`` raw samples are kept in memory after the first reading.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Sample], Sample],
        tasks: tuple[TaskSpec, ...],
        *,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.source, self.transform, self.tasks, self.seed = source, transform, tasks, seed
        self.epoch = 0
        self._cache: dict[int, Sample] | None = {} if cache else None

    @property
    def cached(self) -> bool:
        """Whether raw samples are kept in memory."""
        return self._cache is not None

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of the coming epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return many samples; sources that work in batches do so at once (torch's DataLoader asks this way)."""
        for index in indices:
            if not -len(self) <= index < len(self):
                # IndexError, not InputError: this ends a plain "for sample in dataset".
                raise IndexError(f"index {index} of a data set of {len(self)} images")
        wanted = [index % len(self) for index in indices]
        return [self._finish(index, sample) for index, sample in zip(wanted, self._raw(wanted), strict=True)]

    def _raw(self, indices: list[int]) -> list[Sample]:
        if self._cache is None:
            return self.source.load(indices)
        missing = sorted(set(indices) - set(self._cache))
        if missing:
            self._cache |= dict(zip(missing, self.source.load(missing), strict=True))
        return [self._cache[index] for index in indices]

    def _finish(self, index: int, sample: Sample) -> Sample:
        with _seeded(Random(f"{self.seed} {self.epoch} {index}").getrandbits(63)):
            sample = self.source.finish(self.transform(dict(sample)))
        return {name: sample[name] for name in ("image", *(task.name for task in self.tasks))}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # The default generator itself: torch.manual_seed would also reset the generators of the GPUs.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
