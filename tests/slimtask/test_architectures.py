"""Registered architectures: a name from a file makes a network that was registered here, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from slimtask import architectures
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "FACTORIES", {})

    @architectures.register("told-net")
    def told(*, tasks: Any, width: int = 1) -> tuple[Any, int]:
        return tasks, width


@pytest.mark.usefixtures("_registered")
def test_a_factory_gets_tasks_and_arguments() -> None:
    task = TaskSpec(name="depth", kind="depth", channels=1)
    assert architectures.build("told-net", {"width": 3}, [task]) == ((task,), 3)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("told-nett", {}, "'told-nett' is not registered; did you mean 'told-net'"),
        ("os:system", {}, "'os:system' is not registered"),
        ("told-net", {"depth": 2}, "does not take these arguments"),
    ],
)
def test_what_is_not_registered_or_does_not_fit_is_one_sentence(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        architectures.build(name, arguments, ())
