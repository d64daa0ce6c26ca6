"""What each task, and each set of tasks, costs once it has its own network: one row per path that could be shipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from slimtask.compress.edits.branches import why_not_branch
from slimtask.compress.edits.tasks import task_names
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.per_task.networks import Structure, SubNetwork, known_tasks, task_network
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.structures.policy import Policy
from slimtask.tasks import Frozen

Measure = Callable[[nn.Module, Tensor], float]


class TaskRow(Frozen):
    """The cost of serving ``tasks``: parameters, FLOPs of the example batch, latency in ms if it was measured.

    ``params_ratio`` and ``flops_ratio`` are relative to the dense network of all tasks. ``paths`` is the number of
    paths through the trunk, ``max_rel_error`` the certificate's (None for the dense network).
    """

    name: str
    tasks: tuple[str, ...]
    params: int
    flops: int
    params_ratio: float
    flops_ratio: float
    paths: int = 1
    max_rel_error: float | None = None
    latency_ms: float | None = None


class TaskTable(Frozen):
    """The dense network, the union of all tasks, each task, and further sets of tasks, in this order."""

    dense: TaskRow
    rows: tuple[TaskRow, ...] = Field(min_length=1)

    def row(self, *tasks: str) -> TaskRow:
        """Return the first row that serves exactly ``tasks``; KeyError if there is none."""
        for row in self.rows:
            if set(row.tasks) == set(tasks):
                return row
        raise KeyError(tasks)

    def __str__(self) -> str:
        """Return an aligned table: parameters, their share, GFLOPs, their share, latency."""
        cells = [_cells(row) for row in (self.dense, *self.rows)]
        head = ("network", "parameters", "of dense", "GFLOPs", "of dense", "latency ms", "")
        widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if column in (0, len(head) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *cells)
        ]
        return "\n".join(lines)


def task_table(
    model: nn.Module,
    structure: Structure,
    example: Float[Tensor, "batch channels height width"],
    *,
    sets: Sequence[Sequence[str]] = (),
    align: int = 1,
    measure: Measure | None = None,
) -> TaskTable:
    """Return the TaskTable of ``model`` under Masks or a Policy: union, every task, then the task ``sets``.

    ``measure(network, example)`` returns a latency in milliseconds; without it the column stays empty (a speed
    is a measurement). Errors as ``task_network``; only, there is no union row if the paths of a Policy part and the
    network cannot branch.

    Examples:
        >>> import torch
        >>> from slimtask import TaskSpec
        >>> from slimtask.compress import Masks, TaskOutputs, task_table
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 1)).eval()
        >>> net = TaskOutputs(net, [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> keep = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 3, 3) < 4
        >>> masks = Masks(per_task={"depth": {"model.0.weight": keep}})
        >>> table = task_table(net, masks, torch.zeros(1, 3, 8, 8))
        >>> table.dense.params, table.row("depth").params
        (233, 117)
    """
    networks = task_networks(model, structure, example, sets=sets, align=align)
    return tabulate(model, networks, example, measure=measure)


def task_networks(
    model: nn.Module,
    structure: Structure,
    example: Float[Tensor, "batch channels height width"],
    *,
    sets: Sequence[Sequence[str]] = (),
    align: int = 1,
) -> dict[str, SubNetwork]:
    """Return by name the networks of the TaskTable: "union", every task, "one+other" for the sets. Errors as there."""
    names = task_names(model, example)
    for chosen in sets:
        known_tasks(names, chosen)  # a wrong name is told before the work
    union = {"union": names} if _has_union(model, structure, names) else {}
    wanted = {**union, **{name: (name,) for name in names}, **{"+".join(chosen): tuple(chosen) for chosen in sets}}
    return {name: task_network(model, structure, tasks, example, align=align) for name, tasks in wanted.items()}


def tabulate(
    model: nn.Module,
    networks: Mapping[str, SubNetwork],
    example: Float[Tensor, "batch channels height width"],
    *,
    measure: Measure | None = None,
) -> TaskTable:
    """Return the TaskTable of the dense ``model`` and the ``networks`` of its tasks."""
    if measure is not None:
        model = independent_copy(model).eval()  # which is what a measurement may run
    dense = _row("dense", task_names(model, example), model, example, measure)
    rows = []
    for name, made in networks.items():
        row = _row(name, made.tasks, made.model, example, measure)
        rows.append(
            row.model_copy(
                update={
                    "params_ratio": row.params / dense.params,
                    "flops_ratio": row.flops / max(dense.flops, 1),
                    "paths": made.paths,
                    "max_rel_error": made.certificate.max_rel_error,
                }
            )
        )
    return TaskTable(dense=dense, rows=tuple(rows))


def _has_union(model: nn.Module, structure: Structure, names: tuple[str, ...]) -> bool:
    """Return whether one network can serve all tasks."""
    if not isinstance(structure, Policy) or not structure.merge_points(names):
        return True
    return why_not_branch(model, structure) is None


def _row(name: str, tasks: tuple[str, ...], model: nn.Module, example: Tensor, measure: Measure | None) -> TaskRow:
    return TaskRow(
        name=name,
        tasks=tasks,
        params=count_parameters(model),
        flops=count_flops(model, example),
        params_ratio=1.0,
        flops_ratio=1.0,
        latency_ms=None if measure is None else float(measure(model, example)),
    )


def _cells(row: TaskRow) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.params:,}",
        f"{row.params_ratio:.1%}",
        f"{row.flops / 1e9:.4g}",
        f"{row.flops_ratio:.1%}",
        "-" if row.latency_ms is None else f"{row.latency_ms:.3g}",
        f"{row.paths} paths" if row.paths > 1 else "",
    )
