from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.taskonomy import CLASSES, LIST, PRIOR_FACTORS, TaskonomySource, encode_depth, encode_response

SIZE = (16, 24)
DOMAINS = ("rgb", "segment_semantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")


def _entry(building, view):
    return [f"{building}/{domain}/point_{view}_view_0_domain_{domain}.png" for domain in DOMAINS]


def _arrays(seed):
    rng = np.random.default_rng(seed)
    seg = rng.integers(0, 18, SIZE).astype(np.uint8)
    seg[0, :3] = (0, 1, 2)
    normal = np.full((*SIZE, 3), (127, 0, 127), np.uint8)  # second channel down: a floor
    normal[0] = 128
    normal[1] = (255, 127, 127)
    normal[2] = (127, 127, 0)  # a wall that faces the camera
    wide = [rng.integers(0, 2**16, SIZE).astype(np.uint16) for _ in range(3)]
    wide[0][0, :4] = (0, 511, 64499, 64500)
    wide[1][0, :3] = (0, 164, 60000)
    return (rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8), seg, normal, *wide)


def _write(root, entry, seed, place=lambda path: path):
    for path, array in zip(entry, _arrays(seed), strict=True):
        (root / place(path)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / place(path))


@pytest.fixture
def folder(tmp_path):
    entries = [_entry(building, view) for building in ("ackley", "beach", "cosmos") for view in range(2)]
    for i, entry in enumerate([*entries, _entry("ihlen", 0)]):
        _write(tmp_path, entry, i)
    (tmp_path / LIST).write_text(json.dumps({"train": entries, "test": [_entry("ihlen", 0)]}))
    return tmp_path


def test_a_sample_has_five_encoded_tasks(folder):
    dataset = open_dataset(DataConfig(name="taskonomy", root=str(folder), height=16, width=24), "test")
    assert {task.name: task.weight for task in dataset.tasks} == {
        **{"segmentation": 1, "normals": 3, "depth": 2, "keypoints": 7, "edges": 7}
    }
    sample, arrays = dataset[0], _arrays(6)
    assert (sample["image"] * 255 - torch.from_numpy(arrays[0]).permute(2, 0, 1)).abs().max() < 1e-3
    assert sample["segmentation"][0, :3].tolist() == [0, 0, 1]
    assert (sample["segmentation"].numpy() == np.maximum(arrays[1].astype(int), 1) - 1).all()
    assert not sample["normals"][:, 0].any()
    assert sample["normals"][0, 1].min() > 0.99
    assert sample["normals"][2, 2].min() > 0.99
    assert sample["normals"][1, 3:].min() > 0.99
    for name, limit, array in (("keypoints", 0.005, arrays[4]), ("edges", 0.08, arrays[5])):
        expected = np.clip(array / 65536, 0, limit) / limit * 2 - 1
        assert np.allclose(sample[name][0], expected, atol=1e-5), name
    assert sample["keypoints"][0, 0, 0] == -1
    assert sample["keypoints"][0, 0, 2] == 1
    assert len(CLASSES) == len(set(CLASSES)) == len(PRIOR_FACTORS) == 17


def test_depth_is_a_logarithm_and_unknown_from_64500_on():
    encoded = encode_depth(torch.tensor([[0, 511, 64499, 64500, 65535]], dtype=torch.int32))[0, 0].tolist()
    assert encoded == pytest.approx([0, math.log2(512) / 16, math.log2(64500) / 16, 0, 0], abs=1e-6)


def test_responses_are_clipped_at_their_limit():
    response = torch.tensor([[0, 2621, 5243, 60000]], dtype=torch.int32)
    assert encode_response(response, 0.08)[0, 0].tolist() == pytest.approx([-1, 0, 1, 1], abs=1e-3)


def test_mirroring_negates_only_x(folder):
    options = {"name": "taskonomy", "root": str(folder), "height": 16, "width": 24, "tasks": ("normals",)}
    plain, flipped = (open_dataset(DataConfig(**options, flip=flip), "train")[0]["normals"] for flip in (0.0, 1.0))
    assert torch.equal(flipped.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None], plain)


def test_whole_buildings_are_held_out(folder):
    train, val = (TaskonomySource(folder, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert len({frame[0].split("/")[0] for frame in val.frames}) == 1
    assert not {frame[0].split("/")[0] for frame in val.frames} & {frame[0].split("/")[0] for frame in train.frames}


def test_the_layout_of_omnidata_is_found_under_the_same_list(tmp_path):
    entry = _entry("ackley", 3)

    def place(path):
        building, domain, file = path.split("/")
        return f"{domain}/taskonomy/{building}/{file}"

    _write(tmp_path, entry, 0, place)
    (tmp_path / LIST).write_text(json.dumps({"train": [_entry("beach", 0)], "test": [entry]}))
    source = TaskonomySource(tmp_path, "test")
    assert source.frames[0][0] == "rgb/taskonomy/ackley/point_3_view_0_domain_rgb.png"
    assert list(source.load([0])[0]) == ["image", "segmentation", "normals", "depth", "keypoints", "edges"]


def test_class_weights_are_taskonomys_or_the_files(folder):
    assert TaskonomySource(folder, "test").tasks[0].class_weights == PRIOR_FACTORS
    assert TaskonomySource(folder, "test").tasks[0].loss == "weighted_cross_entropy"
    np.save(folder / "semseg_prior_factor.npy", np.linspace(1, 17, 17))
    assert TaskonomySource(folder, "test").tasks[0].class_weights == tuple(map(float, range(1, 18)))
    np.save(folder / "semseg_prior_factor.npy", np.zeros(17))
    with pytest.raises(InputError, match="not 17 positive numbers"):
        TaskonomySource(folder, "test")


def test_missing_and_wrong_files_are_named(folder):
    gone = folder / _entry("ihlen", 0)[4]
    gone.unlink()
    with pytest.raises(InputError, match=r"lacks 1 file.*keypoints2d\.png"):
        TaskonomySource(folder, "test")
    assert len(TaskonomySource(folder, "test", tasks=("depth",))) == 1
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(gone)
    with pytest.raises(InputError, match=r"keypoints2d\.png' is not a 16-bit single-channel image but 'L'"):
        TaskonomySource(folder, "test").load([0])
    Image.fromarray(np.full(SIZE, 18, np.uint8)).save(folder / _entry("ihlen", 0)[1])
    with pytest.raises(InputError, match="classes beyond 16"):
        TaskonomySource(folder, "test", tasks=("segmentation",)).load([0])
    with pytest.raises(InputError, match=r"has no taskonomy\.json"):
        TaskonomySource(folder / "ihlen", "test")


def test_a_source_can_go_to_another_process(folder):
    source = TaskonomySource(folder, "test")
    copy = pickle.loads(pickle.dumps(source)).load([0])[0]
    assert all(torch.equal(copy[name], value) for name, value in source.load([0])[0].items())


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(
        open_dataset(DataConfig(name="taskonomy", root=str(folder), height=16, width=24, scale=(1.0, 1.5)), "train")
    )
