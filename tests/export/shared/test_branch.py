"""A branch of a plan that it cannot run is refused, as is a budget that is not its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.shared.branch import Branch
from slimtask.export.shared.plan import plan_steps
from slimtask.export.shared.source import read_source

MakeNet = Callable[..., Any]


def test_a_plan_without_the_base_that_a_step_builds_on_is_refused(make_net: MakeNet) -> None:
    source = read_source(make_net({"depth": ("hidden-units", Execution(feed="base"))}))
    steps = plan_steps(source, ["depth"], {})[3]
    with pytest.raises(InputError, match=r"plan of 'encoder_layer_1\.mlp' lets 'depth' build on values of the base"):
        Branch(source.branches[3], steps, base_runs=False, batched=False)


@pytest.mark.parametrize("batched", [False, True])
@torch.no_grad()
def test_fewer_rows_of_its_own_leave_more_of_the_bases(batched: bool, make_net: MakeNet) -> None:
    """Without rows of its own a task's stream stays the base's; tasks on one number of rows change it together only."""
    rows = Execution(rows=0.3)
    source = read_source(make_net({"depth": ("hidden-units", rows), "normals": ("hidden-units", rows)}))
    place = 5
    branch = Branch(
        source.branches[place], plan_steps(source, ["depth", "normals"], {})[place], base_runs=True, batched=batched
    )
    assert set(branch.on_rows) == ({"depth", "normals"} if batched else set())
    if batched:
        with pytest.raises(RuntimeError, match="computed together"):
            branch.limit_rows_("depth", 1)
        return
    branch.limit_rows_("depth", 4)
    assert [step.row_count(21) for step in branch.steps] == [4, 7]
    x = torch.randn(1, 21, 32)
    behind, out = branch(x, {name: x + torch.randn(1, 21, 32) for name in ("depth", "normals")})
    torch.testing.assert_close(behind, x + branch.base(x).out)
    assert out.keys() == {"depth", "normals"}
