"""The entrance: which arguments go together, and what the ways to compress ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import PerTask, Prune, ToFlops, ToLatency, Zeros
from slimtask.compress.api.models import compress, cost
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.score.budget import Budget
from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet
from tests.meters import LawfulMeter

EXAMPLE = torch.zeros(1, 3, 32, 32)


def bytes_ms(path: Path) -> float:
    return path.stat().st_size * 1e-5


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


def test_budgets_off_measured_tables_are_ways_like_the_others() -> None:
    """On a machine on which layers take as long as they are wide, and graphs as long as their files are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 1)).eval()
    meter = LawfulMeter(layer_ms=lambda shape, i, o: 1e-5 * (i + 16) * (o + 16), graph_ms=bytes_ms)
    fewer = compress(net, EXAMPLE, ToFlops(0.7, on=meter))
    assert cost(fewer.compressed.model, EXAMPLE).flops <= 0.7 * cost(net, EXAMPLE).flops
    made = Architecture(name="a_test:net", arguments={})
    dense = Checkpoint(
        weights=net.state_dict(), architecture=made, tasks=(), preprocessing=None, inputs=((1, 3, 32, 32),)
    )
    budget = 0.8 * fewer.paths[0].dense_ms
    smaller, done = compress_checkpoint(dense, ToLatency(budget, on=meter, align=4), factory=lambda: copy.deepcopy(net))
    assert [(row.path, row.met) for row in done.paths] == [("all", True)]
    (said,) = smaller.provenance["compressed"]
    assert (said["criterion"], said["budgets_ms"], said["weighed_on"]) == ("l2", {"all": budget}, "noise")
    x = torch.randn(1, 3, 40, 48)
    assert torch.equal(rebuild(smaller, lambda: copy.deepcopy(net))(x), done.compressed.model(x))


def test_every_task_gets_the_network_that_its_masks_leave(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    name = next(n for n, p in model.named_parameters() if p.ndim == 4 and ".residual.0." in n)
    half = torch.zeros(model.get_parameter(name).shape, dtype=torch.bool)
    half[: len(half) // 2] = True
    masks = Masks(per_task={task.name: {name: half if task.name == "depth" else ~half} for task in model.tasks})
    networks = compress(model, EXAMPLE, PerTask(masks))
    assert networks.keys() == {"union", *(task.name for task in model.tasks)}
    alone = masks.applied(model, ["depth"])(EXAMPLE)["depth"]
    assert torch.allclose(networks["depth"].model(EXAMPLE)["depth"], alone, atol=1e-5)
    with pytest.raises(InputError, match="a network per task needs a network of one input"):
        compress(model, EXAMPLE, PerTask(masks), also=[torch.zeros(1, 3, 64, 64)])
