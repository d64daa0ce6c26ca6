from __future__ import annotations

import pytest
import torch

from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.protocol import MultiTaskDataset

CONFIG = DataConfig(height=24, width=32, train=6, val=4, scale=(1.0, 1.6))


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    first, second = open_dataset(CONFIG, "train"), open_dataset(CONFIG, "train")
    assert isinstance(first, MultiTaskDataset)
    torch.manual_seed(1)
    together = first.__getitems__([4, 0, 2])
    torch.manual_seed(2)
    for sample, index in zip(together, (4, 0, 2), strict=True):
        alone = second[index]
        for name, value in sample.items():
            assert torch.equal(value, alone[name]), name
    second.set_epoch(1)
    assert not torch.equal(second[4]["image"], together[0]["image"])
    second.set_epoch(0)
    assert torch.equal(second[4]["image"], together[0]["image"])


def test_the_global_random_state_is_left_alone():
    dataset = open_dataset(CONFIG, "train")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_validation_never_changes():
    dataset = open_dataset(CONFIG, "val")
    before = dataset[1]
    dataset.set_epoch(3)
    for name, value in dataset[1].items():
        assert torch.equal(value, before[name])


def test_a_cache_changes_nothing_but_reads_once():
    plain, cached = open_dataset(CONFIG, "train"), open_dataset(CONFIG.model_copy(update={"cache": True}), "train")
    asked = []
    load = cached.source.load
    cached.source.load = lambda indices: asked.extend(indices) or load(indices)
    for epoch in range(2):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        for a, b in zip(plain.__getitems__([3, 1, 3]), cached.__getitems__([3, 1, 3]), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(asked) == [1, 3]


def test_only_the_wanted_tasks_are_returned_and_the_end_is_an_index_error():
    dataset = open_dataset(CONFIG.model_copy(update={"tasks": ("objects", "depth")}), "val")
    assert list(dataset[0]) == ["image", "depth", "objects"]
    assert [task.name for task in dataset.tasks] == ["depth", "objects"]
    assert len(list(dataset)) == 4
    with pytest.raises(IndexError):
        dataset[4]


def test_torch_loaders_read_batches_at_once():
    dataset = open_dataset(CONFIG, "train")
    sizes = []
    load = dataset.source.load
    dataset.source.load = lambda indices: sizes.append(len(indices)) or load(indices)
    list(torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=list))
    assert sizes == [4, 2]
