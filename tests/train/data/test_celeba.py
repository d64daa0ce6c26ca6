from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data.celeba import ANNOTATION, ATTRIBUTES, LIST, CelebASource, read_attributes
from slimtask.train.data.config import DataConfig, open_dataset

HEADER = ["5_o_Clock_Shadow", "Arched_Eyebrows", "Eyeglasses", "Male", "Smiling", "Young"]
SPLITS = {"train": ["0.jpg", "4.jpg", "10.jpg"], "val": ["2.jpg"], "test": ["29999.jpg", "3.jpg"]}
NAMES = [name for names in SPLITS.values() for name in names]


def _row(name):
    """Attributes that differ from picture to picture: the bits of its number."""
    number = int(name.split(".")[0])
    return [1 if number >> i & 1 else -1 for i in range(len(HEADER))]


def _annotation():
    """As in the real file: a count line, a header that starts at once, double spaces where a number is positive."""
    rows = [name + "  " + " ".join(f"{value:2d}" for value in _row(name)) for name in NAMES]
    return "\n".join([str(len(NAMES)), " ".join(HEADER) + " ", *rows, ""])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "CelebA-HQ-img").mkdir()
    (tmp_path / "CelebA-HQ-segmask").mkdir()
    for name in NAMES:
        number = int(name.split(".")[0])
        Image.fromarray(np.full((32, 32, 3), (220, 120, 20), np.uint8)).save(tmp_path / "CelebA-HQ-img" / name)
        mask = np.zeros((16, 16), np.uint8)  # half the size of the picture, as the real masks
        mask[4:8], mask[8:], mask[0] = 1, 2, 255
        np.save(tmp_path / f"CelebA-HQ-segmask/{number:05d}_mask.npy", mask)
    (tmp_path / ANNOTATION).write_text(_annotation())
    (tmp_path / LIST).write_text(json.dumps(SPLITS))
    return tmp_path


def test_masks_and_attributes_belong_to_their_picture(folder):
    dataset = open_dataset(DataConfig(name="celeba", root=str(folder), height=32, width=32), "test")
    assert [task.name for task in dataset.tasks] == ["segmentation", *ATTRIBUTES]
    assert len(dataset) == 2  # the whole split
    for sample, name in zip((dataset[0], dataset[1]), SPLITS["test"], strict=True):
        assert (sample["image"].mean((1, 2)) * 255 - torch.tensor([220.0, 120, 20])).abs().max() < 6
        assert sample["segmentation"][:, 5].tolist() == [255] * 2 + [0] * 6 + [1] * 8 + [2] * 16
        values = dict(zip(HEADER, _row(name), strict=True))
        for task, attribute in ATTRIBUTES.items():
            assert sample[task].tolist() == [float(values[attribute] == 1)], (name, task)


def test_the_splits_are_the_lists(folder):
    for split, names in SPLITS.items():
        source = CelebASource(folder, split)
        assert [frame[0] for frame in source.frames] == [f"CelebA-HQ-img/{name}" for name in names]
    (folder / LIST).write_text(json.dumps({"train": NAMES[:4], "test": NAMES[4:]}))
    train, val = (CelebASource(folder, split, holdout=0.25) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    assert sorted(frame[0] for frame in train.frames + val.frames) == sorted(f"CelebA-HQ-img/{n}" for n in NAMES[:4])


def test_attributes_alone_need_no_masks_and_masks_no_annotation(folder):
    for mask in (folder / "CelebA-HQ-segmask").iterdir():
        mask.unlink()
    source = CelebASource(folder, "val", tasks=("male",))
    assert list(source.load([0])[0]) == ["image", "male"]
    with pytest.raises(InputError, match=r"lacks 1 file.*00002_mask\.npy"):
        CelebASource(folder, "val")
    np.save(folder / "CelebA-HQ-segmask/00002_mask.npy", np.zeros((16, 16)))
    (folder / ANNOTATION).unlink()
    assert len(CelebASource(folder, "val", tasks=("segmentation",))) == 1
    with pytest.raises(InputError, match=r"annotation of CelebAMask-HQ .* does not exist"):
        CelebASource(folder, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.split("\n", 1)[1], "does not begin with its number of rows"),
        (lambda text: text.replace("Male", "Mail"), "has no attribute Male"),
        (lambda text: text.replace("6\n", "7\n", 1), "has 6 rows but announces 7"),
        (lambda text: text.replace("2.jpg", "22.jpg"), r"lacks 1 picture\(s\), first '2\.jpg'"),
        (lambda text: text.replace("-1", "0", 1), "line 3 of .* is not a file name and 6 times"),
        (lambda text: text.replace("-1", "", 1), "line 3 of .* is not a file name and 6 times"),
    ],
)
def test_a_wrong_annotation_is_explained(folder, change, message):
    text = _annotation()
    assert change(text) != text
    (folder / ANNOTATION).write_text(change(text))
    with pytest.raises(InputError, match=message):
        read_attributes(folder / ANNOTATION, ["2.jpg", "3.jpg"], ["male"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [], "val": []}, "no frames under 'val'"),
        ({"val": ["../2.jpg"]}, "outside the data folder"),
        ({"val": ["two.jpg"]}, "not 'NUMBER.jpg': 'two.jpg'"),
        ([], "not a table of splits"),
    ],
)
def test_a_wrong_list_is_explained(folder, content, message):
    (folder / LIST).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        CelebASource(folder, "val")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((16, 16), 3), "classes beyond 2"),
        (np.full((16, 16), -1), "negative"),
        (np.full((16, 16), 0.5), "whole numbers"),
        (np.zeros((2, 16, 16)), "whole numbers"),
        (np.array([{}], dtype=object), "damaged"),
    ],
)
def test_a_wrong_mask_is_named(folder, mask, message):
    np.save(folder / "CelebA-HQ-segmask/00002_mask.npy", mask)
    with pytest.raises(InputError, match=rf"00002_mask\.npy' .*{message}"):
        CelebASource(folder, "val").load([0])


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(
        open_dataset(DataConfig(name="celeba", root=str(folder), height=32, width=32, scale=(1.0, 1.5)), "train")
    )
