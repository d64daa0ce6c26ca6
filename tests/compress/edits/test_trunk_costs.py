"""What a policy costs: against the FLOPs of the network that branches, counted as a whole."""

from __future__ import annotations

import copy

import pytest
import torch

from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.compress.score.cost import count_flops
from slimtask.compress.structures.policy import Policy
from slimtask.tasks import TaskSpec
from slimtask.train.models import multitask_net

X = torch.zeros(1, 3, 32, 40)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_policy_costs_what_its_branched_trunk_does(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    specs = tuple(TaskSpec(name=name, kind="multilabel", channels=2) for name in "abc")
    model = multitask_net(tasks=specs, width=0.125)
    common = (torch.rand(4, generator=generator) < 0.7).tolist()
    rows = {name: (*common, *(torch.rand(4, generator=generator) < 0.5).tolist()) for name in "abc"}
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
    costs = TrunkCosts.of(model, X)
    heads = count_flops(model, X) - costs.dense
    branched = copy.deepcopy(model)
    BranchPaths(policy=policy).apply_(branched)
    assert costs.trunks(policy) == pytest.approx((count_flops(branched, X) - heads) / costs.dense, rel=1e-12)
    whole = Policy(blocks=policy.blocks, selects=dict.fromkeys("abc", (True,) * 8))
    assert costs.trunks(whole) == 1
