from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimtask.errors import InputError
from slimtask.train.data.config import ON_DISK, DataConfig, open_dataset
from slimtask.train.recipe import parse_recipe


def test_every_split_of_scenes_has_its_own_count_and_scenes():
    config = DataConfig(height=16, width=24, train=5, val=3, test=2)
    assert [len(open_dataset(config, split)) for split in ("train", "val", "test")] == [5, 3, 2]
    val, test = (open_dataset(config, split)[0]["image"] for split in ("val", "test"))
    assert (val != test).any()


def test_unknown_names_get_the_nearest_right_word():
    with pytest.raises(InputError, match="unknown data set 'scene'; did you mean 'scenes'"):
        open_dataset(DataConfig(name="scene"), "train")
    with pytest.raises(InputError, match="unknown task 'dept'; did you mean 'depth'"):
        open_dataset(DataConfig(tasks=("segmentation", "dept")), "train")
    with pytest.raises(InputError, match="unknown split 'vall'; did you mean 'val'"):
        open_dataset(DataConfig(), "vall")
    with pytest.raises(InputError, match="list of tasks is empty"):
        open_dataset(DataConfig(tasks=()), "train")


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_folder_is_named(name):
    with pytest.raises(InputError, match=r"set data\.root"):
        open_dataset(DataConfig(name=name), "train")
    with pytest.raises(InputError, match=r"'/no/such/folder' of .* does not exist"):
        open_dataset(DataConfig(name=name, root="/no/such/folder"), "train")


@pytest.mark.parametrize("wrong", [{"hight": 3}, {"scale": (0.5, 1.0)}, {"scale": (1.5, 1.2)}, {"flip": 2.0}])
def test_bad_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        DataConfig(**wrong)


def test_a_task_that_is_listed_twice_is_refused():
    with pytest.raises(InputError, match=r"'data\.tasks': 'depth' is listed twice; name each task once\."):
        parse_recipe({"data": {"tasks": ["depth", "normals", "depth"]}})


def test_classes_belong_to_cityscapes():
    with pytest.raises(InputError, match=r"data\.classes chooses a label map of cityscapes; 'scenes' has one"):
        open_dataset(DataConfig(classes=7), "train")


@pytest.mark.parametrize("name", ON_DISK)
def test_an_empty_folder_is_explained_by_every_data_set(name, tmp_path):
    for split in ("train", "val", "test"):
        with pytest.raises(InputError, match=str(tmp_path)):
            open_dataset(DataConfig(name=name, root=str(tmp_path)), split)
