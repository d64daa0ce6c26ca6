from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data.camvid import CLASSES, CamVidSource, held_out_stretches, label_edges, presence
from slimtask.train.data.config import DataConfig, open_dataset


@pytest.fixture
def folder(tmp_path):
    """Two drives of 20 and 10 frames in train, one of 4 in val: JPEG pictures, 8-bit labels 0 .. 10 and 11 void."""
    rng = np.random.default_rng(0)
    for split, drive, count in (("train", "0001TP", 20), ("train", "0016E5", 10), ("val", "0016E5", 4)):
        for part in ("images", "labels"):
            (tmp_path / split / part).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            name = f"{drive}_{1000 * (split == 'val') + 30 * i:05d}"
            Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)).save(
                tmp_path / split / "images" / f"{name}.jpg", quality=90
            )
            labels = np.zeros((36, 48), np.uint8)
            labels[18:] = 3
            labels[20:30, 10:20] = 8
            labels[:, 40:] = 11
            Image.fromarray(labels).save(tmp_path / split / "labels" / f"{name}.png")
    return tmp_path


def test_samples_have_three_tasks(folder):
    dataset = open_dataset(DataConfig(name="camvid", root=str(folder), height=18, width=24), "train")
    assert [task.name for task in dataset.tasks] == ["segmentation", "edges", "presence"]
    sample = dataset[0]
    assert sample["image"].shape == (3, 18, 24)
    assert set(sample["segmentation"].unique().tolist()) == {0, 3, 8, 255}
    assert sample["edges"].shape == (1, 18, 24)
    assert sample["edges"].unique().tolist() == [0.0, 1.0, 255.0]
    present = {name for name, on in zip(CLASSES, sample["presence"], strict=True) if on}
    assert present == {"sky", "road", "car"}


def test_splits_are_disjoint_and_hold_out_one_stretch_of_every_drive(folder):
    train, val, test = (CamVidSource(folder, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (25, 5, 4)  # 15 % of 20 and of 10 frames (1.5 rounds to even)
    everything = sorted(path.name for path in (folder / "train/images").iterdir())
    assert sorted(path.name for path in train.frames + val.frames) == everything
    assert all(path.parent.parent.name == "val" for path in test.frames)
    for drive, count in (("0001TP", 3), ("0016E5", 2)):
        numbers = [int(path.stem.split("_")[1]) // 30 for path in val.frames if path.name.startswith(drive)]
        assert numbers == list(range(numbers[0], numbers[0] + count))


def test_the_stretch_is_seeded():
    names = [f"a_{i:03d}" for i in range(50)] + ["b_000"]
    first = held_out_stretches(names, 0.1, 0)
    assert sum(first[:50]) == 5
    assert first[50]
    assert first == held_out_stretches(names, 0.1, 0)
    assert len({tuple(held_out_stretches(names, 0.1, seed)) for seed in range(20)}) > 5


def test_edges_are_two_pixels_wide_and_void_is_ignored():
    labels = torch.tensor([[1, 1, 2, 2, 2, 255, 3]] * 3, dtype=torch.uint8)
    assert label_edges(labels)[0].tolist() == [[0.0, 1.0, 1.0, 0.0, 255.0, 255.0, 255.0]] * 3
    assert torch.equal(label_edges(labels.T)[0], label_edges(labels)[0].T)
    assert not label_edges(torch.full((4, 4), 7, dtype=torch.uint8)).any()
    assert (label_edges(torch.full((4, 4), 255, dtype=torch.uint8)) == 255).all()


def test_presence_is_more_than_one_percent_of_all_pixels():
    labels = torch.full((10, 100), 255, dtype=torch.uint8)
    labels[0, :10] = 4
    labels[1, :11] = 9
    assert presence(labels).nonzero().flatten().tolist() == [9]


def test_derived_targets_follow_the_augmentation(folder):
    config = DataConfig(name="camvid", root=str(folder), height=18, width=24, scale=(1.5, 2.0))
    for sample in open_dataset(config, "train").__getitems__(range(10)):
        labels = sample["segmentation"].as_subclass(torch.Tensor)
        assert torch.equal(sample["edges"].as_subclass(torch.Tensor), label_edges(labels))
        assert torch.equal(sample["presence"], presence(labels))


def test_missing_and_damaged_files_are_named(folder):
    gone = folder / "val/labels/0016E5_01030.png"
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match=r"lacks 1 file.*0016E5_01030\.png"):
        CamVidSource(folder, "test")
    gone.write_bytes(content[:60])
    with pytest.raises(InputError, match=r"0016E5_01030\.png' is damaged"):
        CamVidSource(folder, "test").load([1])
    Image.fromarray(np.full((36, 48), 30, np.uint8)).save(gone)
    with pytest.raises(InputError, match="has the value 30"):
        CamVidSource(folder, "test").load([1])
    Image.fromarray(np.full((36, 40), 1, np.uint8)).save(gone)
    with pytest.raises(InputError, match="36 x 40"):
        CamVidSource(folder, "test").load([1])


def test_a_wrong_folder_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"set data\.root to the folder above 'train'"):
        CamVidSource(tmp_path, "train")
    (tmp_path / "train/images").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no"):
        CamVidSource(tmp_path, "train")


@pytest.mark.data
def test_the_real_frames(real_data):
    root = str(real_data / "camvid")
    sizes = []
    for split in ("train", "val", "test"):
        dataset = open_dataset(DataConfig(name="camvid", root=root, height=120, width=160), split)
        sizes.append(len(dataset))
        sample = dataset[0]
        assert set(sample["segmentation"].unique().tolist()) <= {*range(11), 255}
        assert 0.02 < (sample["edges"] == 1).float().mean() < 0.3
        assert sample["presence"][CLASSES.index("road")] == 1
    assert sizes[0] + sizes[1] == 367
    assert 50 <= sizes[1] <= 60
    assert sizes[2] == 101


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(
        open_dataset(DataConfig(name="camvid", root=str(folder), height=18, width=24, scale=(1.0, 1.5)), "train")
    )
