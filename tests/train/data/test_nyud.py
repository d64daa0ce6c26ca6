from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.nyud import MT_TASKS, TASKS, NyudMtSource, read_edge_array

SIZE = (16, 24)


def _lists(root, **lists):
    (root / "gt_sets").mkdir(exist_ok=True)
    for name, ids in lists.items():
        (root / f"gt_sets/{name}.txt").write_text("".join(f"{one}\n" for one in ids))


def _write_frame(root, stem, *, arrays):
    """One frame: a brown picture, classes 0 (void) .. 40, a wall that faces the camera, one vertical edge."""
    for folder in ("images", "segmentation", "depth", "normals", "edge"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), (200, 100, 10), np.uint8)).save(
        root / f"images/{stem}.{'jpg' if arrays else 'png'}", **({"quality": 95} if arrays else {})
    )
    seg = (np.arange(SIZE[0] * SIZE[1]) % 41).reshape(SIZE).astype(np.uint8)
    Image.fromarray(seg).save(root / f"segmentation/{stem}.png")
    depth = np.full(SIZE, 7.5, np.float32)
    depth[0] = 0
    np.save(root / f"depth/{stem}.npy", depth)
    normals, edges = np.zeros((*SIZE, 3)), np.zeros(SIZE)
    normals[2:, :, 2] = 1.0
    normals[5, :, :] = (0.6, 0.0, 0.8)
    edges[:, 7] = 1.0
    if arrays:
        np.save(root / f"normals/{stem}.npy", normals.astype(np.float32))
        np.save(root / f"edge/{stem}.npy", edges.astype(np.float32))
    else:
        Image.fromarray(((normals + 1) / 2 * 255).round().astype(np.uint8)).save(root / f"normals/{stem}.png")
        Image.fromarray((edges * 255).astype(np.uint8)).save(root / f"edge/{stem}.png")


@pytest.fixture(params=["nyud_mt", "nyud"])
def data(request, tmp_path):
    for i in range(6):
        _write_frame(tmp_path, f"{i:04d}", arrays=request.param == "nyud_mt")
    lists = {"train": ["0000", "0001", "0002", "0003"], "val": ["0004"], "test": ["0005"]}
    _lists(tmp_path, **(lists if request.param == "nyud_mt" else {"train": lists["train"], "val": ["0004", "0005"]}))
    return DataConfig(name=request.param, root=str(tmp_path), height=16, width=24, colour=0.0, flip=0.0), tmp_path


def _stems(dataset):
    return [frame[0].split("/")[1].split(".")[0] for frame in dataset.source.frames]


def test_every_target_in_its_layout(data):
    config, _ = data
    sample = open_dataset(config, "test")[0]
    assert (sample["image"].mean((1, 2)) * 255 - torch.tensor([200.0, 100, 10])).abs().max() < 6  # red first
    seg = torch.arange(16 * 24).view(16, 24) % 41
    assert torch.equal(sample["segmentation"].as_subclass(torch.Tensor), torch.where(seg == 0, 255, seg - 1).byte())
    assert sample["depth"][0, 0].max() == 0
    assert sample["depth"][0, 1:].unique().tolist() == [7.5]  # metres, not divided by the largest
    assert not sample["normals"][:, :2].any()
    torch.testing.assert_close(sample["normals"][:, 9, 3], torch.tensor([0.0, 0.0, 1.0]), atol=0.006, rtol=0)
    torch.testing.assert_close(sample["normals"][:, 5, 3], torch.tensor([0.6, 0.0, 0.8]), atol=0.006, rtol=0)
    assert sample["edges"].shape == (1, 16, 24)
    assert sample["edges"].nonzero()[:, 2].unique().tolist() == [7]


def test_a_mirrored_image_has_mirrored_x(data):
    config, _ = data
    sample = open_dataset(config.model_copy(update={"flip": 1.0}), "train")[0]
    torch.testing.assert_close(sample["normals"][:, 5, 3], torch.tensor([-0.6, 0.0, 0.8]), atol=0.006, rtol=0)
    assert sample["edges"].nonzero()[:, 2].unique().tolist() == [24 - 1 - 7]


def test_splits_are_disjoint_and_test_is_never_selected_on(data):
    config, _ = data
    train, val, test = (_stems(open_dataset(config, split)) for split in ("train", "val", "test"))
    expected = ["0005"] if config.name == "nyud_mt" else ["0004", "0005"]
    assert test == expected
    everything = train + val + test
    assert sorted(everything) == [f"{i:04d}" for i in range(6)]
    assert (len(train), len(val)) == ((4, 1) if config.name == "nyud_mt" else (3, 1))


def test_without_its_val_list_nyud_mt_holds_out_of_train(tmp_path):
    for i in range(4):
        _write_frame(tmp_path, f"{i:04d}", arrays=True)
    _lists(tmp_path, train=["0000", "0001", "0002", "0003"])
    train, val = (NyudMtSource(tmp_path, split) for split in ("train", "val"))
    assert len(val) == 1
    assert sorted(frame[0] for frame in train.frames + val.frames) == [f"images/{i:04d}.jpg" for i in range(4)]


def test_weights_are_those_of_the_methods():
    assert [task.weight for task in MT_TASKS] == [1, 1, 1, 1]
    assert {task.name: task.weight for task in TASKS} == {"segmentation": 1, "depth": 1, "normals": 10, "edges": 50}


def test_missing_and_damaged_files_are_named(data):
    config, root = data
    suffix = "npy" if config.name == "nyud_mt" else "png"
    gone = root / f"edge/0005.{suffix}"
    gone.unlink()
    with pytest.raises(InputError, match=rf"lacks 1 file.*edge/0005\.{suffix}"):
        open_dataset(config, "test")
    last = len(open_dataset(config.model_copy(update={"tasks": ("depth",)}), "test")) - 1
    gone.write_bytes(b"nothing")
    with pytest.raises(InputError, match=rf"edge/0005\.{suffix}' is damaged"):
        open_dataset(config, "test")[last]
    _write_frame(root, "0005", arrays=config.name == "nyud_mt")
    Image.fromarray(np.full(SIZE, 41, np.uint8)).save(root / "segmentation/0005.png")
    with pytest.raises(InputError, match="classes beyond 39"):
        open_dataset(config, "test")[last]


def test_a_wrong_folder_an_empty_list_and_a_way_out_are_explained(data):
    config, root = data
    (root / "gt_sets/train.txt").write_text("../../0001\n")
    with pytest.raises(InputError, match="outside the data folder"):
        open_dataset(config, "train")
    (root / "gt_sets/train.txt").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        open_dataset(config, "train")
    (root / "gt_sets/train.txt").unlink()
    with pytest.raises(InputError, match=r"train\.txt' does not exist; set data\.root"):
        open_dataset(config, "train")


def test_edge_arrays_may_be_of_0_to_1_or_of_0_to_255(tmp_path):
    path = tmp_path / "e.npy"
    for scale in (1, 255):
        np.save(path, np.array([[0, 0.4, 0.6, 1]]).repeat(2, 0) * scale)
        assert read_edge_array(path)[0, 0].tolist() == [0, 0, 1, 1]
    for wrong, message in (
        (np.full((2, 2), -1.0), "outside"),
        (np.full((2, 2), np.nan), "outside"),
        (np.zeros(4), "not"),
    ):
        np.save(path, wrong)
        with pytest.raises(InputError, match=message):
            read_edge_array(path)


def test_augmented_batches_can_be_learned_from(data, check_batch):
    check_batch(open_dataset(data[0].model_copy(update={"scale": (1.0, 1.5), "flip": 0.5}), "train"))
