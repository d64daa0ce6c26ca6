from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.nyu_v2 import CLASSES, LIST, NyuV2Source, decode_normals

SIZE = (12, 16)


def _write_frame(root, stem, seed):
    """One frame in the real layout and types: 8-bit PNGs, void 255, normals with both kinds of unknown, float32 npy."""
    rng = np.random.default_rng(seed)
    for folder in ("img", "seg", "normal_mask", "depth"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / f"img/{stem}.png")
    seg = rng.integers(0, 40, SIZE, dtype=np.uint8)
    seg[0] = 255
    Image.fromarray(seg).save(root / f"seg/{stem}.png")
    normals = np.empty((*SIZE, 3), np.uint8)
    normals[:] = (127, 127, 255)  # the file's third channel is up: a floor
    normals[0], normals[1] = 255, 127
    Image.fromarray(normals).save(root / f"normal_mask/{stem}.png")
    depth = rng.uniform(1.0, 5.0, SIZE).astype(np.float32)
    depth[0, 0] = 0.0
    np.save(root / f"depth/{stem}.npy", depth)


def _entry(stem):
    return [f"img/{stem}.png", f"seg/{stem}.png", f"normal_mask/{stem}.png", f"depth/{stem}.npy"]


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        _write_frame(tmp_path, f"{i:04d}", i)
    return tmp_path


def _stems(source):
    return [Path(frame[0]).stem for frame in source.frames]


def test_a_sample_has_every_target_in_its_layout(folder):
    dataset = open_dataset(DataConfig(name="nyu_v2", root=str(folder), height=24, width=32), "val")
    sample = dataset[0]
    assert sample["image"].shape == (3, 24, 32)
    assert sample["segmentation"].shape == (24, 32)
    assert set(sample["segmentation"].unique().tolist()) <= {*range(40), 255}
    assert (sample["segmentation"][0] == 255).all()
    assert sample["depth"].shape == (1, 24, 32)
    assert sample["depth"][0, 0, 0] == 0.0
    assert not sample["normals"][:, :4].any()
    assert sample["normals"][1, 4:].min() > 0.99  # up is +y
    assert len(CLASSES) == len(set(CLASSES)) == 40


def test_normals_decode_to_right_up_and_towards():
    # (right, away, up) in the file; a visible surface has a negative second component.
    pixels = torch.tensor([[255, 127, 127], [127, 0, 127], [127, 127, 255], [255, 255, 255], [127, 127, 127]])
    normals = decode_normals(pixels.T.reshape(3, 1, 5).to(torch.uint8))
    expected = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]).T.reshape(3, 1, 5)
    torch.testing.assert_close(normals, expected, atol=0.006, rtol=0)
    assert ((normals.norm(dim=0) - 1).abs()[0, :3] < 1e-6).all()


def test_a_pixel_with_one_full_channel_is_valid():
    """Dropping every pixel whose largest channel is 255, as is common, would lose vectors along an axis."""
    assert decode_normals(torch.tensor([255, 127, 128], dtype=torch.uint8).view(3, 1, 1)).any()


def test_without_a_list_the_hold_out_is_seeded_and_disjoint_and_there_is_no_test(folder):
    train, val = (NyuV2Source(folder, split, seed=1) for split in ("train", "val"))
    assert len(val) == 1
    assert sorted(_stems(train) + _stems(val)) == [f"{i:04d}" for i in range(5)]
    assert _stems(NyuV2Source(folder, "val", seed=1)) == _stems(val)
    assert len({_stems(NyuV2Source(folder, "val", seed=seed))[0] for seed in range(20)}) > 1
    with pytest.raises(InputError, match="nothing says which frames are for testing"):
        NyuV2Source(folder, "test")


def test_the_list_decides_the_splits(folder):
    lists = {"train": [_entry(f"{i:04d}") for i in range(4)], "test": [_entry("0004")]}
    (folder / LIST).write_text(json.dumps(lists))
    assert _stems(NyuV2Source(folder, "test")) == ["0004"]
    held = _stems(NyuV2Source(folder, "val", holdout=0.25))
    assert len(held) == 1
    assert sorted(_stems(NyuV2Source(folder, "train", holdout=0.25)) + held) == ["0000", "0001", "0002", "0003"]
    lists |= {"train1": lists["train"][:3], "train2": lists["train"][3:]}
    (folder / LIST).write_text(json.dumps(lists))
    assert _stems(NyuV2Source(folder, "train")) == ["0000", "0001", "0002"]
    assert _stems(NyuV2Source(folder, "val")) == ["0003"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "not a table of splits"),
        ('{"train": []}', "no frames under 'train'"),
        ('{"train": [["a", "b"]]}', r"not \[img, seg, normal_mask, depth\]"),
        ('{"train": [["../a.png", "b", "c", "d"]]}', "outside the data folder"),
        ('{"train": [["img/0000.png", "seg/0000.png", "normal_mask/0000.png", "depth/9999.npy"]]}', r"9999\.npy"),
    ],
)
def test_a_bad_list_is_explained(folder, content, message):
    (folder / LIST).write_text(content)
    with pytest.raises(InputError, match=message):
        NyuV2Source(folder, "val")


def test_missing_and_damaged_files_are_named(folder):
    (folder / "seg/0003.png").unlink()
    with pytest.raises(InputError, match=r"seg/0003\.png"):
        _ = [NyuV2Source(folder, split) for split in ("train", "val")]
    _write_frame(folder, "0003", 3)
    (folder / "depth/0003.npy").write_bytes(b"oops")
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(folder / "seg/0002.png")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder / "normal_mask/0001.png")
    frames = {}
    for split in ("train", "val"):
        source = NyuV2Source(folder, split)
        frames |= {stem: (source, i) for i, stem in enumerate(_stems(source))}
    for stem, message in (("0003", r"0003\.npy' is damaged"), ("0002", "classes beyond 39"), ("0001", "5 x 5")):
        source, i = frames[stem]
        with pytest.raises(InputError, match=message):
            source.load([i])


def test_an_empty_folder_says_what_is_expected(tmp_path):
    with pytest.raises(InputError, match=r"neither nyu_v2_3task\.json nor images"):
        NyuV2Source(tmp_path, "train")


@pytest.mark.data
def test_real_normals_agree_with_the_normals_of_the_real_depth(real_data):
    root = real_data / "nyu_v2_samples"
    samples = [sample for split in ("train", "val") for sample in NyuV2Source(root, split).load([0])]
    y, x = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    slope_x, slope_y = (x - 325.58) / 518.86, -(y - 253.74) / 519.47  # the lens of the Kinect that took NYU-v2
    for sample in samples:
        assert sample["image"].shape == (3, 480, 640)
        points = sample["depth"].as_subclass(torch.Tensor) * torch.stack([slope_x, slope_y, -torch.ones_like(x)])
        right = points[:, 6:-6, 12:] - points[:, 6:-6, :-12]
        up = points[:, :-12, 6:-6] - points[:, 12:, 6:-6]
        estimate = torch.nn.functional.normalize(torch.linalg.cross(right, up, dim=0), dim=0)
        normals = sample["normals"].as_subclass(torch.Tensor)[:, 6:-6, 6:-6]
        known = normals.norm(dim=0) > 0.5
        assert (normals.norm(dim=0)[known] - 1).abs().max() < 1e-5

        def median_angle(n, estimate=estimate, known=known):
            return (n * estimate).sum(0)[known].clamp(-1, 1).acos().rad2deg().median()

        assert median_angle(normals) < 15.0
        for flipped in ([-1, 1, 1], [1, -1, 1], [1, 1, -1]):
            assert median_angle(normals * torch.tensor(flipped)[:, None, None]) > 24.0


@pytest.mark.data
def test_the_real_floor_points_up_and_the_ceiling_down(real_data):
    root = real_data / "nyu_v2_samples"
    source = next(s for s in (NyuV2Source(root, split) for split in ("train", "val")) if _stems(s) == ["0295"])
    sample = source.load([0])[0]
    for name, up in (("floor", 0.9), ("ceiling", -0.9)):
        on = (sample["segmentation"] == CLASSES.index(name)) & (sample["normals"].norm(dim=0) > 0.5)
        assert sample["normals"][1][on].median() * up > 0.8


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(
        open_dataset(DataConfig(name="nyu_v2", root=str(folder), height=16, width=24, scale=(1.0, 1.5)), "train")
    )
