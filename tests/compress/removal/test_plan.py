"""Plans: data that replays, composes, explains itself and refuses what it does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import remove_zeros
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)
NetMaker = Callable[..., MultiTaskNet]
Kill = Callable[..., None]


def outputs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.eval()(torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(1)))


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    a, b = outputs(one), outputs(two)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("what", ["filter", "beta"])
def test_a_plan_replays_from_json_on_a_fresh_network(what: str, small_net: NetMaker, kill: Kill) -> None:
    model = small_net()
    kill(model, what)
    done = remove_zeros(model, EXAMPLE)
    fresh = small_net(seed=5)
    Plan.model_validate_json(done.plan.model_dump_json()).apply_(fresh)
    fresh.load_state_dict(done.model.state_dict())
    assert same(fresh, done.model)


def test_two_removals_compose_to_one_plan(small_net: NetMaker, kill: Kill) -> None:
    model = small_net()
    kill(model, "filter", "trunk.layer2")
    first = remove_zeros(model, EXAMPLE)
    kill(first.model, "beta", "trunk.layer3")
    second = remove_zeros(first.model, EXAMPLE)
    fresh = small_net(seed=5)
    first.plan.then(second.plan).apply_(fresh)
    fresh.load_state_dict(second.model.state_dict())
    assert same(fresh, second.model)


def test_a_plan_refuses_another_network_and_leaves_it_whole(small_net: NetMaker, kill: Kill) -> None:
    model = small_net()
    kill(model, "beta")
    plan = remove_zeros(model, EXAMPLE).plan
    wider = small_net(width=0.5)
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(InputError, match=r"the plan does not fit this network: '.*' has \d+ outputs"):
        plan.apply_(wider)
    assert all(torch.equal(before[name], tensor) for name, tensor in wider.state_dict().items())
    with pytest.raises(InputError, match="no layer 'trunk"):
        plan.apply_(torch.nn.Sequential())


def test_a_plan_tells_what_it_does(small_net: NetMaker) -> None:
    model = small_net()
    model.trunk.layer1[0].residual[3].weight.data[:, :10] = 0
    assert str(remove_zeros(model, EXAMPLE).plan) == ("trunk.layer1.0.residual.0: 16 -> 6 (10 ignored by every reader)")
