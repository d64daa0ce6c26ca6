"""Training batches as a pure function of the step, so that a resumed run sees exactly what an unbroken one would."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from slimtask.tasks import Preprocessing
from slimtask.train import parallel
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.protocol import MultiTaskDataset, Sample, collate

Batch = tuple[Tensor, dict[str, Tensor]]


class Batches:
    """Seeded shuffled batches without end; each epoch is a fresh permutation, a last partial batch is filled up.

    Of a step's ``accumulate`` * processes * ``batch`` images every process takes its own, part by part.
    """

    def __init__(
        self,
        dataset: MultiTaskDataset,
        preprocessing: Preprocessing,
        *,
        batch: int,
        seed: int,
        accumulate: int = 1,
    ) -> None:
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.batch = batch
        self.seed = seed
        self.accumulate = accumulate

    def __call__(self, step: int, part: int = 0) -> Batch:
        """Return (images [batch, 3, h, w], targets) of ``step``; seeds torch's global generator (dropout) by it too."""
        number = (step * self.accumulate + part) * parallel.processes() + parallel.rank()
        torch.manual_seed(self.seed * 1_000_003 + number)
        if isinstance(self.dataset, TransformedDataset):
            self.dataset.set_epoch(step)  # augmentation anew in every step
        return collate(fetch(self.dataset, self.indices(number)), self.preprocessing)

    def indices(self, number: int) -> list[int]:
        """Return the sample indices of the ``number``-th batch of all parts, steps and processes."""
        size = len(self.dataset)
        chosen = []
        for position in range(number * self.batch, (number + 1) * self.batch):
            epoch, place = divmod(position, size)
            chosen.append(self._order(epoch)[place])
        return chosen

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed * 7_919 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(len(self.dataset), generator=generator).tolist()
        return self._permutation


def in_order(dataset: MultiTaskDataset, preprocessing: Preprocessing, batch: int) -> Iterator[Batch]:
    """Yield every sample once, in order, in batches; the last one may be smaller."""
    for start in range(0, len(dataset), batch):
        indices = list(range(start, min(start + batch, len(dataset))))
        yield collate(fetch(dataset, indices), preprocessing)


def fetch(dataset: MultiTaskDataset, indices: list[int]) -> list[Sample]:
    """Return the samples at ``indices``, all at once if the data set can do that."""
    together = getattr(dataset, "__getitems__", None)
    return together(indices) if together is not None else [dataset[index] for index in indices]
