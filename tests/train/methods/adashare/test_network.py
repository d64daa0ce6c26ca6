"""The mixing network against the plain one, against blocks run by hand, and against really skipping."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.score.cost import count_flops
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.methods.adashare.network import PolicyNet
from slimtask.train.models import MultiTaskNet, multitask_net

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))
BLOCKS = 8


def specs(tasks: int) -> tuple[TaskSpec, ...]:
    return tuple(TaskSpec(name=name, kind="multilabel", channels=2) for name in "abcde"[:tasks])


def plain(tasks: int) -> MultiTaskNet:
    torch.manual_seed(0)
    model = multitask_net(tasks=specs(tasks), width=0.125).train()
    with torch.no_grad():
        model(X)  # running statistics that are not those of a fresh network
    return model


def policy_net(tasks: int, batchnorm: str = "shared") -> PolicyNet:
    names = tuple(spec.name for spec in specs(tasks))
    return PolicyNet(plain(tasks), names, torch.full((tasks, BLOCKS, 2), 0.5), batchnorm)


def decisions(tasks: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(tasks, BLOCKS, generator=torch.Generator().manual_seed(seed)) < 0.5


def one_hot(executes: torch.Tensor) -> torch.Tensor:
    return torch.stack([executes, ~executes], dim=-1).float()


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
@pytest.mark.parametrize("learnable", [1, 5, BLOCKS])
def test_executing_everything_is_the_plain_network_bit_by_bit(tasks: int, learnable: int) -> None:
    net, dense = policy_net(tasks), plain(tasks)
    net.choices, net.learnable = one_hot(torch.ones(tasks, BLOCKS, dtype=torch.bool)), learnable
    got, expected = net.train()(X), dense.train()(X)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    net.choices = None  # the warm-up
    warm = net(X)
    assert all(torch.equal(warm[name], expected[name]) for name in expected)


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
@pytest.mark.parametrize("batchnorm", ["shared", "per-task"])
def test_a_discrete_policy_mixes_to_the_bits_of_the_network_that_skips(tasks: int, batchnorm: str) -> None:
    net, executes = policy_net(tasks, batchnorm), decisions(tasks, seed=tasks)
    net.choices = one_hot(executes)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # both with the running statistics
    got = net(X)
    policy = Policy(blocks=net.blocks, selects=dict(zip(net.tasks, map(tuple, executes.tolist()), strict=True)))
    skipping = plain(tasks)
    BranchPaths(policy=policy).apply_(skipping)
    expected = skipping.eval()(X)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    net.logits.data = torch.where(executes[..., None], torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0]))
    assert net.policy == policy
    taken = net.eval()(X)
    assert all(torch.equal(taken[name], expected[name]) for name in expected)


def test_a_mixture_is_that_of_the_blocks_by_hand_in_float64() -> None:
    net = policy_net(3).double().eval()
    choices = torch.rand(3, BLOCKS, 2, generator=torch.Generator().manual_seed(1)).double()
    dense, x = plain(3).double().eval(), X.double()
    net.choices, net.learnable = choices, 6
    net.training = True
    got = net(x)
    for task, weights in zip(net.tasks, choices, strict=True):
        features = dense.trunk.stem(x)
        for index, block in enumerate(dense.trunk.blocks.values()):
            shortcut = block.shortcut(features)
            executed = torch.relu(shortcut + block.residual(features))
            features = executed if index < 2 else weights[index, 0] * executed + weights[index, 1] * shortcut
        torch.testing.assert_close(got[task], dense.heads[task](features), rtol=1e-12, atol=1e-12)


def test_blocks_that_are_not_learnable_are_executed_in_the_policy() -> None:
    net = policy_net(2)
    net.logits.data = torch.tensor([-1.0, 1.0]).expand(2, BLOCKS, 2).clone()
    net.learnable = 3
    assert net.policy.union() == (True,) * 5 + (False,) * 3


def test_a_shared_beginning_is_computed_once_and_skipped_blocks_never() -> None:
    net = policy_net(3).eval()
    executes = torch.ones(3, BLOCKS, dtype=torch.bool)
    executes[:, 2] = False  # nobody
    executes[1, 5:] = False
    net.logits.data = torch.where(executes[..., None], torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0]))
    calls: Counter[str] = Counter()
    for name, block in net.model.trunk.blocks.items():
        block.residual.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        net(X)
    assert [calls[name] for name in net.blocks] == [1, 1, 0, 1, 1, 1, 1, 1]


def test_skipping_saves_the_flops_of_the_skipped_blocks() -> None:
    model = plain(2).eval()
    full = count_flops(model, X)
    alone = {}
    for name, block in model.trunk.blocks.items():
        block.residual.register_forward_hook(lambda module, args, _, name=name: alone.update({name: (module, args[0])}))
    model(X)
    cost = {name: count_flops(module, x) for name, (module, x) in alone.items()}
    for block in model.trunk.blocks.values():
        block.residual._forward_hooks.clear()
    rows = {"a": (True, False) * 4, "b": (True, False) * 4}
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
    skipping = copy.deepcopy(model)
    BranchPaths(policy=policy).apply_(skipping)
    saved = sum(cost[name] for name in policy.skipped())
    assert saved > 0
    assert count_flops(skipping, X) == full - saved


def test_per_task_batchnorms_see_their_own_task_alone() -> None:
    net = policy_net(2, "per-task").train()
    executes = torch.ones(2, BLOCKS, dtype=torch.bool)
    executes[1, :4] = False
    net.choices = one_hot(executes)
    net(X)
    norms = net.model.trunk.layer4[1].residual[1]
    assert set(norms) == {"a", "b"}
    assert not torch.equal(norms["a"].running_mean, norms["b"].running_mean)
    alone = plain(2).train()
    alone(X)  # task a executes everything, as the plain network
    torch.testing.assert_close(norms["a"].running_mean, alone.trunk.layer4[1].residual[1].running_mean)


def test_a_trunk_without_residual_blocks_is_refused() -> None:
    model = plain(2)
    model.trunk = nn.Sequential(nn.Conv2d(3, 4, 1))  # type: ignore[assignment]
    with pytest.raises(InputError, match="a policy needs a trunk of residual blocks"):
        PolicyNet(model, ("a", "b"), torch.zeros(2, BLOCKS, 2))
