"""The delta section: what contradicts itself is refused, and values go to the tasks they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimtask.errors import InputError
from slimtask.train.methods.delta.config import ActivationsConfig, DeltaConfig, GatesConfig, check_tasks, of_task
from slimtask.train.recipe import Recipe


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"feed": "base", "rows": 0.5}, "leave out rows"),
        ({"gates": {"density": 0.1, "strength": 1.0}}, "either 'density'"),
        ({"gates": {}}, "either 'density'"),
        ({"gates": {"density": 0.1, "stretch": [0.1, 1.5]}}, "stretch is an interval"),
        ({"activations": {"threshold": 0.1, "keep": 0.1}}, "one of 'threshold' and 'keep'"),
        ({"gates": {"density": 0.1, "kind": "unit"}}, r"delta\.gates\.kind"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(delta: Any, message: str, recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(InputError, match=message):
        recipe(delta=delta)


def test_a_value_is_for_all_tasks_or_for_its_own() -> None:
    assert of_task(0.5, "depth") == 0.5
    assert of_task(None, "depth") is None
    assert of_task({"depth": 1.0, "room": 2.0}, "room") == 2.0
    with pytest.raises(InputError, match="values for depth, none for 'room'"):
        of_task({"depth": 1.0}, "room")


@pytest.mark.parametrize(
    ("delta", "where"),
    [
        ({"lr": {"room": 0.1, "dept": 0.1}}, "delta.lr"),
        ({"gates": {"strength": {"room": 0.1, "dept": 0.1}}}, "delta.gates.strength"),
        ({"gates": {"density": 0.1}, "activations": {"strength": {"dept": 0.1}}}, "delta.activations.strength"),
        ({"gates": {"density": 0.1}, "activations": {"lr": {"dept": 0.1}}}, "delta.activations.lr"),
    ],
)
def test_a_value_for_a_task_that_is_not_there_is_refused(delta: Any, where: str) -> None:
    config = DeltaConfig.model_validate({"base": "depth", "gates": {"density": 0.1}} | delta)
    with pytest.raises(InputError) as refused:
        check_tasks(config, ["depth", "room"])
    assert str(refused.value) == f"{where}: the data have no task 'dept'; did you mean 'depth'?"
    check_tasks(config, ["depth", "room", "dept"])


def test_every_mapping_of_the_section_is_by_task() -> None:
    """All of them are checked for tasks, so none may be by anything else."""
    mappings = {
        (section.__name__, name)
        for section in (DeltaConfig, GatesConfig, ActivationsConfig)
        for name, field in section.model_fields.items()
        if "dict" in str(field.annotation)
    }
    assert mappings == {
        ("DeltaConfig", "lr"),
        ("GatesConfig", "strength"),
        ("ActivationsConfig", "strength"),
        ("ActivationsConfig", "lr"),
    }
