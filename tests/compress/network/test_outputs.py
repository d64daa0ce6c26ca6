"""Every tensor of an output is found, whatever holds it; what cannot be compared is refused by its name."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch

from slimtask.compress.network.outputs import named_leaves, named_outputs
from slimtask.errors import InputError

X, Y = torch.zeros(1), torch.ones(2)
Both = namedtuple("Both", "x y")


@dataclasses.dataclass
class Data:
    x: Any
    y: Any


class Plain:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Output(OrderedDict):  # type: ignore[type-arg]
    """As the ModelOutput of transformers: its items are its attributes too."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__(x=x, y=y)
        self.x, self.y = x, y


MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "dictionary": lambda x, y: {"x": x, "y": y},
    "user's dictionary": lambda x, y: UserDict(x=x, y=y),
    "dataclass": Data,
    "object": Plain,
    "slots": Slotted,
    "namespace": lambda x, y: types.SimpleNamespace(x=x, y=y),
    "model output": Output,
}


@pytest.mark.parametrize("name", MAKERS)
def test_tensors_are_found_in(name: str) -> None:
    made = MAKERS[name](X, {"deep": [Y, None, 3]})
    found = named_outputs(made)
    assert list(found) == ["x", "y.deep.0"]
    assert found["x"] is X
    assert found["y.deep.0"] is Y
    assert named_leaves(made)["y.deep.2"] == 3


def test_lists_tuples_and_sets_of_one() -> None:
    assert list(named_outputs(X)) == ["output"]
    assert list(named_outputs([X, (Y, {X})])) == ["0", "1.0", "1.1.0"]
    assert list(named_outputs(Both(X, Y))) == ["0", "1"]
    assert len(named_outputs({"a.b": X, "a": {"b": Y}})) == 2


def test_what_hangs_on_a_container_counts_too() -> None:
    class Boxes(list):  # type: ignore[type-arg]
        pass

    boxes = Boxes([X])
    boxes.scores = Y
    boxes.owner = boxes
    assert list(named_outputs(boxes)) == ["0", "scores"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((x for x in (X,)), "'a' is a generator"),
        (map(abs, [X]), "'a' is a map"),
        (lambda: X, "'a' is a function"),
        (object(), "'a' is an object"),
        (torch.nn.ReLU(), "'a' is a ReLU"),
        ({X, Y}, "'a' is a set of 2"),
        (X.to_sparse(), "'a' is a sparse tensor"),
        (torch.nested.nested_tensor([X], layout=torch.jagged), "'a' is a nested tensor"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        named_outputs({"a": value})
