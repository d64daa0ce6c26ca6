"""Batches as a pure function of the step, against one long list of shuffled epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slimtask.tasks import Preprocessing
from slimtask.train import parallel
from slimtask.train.batches import Batches, fetch, in_order

SIZE = Preprocessing(height=2, width=2)


class Numbers:
    """Image number n is full of n."""

    tasks = ()

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.full((3, 2, 2), float(index))}


def batches(**more: Any) -> Batches:
    return Batches(Numbers(5), SIZE, **{"batch": 3, "seed": 4, **more})  # type: ignore[arg-type]


def test_every_epoch_is_another_permutation_and_batches_run_on_over_its_end() -> None:
    made = batches()
    drawn = [index for number in range(10) for index in made.indices(number)]
    epochs = [drawn[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    again = batches()
    assert [again.indices(number) for number in (7, 0, 3)] == [made.indices(number) for number in (7, 0, 3)]
    assert [batches(seed=5).indices(number) for number in range(3)] != [made.indices(number) for number in range(3)]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_processes_and_parts_share_the_one_sequence(
    processes: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, drawn = batches(), []
    monkeypatch.setattr(parallel, "processes", lambda: processes)
    for step in range(2):
        for part in range(accumulate):
            for rank in range(processes):
                monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
                images, _ = batches(accumulate=accumulate)(step, part)
                drawn += (images[:, 0, 0, 0] * SIZE.std[0] + SIZE.mean[0]).round().int().tolist()
    wanted = [index for number in range(2 * accumulate * processes) for index in plain.indices(number)]
    assert drawn == wanted


def test_what_is_drawn_behind_a_batch_depends_on_its_step_alone() -> None:
    made = batches()
    draws = []
    for step in (3, 1, 3):
        made(step)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[2] != draws[1]


def test_in_order_is_every_sample_once() -> None:
    sizes = [len(images) for images, _ in in_order(Numbers(5), SIZE, 2)]  # type: ignore[arg-type]
    assert sizes == [2, 2, 1]


def test_a_data_set_that_can_is_asked_for_many_at_once() -> None:
    asked: list[list[int]] = []

    class Together(Numbers):
        def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
            asked.append(indices)
            return [self[index] for index in indices]

    assert len(fetch(Together(5), [4, 1])) == 2  # type: ignore[arg-type]
    assert asked == [[4, 1]]
