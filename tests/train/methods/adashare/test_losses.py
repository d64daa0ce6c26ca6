"""Logits, samples and losses against closed forms in plain Python and float64."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.errors import InputError
from slimtask.train.methods.adashare.config import PolicyConfig
from slimtask.train.methods.adashare.losses import (
    entropy_bits,
    execute_probabilities,
    gumbel,
    initial_logits,
    random_policy,
    sample_rows,
    sharing_loss,
    soft_sample,
    sparsity_loss,
)


def logits(tasks: int, blocks: int = 4) -> torch.Tensor:
    return torch.randn(tasks, blocks, 2, generator=torch.Generator().manual_seed(tasks)).double()


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
@pytest.mark.parametrize("direction", ["deep", "shallow", "flat"])
def test_the_sharing_loss_is_the_weighted_sum_over_pairs(tasks: int, direction: str) -> None:
    values, blocks = logits(tasks), 4
    rows = values[..., 0].tolist()
    weight = {"deep": lambda b: (b + 1) / blocks, "shallow": lambda b: (blocks - b) / blocks, "flat": lambda b: 1.0}
    expected = sum(
        weight[direction](block) * abs(one[block] - other[block])
        for one, other in combinations(rows, 2)
        for block in range(blocks)
    )
    assert float(sharing_loss(values, direction)) == pytest.approx(expected, rel=1e-6)
    alike = values[:1].expand(tasks, -1, -1)
    assert float(sharing_loss(alike, direction)) == 0


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
@pytest.mark.parametrize("learnable", [1, 3, 4])
def test_the_sparsity_loss_is_the_cross_entropy_to_skipping(tasks: int, learnable: int) -> None:
    values = logits(tasks)
    expected = 0.0
    for row in values.tolist():
        losses = [-math.log(math.exp(skip) / (math.exp(run) + math.exp(skip))) for run, skip in row[-learnable:]]
        expected += sum(losses) / learnable
    assert float(sparsity_loss(values, learnable)) == pytest.approx(expected, rel=1e-12)
    values.requires_grad_()
    sparsity_loss(values, learnable).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert bool((values.grad[:, :-learnable] == 0).all())
    assert bool((values.grad[:, -learnable:, 0] > 0).all())  # descending lowers the logit of executing


def test_the_other_form_is_the_likelihood_of_executing() -> None:
    values = logits(3)
    expected = 0.0
    for row in values.tolist():
        expected += sum(math.log(math.exp(run) / (math.exp(run) + math.exp(skip))) for run, skip in row[-2:]) / 2
    assert float(sparsity_loss(values, 2, "execute")) == pytest.approx(expected, rel=1e-12)
    sure = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]], requires_grad=True)  # executed, skipped
    sparsity_loss(sure, 2, "execute").backward()  # type: ignore[no-untyped-call]
    assert sure.grad is not None
    assert float(sure.grad[0, 0].abs().max()) < 1e-6 < float(sure.grad[0, 1].abs().max())


def test_logits_start_as_the_code_has_them() -> None:
    assert initial_logits(PolicyConfig(), 3, 8).unique().tolist() == [0.5]
    chosen = execute_probabilities(initial_logits(PolicyConfig(init="all_chosen"), 2, 4))
    torch.testing.assert_close(chosen, torch.full((2, 4), 1 / (1 + math.exp(-10.0))))
    torch.manual_seed(0)
    assert float(initial_logits(PolicyConfig(init="random"), 50, 50).std()) == pytest.approx(1e-3, rel=0.05)


def test_gumbel_noise_is_seeded_and_has_the_gumbel_distribution() -> None:
    noise = gumbel((200_000,), 4)
    assert torch.equal(noise, gumbel((200_000,), 4))
    assert not torch.equal(noise, gumbel((200_000,), 5))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.01)  # Euler's constant
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_soft_samples_execute_as_often_as_the_softmax_says() -> None:
    """The Gumbel-max trick: the larger entry is of column k with probability softmax(logits)[k], at any temperature."""
    values = torch.tensor([[[0.3, -0.9]]])
    drawn = torch.stack([soft_sample(values, gumbel((1, 1, 2), seed), 5.0)[0, 0] for seed in range(4000)])
    torch.testing.assert_close(drawn.sum(dim=1), torch.ones(4000))
    share = float((drawn[:, 0] > 0.5).float().mean())
    assert share == pytest.approx(1 / (1 + math.exp(-1.2)), abs=0.02)


def test_sampled_rows_execute_as_often_as_asked() -> None:
    probabilities = torch.tensor([[1.0, 0.0, 0.25], [0.5, 1.0, 0.9]])
    rows = torch.tensor([sample_rows(probabilities, seed) for seed in range(3000)]).float()
    torch.testing.assert_close(rows.mean(dim=0), probabilities, atol=0.03, rtol=0)
    assert sample_rows(probabilities, 3) == sample_rows(probabilities, 3)


@pytest.mark.parametrize("trunks", [0.8, 1.5, 2.4])
def test_a_random_policy_has_the_cost_asked_for(trunks: float) -> None:
    blocks = tuple(f"b{number}" for number in range(8))
    costs = TrunkCosts(stem=3, executed=(8, 9, 10, 11, 16, 17, 18, 19), skipped=(0, 0, 1, 0, 2, 0, 3, 0))
    policies = [random_policy(("a", "b", "c"), blocks, costs, trunks, seed) for seed in range(20)]
    for policy in policies:
        beginnings = {(row[:count], count) for row in policy.selects.values() for count in range(1, 9)}
        cost = 3 + sum((costs.executed if row[-1] else costs.skipped)[count - 1] for row, count in beginnings)
        assert cost / 111 == pytest.approx(trunks, rel=0.0201)
    assert len({str(policy) for policy in policies}) > 10
    assert str(random_policy(("a", "b", "c"), blocks, costs, trunks, 3)) == str(policies[3])


def test_a_cost_that_no_policy_has_is_refused() -> None:
    costs = TrunkCosts(stem=10, executed=(45, 45), skipped=(0, 0))
    with pytest.raises(InputError, match=r"costs 2.4 dense trunks; the nearest costs 1.45, set policy.random.trunks"):
        random_policy(("a", "b"), ("x", "y"), costs, 2.4, 0)


def test_the_entropy_of_decisions_in_bits() -> None:
    assert entropy_bits(torch.tensor([[0.5, 1.0], [0.0, 0.5]])) == pytest.approx(0.5)
    quarter = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert entropy_bits(torch.tensor([[0.25, 0.75]])) == pytest.approx(quarter)
