from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.io import savemat

from slimtask.errors import InputError
from slimtask.train.data.pascal_parts import PARTS, PERSON, read_parts, with_people

SIZE = (10, 12)


def box(top, bottom, left, right):
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _structs(fields, rows):
    """A 1 x N struct array as MATLAB writes it; an empty one is a 0 x 0 array."""
    if not rows:
        return np.zeros((0, 0))
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row)
    return array


def write_anno(path, objects):
    """The ``anno`` struct of PASCAL-Part: objects of (class, class_ind, mask, parts), parts of (part_name, mask)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (f"class{category}", float(category), box(0, 10, 0, 12), _structs(("part_name", "mask"), parts))
        for category, parts in objects
    ]
    anno = _structs(("imname", "objects"), [(path.stem, _structs(("class", "class_ind", "mask", "parts"), rows))])
    savemat(path, {"anno": anno})


def test_the_parts_of_all_people_get_their_numbers(tmp_path):
    write_anno(
        tmp_path / "a.mat",
        [
            (PERSON, [("head", box(0, 2, 0, 4)), ("lear", box(2, 3, 0, 1)), ("neck", box(3, 4, 0, 4))]),
            (12, [("tail", box(9, 10, 0, 12))]),  # a dog
            (PERSON, [("ruarm", box(4, 5, 5, 9)), ("lhand", box(5, 6, 5, 9)), ("luleg", box(6, 7, 5, 9))]),
            (PERSON, [("rfoot", box(7, 8, 5, 9))]),
            (PERSON, []),
        ],
    )
    expected = np.zeros(SIZE, int)
    expected[0:2, 0:4], expected[2, 0], expected[3, 0:4] = 1, 1, 2
    expected[4, 5:9], expected[5, 5:9], expected[6, 5:9], expected[7, 5:9] = 3, 4, 5, 6
    assert (read_parts(tmp_path / "a.mat", SIZE).numpy() == expected).all()
    assert len(PARTS) == 7


@pytest.mark.parametrize("objects", [[], [(12, [("tail", box(0, 3, 0, 3))])], [(PERSON, [])]])
def test_an_image_without_parts_of_people_is_all_background(tmp_path, objects):
    write_anno(tmp_path / "a.mat", objects)
    assert not read_parts(tmp_path / "a.mat", SIZE).any()


def test_wrong_annotations_are_named(tmp_path):
    path = tmp_path / "a.mat"
    write_anno(path, [(PERSON, [("wing", box(0, 3, 0, 3))])])
    with pytest.raises(InputError, match=r"a\.mat' has a person with the unknown part 'wing'"):
        read_parts(path, SIZE)
    write_anno(path, [(PERSON, [("head", box(0, 3, 0, 3))])])
    with pytest.raises(InputError, match="is not of its picture's size"):
        read_parts(path, (10, 13))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"a\.mat' is damaged"):
        read_parts(path, SIZE)
    savemat(path, {"other": 3})
    with pytest.raises(InputError, match=r"a\.mat' has no 'anno'"):
        read_parts(path, SIZE)
    savemat(path, {"anno": 3})
    with pytest.raises(InputError, match="has no list of objects"):
        read_parts(path, SIZE)


def test_people_are_looked_up_in_a_cache_that_is_made_once(tmp_path):
    write_anno(tmp_path / "p/a.mat", [(PERSON, []), (7, [])])
    write_anno(tmp_path / "p/b.mat", [(7, [])])
    assert with_people(tmp_path, "train", ["a", "b"], "p/*.mat") == ["a"]
    cache = tmp_path / "ImageSets/Parts/train.txt"
    assert json.loads(cache.read_text()) == {"a": [15, 7], "b": [7]}
    (tmp_path / "p/a.mat").unlink()
    write_anno(tmp_path / "p/c.mat", [(PERSON, [])])
    assert with_people(tmp_path, "train", ["a", "b", "c"], "p/*.mat") == ["a", "c"]
    assert json.loads(cache.read_text())["c"] == [15]
    cache.write_text("[]")
    with pytest.raises(InputError, match=r"train\.txt' is not a table of ids; remove it"):
        with_people(tmp_path, "train", ["a"], "p/*.mat")
