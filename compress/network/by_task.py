"""A network of one's own under the names of its tasks, whatever form its outputs have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from slimtask.compress.network.inputs import Inputs, batch_size, call, named_outputs
from slimtask.compress.network.look import look, shapes_of
from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec, select_tasks


class TaskOutputs(nn.Module):
    """Any network as ``forward(x, tasks=None) -> dict`` with ``tasks``, which is what an export takes.

    Examples:
        >>> from slimtask import TaskSpec
        >>> from slimtask.compress import TaskOutputs
        >>> from torch import nn, zeros
        >>> net = TaskOutputs(nn.Conv2d(3, 1, 1), [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> net(zeros(1, 3, 4, 4))["depth"].shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, model: nn.Module, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tuple(tasks)

    def forward(self, x: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the outputs of ``tasks`` (all for None) by name; all of them are computed."""
        outputs = by_task(self.model(x), self.tasks)
        return {task.name: outputs[task.name] for task in select_tasks(self.tasks, tasks)}


def by_task(outputs: Any, tasks: Sequence[TaskSpec]) -> dict[str, Tensor]:
    """Return the outputs by task: of a dictionary or dataclass by name, of one tensor or a tuple in order.

    Raises InputError if a task names no output, or a tuple has not one output for each task.
    """
    named = named_outputs(outputs)
    if all(name == "output" or name.isdecimal() for name in named):
        if len(named) != len(tasks):
            raise InputError(
                f"the network returns {len(named)} output(s) without names, the tasks are {len(tasks)}; list one task "
                "for each output, in their order, or return a dictionary."
            )
        return dict(zip((task.name for task in tasks), named.values(), strict=True))
    for task in tasks:
        if task.name not in named:
            raise InputError(
                f"the network has no output '{task.name}', by which a task is called{nearest(task.name, named)}"
            )
    return {task.name: named[task.name] for task in tasks}


def check_tasks(model: nn.Module, example: Inputs, tasks: Sequence[TaskSpec]) -> None:
    """Return None if the outputs of ``model`` on ``example`` fit ``tasks`` in name and channels, else InputError."""
    shapes = look(model, example, lambda network, x: shapes_of(by_task(call(network, x), tasks)))
    batch = batch_size(example)
    for task in tasks:
        shape = shapes[task.name]
        wanted = f"[{batch}, {task.channels}{', height, width' if task.dense else ''}]"
        if len(shape) != (4 if task.dense else 2) or shape[:2] != (batch, task.channels):
            raise InputError(
                f"task '{task.name}' ({task.kind}, {task.channels} channels) needs an output of shape {wanted}, the "
                f"network's is {list(shape)}; mend the task's kind or channels."
            )
