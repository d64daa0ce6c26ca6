from __future__ import annotations

import torch

from slimtask.train.data.scenes import TASKS
from slimtask.train.data.scenes.source import ScenesSource
from slimtask.train.data.scenes.targets import object_presence
from slimtask.train.data.transforms import Depth, LabelMap, Normals


def test_raw_samples_have_every_task_in_its_type():
    source = ScenesSource(height=32, width=48, split="train", count=5)
    assert len(source) == 5
    first, second = source.load([4, 1])
    assert set(first) == {"image", *(task.name for task in TASKS)}
    assert type(first["depth"]) is Depth
    assert type(first["normals"]) is Normals
    assert type(first["segmentation"]) is LabelMap
    assert torch.equal(second["image"], source.load([1])[0]["image"])


def test_objects_are_counted_again_after_a_crop():
    source = ScenesSource(height=32, width=48, split="train", count=20)
    for sample in source.load(range(20)):
        cropped = dict(sample, segmentation=LabelMap(sample["segmentation"][:8, :8]))
        expected = object_presence(sample["segmentation"].as_subclass(torch.Tensor)[:8, :8])
        assert torch.equal(source.finish(cropped)["objects"], expected)
