from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data.frames import FrameSource, by_pattern
from slimtask.train.data.reading import read_labels
from slimtask.train.data.transforms import LabelMap

TASKS = (
    TaskSpec(name="one", kind="segmentation", channels=3),
    TaskSpec(name="two", kind="segmentation", channels=4),
)
PATTERNS = {"image": "img/*.png", "one": "one/*.png", "two": "two/*.png"}


def _open(root, wanted=None):
    frames = by_pattern(["a", "b"], PATTERNS)
    readers = {name: lambda path: LabelMap(read_labels(path)) for name in ("one", "two")}
    return FrameSource("toy", root, TASKS, wanted, frames, tuple(PATTERNS), readers)


@pytest.fixture
def folder(tmp_path):
    for name in PATTERNS:
        (tmp_path / ("img" if name == "image" else name)).mkdir()
    for i, stem in enumerate("ab"):
        Image.fromarray(np.full((4, 5, 3), (10 + i, 20, 30), np.uint8)).save(tmp_path / f"img/{stem}.png")
        for name in ("one", "two"):
            Image.fromarray(np.full((4, 5), i + len(name), np.uint8)).save(tmp_path / f"{name}/{stem}.png")
    return tmp_path


def test_every_column_is_read_by_its_reader(folder):
    source = _open(folder)
    assert len(source) == 2
    second, first = source.load([1, 0])
    assert list(first) == ["image", "one", "two"]
    assert first["image"][:, 0, 0].tolist() == [10, 20, 30]  # red first
    assert second["image"][0, 0, 0] == 11
    assert int(second["two"].as_subclass(torch.Tensor).unique()) == 4


def test_only_the_files_of_wanted_tasks_are_needed(folder):
    (folder / "two/a.png").unlink()
    source = _open(folder, ("one",))
    assert [task.name for task in source.tasks] == ["one"]
    assert list(source.load([0])[0]) == ["image", "one"]
    with pytest.raises(InputError, match=r"'toy' lacks 1 file\(s\), first '.*two/a\.png'"):
        _open(folder)
    with pytest.raises(InputError, match="unknown task 'too'; did you mean 'two'"):
        _open(folder, ("too",))


def test_maps_of_another_size_are_named(folder):
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(folder / "one/b.png")
    with pytest.raises(InputError, match=r"one/b\.png' has 5 x 4 pixels"):
        _open(folder).load([1])
