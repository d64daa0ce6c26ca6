"""The file that names a foreign network's tasks: a YAML list of TaskSpecs, with the preprocessing if it is not ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from slimtask.errors import InputError, nearest
from slimtask.files import read_yaml
from slimtask.tasks import Finite, Frozen, Positive, Preprocessing, TaskSpec

_HOW = "list name, kind and channels of each task"


class TaskFile(Frozen):
    """Tasks in the order of the network's outputs, and how it takes its images (``Preprocessing``), as far as told."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    order: Literal["rgb", "bgr"] | None = None

    def preprocessing(self, height: int, width: int) -> Preprocessing:
        """Return how an image becomes an input of this size: as told, where nothing is told by Preprocessing's own."""
        told = {name: getattr(self, name) for name in ("mean", "std", "order") if getattr(self, name) is not None}
        return Preprocessing(height=height, width=width, **told)

    @property
    def untold(self) -> str:
        """What is not told of its images, in words with what is then taken; "" if all is."""
        own = Preprocessing(height=1, width=1)
        taken = {"mean": f"mean {_listed(own.mean)}", "std": f"std {_listed(own.std)}", "order": f"order {own.order}"}
        return ", ".join(words for name, words in taken.items() if getattr(self, name) is None)

    @model_validator(mode="after")
    def _names_differ(self) -> TaskFile:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tasks are called '{name}'; rename one")
        return self


def read_tasks(path: Path | str) -> TaskFile:
    """Return the tasks in a YAML file: a list of TaskSpecs, or a mapping of ``tasks`` and the fields of TaskFile.

    Raises InputError that says where the file is wrong.
    """
    content = read_yaml(path, "task file")
    content = {"tasks": content} if isinstance(content, list) else content
    if not isinstance(content, dict):
        raise InputError(f"task file '{path}' holds no list of tasks; {_HOW}.")
    try:
        return TaskFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"task file '{path}': {_problem(error.errors()[0])}; {_HOW}.") from None


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = (TaskSpec if "tasks" in error["loc"] else TaskFile).model_fields
        return f"unknown key '{where}'{nearest(str(error['loc'][-1]), known)}"
    return f"{where + ': ' if where else ''}{error['msg'].removeprefix('Value error, ')}"
