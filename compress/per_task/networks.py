"""The network that one task, or a set of tasks, really needs: masked, without the others' heads and blocks, removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.checkpoint import json_safe
from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.edits.skip import SkipBlocks, check_skippable, find_block, shortcut_of
from slimtask.compress.edits.tasks import KeepTasks, Selected, task_names, unneeded_modules
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.proof.certify import Certificate, certify
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.structures.masks import Masks
from slimtask.compress.structures.policy import Policy
from slimtask.errors import CheckFailed, InputError, nearest

Structure = Masks | Policy


@dataclass(frozen=True, kw_only=True)
class SubNetwork:
    """The physical network of some ``tasks``, what made it out of the dense one, and the proof that it is exact.

    The certificate compares it with the masked dense network (for a Policy: the dense network whose skipped blocks
    return their shortcuts), on the outputs of ``tasks``. ``keep`` is None if nothing was dropped, ``route`` if every
    block is executed.

    Examples:
        >>> import torch
        >>> from slimtask import TaskSpec
        >>> from slimtask.compress import Masks, PerTask, TaskOutputs, compress
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 1))
        >>> net = TaskOutputs(net, [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> keep = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 3, 3) < 5
        >>> masks = Masks(per_task={"depth": {"model.0.weight": keep}})
        >>> print(compress(net, torch.zeros(1, 3, 8, 8), PerTask(masks))["depth"].plan)
        model.0: 8 -> 5 (3 zero)
    """

    tasks: tuple[str, ...]
    model: nn.Module
    keep: KeepTasks | None
    route: SkipBlocks | BranchPaths | None
    plan: Plan
    certificate: Certificate

    @property
    def edits(self) -> tuple[dict[str, Any], ...]:
        """Return the JSON forms of the edits that lead from the dense network to this one, in order."""
        return tuple(json_safe(edit.model_dump()) for edit in self._edits)

    @property
    def paths(self) -> int:
        """Return how many paths through the trunk the tasks take."""
        return len(set(self.route.policy.selects.values())) if isinstance(self.route, BranchPaths) else 1

    def replay_(self, model: nn.Module) -> None:
        """Make a fresh dense network this one's shape, in place; its weights are then loaded from ``model``."""
        for edit in self._edits:
            edit.apply_(model)

    @property
    def _edits(self) -> tuple[KeepTasks | SkipBlocks | BranchPaths | Plan, ...]:
        edits = (self.keep, self.route, self.plan if self.plan else None)
        return tuple(edit for edit in edits if edit is not None)


class PathByPath(nn.Module):
    """The dense network under a policy, one whole pass per path: each skipped block returns its shortcut instead.

    The reference of the certificate; nothing of it relies on ``skip.py`` or ``branches.py`` doing their work. The
    passes share ``model``'s parameters.
    """

    def __init__(self, model: nn.Module, policy: Policy, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.passes = nn.ModuleList()
        for members in policy.sharing(policy.blocks[-1], tasks):
            whole = independent_copy(model)  # what its hooks hold must be its own
            for own, shared in zip(whole.modules(), model.modules(), strict=True):
                own._parameters.update(shared._parameters)
            for name in policy.skipped(members):
                find_block(whole, name).register_forward_hook(_shortcut_instead)
            self.passes.append(Selected(whole, members))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Return the predictions of all tasks by name."""
        return {task: output for each in self.passes for task, output in each(x).items()}


class OneEach(nn.Module):
    """Several networks as one: the output of each task is that of the task's own network."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names, self.networks = tuple(networks), nn.ModuleList(networks.values())

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Return the predictions of all tasks by name."""
        return {name: network(x)[name] for name, network in zip(self.names, self.networks, strict=True)}


def union_network(
    model: nn.Module, masks: Structure, example: Float[Tensor, "batch channels height width"], *, align: int = 1
) -> SubNetwork:
    """Return the network of all tasks, without what no task uses. Arguments and errors as ``task_network``."""
    return task_network(model, masks, task_names(model, example), example, align=align)


def task_network(
    model: nn.Module,
    structure: Structure,
    tasks: Sequence[str],
    example: Float[Tensor, "batch channels height width"],
    *,
    align: int = 1,
) -> SubNetwork:
    """Return what is left of ``model`` for ``tasks`` once the others' channels, blocks and heads are gone.

    ``model`` maps images to a dict from task to tensor and is left as it is; ``example`` is a valid input. Masks: what
    no task of ``tasks`` keeps is zeroed, and zeroed channels are removed (each group keeps a multiple of ``align``).
    Policy: the blocks that the tasks skip become their shortcuts; if their paths differ, the trunk branches
    (``branches.py``). Raises InputError if the structure does not fit, CheckFailed if the result is not exact.
    """
    device, example = example.device, example.cpu()
    dense = independent_copy(model).cpu().eval()
    names = task_names(dense, example)
    wanted = known_tasks(names, tasks)
    route = None
    if isinstance(structure, Policy):
        route = _route(structure.restricted(wanted))
        check_skippable(dense, _skippable(structure, wanted), example)
        reference: nn.Module = PathByPath(dense, structure, wanted)
    else:
        structure.apply_(dense, wanted)
        reference = Selected(dense, wanted)
    unneeded = unneeded_modules(dense, wanted, example)
    keep = KeepTasks(tasks=wanted, unneeded=unneeded) if unneeded or wanted != names else None
    smaller = independent_copy(dense)
    for edit in (keep, route):
        if edit is not None:
            edit.apply_(smaller)
    removed = remove_zeros(smaller, example, align=align)
    probes = certificate_inputs(reference, example, seed=2)
    certificate = certify(reference, removed.model, probes, refused=removed.certificate.refused)
    if not certificate:
        raise CheckFailed(
            f"the network of {_listed(wanted)} differs from the dense one by {certificate.max_rel_error:.1e} "
            f"(tolerance {certificate.tolerance:.0e}); it is not handed out."
        )
    return SubNetwork(
        tasks=wanted, model=removed.model.to(device), keep=keep, route=route, plan=removed.plan, certificate=certificate
    )


def known_tasks(names: Sequence[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """Return ``tasks`` in the network's order; InputError for an unknown one or none."""
    for task in tasks:
        if task not in names:
            raise InputError(f"the network has no task '{task}'{nearest(task, names)}")
    if not tasks:
        raise InputError("a network of no tasks computes nothing; name at least one task.")
    return tuple(name for name in names if name in tasks)


def _route(policy: Policy) -> SkipBlocks | BranchPaths | None:
    """Return the edit that makes a network follow the policy, None if it executes everything."""
    if policy.merge_points():
        return BranchPaths(policy=policy)
    return SkipBlocks(blocks=policy.skipped()) if policy.skipped() else None


def _skippable(policy: Policy, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the blocks that at least one of ``tasks`` skips."""
    return tuple(dict.fromkeys(block for task in tasks for block in policy.skipped([task])))


def _shortcut_instead(block: nn.Module, arguments: tuple[Tensor, ...], _: Tensor) -> Tensor:
    result: Tensor = shortcut_of(block)(arguments[0])
    return result


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(f"'{task}'" for task in tasks)
