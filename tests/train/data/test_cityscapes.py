from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from slimtask.errors import InputError
from slimtask.train.data.cityscapes import CLASSES, LIST, CityscapesSource
from slimtask.train.data.config import DataConfig, open_dataset

SIZE = (16, 32)


def _entry(i, part="train"):
    return [f"{part}/{name}/{i}.npy" for name in ("image", "depth", "label_2", "label_7", "label_19")]


def _write_frame(root, entry, seed):
    """One frame as MTAN stores it: float64 arrays, channels last, labels with -1 void."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.01, 0.5, (*SIZE, 1))
    depth[0], depth[1] = 0.0, 2e-5
    labels = [rng.integers(0, classes, SIZE).astype(np.float64) for classes in (2, 7, 19)]
    for label in labels:
        label[:, 0] = -1
    for path, array in zip(entry, (rng.integers(0, 256, (*SIZE, 3)) / 255, depth, *labels), strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / path, array)


@pytest.fixture
def folder(tmp_path):
    lists = {"train": [_entry(i) for i in range(5)], "test": [_entry(0, "test")]}
    for i, entry in enumerate(lists["train"] + lists["test"]):
        _write_frame(tmp_path, entry, i)
    (tmp_path / LIST).write_text(json.dumps(lists))
    return tmp_path


def test_a_sample_has_rgb_inverse_depth_and_the_chosen_classes(folder):
    for classes, name in ((None, "19"), (2, "2"), (7, "7"), (19, "19")):
        config = DataConfig(name="cityscapes", root=str(folder), height=16, width=32, classes=classes)
        dataset = open_dataset(config, "test")
        sample, entry = dataset[0], _entry(0, "test")
        torch.testing.assert_close(
            sample["image"], torch.from_numpy(np.load(folder / entry[0])).permute(2, 0, 1).float(), atol=1e-6, rtol=0
        )
        labels = np.load(folder / f"test/label_{name}/0.npy")
        assert (sample["segmentation"].numpy() == np.where(labels < 0, 255, labels)).all()
        depth = np.load(folder / entry[1])[..., 0]
        assert np.allclose(sample["depth"][0], np.where(depth > 3e-5, depth, 0), rtol=1e-6)
        assert not sample["depth"][0, :2].any()
        segmentation, inverse = dataset.tasks
        assert segmentation.channels == int(name)
        assert (inverse.unit, inverse.weight, inverse.ignore) == ("inverse depth", 20.0, 0)
    assert len(CLASSES) == 19


def test_a_zoom_through_one_lens_brings_things_nearer(folder):
    """Enlarged twice by the same lens the scene is at half the depth: inverse depth doubles."""
    np.save(folder / _entry(0)[1], np.full((*SIZE, 1), 0.25))
    options = {"name": "cityscapes", "root": str(folder), "height": 16, "width": 32, "tasks": ("depth",), "colour": 0.0}
    dataset = open_dataset(DataConfig(**options, scale=(2.0, 2.0), flip=0.0), "train")
    place = [frame[0] for frame in dataset.source.frames].index(_entry(0)[0])
    torch.testing.assert_close(dataset[place]["depth"].as_subclass(torch.Tensor), torch.full((1, 16, 32), 0.5))


def test_val_is_held_out_of_train_and_test_is_the_lists(folder):
    train, val, test = (CityscapesSource(folder, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (4, 1, 1)
    assert sorted(frame[0] for frame in train.frames + val.frames) == [_entry(i)[0] for i in range(5)]


def test_only_the_chosen_labels_must_exist(folder):
    (folder / "test/label_7/0.npy").unlink()
    assert len(CityscapesSource(folder, "test", classes=19)) == 1
    with pytest.raises(InputError, match=r"lacks 1 file.*label_7/0\.npy"):
        CityscapesSource(folder, "test", classes=7)
    with pytest.raises(InputError, match=r"2, 7 or 19 classes, not 5; set data\.classes"):
        CityscapesSource(folder, "test", classes=5)


@pytest.mark.parametrize(
    ("column", "array", "message"),
    [
        (0, np.full((*SIZE, 3), 200.0), r"image/0\.npy' has values outside 0 \.\. 1"),
        (0, np.full((*SIZE, 3), np.nan), r"image/0\.npy' has values outside 0 \.\. 1"),
        (0, np.zeros((3, *SIZE)), "not a float array"),
        (1, np.zeros((*SIZE, 2)), r"depth/0\.npy' is not a float array"),
        (1, np.zeros((4, 4, 1)), "4 x 4 pixels"),
        (4, np.full(SIZE, 19), r"label_19/0\.npy' has classes beyond 18"),
        (4, np.full(SIZE, -2), "below -1"),
        (4, np.full(SIZE, 0.5), "whole numbers"),
        (4, np.array([{}], dtype=object), r"label_19/0\.npy' is damaged"),
    ],
)
def test_wrong_arrays_are_named(folder, column, array, message):
    np.save(folder / _entry(0, "test")[column], array)
    with pytest.raises(InputError, match=message):
        CityscapesSource(folder, "test").load([0])


def test_a_wrong_folder_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"has no cityscape\.json; set data\.root"):
        CityscapesSource(tmp_path, "train")


def test_a_source_can_go_to_another_process(folder):
    source = CityscapesSource(folder, "test")
    copy = pickle.loads(pickle.dumps(source)).load([0])[0]
    assert all(torch.equal(copy[name], value) for name, value in source.load([0])[0].items())


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(
        open_dataset(DataConfig(name="cityscapes", root=str(folder), height=16, width=32, scale=(1.0, 1.5)), "train")
    )
