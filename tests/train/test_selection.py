"""Selection: the best weights are kept, patience ends a run, a stalled task is marked for good."""

from __future__ import annotations

import torch
from torch import nn

from slimtask.train.selection import Selection


def test_the_best_weights_are_kept_and_stale_validations_counted() -> None:
    network, selection = nn.Linear(1, 1, bias=False), Selection(patience=2, task_patience=None)
    for value, score in ((1.0, -3.0), (2.0, -2.0), (3.0, -2.5)):
        nn.init.constant_(network.weight, value)
        selection.observe(score, {}, network)
    assert float(selection.weights["weight"]) == 2.0
    assert (selection.best, selection.stale, selection.exhausted) == (-2.0, 1, False)
    selection.observe(-2.5, {}, network)
    assert selection.exhausted


def test_a_task_that_stalls_stays_stalled() -> None:
    network, selection = nn.Linear(1, 1), Selection(patience=None, task_patience=2)
    for depth, edges in ((1.0, 1.0), (1.5, 0.9), (1.2, 0.8), (0.1, 0.7)):
        selection.observe(depth + edges, {"depth": depth, "edges": edges}, network)
    assert selection.stalled == ("depth",)
    assert not selection.exhausted
    for edges in (0.8, 0.9):
        selection.observe(edges, {"depth": 0.0, "edges": edges}, network)
    assert selection.exhausted  # every task has stalled


def test_the_state_continues_where_it_was() -> None:
    network = nn.Linear(1, 1)
    one, two = Selection(patience=3, task_patience=2), Selection(patience=3, task_patience=2)
    one.observe(2.0, {"depth": 2.0}, network)
    one.observe(2.5, {"depth": 2.5}, network)
    two.load_state(one.state(), one.weights)
    assert two.state() == one.state()
    assert torch.equal(two.weights["weight"], network.weight)
    empty = Selection(patience=None, task_patience=None)
    empty.load_state(Selection(patience=None, task_patience=None).state(), {})
    assert empty.best == -float("inf")
