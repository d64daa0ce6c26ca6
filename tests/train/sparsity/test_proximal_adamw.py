from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.train.sparsity.layout import GroupLayout, Member, input_channel_layout, output_channel_layout
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW


def _net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten()
    )


def _train(net: nn.Module, optimizer: Any, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        output = net(torch.randn(4, 3, 6, 6, generator=generator))
        (output - torch.randn(output.shape, generator=generator)).square().mean().backward()
        optimizer.step()


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_without_penalty_it_is_adamw_with_the_paper_s_epsilon(reference: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    values = {"w": torch.randn(7, 5, generator=generator), "b": torch.randn(7, generator=generator)}
    slow = reference(values, None)
    groups = [
        {"params": [("w", values["w"].requires_grad_())]},
        {"params": [("b", values["b"].requires_grad_())], "weight_decay": 0.0},
    ]
    optimizer = ProximalAdamW(groups, lr=3e-3, weight_decay=0.2)
    for _ in range(20):
        gradients = {name: torch.randn(value.shape, generator=generator) for name, value in values.items()}
        for name, value in values.items():
            value.grad = gradients[name]
        optimizer.step()
        slow.step(gradients, lr=3e-3, decay=lambda name: 0.2 if name == "w" else 0.0)
    for name, value in values.items():
        np.testing.assert_allclose(value.detach().numpy(), slow.p[name], rtol=1e-5, atol=1e-6)


def test_close_to_torch_where_epsilon_does_not_matter() -> None:
    ours, theirs = _net(), _net()
    _train(ours, ProximalAdamW(ours.named_parameters(), lr=1e-3, eps=1e-12, weight_decay=0.0), 10)
    _train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-3, eps=1e-12, weight_decay=0.0), 10)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_penalty_zeroes_groups_and_exempt_ones_stay() -> None:
    net = _net()
    layout = output_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, strength=100.0)
    keep = torch.zeros(len(layout), dtype=torch.bool)
    keep[3] = True
    optimizer.exempt(keep)
    _train(net, optimizer, 3)
    assert torch.equal(optimizer.zero_groups(), ~keep)
    assert torch.equal(net[0].weight.flatten(1).ne(0).any(1).nonzero().flatten(), torch.tensor([3]))
    assert optimizer.critical_strengths()[3] == torch.inf


def test_held_groups_stay_exactly_zero_and_the_others_train() -> None:
    net = _net()
    channel = torch.arange(8)
    layout = GroupLayout(
        members=[Member(parameter=name, axis=0, groups=channel) for name in ("0.weight", "1.weight", "1.bias")],
        shapes={"0.weight": (8, 3, 3, 3), "1.weight": (8,), "1.bias": (8,)},
    )
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, strength=0.01)
    _train(net, optimizer, 3)
    mask = channel % 2 == 0
    optimizer.hold(mask)
    optimizer.strength = 0.0
    before = _state(net)
    _train(net, optimizer, 5)
    for name in ("0.weight", "1.weight", "1.bias"):
        parameter = dict(net.named_parameters())[name]
        state = optimizer.state[parameter]
        for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
            assert not bool(tensor[mask].any())
        assert bool((parameter[~mask] != before[name][~mask]).any())
    assert torch.equal(optimizer.zero_groups(), mask)
    assert torch.equal(optimizer.held_groups(), mask)
    assert torch.equal(optimizer.critical_strengths().isinf(), mask)


def test_a_resumed_run_equals_an_uninterrupted_one() -> None:
    net, again = _net(), _net(seed=1)
    layout = input_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, strength=0.05)
    _train(net, optimizer, 4)
    optimizer.hold(torch.arange(len(layout)) == 1)
    optimizer.exempt(torch.arange(len(layout)) == 2)
    resumed = ProximalAdamW(again.named_parameters(), layout, lr=1e-2)
    again.load_state_dict(_state(net))
    state = optimizer.state_dict()
    assert all(torch.is_tensor(value) for value in state["sparsity"].values())
    assert all(torch.is_tensor(value) for entry in state["state"].values() for value in entry.values())
    resumed.load_state_dict(state)
    assert torch.equal(resumed.critical_strengths(), optimizer.critical_strengths())
    _train(net, optimizer, 4, seed=5)
    _train(again, resumed, 4, seed=5)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert resumed.strength == 0.05


def test_the_state_of_torch_s_adamw_is_accepted() -> None:
    net = _net()
    dense = torch.optim.AdamW(net.named_parameters(), lr=1e-3)
    _train(net, dense, 3)
    optimizer = ProximalAdamW(net.named_parameters(), input_channel_layout(net.named_parameters()), strength=1e-3)
    optimizer.load_state_dict(dense.state_dict())
    _train(net, optimizer, 2)
    assert int(optimizer.state[net[0].weight]["step"]) == 5


def test_schedulers_closures_and_fabric() -> None:
    from lightning_fabric import Fabric

    net = _net()
    layout = input_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, strength=1e-3)
    fabric = Fabric(accelerator="cpu", devices=1)
    module, wrapped = fabric.setup(net, optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    loss = wrapped.step(lambda: module(torch.ones(1, 3, 6, 6)).sum())
    assert torch.is_tensor(loss)
    wrapped.strength = 0.25
    assert optimizer.strength == 0.25
    wrapped.limit = lambda critical: float(critical.max())
    _train(module, wrapped, 1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 5e-3
    assert bool(optimizer.zero_groups().all())
    wrapped.hold(wrapped.zero_groups())
    wrapped.load_state_dict(wrapped.state_dict())
    assert bool(optimizer.held_groups().all())


def test_parameters_without_gradient_are_left_alone() -> None:
    net = _net()
    layout = input_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2, strength=0.01)
    optimizer.step()
    assert not optimizer.state
    net[3].requires_grad_(False)
    before = _state(net)
    _train(net, optimizer, 2)
    assert torch.equal(net[3].weight, before["3.weight"])
    assert not torch.equal(net[0].weight, before["0.weight"])
    net[3].requires_grad_(True)
    _train(net, optimizer, 1)  # joins late, with a step count of its own
    assert int(optimizer.state[net[3].weight]["step"]) == 1
    assert int(optimizer.state[net[0].weight]["step"]) == 3


def test_critical_strengths_are_also_known_without_a_penalty() -> None:
    net = _net()
    layout = input_channel_layout(net.named_parameters())
    optimizer = ProximalAdamW(net.named_parameters(), layout, lr=1e-2)
    with pytest.raises(InputError, match="take an optimiser step first"):
        optimizer.critical_strengths()
    _train(net, optimizer, 2)
    quiet = optimizer.critical_strengths()
    metric = optimizer.state[net[0].weight]["exp_avg_sq"].sqrt() + 1e-6
    expected = (metric * net[0].weight).movedim(1, 0).flatten(1).norm(dim=1) / (1e-2 * 72**0.5)
    torch.testing.assert_close(quiet[:3].float(), expected, rtol=1e-5, atol=0)


def test_a_restart_lowers_what_a_group_withstands_by_the_closed_form() -> None:
    """At a constant gradient g the metric of step k is |g| sqrt(1 - beta2^k), and so is the critical strength."""
    weight = nn.Parameter(torch.ones(4, 2, 1, 1, dtype=torch.float64))
    layout = input_channel_layout([("weight", weight)])
    optimizer = ProximalAdamW([("weight", weight)], layout, lr=1e-9, weight_decay=0.0, eps=1e-12)

    def critical(steps: int) -> Tensor:
        for _ in range(steps):
            weight.grad = torch.full_like(weight, 3.0)
            optimizer.step()
        return optimizer.critical_strengths()

    def expected(step: int) -> Tensor:
        return torch.full((2,), 3 * (1 - 0.999**step) ** 0.5 / 1e-9, dtype=torch.float64)

    torch.testing.assert_close(critical(50), expected(50), rtol=1e-4, atol=0)
    optimizer.restart()
    torch.testing.assert_close(critical(1), expected(1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, "strength of the penalty is -1.0"),
        ({"strength": float("nan")}, "finite"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"eps": 0.0}, "eps above 0"),
        ({"weights": torch.ones(3)}, "11 finite numbers"),
        ({"weights": -torch.ones(11)}, "at least 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    net = _net()
    with pytest.raises(InputError, match=message):
        ProximalAdamW(net.named_parameters(), input_channel_layout(net.named_parameters()), **settings)


def test_a_layout_of_another_model_is_refused() -> None:
    net = _net()
    layout = input_channel_layout(net.named_parameters())
    with pytest.raises(InputError, match="was not given"):
        ProximalAdamW(list(net.named_parameters())[1:], layout)
    with pytest.raises(InputError, match="was not given"):
        ProximalAdamW(net.parameters(), layout)  # type: ignore[arg-type]
    wide = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    with pytest.raises(InputError, match="build the layout from this model"):
        ProximalAdamW(wide.named_parameters(), layout)
    optimizer = ProximalAdamW(net.named_parameters(), layout)
    other = ProximalAdamW(net.named_parameters(), output_channel_layout(net.named_parameters()))
    with pytest.raises(InputError, match="has 11 groups, the layout 14"):
        other.load_state_dict(optimizer.state_dict())


def test_low_precision_weights_sparse_gradients_and_huge_decay_are_refused() -> None:
    half = nn.Linear(2, 2).to(torch.bfloat16)
    with pytest.raises(InputError, match="mixed precision"):
        ProximalAdamW(half.named_parameters())
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = ProximalAdamW(table.named_parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse gradient"):
        optimizer.step()
    net = _net()
    with pytest.raises(InputError, match="erases the weights"):
        _train(net, ProximalAdamW(net.named_parameters(), lr=1.0, weight_decay=1.0), 1)
