"""Learning rates against their closed forms, optimisers against torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.errors import InputError
from slimtask.train.optimizers import LearningRate, build_optimizer, flat_state, load_flat_state, restart, set_rate
from slimtask.train.recipe import TrainConfig


def config(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 100, "lr": 0.1, "lr_warmup": 0.0, **values})


def test_cosine_with_warm_up() -> None:
    rate = LearningRate(config(lr_warmup=0.1))
    assert [rate(step) for step in (0, 9)] == pytest.approx([0.1 / 11, 0.1 * 10 / 11])
    assert rate(55) == pytest.approx(0.1 * (0.02 + 0.98 * 0.5))
    assert rate(100) == pytest.approx(0.002)


def test_polynomial_step_and_constant_rates() -> None:
    assert LearningRate(config(schedule={"kind": "poly", "power": 0.9}))(75) == pytest.approx(0.1 * 0.25**0.9)
    short = LearningRate(config(schedule={"kind": "poly", "power": 0.9, "horizon": 50}))
    assert [short(step) for step in (25, 50, 99)] == pytest.approx([0.1 * 0.5**0.9, 0, 0])
    stepped = LearningRate(config(schedule={"kind": "step", "every": 30, "factor": 0.5}))
    assert [stepped(step) for step in (29, 30, 60)] == pytest.approx([0.1, 0.05, 0.025])
    assert LearningRate(config(schedule={"kind": "constant"}))(99) == pytest.approx(0.1)


def test_a_plateau_follows_torch() -> None:
    losses = [3.0, 2.0, 2.1, 2.2, 2.3, 1.9, 2.0, 2.0, 2.0, 2.0]
    ours = LearningRate(config(schedule={"kind": "plateau", "patience": 1, "factor": 0.1, "floor": 1e-3}))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1, threshold=0.0, min_lr=1e-4)
    for loss in losses:
        ours.observe(loss)
        theirs.step(loss)
        assert ours(50) == pytest.approx(optimizer.param_groups[0]["lr"])
    again = LearningRate(ours.config)
    again.load_state(ours.state())
    assert again(50) == ours(50)
    assert math.isfinite(again(0))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_an_optimiser_continues_from_its_flat_state(name: str) -> None:
    def run(cut: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        chosen = config(optimizer=name, rates={"bias": 0.5})
        optimizer = build_optimizer([model], chosen)
        for step in range(4):
            if cut and step == 2:
                flat = flat_state([optimizer])
                optimizer = build_optimizer([model], chosen)
                load_flat_state([optimizer], flat)
            set_rate(optimizer, 0.1 / (step + 1))
            optimizer.zero_grad()
            model(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(run(cut=False), run(cut=True))


def test_adam_and_sgd_are_torchs() -> None:
    for name, reference in (
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.999), weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
    ):
        torch.manual_seed(0)
        one, two = nn.Linear(3, 2), nn.Linear(3, 2)
        two.load_state_dict(one.state_dict())
        pair = (
            (one, build_optimizer([one], config(optimizer=name, betas=(0.5, 0.999), weight_decay=0.1))),
            (two, reference(two.parameters())),
        )
        for model, optimizer in pair:
            for step in range(3):
                optimizer.zero_grad()
                model(torch.full((1, 3), float(step + 1))).square().sum().backward()
                optimizer.step()
        torch.testing.assert_close(one.weight, two.weight)
        torch.testing.assert_close(one.bias, two.bias)


def network() -> nn.Module:
    torch.manual_seed(0)
    heads = nn.ModuleDict({"seg": nn.Linear(2, 1), "depth": nn.Linear(2, 1)})
    return nn.ModuleDict({"trunk": nn.Linear(3, 2), "heads": heads})


def descend(model: nn.Module, sign: float = 1.0) -> None:
    """Give every entry of every parameter the gradient ``sign``."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, sign)


RATES = {"trunk": 0.1, "heads": 2.0, "heads.depth": 0.5, "heads.depth.bias": 0.25}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_every_part_has_its_own_rate_and_the_longest_name_wins(name: str) -> None:
    """A first step has the length of the learning rate: Adam's by its definition, SGD's at gradients of one."""
    model = network()
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer = build_optimizer([model], config(optimizer=name, rates=RATES, weight_decay=0.0))
    set_rate(optimizer, 0.01)
    descend(model)
    optimizer.step()
    for key, parameter in model.named_parameters():
        factor = {"trunk": 0.1, "heads.seg": 2.0}.get(key.rpartition(".")[0], 0.25 if key.endswith("bias") else 0.5)
        moved = before[key] - parameter.detach()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01 * factor), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_the_state_of_an_optimiser_does_not_depend_on_the_rates(name: str) -> None:
    """So that a fork serves runs of other rates: every parameter finds its own moments."""
    model = network()
    plain = build_optimizer([model], config(optimizer=name))
    descend(model)
    plain.step()
    rated = build_optimizer([model], config(optimizer=name, rates=RATES))
    load_flat_state([rated], flat_state([plain]), only="state/")
    moment = "momentum_buffer" if name == "sgd" else "exp_avg"
    for parameter in model.parameters():
        assert torch.equal(rated.state[parameter][moment], plain.state[parameter][moment])


def test_a_part_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"train.rates: the network has no part 'head'; did you mean 'heads'"):
        build_optimizer([network()], config(rates={"head": 0.1}))
    with pytest.raises(InputError, match=r"no part 'heads.dept'; did you mean 'heads.depth'"):
        build_optimizer([network()], config(rates={"heads.dept": 0.1}))


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize("anew", [False, True])
def test_the_first_step_of_adam_is_as_long_as_the_rate_again_after_a_restart(name: str, anew: bool) -> None:
    """50 gradients of 1, one of -1: a first step is lr g / |g|; with the moments kept it is the closed form below."""
    model = network()
    optimizer = build_optimizer([model], config(optimizer=name, weight_decay=0.0))
    set_rate(optimizer, 0.01)
    for _ in range(50):
        descend(model)
        optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    if anew:
        restart(optimizer)
    descend(model, sign=-1.0)
    optimizer.step()
    kept = (0.9 * (1 - 0.9**50) - 0.1) / (1 - 0.9**51)
    for old, parameter in zip(before, model.parameters(), strict=True):
        expected = torch.full_like(old, 0.01 if anew else -0.01 * kept)
        torch.testing.assert_close(parameter.detach() - old, expected, rtol=1e-3, atol=0)
