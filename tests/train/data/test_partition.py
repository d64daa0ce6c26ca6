from __future__ import annotations

import pytest
import torch

from slimtask.errors import InputError
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.partition import partition

CONFIG = DataConfig(height=16, width=24, train=10, val=4, seed=3, scale=(1.0, 1.5))


def _indices(part):
    return part.source.indices


def test_the_parts_are_disjoint_seeded_and_complete():
    dataset = open_dataset(CONFIG, "train")
    first, second = partition(dataset, 0.8, seed=1)
    assert (len(first), len(second)) == (8, 2)
    assert sorted(_indices(first) + _indices(second)) == [*range(10)]
    assert _indices(first) == sorted(_indices(first))
    assert _indices(partition(dataset, 0.8, seed=1)[1]) == _indices(second)
    assert len({tuple(_indices(partition(dataset, 0.8, seed=seed)[1])) for seed in range(10)}) > 1


@pytest.mark.parametrize(("share", "sizes"), [(0.001, (1, 9)), (0.999, (9, 1)), (0.5, (5, 5))])
def test_neither_part_is_empty(share, sizes):
    parts = partition(open_dataset(CONFIG, "train"), share)
    assert tuple(map(len, parts)) == sizes


def test_the_parts_hold_the_images_of_the_whole_under_the_same_transforms():
    dataset = open_dataset(CONFIG, "val")  # its transform is a plain resize
    for part in partition(dataset, 0.5, seed=0):
        assert isinstance(part, TransformedDataset)
        assert part.tasks == dataset.tasks
        for place, index in enumerate(_indices(part)):
            assert all(torch.equal(part[place][name], dataset[index][name]) for name in dataset[index])


def test_each_part_is_augmented_anew_in_its_own_epochs():
    first, second = partition(open_dataset(CONFIG, "train"))
    before, other = first[0]["image"], second[0]["image"]
    first.set_epoch(5)
    assert not torch.equal(first[0]["image"], before)
    assert torch.equal(second[0]["image"], other)


def test_a_cache_is_kept():
    dataset = open_dataset(CONFIG.model_copy(update={"cache": True}), "train")
    assert all(part.cached for part in partition(dataset))
    assert not any(part.cached for part in partition(open_dataset(CONFIG, "train")))


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match="not between 0 and 1"):
        partition(open_dataset(CONFIG, "train"), 1.0)
    with pytest.raises(InputError, match=r"1 image\(s\) cannot be divided"):
        partition(open_dataset(CONFIG.model_copy(update={"train": 1}), "train"))


def test_train1_and_train2_divide_train_and_leave_val_alone():
    train1, train2 = (open_dataset(CONFIG, split) for split in ("train1", "train2"))
    assert (len(train1), len(train2)) == (8, 2)
    assert sorted(_indices(train1) + _indices(train2)) == [*range(10)]
    assert train1.source.source.split == train2.source.source.split == "train"
