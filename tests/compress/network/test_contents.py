"""What hangs on a network, and copies of it that share nothing but what cannot be copied."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy, reachable, tensors_in
from slimtask.errors import InputError


class Plain(nn.Module):
    """One layer, and whatever a test hangs on it."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class Slotted:
    """Keeps its tensor in a slot."""

    __slots__ = ("kept",)

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "list": lambda x: [[x]],
    "dict": lambda x: {"a": {1: x}},
    "tuple": lambda x: (0, (x,)),
    "queue": lambda x: deque([x]),
    "slot": Slotted,
    "partial": lambda x: functools.partial(torch.add, x),
    "keyword of a partial": lambda x: functools.partial(torch.add, other=x),
    "closure": lambda x: lambda: x + 1,
    "closure of a closure": lambda x: _calling(lambda: x),
    "default": lambda x: lambda y=x: y,
    "method": lambda x: Plain(table=x).forward,
    "object": lambda x: _with(x),  # noqa: PLW0108 - defined below
}


def _calling(inner: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: 2 * inner()


def _with(x: Tensor) -> Any:
    class Held:
        def __init__(self) -> None:
            self.x = x

    return Held()


@pytest.mark.parametrize("name", HOLDERS)
def test_every_tensor_is_reached(name: str) -> None:
    x = torch.ones(3)
    model = Plain(held=HOLDERS[name](x))
    assert any(found is x for found in tensors_in(model))


def test_rings_end_and_everything_comes_once() -> None:
    model = Plain()
    model.ring = [model]
    model.ring.append(model.ring)
    found = [id(item) for item in reachable(model)]
    assert len(found) == len(set(found))


def test_a_closure_of_the_copy_holds_the_copy() -> None:
    model, seen = Plain(), dict[str, Tensor]()
    model.seen = seen
    model.layer.register_forward_hook(lambda module, args, output: seen.__setitem__("y", output))
    model.twice = lambda x: 2 * model.layer(x)
    copied = independent_copy(model)
    copied.layer.weight.detach().zero_()
    copied.layer.bias.detach().fill_(3.0)
    assert torch.equal(copied.twice(torch.ones(1, 2)), torch.full((1, 2), 6.0))
    assert not seen
    assert torch.equal(copied.seen["y"], torch.full((1, 2), 3.0))
    model.twice(torch.ones(1, 2))
    assert seen["y"] is not copied.seen["y"]


def test_a_closure_that_holds_nothing_of_the_network_stays_the_same_function() -> None:
    factor = 3

    def scale(x: Tensor) -> Tensor:
        return factor * x

    assert independent_copy(Plain(scale=scale)).scale is scale


def test_locks_are_new_and_free() -> None:
    model = Plain(lock=threading.Lock(), again=threading.RLock())
    with model.lock, model.again:
        copied = independent_copy(model)
        assert copied.lock is not model.lock
        assert copied.lock.acquire(blocking=False)
    assert type(copied.again) is type(model.again)


def test_a_file_is_shared(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        copied = independent_copy(Plain(log=file))
        assert copied.log is file
        assert copied.layer.weight is not file


class Stubborn:
    """Holds a tensor and refuses to be copied."""

    def __init__(self) -> None:
        self.table = torch.ones(2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("not this one")


@pytest.mark.parametrize(
    ("inner", "place"), [(False, "the network holds 'cache'"), (True, "module 'part' holds 'cache'")]
)
def test_what_cannot_be_copied_but_holds_tensors_is_refused_by_name(inner: bool, place: str) -> None:
    model = nn.ModuleDict({"part": Plain(cache=Stubborn())}) if inner else Plain(cache=Stubborn())
    with pytest.raises(InputError, match=rf"{place}, a Stubborn \(not this one\); keep it outside the network"):
        independent_copy(model)


def test_ties_are_kept_and_cut_from_the_original() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.table = model[0].weight
    copied = independent_copy(model)
    assert copied[1].weight is copied[0].weight
    assert copied.table is copied[0].weight
    assert copied[0].weight is not model[0].weight
    assert not {x.data_ptr() for x in tensors_in(copied)} & {x.data_ptr() for x in tensors_in(model)}


def test_what_is_to_be_shared_is_and_the_rest_is_not() -> None:
    model = Plain(table=torch.ones(2))
    copied = independent_copy(model, sharing=model.parameters())
    assert copied.layer.weight is model.layer.weight
    assert copied.table is not model.table


def test_a_tensor_with_a_history_is_copied_by_value() -> None:
    model = Plain()
    model.last = model.layer(torch.ones(1, 2))  # torch itself refuses to copy it
    copied = independent_copy(model)
    assert torch.equal(copied.last, model.last)
    assert copied.last.grad_fn is None
    assert model.last.grad_fn is not None


def test_modes_gradients_and_buffers_come_along() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), Plain()).eval()
    model[1].layer.weight.requires_grad_(False)
    model[0].running_mean.fill_(5.0)
    copied = independent_copy(model)
    assert not copied.training
    assert not copied[1].layer.weight.requires_grad
    assert torch.equal(copied[0].running_mean, torch.full((2,), 5.0))
