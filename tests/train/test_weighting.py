"""Weighted totals and learned task weights against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.tasks import TaskSpec
from slimtask.train.weighting import FixedWeights, UncertaintyWeights, weighting_of

TASKS = (
    TaskSpec(name="depth", kind="depth", channels=1, weight=2.0),
    TaskSpec(name="normals", kind="normals", channels=3, weight=0.5),
)
LOSSES = {"depth": torch.tensor(3.0), "normals": torch.tensor(0.25)}


def test_fixed_weights_are_the_tasks_own_or_one() -> None:
    assert float(weighting_of("fixed", TASKS)(LOSSES)) == pytest.approx(2 * 3 + 0.5 * 0.25)
    assert float(weighting_of("sum", TASKS)(LOSSES)) == pytest.approx(3.25)
    assert float(weighting_of("fixed", TASKS)({"normals": LOSSES["normals"]})) == pytest.approx(0.125)
    assert type(weighting_of("sum", TASKS)) is FixedWeights
    assert not list(weighting_of("fixed", TASKS).parameters())


@pytest.mark.parametrize("initial", [0.0, 1.0])
def test_value_and_gradients_of_the_uncertainty_weighted_total(initial: float) -> None:
    weights = UncertaintyWeights(TASKS, initial)
    losses = {name: loss.clone().requires_grad_() for name, loss in LOSSES.items()}
    total = weights(losses)
    total.backward()
    share = math.exp(-initial)
    assert total.item() == pytest.approx(share * 2 * 3 + initial + share * 0.5 * 0.25 + initial)
    for task in TASKS:
        s, loss = weights.log_variance[task.name], losses[task.name]
        assert s.grad is not None
        assert loss.grad is not None
        assert float(s.grad) == pytest.approx(1 - share * task.weight * loss.item())
        assert float(loss.grad) == pytest.approx(share * task.weight)


def test_learned_weights_end_at_the_logarithm_of_the_loss() -> None:
    weights = weighting_of("uncertainty", TASKS)
    assert isinstance(weights, UncertaintyWeights)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        weights(LOSSES).backward()
        optimizer.step()
    assert weights.log_variance["depth"].item() == pytest.approx(math.log(6), abs=1e-3)
    assert weights.log_variance["normals"].item() == pytest.approx(math.log(0.125), abs=1e-3)


def test_a_task_that_is_left_out_learns_no_weight() -> None:
    weights = UncertaintyWeights(TASKS)
    weights({"depth": LOSSES["depth"]}).backward()
    assert weights.log_variance["normals"].grad is None
