"""Every draw is one number, whatever its shape, the same in every pass; the generators come back as they were."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slimtask.compress.network.draws import FixedDraws, seeded

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "dropout2d": lambda x: F.dropout2d(x[None, :, :, None], 0.5)[0, :, :, 0],
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(x.shape),
    "normal_": lambda x: torch.empty_like(x).normal_(3, 2),
    "normal": lambda x: torch.normal(x, 2.0),
    "uniform_": lambda x: torch.empty_like(x).uniform_(3, 4),
    "randint": lambda x: torch.randint(2, 5, x.shape),
    "exponential_": lambda x: torch.empty_like(x).exponential_(),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=0),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rrelu_": lambda x: F.rrelu(x.clone(), training=True, inplace=True),
}


def run(name: str, x: Tensor) -> tuple[Tensor, list[str]]:
    draws = FixedDraws()
    with torch.no_grad(), draws:
        return DRAWS[name](x), draws.names


@pytest.mark.parametrize("name", DRAWS)
def test_a_narrower_tensor_draws_the_same(name: str) -> None:
    x = torch.linspace(-1, 1, 12).view(3, 4)
    wide, names = run(name, x)
    narrow, _ = run(name, x[:, :2])
    torch.testing.assert_close(wide[:, :2], narrow, rtol=0, atol=0)
    assert len(names) == 1


def test_choices_are_the_first_and_the_likeliest() -> None:
    with FixedDraws():
        assert torch.randperm(4).tolist() == [0, 1, 2, 3]
        assert torch.multinomial(torch.tensor([0.1, 0.7, 0.2]), 2).tolist() == [1, 2]
        assert torch.multinomial(torch.tensor([0.1, 0.7, 0.2]), 2, replacement=True).tolist() == [1, 1]
        assert 3 <= float(torch.empty(1).uniform_(3, 4)) <= 4
    assert not run("dropout", torch.ones(1, 1))[0].isnan().any()


def test_two_draws_of_a_pass_differ() -> None:
    with FixedDraws():
        assert float(torch.rand(1)) != float(torch.rand(1))


def test_the_generators_come_back() -> None:
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state()
    with seeded():
        first = torch.rand(1), random.random()
    assert torch.equal(torch.get_rng_state(), before)
    with seeded():
        assert (torch.rand(1), random.random()) == first
