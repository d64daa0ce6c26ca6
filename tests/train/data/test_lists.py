from __future__ import annotations

import json

import pytest

from slimtask.errors import InputError
from slimtask.train.data.lists import adashare_split, check_inside, hold_out, read_ids, read_table

FIELDS = ("image", "label")


def _entry(i):
    return [f"img/{i}.png", f"seg/{i}.png"]


def _write(folder, **splits):
    (folder / "list.json").write_text(json.dumps({name: [_entry(i) for i in ids] for name, ids in splits.items()}))
    return folder / "list.json"


def _ids(path, split, **options):
    options = {"what": "a set", "holdout": 0.25, "seed": 0} | options
    return [int(entry[0].split("/")[1].split(".")[0]) for entry in adashare_split(path, split, FIELDS, **options)]


def test_the_halves_of_the_list_are_train_and_val(tmp_path):
    path = _write(tmp_path, train=range(5), train1=[0, 1, 2], train2=[3, 4], test=[9], val=[7])
    assert [_ids(path, split) for split in ("train", "val", "test")] == [[0, 1, 2], [3, 4], [9]]


def test_else_its_val_and_else_a_seeded_hold_out(tmp_path):
    path = _write(tmp_path, train=range(8), val=[20], test=[30])
    assert [_ids(path, split) for split in ("train", "val", "test")] == [[*range(8)], [20], [30]]
    path = _write(tmp_path, train=range(8), test=[30])
    train, val = _ids(path, "train"), _ids(path, "val")
    assert len(val) == 2
    assert sorted(train + val) == [*range(8)]
    assert _ids(path, "val") == val
    assert len({tuple(_ids(path, "val", seed=seed)) for seed in range(20)}) > 1


def test_groups_are_held_out_whole():
    frames = [f"{building}{view}" for building in "abcde" for view in range(4)]
    val = hold_out(frames, "val", 0.2, 3, lambda name: name[0])
    train = hold_out(frames, "train", 0.2, 3, lambda name: name[0])
    assert sorted(train + val) == frames
    assert len(val) == 4
    assert not {name[0] for name in train} & {name[0] for name in val}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "not a table of splits"),
        ('{"train": []}', "no frames under 'train'"),
        ('{"train": 3}', "no frames under 'train'"),
        ('{"train": [["a"]]}', r"not \[image, label\]"),
        ('{"train": [["a", 3]]}', r"not \[image, label\]"),
        ('{"train": [["a", "../../etc/passwd"]]}', "outside the data folder"),
        ('{"train": [["/etc/passwd", "b"]]}', "outside the data folder"),
        ('{"train": [["a", "..\\\\b"]]}', "outside the data folder"),
    ],
)
def test_a_bad_list_is_explained(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=message):
        _ids(tmp_path / "list.json", "train")


def test_a_missing_list_says_where_it_should_be(tmp_path):
    with pytest.raises(InputError, match=r"has no list\.json; set data\.root to the folder of a set"):
        read_table(tmp_path / "list.json", "a set")


def test_ids_are_one_per_line_and_stay_inside(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("2008_000008\r\n\n 2008_000015 \n")
    assert read_ids(path, "a set") == ["2008_000008", "2008_000015"]
    path.write_text("\n")
    with pytest.raises(InputError, match=r"train\.txt' of a set is empty"):
        read_ids(path, "a set")
    path.write_text("../secret\n")
    with pytest.raises(InputError, match="outside the data folder"):
        read_ids(path, "a set")


def test_dots_within_a_name_are_no_way_out():
    check_inside("a/b..c/d.png", "here")
