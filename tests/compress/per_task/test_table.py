"""The table of what each task costs: rows against networks built and counted one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.per_task.networks import task_network
from slimtask.compress.per_task.table import TaskTable, task_table
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.structures.masks import Masks
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import multitask_net

EXAMPLE = torch.zeros(1, 3, 32, 32)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.one(x).relu()
        return {"a": self.a(y), "b": self.b(y)}


def masks() -> Masks:
    keep = {"a": torch.arange(8) < 3, "b": (torch.arange(8) > 1) & (torch.arange(8) < 4)}
    return Masks(
        per_task={
            task: {"one.weight": mask.view(8, 1, 1, 1).expand(8, 3, 1, 1).clone(), "one.bias": mask}
            for task, mask in keep.items()
        }
    )


def test_the_rows_are_those_of_arithmetic() -> None:
    """a keeps channels 0-2, b channels 2-3, both together 0-3; an image has 1024 pixels, a multiply-add is two."""
    seen = []

    def measure(model: nn.Module, example: torch.Tensor) -> float:
        seen.append(count_parameters(model))
        return float(len(seen))

    table = task_table(Foreign().eval(), masks(), EXAMPLE, sets=[("b", "a")], measure=measure)
    size = {"dense": 8 * 4 + 9 * 3, "union": 4 * 4 + 5 * 3, "a": 3 * 4 + 4 * 2, "b": 2 * 4 + 3}
    flops = {"dense": 8 * 3 + 8 * 3, "union": 4 * 3 + 4 * 3, "a": 3 * 3 + 3 * 2, "b": 2 * 3 + 2}
    rows = {row.name: row for row in (table.dense, *table.rows)}
    assert list(rows) == ["dense", "union", "a", "b", "b+a"]
    assert {name: rows[name].params for name in size} == size
    assert {name: rows[name].flops for name in flops} == {name: 2048 * count for name, count in flops.items()}
    assert rows["a"].params_ratio == size["a"] / size["dense"]
    assert rows["b"].flops_ratio == flops["b"] / flops["dense"]
    assert (rows["b+a"].params, rows["b+a"].flops) == (rows["union"].params, rows["union"].flops)
    assert [row.latency_ms for row in rows.values()] == [1, 2, 3, 4, 5]
    assert seen == [row.params for row in rows.values()]
    assert rows["dense"].max_rel_error is None
    assert rows["a"].max_rel_error <= 1e-5
    assert table.row("b").name == "b"
    with pytest.raises(KeyError):
        table.row("z")


def test_the_table_reads_well_and_comes_back_from_json() -> None:
    table = task_table(Foreign().eval(), masks(), EXAMPLE)
    assert TaskTable.model_validate_json(table.model_dump_json()) == table
    lines = str(table).splitlines()
    assert lines[0].split() == ["network", "parameters", "of", "dense", "GFLOPs", "of", "dense", "latency", "ms"]
    assert lines[1].split() == ["dense", "59", "100.0%", "9.83e-05", "100.0%", "-"]
    assert lines[3].split()[:3] == ["a", "20", "33.9%"]
    assert all(row.latency_ms is None for row in table.rows)


def test_paths_that_part_cost_what_they_do_not_share() -> None:
    """Two paths with a common beginning cost both chains, less the stem and the blocks they share."""
    torch.manual_seed(0)
    specs = [TaskSpec(name=name, kind="multilabel", channels=2) for name in ("a", "b", "c")]
    model = multitask_net(tasks=specs, width=0.125).eval()
    one = (True, False, True, True, False, True, True, False)
    other = (True, False, False, True, True, True, True, False)
    policy = Policy(blocks=tuple(model.trunk.blocks), selects={"a": one, "b": other, "c": one})
    table = task_table(model, policy, EXAMPLE, sets=[("a", "c")])
    shared = count_flops(nn.Sequential(model.trunk.stem, model.trunk.layer1[0]), EXAMPLE)
    union, pair, alone = table.rows[0], table.row("a", "c"), table.row("b")
    assert [row.paths for row in (union, pair, alone)] == [2, 1, 1]
    assert union.flops == pair.flops + alone.flops - shared
    unused = [count_parameters(model.trunk.layer1[1].residual), count_parameters(model.trunk.layer4[1].residual)]
    assert union.params == count_parameters(model) - sum(unused)
    assert pair.flops == count_flops(task_network(model, policy, ["c", "a"], EXAMPLE).model, EXAMPLE)
    assert "2 paths" in str(table)


def test_a_network_that_cannot_branch_has_rows_for_its_tasks() -> None:
    class Residual(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.block(self.one(x).relu())
            return {"a": self.a(y), "b": self.b(y)}

    policy = Policy(blocks=("block",), selects={"a": (True,), "b": (False,)})
    table = task_table(Residual().eval(), policy, EXAMPLE)
    assert {row.name: row.params for row in table.rows} == {"a": 8 * 4 + 8 * 9 + 9 * 2, "b": 8 * 4 + 9}
    with pytest.raises(InputError, match=r"part at block 'block' and the network has no trunk .* each of: a \| b"):
        task_table(Residual().eval(), policy, EXAMPLE, sets=[("a", "b")])
