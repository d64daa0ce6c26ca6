"""TaskSpec: defaults per kind, and refusals."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec, select_tasks


def test_defaults_follow_the_kind() -> None:
    depth = TaskSpec(name="depth", kind="depth", channels=1)
    assert (depth.metric, depth.higher_is_better, depth.ignore, depth.unit) == ("abs_rel", False, 0.0, "metre")
    assert TaskSpec(name="s", kind="segmentation", channels=3, ignore=9).ignore == 9


def test_wrong_channels_and_class_names_are_refused() -> None:
    with pytest.raises(ValidationError, match="a normals task has 3 channel"):
        TaskSpec(name="normals", kind="normals", channels=2)
    with pytest.raises(ValidationError, match="2 class names for 3 channels"):
        TaskSpec(name="s", kind="segmentation", channels=3, classes=("a", "b"))


def test_an_unknown_task_is_named_with_the_nearest(tasks: tuple[TaskSpec, ...]) -> None:
    assert [task.name for task in select_tasks(tasks, ["edges", "depth"])] == ["depth", "edges"]
    with pytest.raises(InputError, match="unknown task 'dept'; did you mean 'depth'"):
        select_tasks(tasks, ["dept"])


def test_class_weights_are_one_a_class_and_positive() -> None:
    task = TaskSpec(name="s", kind="segmentation", channels=2, class_weights=(0.5, 2.0), loss="weighted_cross_entropy")
    assert TaskSpec.model_validate_json(task.model_dump_json()) == task
    with pytest.raises(ValueError, match="1 class weights for 2 channels"):
        TaskSpec(name="s", kind="segmentation", channels=2, class_weights=(0.5,))
    with pytest.raises(ValueError, match="greater than 0"):
        TaskSpec(name="s", kind="segmentation", channels=2, class_weights=(0.5, 0.0))
