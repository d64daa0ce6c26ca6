"""Keeping some tasks of a network: the other tasks' heads go, and only the outputs that were asked for come back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.edits.branches import keep_lanes_
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.look import look, not_run
from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen


class KeepTasks(Frozen):
    """The edit that drops the other tasks and the modules that only they need; replays on a fresh dense network."""

    kind: Literal["tasks"] = "tasks"
    tasks: tuple[str, ...]
    unneeded: tuple[str, ...]

    def apply_(self, model: nn.Module) -> None:
        """Drop in place what is not needed. Raises InputError, before anything is touched, if it does not fit.

        Afterwards the network returns the outputs of ``tasks`` alone. A head in a ModuleDict of a network with
        ``tasks`` is deleted; any other module leaves a stand-in without parameters, because the forward still calls it.
        """
        modules = dict(model.named_modules())
        for name in self.unneeded:
            if not name or name not in modules:
                raise InputError(f"the tasks cannot be dropped: the network has no module '{name}'.")
        if (names := _specified(model)) is not None:
            for task in self.tasks:
                if task not in names:
                    raise InputError(f"the network has no task '{task}'{nearest(task, names)}")
            for task in names:
                if task not in self.tasks:
                    del model.heads[task]  # type: ignore[union-attr, operator]
            keep_lanes_(model, self.tasks)
            self._keep_specs_(model)
            return
        for name in self.unneeded:
            parent, _, leaf = name.rpartition(".")
            modules[parent]._modules[leaf] = Unneeded()  # setattr refuses the numbers of a Sequential's children
        if not isinstance(model, SomeTasks):
            cls = type(model)
            model.__class__ = type(f"Some{cls.__name__}", (SomeTasks, cls), {})
        model.kept_tasks = (*self.tasks,)  # type: ignore[assignment]
        self._keep_specs_(model)

    def _keep_specs_(self, model: Any) -> None:
        specs = getattr(model, "tasks", None)
        if isinstance(specs, tuple):
            model.tasks = tuple(spec for spec in specs if getattr(spec, "name", spec) in self.tasks)


class Unneeded(nn.Module):
    """Stands where a module stood whose result nobody needs: returns its first argument."""

    def forward(self, *arguments: Any, **_: Any) -> Any:
        """Return the first argument as it came."""
        return arguments[0] if arguments else None


class SomeTasks(nn.Module):
    """Mixed into the class of a network: forward returns the outputs of ``kept_tasks`` alone."""

    kept_tasks: tuple[str, ...]

    def forward(self, x: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the predictions of ``tasks`` (all kept ones for None) by name; InputError for another task."""
        wanted = self.kept_tasks if tasks is None else tuple(tasks)
        for task in wanted:
            if task not in self.kept_tasks:
                raise InputError(f"unknown task '{task}'{nearest(task, self.kept_tasks)}")
        return _call(super().forward, x, wanted)


class Selected(nn.Module):
    """A network reduced to the outputs of some tasks, nothing dropped: the reference that a removal is held against."""

    def __init__(self, model: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.wanted = model, tuple(tasks)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Return the predictions of the wanted tasks by name."""
        return _call(self.model, x, self.wanted)


def task_names(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Return the network's tasks: the names in its ``tasks``, else the keys of its output on ``example``."""
    names = _specified(model)
    if names is not None:
        return names
    keys, kind = look(model, example, _keys)
    if keys is None:
        raise InputError(
            f"{type(model).__name__} returns a {kind}, not a dict from task to tensor; "
            "wrap it so that its forward names the task of every output."
        )
    return keys


def _keys(model: nn.Module, example: Tensor) -> tuple[tuple[str, ...] | None, str]:
    """Return the keys of the output, None if it is no dict, and its type."""
    outputs = model(example)
    return tuple(outputs) if isinstance(outputs, dict) else None, type(outputs).__name__


def unneeded_modules(model: nn.Module, tasks: Sequence[str], example: Tensor) -> tuple[str, ...]:
    """Return the outermost modules on which no output of ``tasks`` depends, e.g. the heads of the other tasks.

    Found by following gradients from those outputs, and tried out: without them the outputs stay the same, bit by bit.
    ``model`` is not run: a copy is, as gradients cannot be had in every process apart.
    """
    specified = _specified(model)
    if specified is not None:
        return tuple(f"heads.{name}" for name in specified if name not in tasks)
    probe = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    model = independent_copy(model).eval()
    try:
        candidates = _without_gradient(model, tasks, probe)
        with torch.no_grad():
            expected = _call(model, probe, tasks)
    except Exception as error:
        raise InputError(not_run(model, error)) from error
    modules = dict(model.named_modules())
    found = []
    for name in candidates:
        parent, _, leaf = name.rpartition(".")
        modules[parent]._modules[leaf] = Unneeded()
        if _same(model, probe, tasks, expected):
            found.append(name)
        modules[parent]._modules[leaf] = modules[name]
    return tuple(found)


def _without_gradient(model: nn.Module, tasks: Sequence[str], probe: Tensor) -> list[str]:
    """Return the outermost modules with parameters of which none reaches an output of ``tasks``."""
    named = dict(model.named_parameters())
    frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            outputs = list(_call(model, probe, tasks).values())
        if not all(output.requires_grad for output in outputs):  # e.g. an argmax: nothing is known about it
            return []
        ones = [torch.ones_like(output) for output in outputs]
        gradients = torch.autograd.grad(outputs, list(named.values()), ones, allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    needed = {
        id(parameter) for parameter, gradient in zip(named.values(), gradients, strict=True) if gradient is not None
    }
    candidates: list[str] = []
    for name, module in model.named_modules():
        own = [id(parameter) for parameter in module.parameters()]
        inside = any(name.startswith(f"{outer}.") for outer in candidates)
        if name and own and not inside and not needed.intersection(own):
            candidates.append(name)
    return candidates


def _same(model: nn.Module, probe: Tensor, tasks: Sequence[str], expected: dict[str, Tensor]) -> bool:
    try:
        with torch.no_grad():
            got = _call(model, probe, tasks)
    except Exception:  # the forward looks into what the module returned
        return False
    return all(torch.equal(expected[task], got[task]) for task in expected)


def _call(forward: Any, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs of ``tasks``, asking the network for them alone if its forward can be asked."""
    function = forward.forward if isinstance(forward, nn.Module) else forward
    takes_tasks = "tasks" in inspect.signature(function).parameters
    outputs = forward(x, tasks=list(tasks)) if takes_tasks else forward(x)
    return {task: outputs[task] for task in outputs if task in tasks}


def _specified(model: nn.Module) -> tuple[str, ...] | None:
    """Return the task names of a network with one head per task in ``heads`` and specs in ``tasks``, else None."""
    heads, specs = getattr(model, "heads", None), getattr(model, "tasks", None)
    if not isinstance(heads, nn.ModuleDict) or not isinstance(specs, tuple):
        return None
    names = tuple(getattr(spec, "name", "") for spec in specs)
    takes_tasks = "tasks" in inspect.signature(model.forward).parameters
    return names if takes_tasks and set(names) == set(heads) else None
