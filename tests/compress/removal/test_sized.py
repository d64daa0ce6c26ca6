"""Told networks: they keep class and names, copy, differentiate and export, and compute what narrow ones do."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from slimtask.compress.pruning import prune
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.removal.sized import can_hold
from slimtask.compress.score.budget import Budget
from tests.compress.halves import check_half, conv, seeded

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Pairs(nn.Module):
    """Sums up pairs of channels, whose number it holds."""

    def __init__(self, k: int = 2, out: int = 2) -> None:
        super().__init__()
        self.n, self.a, self.b = 4 * k, conv(3, 8 * k), conv(4 * k, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images."""
        y = self.a(x)
        made: Tensor = self.b(y.view(len(y), self.n, 2, *y.shape[2:]).sum(2))
        return made


@pytest.fixture(scope="module")
def done() -> Compressed:
    return prune(seeded(Pairs, 2), X, budget=Budget(keep=0.5), scope="layer")


def test_a_told_network_is_one_of_its_class_with_the_names_of_its_parameters(done: Compressed) -> None:
    assert [sizes.module for sizes in done.plan.sizes] == [""]
    assert isinstance(done.model, Pairs)
    assert list(done.model.state_dict()) == list(Pairs().state_dict())
    assert done.model.n == 8  # it believes that it is whole


def test_the_plan_goes_through_json_and_replays(done: Compressed) -> None:
    plan = Plan.model_validate_json(done.plan.model_dump_json())
    assert plan == done.plan
    fresh = seeded(Pairs, 2)
    plan.apply_(fresh)
    assert torch.equal(fresh(X), done.model(X))


def test_copies_other_batches_and_sizes_compute_what_the_narrow_network_does(done: Compressed) -> None:
    narrow = seeded(Pairs, 1)
    narrow.load_state_dict(done.model.state_dict())
    copied = copy.deepcopy(done.model)
    for shape in ((1, 3, 8, 8), (3, 3, 5, 12)):
        x = torch.randn(shape)
        assert_close(copied(x), narrow(x))
        assert_close(done.model(x), narrow(x))


def test_gradients_are_those_of_the_narrow_network(done: Compressed) -> None:
    narrow = seeded(Pairs, 1).train()
    narrow.load_state_dict(done.model.state_dict())
    told = copy.deepcopy(done.model).train()
    for network in (narrow, told):
        network(X).square().sum().backward()
    for one, other in zip(narrow.parameters(), told.parameters(), strict=True):
        assert_close(one.grad, other.grad)


def test_exported_graphs_compute_the_same(done: Compressed, tmp_path: Any) -> None:
    with torch.no_grad():
        program = torch.export.export(done.model, (X,))
        assert_close(program.module()(X), done.model(X))
    assert not any(32 in getattr(node.meta.get("val"), "shape", ()) for node in program.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_type_is_told_the_same(dtype: torch.dtype) -> None:
    made = prune(seeded(Pairs, 2).to(dtype), X.to(dtype), budget=Budget(keep=0.5), scope="layer")
    assert {name: tuple(x.shape) for name, x in made.model.state_dict().items()} == {
        name: tuple(x.shape) for name, x in Pairs(1).state_dict().items()
    }
    assert made.model(X.to(dtype)).dtype == dtype


class Inner(nn.Module):
    """A told module inside of one."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.inner, self.c, self.n = Pairs(k, 2 * k), conv(2 * k, 8 * k), 4 * k
        self.b = conv(4 * k, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of both, one behind the other."""
        y = self.c(self.inner(x))
        made: Tensor = self.b(y[:, : self.n] * y[:, self.n :])
        return made


def test_a_told_module_in_a_told_module_gets_its_own_answers() -> None:
    check_half(Inner, X)


def test_a_module_whose_forward_was_replaced_cannot_be_told() -> None:
    model = Pairs()
    assert can_hold(model)
    model.forward = lambda x: x  # type: ignore[method-assign]
    assert not can_hold(model)


def test_a_class_is_made_once(done: Compressed) -> None:
    other = seeded(Pairs, 2)
    done.plan.apply_(other)
    assert type(other) is type(done.model)
    assert inspect.getmro(type(other))[2] is Pairs
