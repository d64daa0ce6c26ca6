"""One network for tasks whose paths part: what they share is computed once, then the trunk branches.

AdaShare (Sun et al., NeurIPS 2020) runs the trunk once per task. Tasks that decided alike so far have the same
features, so the blocks of a common beginning run once; after that each path runs the same weights on its own features.
With a BatchNorm per task (its DomainNet branch) nothing is common: the tasks share the filters, not the features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.policy import Policy
from slimtask.compress.skip import shortcut_of, skip_blocks_
from slimtask.errors import InputError
from slimtask.tasks import Frozen

Features = Float[Tensor, "batch c h w"]


class BranchPaths(Frozen):
    """The edit that lets the tasks of a policy each follow their own path; replays on a fresh dense network.

    On a network that branches already it narrows the paths: a block runs for a task if both policies execute it.
    """

    kind: Literal["branches"] = "branches"
    policy: Policy
    batchnorm: Literal["shared", "per-task"] = "shared"

    def apply_(self, model: nn.Module) -> None:
        """Branch the trunk in place. Raises InputError, before anything is touched, if the network has no such trunk.

        Afterwards ``trunk`` returns the features of each path and each head reads those of its task. All names stay,
        except that ``batchnorm="per-task"`` puts a ``TaskNorms`` where a BatchNorm2d of the trunk was. Blocks that no
        task executes are reduced to their shortcuts.
        """
        obstacle = why_not_branch(model, self.policy)
        if obstacle:
            raise InputError(obstacle)
        network: Any = model
        trunk, paths = network.trunk, self.policy.selects
        skip_blocks_(trunk, self.policy.skipped())
        if isinstance(trunk, BranchedTrunk):
            trunk.paths = {task: _both(path, trunk.paths[task]) for task, path in paths.items()}
        else:
            mix_in_(trunk, BranchedTrunk)
            trunk.paths, trunk.per_task_norms = dict(paths), False
            for task in paths:
                mix_in_(network.heads[task], PathHead)
                network.heads[task].path = task
        if self.batchnorm == "per-task" and not trunk.per_task_norms:
            _norms_per_task_(trunk, tuple(paths))
            trunk.per_task_norms = True


class BranchedTrunk(nn.Module):
    """Mixed into the class of a trunk of a ``stem`` and ``blocks`` in order: forward returns the paths' features."""

    paths: dict[str, tuple[bool, ...]]
    per_task_norms: bool
    stem: nn.Module
    blocks: dict[str, nn.Module]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> PathFeatures:
        """Return the features by task; each different beginning of a path is computed once, when it is asked for."""
        return PathFeatures(self, x)


class PathFeatures:
    """What a branched trunk makes of one batch of images: ``features[task]``, [batch, c, h, w].

    Only what a head reads is computed, so a network that is asked for some of its tasks spends nothing on the others.
    """

    def __init__(self, trunk: BranchedTrunk, x: Tensor) -> None:
        self._trunk, self._x = trunk, x
        self._done: dict[tuple[str, tuple[bool, ...]], Tensor] = {}

    def __getitem__(self, task: str) -> Features:
        """Return the features at the end of the task's path."""
        trunk, path = self._trunk, self._trunk.paths[task]
        lane = task if trunk.per_task_norms else ""
        use_lane_(trunk, lane)
        x = self._once((lane, ()), trunk.stem, self._x)
        for index, (executes, block) in enumerate(zip(path, trunk.blocks.values(), strict=True)):
            x = self._once((lane, path[: index + 1]), block if executes else shortcut_of(block), x)
        return x

    def _once(self, key: tuple[str, tuple[bool, ...]], module: nn.Module, x: Tensor) -> Tensor:
        if key not in self._done:
            self._done[key] = module(x)
        return self._done[key]


class PathHead(nn.Module):
    """Mixed into the class of a head: forward reads the features of its own path."""

    path: str

    def forward(self, features: Any) -> Tensor:
        """Return the head's output for its path; ``features[path]`` are [batch, c, h, w]."""
        out: Tensor = super().forward(features[self.path])
        return out


class TaskNorms(nn.ModuleDict):
    """One BatchNorm2d per task, by its name; the trunk says by ``lane`` whose turn it is."""

    lane = ""

    def forward(self, x: Features) -> Features:
        """Return ``x`` normalised as the task in turn does it."""
        out: Tensor = self[self.lane](x)
        return out


def use_lane_(trunk: nn.Module, task: str) -> None:
    """Let every TaskNorms of the trunk normalise for ``task`` from now on."""
    for module in trunk.modules():
        if isinstance(module, TaskNorms):
            module.lane = task


def keep_norms_(model: nn.Module, tasks: Sequence[str]) -> None:
    """Drop the BatchNorms of all tasks but ``tasks`` from every TaskNorms, in place."""
    for module in model.modules():
        if isinstance(module, TaskNorms):
            for task in [task for task in module if task not in tasks]:
                del module[task]


def mix_in_(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Make the module an instance of ``mixin`` as well, whose methods come first; parameters and names stay."""
    cls = type(module)
    module.__class__ = type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {})


def why_not_branch(model: nn.Module, policy: Policy) -> str | None:
    """Return why the network cannot follow the policy's several paths, as one sentence; None if it can.

    It needs a ``trunk`` that runs its ``stem`` and then its ``blocks`` (a dict, named as in the policy), and a
    ModuleDict ``heads`` with one head per task, more than a bare layer, that takes the trunk's features.
    """
    trunk, heads = getattr(model, "trunk", None), getattr(model, "heads", None)
    blocks = getattr(trunk, "blocks", None)
    if not isinstance(getattr(trunk, "stem", None), nn.Module) or not isinstance(blocks, dict):
        missing = "has no trunk with a 'stem' and named 'blocks'"
    elif tuple(blocks) != policy.blocks:
        missing = "has a trunk of other blocks"
    elif not isinstance(heads, nn.ModuleDict) or not set(policy.tasks) <= set(heads):
        missing = "has no ModuleDict 'heads' with a head for each of them"
    elif not all(list(heads[task].children()) for task in policy.tasks):
        missing = "has a head that is a bare layer"
    else:
        return None
    listed = ", ".join(f"'{task}'" for task in policy.tasks)
    if not policy.merge_points():
        return f"the network {missing}, so {listed} cannot follow the policy through it."
    sets = " | ".join(", ".join(members) for members in policy.sharing(policy.blocks[-1]))
    return (
        f"the paths of {listed} part at block '{policy.merge_points()[0]}' and the network {missing}, "
        f"so it cannot branch; make one network for each of: {sets}."
    )


def _both(one: tuple[bool, ...], other: tuple[bool, ...]) -> tuple[bool, ...]:
    return tuple(a and b for a, b in zip(one, other, strict=True))


def _norms_per_task_(trunk: nn.Module, tasks: tuple[str, ...]) -> None:
    """Replace every BatchNorm2d of the trunk by copies of it, one per task."""
    for name, module in list(trunk.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, leaf = name.rpartition(".")
            norms = TaskNorms({task: copy.deepcopy(module) for task in tasks})
            trunk.get_submodule(parent)._modules[leaf] = norms
