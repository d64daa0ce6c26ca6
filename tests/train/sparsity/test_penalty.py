"""The penalty in the loss: its value and slope by the written formula, group by group."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.train.models import MultiTaskNet
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.penalty import LossPenalty
from slimtask.train.sparsity.structure import sparse_structure

EXAMPLE = torch.zeros(1, 3, 48, 48)


def test_input_channels_are_weighed_by_the_root_of_their_number(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    structure = sparse_structure(model, EXAMPLE, SparsityConfig(target=0.5, groups="input-channel"))
    filters = [p for _, p in model.trunk.named_parameters() if p.ndim == 4]
    filters[2].data[:, 1] = 0.0
    penalty = LossPenalty(dict(model.named_parameters()), structure)
    value = penalty()
    expected = sum(
        p.shape[1] ** 0.5 * float(p[:, i].detach().double().norm()) for p in filters for i in range(p.shape[1])
    )
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    value.backward()
    for p in filters:
        assert p.grad is not None
        norms = p.detach().square().sum((0, 2, 3), keepdim=True).sqrt()
        slope = torch.where(norms > 0, p.shape[1] ** 0.5 * p.detach() / norms.clamp(min=1e-30), 0.0)
        torch.testing.assert_close(p.grad, slope)


def test_coupled_groups_span_parameters_and_exempt_ones_are_left_out(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    structure = sparse_structure(model, EXAMPLE, SparsityConfig(target=0.5))
    penalty, named = LossPenalty(dict(model.named_parameters()), structure), dict(model.named_parameters())
    alone = torch.ones(len(structure.layout), dtype=torch.bool)
    alone[5] = False
    squares = sum(
        float(named[part.parameter].detach().double().movedim(part.axis, 0)[part.groups == 5].square().sum())
        for part in structure.layout.members
    )
    count = int((structure.layer_of == structure.layer_of[5]).sum())
    assert float(penalty(alone).detach()) == pytest.approx((count * squares) ** 0.5, rel=1e-5)
    assert float(penalty(torch.ones_like(alone)).detach()) == 0.0
