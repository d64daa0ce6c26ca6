"""One network for tasks whose paths part: what they share is computed once, then the trunk branches.

AdaShare (Sun et al., NeurIPS 2020) runs the trunk once per task. Tasks that decided alike so far have the same
features, so the blocks of a common beginning run once; after that each path runs the same weights on its own features.
What a BatchNorm sees depends on the blocks executed before it, so each beginning of a path has running statistics of
its own; one set for all fits none of the paths. With a BatchNorm per task (the DomainNet branch of the code) nothing is
common: the tasks share the filters, not the features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.edits.skip import SHORTCUTS, shortcut_of, skip_blocks_
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.tasks import Frozen

Features = Float[Tensor, "batch c h w"]
BatchNormKind = Literal["shared", "per-path", "per-task"]


class BranchPaths(Frozen):
    """The edit that lets the tasks of a policy each follow their own path; replays on a fresh dense network.

    On a network that branches already it narrows the paths: a block runs for a task if both policies execute it, and
    the BatchNorms stay as they are.
    """

    kind: Literal["branches"] = "branches"
    policy: Policy
    batchnorm: BatchNormKind = "shared"

    def apply_(self, model: nn.Module) -> None:
        """Branch the trunk in place. Raises InputError, before anything is touched, if the network has no such trunk.

        Afterwards ``trunk`` returns the features of each path and each head reads those of its task. Blocks that no
        task executes are reduced to their shortcuts. All names stay, except that a ``LaneNorms`` stands where a
        BatchNorm2d of the trunk was that several beginnings run ("per-path": with statistics of their own, one weight
        and bias) or tasks ("per-task": with everything of their own). "shared" keeps one set of statistics for all.
        """
        obstacle = why_not_branch(model, self.policy)
        if obstacle:
            raise InputError(obstacle)
        network: Any = model
        trunk, paths = network.trunk, self.policy.selects
        skip_blocks_(trunk, self.policy.skipped())
        if isinstance(trunk, BranchedTrunk):
            trunk.paths = {task: _both(path, trunk.paths[task]) for task, path in paths.items()}
            return
        mix_in_(trunk, BranchedTrunk)
        trunk.paths, trunk.lanes = dict(paths), lanes_of(self.policy, self.batchnorm)
        for task in paths:
            mix_in_(network.heads[task], PathHead)
            network.heads[task].path = task
        if self.batchnorm == "per-task":
            for name in _batchnorms(trunk):
                _split_(trunk, name, self.policy.tasks)
        elif self.batchnorm == "per-path":
            _norms_per_path_(trunk)


def lanes_of(policy: Policy, batchnorm: BatchNormKind) -> dict[str, tuple[str, ...]]:
    """Return by task whose BatchNorm statistics it takes, in the stem and then in every block.

    "per-path": those of the first task that decides alike up to and including that block, so that a common beginning is
    one lane; "per-task": its own; "shared": the one set that is there, "".
    """
    counts = range(len(policy.blocks) + 1)
    if batchnorm != "per-path":
        return {task: ("" if batchnorm == "shared" else task,) * len(counts) for task in policy.tasks}
    first: dict[tuple[bool, ...], str] = {}
    return {
        task: tuple(first.setdefault(path[:count], task) for count in counts) for task, path in policy.selects.items()
    }


class BranchedTrunk(nn.Module):
    """Mixed into the class of a trunk of a ``stem`` and ``blocks`` in order: forward returns the paths' features."""

    paths: dict[str, tuple[bool, ...]]
    lanes: dict[str, tuple[str, ...]]
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
        self._done: dict[tuple[tuple[str, ...], tuple[bool, ...]], Tensor] = {}

    def __getitem__(self, task: str) -> Features:
        """Return the features at the end of the task's path."""
        trunk = self._trunk
        path, lanes = trunk.paths[task], trunk.lanes[task]
        x = self._once((lanes[:1], ()), trunk.stem, self._x)
        for count, (executes, block) in enumerate(zip(path, trunk.blocks.values(), strict=True), start=1):
            key = (lanes[: count + 1], path[:count])
            x = self._once(key, block if executes else shortcut_of(block), x)
        return x

    def _once(self, key: tuple[tuple[str, ...], tuple[bool, ...]], module: nn.Module, x: Tensor) -> Tensor:
        if key not in self._done:
            use_lane_(module, key[0][-1])
            self._done[key] = module(x)
        return self._done[key]


class PathHead(nn.Module):
    """Mixed into the class of a head: forward reads the features of its own path."""

    path: str

    def forward(self, features: Any) -> Tensor:
        """Return the head's output for its path; ``features[path]`` are [batch, c, h, w]."""
        out: Tensor = super().forward(features[self.path])
        return out


class LaneNorms(nn.ModuleDict):
    """One BatchNorm2d per lane, by its name; the trunk says by ``lane`` whose turn it is."""

    lane = ""

    def forward(self, x: Features) -> Features:
        """Return ``x`` normalised as in the lane whose turn it is."""
        out: Tensor = self[self.lane](x)
        return out


def use_lane_(module: nn.Module, lane: str) -> None:
    """Let every LaneNorms of ``module`` normalise as ``lane`` does from now on."""
    for norms in module.modules():
        if isinstance(norms, LaneNorms):
            norms.lane = lane


def keep_lanes_(model: nn.Module, tasks: Sequence[str]) -> None:
    """Drop the BatchNorms that none of ``tasks`` runs from every LaneNorms of a branched trunk, in place."""
    trunk = getattr(model, "trunk", None)
    if not isinstance(trunk, BranchedTrunk):
        return
    for place, module in enumerate((trunk.stem, *trunk.blocks.values())):
        kept = {trunk.lanes[task][place] for task in tasks}
        for norms in module.modules():
            if isinstance(norms, LaneNorms):
                for lane in set(norms) - kept:
                    del norms[lane]


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


def _norms_per_path_(trunk: BranchedTrunk) -> None:
    """Give every beginning of a path statistics of its own in each BatchNorm2d that several beginnings run."""
    for place, block in enumerate(trunk.blocks.values()):
        lanes = {task: of[place + 1] for task, of in trunk.lanes.items()}
        everyone = tuple(dict.fromkeys(lanes.values()))
        executing = tuple(dict.fromkeys(lane for task, lane in lanes.items() if trunk.paths[task][place]))
        for name in _batchnorms(block):
            running = everyone if name.split(".")[0] in SHORTCUTS else executing
            if len(running) > 1:
                _split_(block, name, running, one_affine=True)


def _batchnorms(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]


def _split_(module: nn.Module, name: str, lanes: Sequence[str], *, one_affine: bool = False) -> None:
    """Replace the BatchNorm2d ``name`` by copies of it, one per lane, with ``one_affine`` of one weight and bias."""
    norm: Any = module.get_submodule(name)
    norms = LaneNorms({lane: copy.deepcopy(norm) for lane in lanes})
    for own in norms.values() if one_affine else ():
        own.weight, own.bias = norm.weight, norm.bias
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent)._modules[leaf] = norms
