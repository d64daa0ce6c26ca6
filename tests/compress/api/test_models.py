"""The entrance: which arguments go together, and what the ways to compress ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimtask.compress.api.how import Prune, Zeros
from slimtask.compress.api.models import compress, cost
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.score.budget import Budget
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)


def test_criteria_and_budgets_go_together(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    with pytest.raises(InputError, match="cannot be aligned to 0"):
        compress(model, EXAMPLE, Zeros(align=0))
    with pytest.raises(InputError, match="no importance criterion 'l3'"):
        compress(model, EXAMPLE, Prune(Budget(keep=0.5), by="l3"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 of 4 channels may be removed"):
        compress(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE)
    done = compress(model, EXAMPLE, Prune(Budget(flops=0.5), align=1))
    assert cost(done.model, EXAMPLE).flops <= 0.5 * cost(model, EXAMPLE).flops


def test_counts_given_by_group_are_kept_by_score_and_by_zeros(
    small_net: Callable[..., MultiTaskNet], kill: Callable[..., None]
) -> None:
    model = small_net()
    own = {g.name: (5, 9) for g in find_groups(model, EXAMPLE) if g.refused is None and g.channels > 9}
    scored = compress(model, EXAMPLE, Prune(Budget(params=0.6), align=own))
    assert cost(scored.model, EXAMPLE).params <= 0.6 * cost(model, EXAMPLE).params
    assert all(g.after in (5, 9, g.before) for g in scored.plan.groups if g.name in own)
    kill(model, "filter", "trunk")
    exact = compress(model, EXAMPLE, Zeros(align=own))
    assert any(g.after in (5, 9) for g in exact.plan.groups)
    assert all(g.after in (5, 9, g.before) for g in exact.plan.groups if g.name in own)
    assert scored.certificate
    assert exact.certificate
    with pytest.raises(InputError, match="nothing can be removed down to the counts given"):
        compress(model, EXAMPLE, Zeros(align=dict.fromkeys((g.name for g in find_groups(model, EXAMPLE)), ())))
