"""Outputs of any form under the names of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.network.by_task import TaskOutputs, by_task, check_tasks
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec

A = TaskSpec(name="animal", kind="classification", channels=3)
B = TaskSpec(name="parts", kind="segmentation", channels=2)
X, Y = torch.zeros(1, 3), torch.ones(1, 2, 4, 4)


@dataclass
class Out:
    parts: Tensor
    animal: Tensor
    loss: None = None


@pytest.mark.parametrize("outputs", [(X, Y), [X, Y], {"parts": Y, "animal": X, "more": X}, Out(Y, X)])
def test_outputs_are_found_by_name_or_in_order(outputs: Any) -> None:
    found = by_task(outputs, (A, B))
    assert list(found) == ["animal", "parts"]
    assert found["animal"] is X
    assert found["parts"] is Y


def test_one_tensor_is_one_task() -> None:
    assert by_task(X, (A,)) == {"animal": X}
    with pytest.raises(InputError, match=r"returns 1 output\(s\) without names, the tasks are 2"):
        by_task(X, (A, B))
    with pytest.raises(InputError, match="no output 'parts', by which a task is called; did you mean 'part'"):
        by_task({"animal": X, "part": Y}, (A, B))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x)
        return self.a(x.mean(dim=(2, 3))), self.b(x)


def test_the_wrapper_answers_for_each_task() -> None:
    wrapped, x = TaskOutputs(Two(), (A, B)), torch.randn(2, 3, 8, 8)
    assert list(wrapped(x)) == ["animal", "parts"]
    assert list(wrapped(x, tasks=["parts"])) == ["parts"]
    with pytest.raises(InputError, match="unknown task 'part'"):
        wrapped(x, tasks=["part"])


def test_shapes_must_fit_the_tasks() -> None:
    example = torch.zeros(1, 3, 8, 8)
    check_tasks(Two(), example, (A, B))
    for wrong in ((B, A), (A.model_copy(update={"channels": 4}), B)):
        with pytest.raises(InputError, match=r"needs an output of shape \[1, .*mend the task's kind or channels"):
            check_tasks(Two(), example, wrong)
