"""Dropping tasks: what only they need goes, what the others return stays bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimtask.compress.edits.tasks import KeepTasks, Selected, task_names, unneeded_modules
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Foreign(nn.Module):
    """A network that knows nothing of tasks: three outputs, heads called in different ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head_a = nn.Conv2d(8, 2, 1)
        self.refine_b, self.head_b = nn.Conv2d(8, 8, 1), nn.Bilinear(8, 8, 1)
        self.head_c = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.stem(x)
        z = self.refine_b(y).mean(dim=(2, 3))
        return {"a": self.head_a(y), "b": self.head_b(z, z), "c": self.head_c(y.detach().mean(dim=(2, 3))).argmax(1)}


class Asking(Foreign):
    """The same with a ``tasks`` argument, and a stem that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)

    def forward(self, x: torch.Tensor, tasks: list[str] | None = None) -> dict[str, torch.Tensor]:
        outputs = super().forward(x)
        return {name: outputs[name] for name in tasks or outputs}


@pytest.mark.parametrize("make", [Foreign, Asking])
def test_a_foreign_network_loses_what_only_the_others_need(make: type[nn.Module]) -> None:
    model = make().eval()
    assert task_names(model, X) == ("a", "b", "c")
    assert unneeded_modules(model, ["a"], X) == ("refine_b", "head_b", "head_c")
    assert unneeded_modules(model, ["b"], X) == ("head_a", "head_c")
    # nothing is known about an argmax, so all stays
    assert unneeded_modules(model, ["c"], X) == ()
    assert model.stem[0].weight.requires_grad is (make is Foreign)
    with torch.no_grad():
        expected = model(X)
        edit = KeepTasks(tasks=("a",), unneeded=unneeded_modules(model, ["a"], X))
        smaller = copy.deepcopy(model)
        smaller.tasks = tuple(TaskSpec(name=name, kind="classification", channels=2) for name in "abc")
        KeepTasks.model_validate_json(edit.model_dump_json()).apply_(smaller)
        got = copy.deepcopy(smaller)(X)
    assert list(got) == [task.name for task in smaller.tasks] == ["a"]
    assert torch.equal(got["a"], expected["a"])
    assert count_parameters(smaller) == count_parameters(model.stem) + count_parameters(model.head_a)
    assert smaller(X, tasks=["a"]).keys() == {"a"}
    with pytest.raises(InputError, match="unknown task 'b'"):
        smaller(X, tasks=["b"])
    assert task_names(smaller, X) == ("a",)
    KeepTasks(tasks=("a",), unneeded=()).apply_(smaller)  # twice is once
    assert list(smaller(X)) == ["a"]


def test_a_detached_trunk_has_no_gradient_but_is_needed() -> None:
    class Detached(Foreign):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.stem(x).detach()
            return {"a": self.head_a(y), "b": self.refine_b(y)}

    # the stem's stand-in changes the outputs, so it is put back
    model = Detached().eval()
    assert unneeded_modules(model, ["a"], X) == ("refine_b", "head_b", "head_c")
    assert isinstance(model.stem, nn.Sequential)


def test_the_house_network_loses_its_heads_and_specs(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    assert task_names(model, X) == ("segmentation", "depth", "normals", "edges", "presence")
    gone = unneeded_modules(model, ["depth", "edges"], X)
    assert gone == ("heads.segmentation", "heads.normals", "heads.presence")
    smaller = copy.deepcopy(model)
    KeepTasks(tasks=("depth", "edges"), unneeded=gone).apply_(smaller)
    assert type(smaller) is MultiTaskNet
    assert [task.name for task in smaller.tasks] == list(smaller.heads) == ["depth", "edges"]
    with torch.no_grad():
        expected, got, selected = model(X), smaller(X), Selected(model, ["depth", "edges"])(X)
    assert list(got) == list(selected) == ["depth", "edges"]
    assert all(torch.equal(got[name], expected[name]) and torch.equal(selected[name], got[name]) for name in got)


def test_what_does_not_fit_is_refused_before_anything_is_touched(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    with pytest.raises(InputError, match=r"no module 'heads\.keypoints'"):
        KeepTasks(tasks=("depth",), unneeded=("heads.edges", "heads.keypoints")).apply_(model)
    with pytest.raises(InputError, match="no task 'dept'"):
        KeepTasks(tasks=("dept",), unneeded=()).apply_(model)
    assert len(model.heads) == 5
    with pytest.raises(InputError, match="returns a Tensor, not a dict"):
        task_names(nn.Conv2d(3, 2, 1), X)
