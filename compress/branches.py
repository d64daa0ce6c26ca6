"""One network for tasks whose paths part: what they share is computed once, then the trunk branches.

AdaShare (Sun et al., NeurIPS 2020) runs the trunk once per task. Tasks that decided alike so far have the same
features, so the blocks of a common beginning run once; after that each path runs the same weights on its own features.
"""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.policy import Policy
from slimtask.compress.skip import shortcut_of, skip_blocks_
from slimtask.errors import InputError
from slimtask.tasks import Frozen

Features = Float[Tensor, "batch c h w"]


class BranchPaths(Frozen):
    """The edit that lets the tasks of a policy each follow their own path; replays on a fresh dense network."""

    kind: Literal["branches"] = "branches"
    policy: Policy

    def apply_(self, model: nn.Module) -> None:
        """Branch the trunk in place. Raises InputError, before anything is touched, if the network has no such trunk.

        Afterwards ``trunk`` returns one feature map per path and each head reads that of its task; all names stay.
        Blocks that no task executes are reduced to their shortcuts.
        """
        obstacle = why_not_branch(model, self.policy)
        if obstacle:
            raise InputError(obstacle)
        network: Any = model
        paths = tuple(dict.fromkeys(self.policy.selects.values()))
        skip_blocks_(network.trunk, self.policy.skipped())
        _mix_in_(network.trunk, BranchedTrunk)
        network.trunk.paths = paths
        for task, path in self.policy.selects.items():
            _mix_in_(network.heads[task], PathHead)
            network.heads[task].path = paths.index(path)


class BranchedTrunk(nn.Module):
    """Mixed into the class of a trunk of a ``stem`` and ``blocks`` in order: forward returns one map per path."""

    paths: tuple[tuple[bool, ...], ...]
    stem: nn.Module
    blocks: dict[str, nn.Module]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> tuple[Features, ...]:
        """Return the features of ``paths``; each different beginning of a path is computed once."""
        features: dict[tuple[bool, ...], Tensor] = {(): self.stem(x)}
        for index, block in enumerate(self.blocks.values()):
            shortcut = shortcut_of(block)
            histories = dict.fromkeys(path[: index + 1] for path in self.paths)
            features = {history: (block if history[-1] else shortcut)(features[history[:-1]]) for history in histories}
        return tuple(features[path] for path in self.paths)


class PathHead(nn.Module):
    """Mixed into the class of a head: forward reads the feature map of its own path."""

    path: int

    def forward(self, features: tuple[Features, ...]) -> Tensor:
        """Return the head's output for its path."""
        out: Tensor = super().forward(features[self.path])
        return out


def why_not_branch(model: nn.Module, policy: Policy) -> str | None:
    """Return why the network cannot follow the policy's several paths, as one sentence; None if it can.

    It needs a ``trunk`` that runs its ``stem`` and then its ``blocks`` (a dict, named as in the policy), and a
    ModuleDict ``heads`` with one head per task, more than a bare layer, that takes the trunk's features.
    """
    trunk, heads = getattr(model, "trunk", None), getattr(model, "heads", None)
    blocks = getattr(trunk, "blocks", None)
    listed = ", ".join(f"'{task}'" for task in policy.tasks)
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
    sets = " | ".join(", ".join(members) for members in policy.sharing(policy.blocks[-1]))
    return (
        f"the paths of {listed} part at block '{policy.merge_points()[0]}' and the network {missing}, "
        f"so it cannot branch; make one network for each of: {sets}."
    )


def _mix_in_(module: nn.Module, mixin: type[nn.Module]) -> None:
    cls = type(module)
    module.__class__ = type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {})
